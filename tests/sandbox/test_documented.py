"""The README's table of documented statements names tests that exist."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
README = TESTS.parents[1] / "worker" / "sandbox" / "README.md"
NAMED = re.findall(r"\| `(test_\w+\.py)::(test_\w+)` \|", README.read_text())


def _functions(file):
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_named_test_exists():
    missing = [f"{file}::{name}" for file, name in NAMED if name not in _functions(TESTS / file)]

    assert missing == []


def test_the_table_is_not_empty():
    statements = README.read_text().split("## What is documented")[1]
    rows = [line for line in statements.splitlines() if line.startswith("| ") and "::" in line]

    assert len(rows) == len(NAMED) > 35
