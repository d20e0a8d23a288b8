"""deploy/monitoring/README.md: its tables are those of the code, and its alerts those of alerts.yaml."""

import re
from pathlib import Path

from contracts.subaccounts import DeadReason
from tests.monitoring.exported import ALERTS
from worker.core.model.holds import HoldReason
from worker.telemetry.metrics import FINDING_KINDS
from worker.telemetry.page import BEGIN, PAGE, with_tables

ROOT = PAGE.parents[2]
LINKED = {"reason": (*DeadReason, *HoldReason), "kind": FINDING_KINDS}
"""The values that a label may have in a link."""


def test_the_page_is_fresh():
    assert with_tables(PAGE.read_text()) == PAGE.read_text()
    assert PAGE.read_text().count("| `provisioner_") > 30


def test_a_page_that_was_edited_is_not_fresh():
    edited = PAGE.read_text().replace(f"{BEGIN}", f"{BEGIN}by hand\n")
    assert with_tables(edited) == PAGE.read_text()


def test_the_page_argues_the_severity_of_each_alert():
    section = PAGE.read_text().partition("## Alerts")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(Provisioner\w+)` \| (\w+) \| (.+) \|$", section, re.MULTILINE)
    assert [row[:2] for row in rows] == [(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS]
    assert {row[1] for row in rows} == {"critical", "warning"}


def test_each_alert_leads_to_an_entry_of_the_runbook():
    headings = re.findall(r"^#+ (.+)$", (ROOT / "deploy/RUNBOOK.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
    for rule in ALERTS:
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (ROOT / path).is_file()
        assert rule["annotations"]["summary"].endswith((".", "?"))
        label = re.fullmatch(r"\{\{ \$labels\.(\w+) \}\}", anchor)
        assert {*LINKED[label[1]]} if label else {anchor} <= anchors, rule["alert"]


def test_the_links_of_the_page_exist():
    for target in re.findall(r"\]\(([^#)]+)\)", PAGE.read_text()):
        assert (Path(PAGE).parent / target).exists(), target
