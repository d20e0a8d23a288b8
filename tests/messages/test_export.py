"""Generated files are up to date and reproducible, and `--check` finds outdated ones."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import contracts
from contracts import block_yaml, export, json_schema
from tests.messages.strategies import replayable

FOLDER = Path(contracts.__file__).parent


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A copy of the folder, as another team may use it."""
    shutil.copytree(FOLDER, tmp_path / "contracts", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(where: Path, *arguments: str, seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "contracts.export", *arguments],
        cwd=where,
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def content(where: Path) -> dict[str, bytes]:
    folder = where / "contracts"
    files = [folder / "asyncapi.yaml", *(folder / "schemas").iterdir()]
    return {file.name: file.read_bytes() for file in files}


def test_the_committed_files_are_up_to_date() -> None:
    assert list(export.stale(export.generated())) == []
    assert export.main(["--check"]) == 0


def test_writing_again_writes_the_same_bytes(elsewhere: Path) -> None:
    before = content(elsewhere)
    shutil.rmtree(elsewhere / "contracts" / "schemas")
    for seed in ("1", "2"):
        assert run(elsewhere, seed=seed).returncode == 0
        assert content(elsewhere) == before


def test_check_names_each_outdated_file_and_changes_nothing(elsewhere: Path) -> None:
    schemas = elsewhere / "contracts" / "schemas"
    (schemas / "department.created.v1.json").write_text("{}")
    (schemas / "department.renamed.v1.json").unlink()
    (schemas / "department.closed.v1.json").write_text("{}")
    before = content(elsewhere)
    checked = run(elsewhere, "--check")
    assert checked.returncode == 1
    assert checked.stderr.splitlines() == [
        "contracts/schemas/department.created.v1.json is out of date; run python -m contracts.export",
        "contracts/schemas/department.renamed.v1.json is missing; run python -m contracts.export",
        "contracts/schemas/department.closed.v1.json is generated no more; run python -m contracts.export",
    ]
    assert content(elsewhere) == before
    assert run(elsewhere).returncode == 0
    assert run(elsewhere, "--check").returncode == 0
    assert not (schemas / "department.closed.v1.json").exists()


def test_a_changed_example_makes_the_document_outdated(elsewhere: Path) -> None:
    example = elsewhere / "contracts" / "examples" / "renamed.json"
    example.write_text(example.read_text(encoding="utf-8").replace("Product", "Produce"), encoding="utf-8")
    checked = run(elsewhere, "--check")
    assert (checked.returncode, len(checked.stderr.splitlines())) == (1, 1)


def test_wrong_usage_exits_2(elsewhere: Path) -> None:
    wrong = run(elsewhere, "--verify")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("name", json_schema.DOCUMENTS)
def test_each_document_is_a_schema_with_descriptions(name: str) -> None:
    document = json_schema.document(name)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(document)
    defined = document.get("$defs", {}).values()
    assert document["title"]
    assert all(model["title"] and model["description"] for model in defined)
    assert '"additionalProperties": false' not in json.dumps(document)


def test_inbound_types_are_canonical_and_describe_accepted_variants() -> None:
    for kind in ("created", "renamed", "removed"):
        type_ = json_schema.document(f"department.{kind}.v1")["properties"]["type"]
        assert type_["examples"] == [f"department.{kind}.v1"]
        assert re.fullmatch(type_["pattern"], f"department.{kind}.v1")
        assert "reverse-DNS prefix" in type_["description"]
        assert "missing .v1" in type_["description"]


def test_the_yaml_equals_the_document_and_is_in_block_style() -> None:
    text = (FOLDER / "asyncapi.yaml").read_text(encoding="utf-8")
    again = block_yaml.dump(yaml.safe_load(text))
    assert text.endswith(again)
    assert "{" not in "".join(line.partition(": ")[2][:1] for line in text.splitlines())


PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), max_size=40)
WORDS = st.sampled_from(
    ["yes", "No", "null", "~", "on", "1.0", "-", "- a", "a: b", "a #b", "#", "'", "a:", "*a", "&a", "{a}"]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | PRINTABLE | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PRINTABLE | WORDS, inner, max_size=4),
)


@replayable
@given(VALUES)
def test_yaml_round_trips(value: Any) -> None:
    assert yaml.safe_load(block_yaml.dump(value)) == value


@replayable
@given(st.text("aZ0 :#-,'\"{}[]&*~.\n\t", max_size=8))
def test_yaml_round_trips_odd_text_in_any_place(text: str) -> None:
    value = {text: text, "list": [text, [text], {text: [text]}]}
    assert yaml.safe_load(block_yaml.dump(value)) == value


@replayable
@given(st.lists(st.sampled_from(["word", "#", "-", "a:", "'", "", "end. ", "x" * 120]), min_size=20))
def test_yaml_round_trips_long_text(words: list[str]) -> None:
    value = {"key": " ".join(words), "list": [" ".join(words)]}
    assert yaml.safe_load(block_yaml.dump(value)) == value
