"""deploy/README.md names what is there, in commands that exist."""

import re
from pathlib import Path

import pytest

from tests.deploy.test_kubernetes import VERSIONS
from worker.adapters.migrations import pending
from worker.adapters.postgres.schema import OLDER_RUN
from worker.ports import LedgerForeign

DEPLOY = Path(__file__).parents[2] / "deploy"
README = (DEPLOY / "README.md").read_text()


def test_each_artefact_has_a_row_on_how_it_is_checked():
    table = README.partition("## What is checked\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?:`([\w./]+)`|wheel) \|", table, re.MULTILINE)
    there = {path.name for path in DEPLOY.iterdir() if path.suffix != ".md"}
    assert {row.partition("/")[0] for row in rows if row} == there - {
        *{"Dockerfile.dockerignore", "compose", "examples", "pictures", "quickstart", "setup.sh"}
    }


def test_the_versions_of_kubernetes_are_those_tested():
    *first, last = VERSIONS
    assert f"against Kubernetes {', '.join(first)} and {last};" in README


def test_files_and_sections_exist():
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", README)
    assert len(links) > 10
    for file, anchor in links:
        place = DEPLOY / (file or "README.md")
        assert place.exists(), file
        if anchor:
            titles = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE)
            headings = [re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in headings


def test_paths_in_commands_exist():
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    named = set(re.findall(r"\bdeploy/[\w./-]+", commands))
    paths = {path for path in named if not path.startswith("deploy/compose/.secrets")}  # drawn
    assert len(paths) > 5
    assert [path for path in paths if not (DEPLOY.parent / path.rstrip("/")).exists()] == []


def test_the_refusals_are_quoted():
    assert OLDER_RUN.partition(",")[0] in README
    with pytest.raises(LedgerForeign) as newer:
        pending({"9999_next.sql": "x"}, [])
    assert "the ledger is of a newer version" in README
    assert str(newer.value).startswith("the ledger is of a newer version")
