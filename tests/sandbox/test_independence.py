"""The sandbox shares no code with the worker that it tests."""

import ast
import subprocess
import sys
from pathlib import Path

SANDBOX = Path(__file__).parents[2] / "worker" / "sandbox"


def test_it_imports_neither_worker_nor_contracts():
    for file in SANDBOX.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file.name}: relative import"
                names = [node.module or ""]
            for name in names:
                own = name.startswith("worker.sandbox")
                assert own or name.partition(".")[0] not in ("worker", "contracts"), f"{file.name}: {name}"


def test_importing_it_loads_neither_worker_nor_contracts():
    code = (
        "import sys, worker.sandbox.command\n"
        "print([m for m in sys.modules if m.startswith(('worker.', 'contracts')) "
        "and not m.startswith('worker.sandbox')])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SANDBOX.parents[1]
    )

    assert ended.stdout.strip() == "[]"
