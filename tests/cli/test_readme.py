"""Compares the README and the runbook with the code."""

import html
import re
from pathlib import Path

import pytest

from contracts.subaccounts import DeadReason
from tests.cli.picture import PICTURE, SHOWN
from worker.cli.app import command_line
from worker.core.model.holds import HoldReason
from worker.demo import story
from worker.demo.playground import next_steps
from worker.settings.model import IntakeSettings, WorkerSettings
from worker.settings.show import described
from worker.telemetry.metrics import COUNTERS, FINDING_KINDS, GAUGES, HISTOGRAMS, exported_name

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RUNBOOK = (ROOT / "deploy/RUNBOOK.md").read_text()


def test_the_first_two_code_blocks_are_the_two_commands():
    first, second, *_ = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert first == "deploy/quickstart\n"
    assert second == "tests/run\n"
    assert all((ROOT / command.strip()).stat().st_mode & 0o111 for command in (first, second))


def test_the_readme_documents_every_setting():
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| (.*?) \|$", README, re.MULTILINE)
    documented = [(name, default.strip("`"), meaning) for name, default, meaning in rows]
    of_run = described(WorkerSettings)
    of_intake = [row for row in described(IntakeSettings) if row[0] not in {name for name, _, _ in of_run}]
    assert documented == [*of_run, *of_intake]


def test_the_documented_commands_exist():
    named = set(re.findall(r"provisioner ([a-z][a-z-]*)", README)) | {"departments", "topology"}
    assert named <= set(command_line().commands)


def test_linked_files_exist():
    links = re.findall(r"\]\((?!https:)([^)#]+)[^)]*\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("text", [README, RUNBOOK], ids=["README", "RUNBOOK"])
def test_linked_anchors_are_headings(text: str):
    headings = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    anchors = re.findall(r"\]\(#([^)]+)\)", text)
    assert anchors
    assert [anchor for anchor in anchors if anchor not in headings] == []


def test_the_runbook_has_an_entry_for_each_reason():
    entries = re.findall(r"^## ([a-z-]+)$", RUNBOOK, re.MULTILINE)
    assert entries == list(DeadReason)


@pytest.mark.parametrize(
    ("section", "expected"), [("Held removals", tuple(HoldReason)), ("Findings of a sweep", FINDING_KINDS)]
)
def test_the_runbook_has_an_alert_and_an_entry_for_each(section: str, expected: tuple[str, ...]):
    text = RUNBOOK.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    entries = {title: body for title, _, body in (one.partition("\n") for one in text.split("\n### ")[1:])}
    named = [title for title in entries if re.fullmatch("[a-z-]+", title)]
    assert named == list(expected)
    parts = ["Alert", "Meaning", "Check", "Action"]
    assert all(re.findall(r"^- \*\*(\w+)\*\*: ", body, re.MULTILINE) == parts for body in entries.values())
    alerted = {title for title in expected if f'="{title}"}} > 0`' in entries[title]}
    assert alerted == {*expected} - {"double-disabled"}


def test_log_events_and_metrics_of_the_runbook_are_those_of_the_code():
    code = "".join(path.read_text() for path in (ROOT / "worker/telemetry").glob("*.py"))
    symptoms = RUNBOOK.partition("\n## Where to look\n")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", symptoms, re.MULTILINE)
    events = {name for cell in first_cells for name in re.findall(r"`(?!provisioner_)([a-z_]+)`", cell)}
    metrics = set(re.findall(r"`(?:[a-z() -]*)(provisioner_[a-z_]+)", RUNBOOK))
    assert events
    assert metrics
    assert [name for name in sorted(events) if f'"{name}"' not in code] == []
    assert metrics <= {exported_name(one) for one in (*COUNTERS, *GAUGES, *HISTOGRAMS)}


def test_readyz_lines_of_the_runbook_are_those_of_the_code():
    code = "".join(path.read_text() for path in (ROOT / "worker").rglob("*.py"))
    table = RUNBOOK.partition("| `/readyz` says |")[2].partition("\n\n")[0]
    documented = re.findall(r"^\| `(.*?)`", table, re.MULTILINE)
    parts = {part.strip() for line in documented for part in re.split(r"\.\.\.|: ", line)} - {""}
    assert documented
    assert [part for part in sorted(parts) if part not in code] == []


def test_the_first_commands_of_the_runbook_exist():
    named = set(re.findall(r"provisioner ([a-z-]+)", RUNBOOK))
    assert named <= set(command_line().commands)


def test_the_picture_of_the_terminal_is_of_this_demo():
    """`python -m tests.cli.picture` draws it again. Its titles and last lines are those of the code."""
    shown = html.unescape("".join(re.findall(r"<text[^>]*>([^<]*)</text>", PICTURE.read_text())))
    lines = shown.replace("\xa0", " ")
    source = Path(story.__file__).read_text()
    for title in SHOWN:
        assert title in lines
        assert f'chapter("{title}' in source
    for _, purpose in next_steps():
        assert purpose in lines
    assert "url(http" not in PICTURE.read_text()
