"""Compares ARCHITECTURE.md and the documents beside it with the code."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

import worker.pipeline.handler
from tests.support.builders import (
    AUTH_ID,
    NOW,
    SALES,
    a_recollection,
    an_answer,
    an_entry,
    created,
    removed,
    renamed,
)
from worker.core.decide import HoldBack, Policy, Refuse, Removal, Skip, UnknownRename, decide
from worker.core.inventory import NOTHING, Inspection, Inventory
from worker.core.limits import DEFAULT_LIMIT, TenantCounts, WindowCount
from worker.core.listed import ListedSubaccount
from worker.core.model.causes import LateRemoval
from worker.core.model.entry import Begun, Status
from worker.core.model.holds import Hold, HoldReason, HoldState, Ruling
from worker.core.model.recollection import Recollection
from worker.core.model.removals import Removed
from worker.core.next_step import next_step
from worker.core.protected import Protected

PROJECT = Path(__file__).parents[2]
DOCUMENT = (PROJECT / "worker/ARCHITECTURE.md").read_text(encoding="utf-8")
BESIDE = ("DECISIONS.md", "THREATS.md", "BENCHMARKS.md", "WEAKNESSES.md")
DOCUMENTS = {
    name: (PROJECT / "worker" / name).read_text(encoding="utf-8") for name in ("ARCHITECTURE.md", *BESIDE)
}
LONGEST_MAP = 250
"""In lines. Reasons and explanations belong in the documents beside the map."""

NAME, OTHER_NAME = "Marketing", "Sales"
EVENTS = {
    "created": created(NAME, sequence=11),
    "renamed": renamed(NAME, sequence=11),
    "removed": removed(sequence=11),
}


def section(title):
    return DOCUMENT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows_under(title, header):
    """The body of the table with this header: one list of cells per row."""
    table = section(title).partition(f"| {header} |")[2].partition("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert lines, f"no table {header} under {title}"
    return lines


def decision_name(decision):
    match decision:
        case Skip(why, _) | Refuse(why, _) | HoldBack(why, _):
            return f"{type(decision).__name__} `{why}`"
        case _:
            return type(decision).__name__


def entry_of(label):
    """Builds the entry of a label such as `active, other name`, as it is before the event."""
    status, _, name = label.partition(", ")
    return an_entry(Status(status), name=OTHER_NAME if name == "other name" else NAME)


def decided(event, known, policy=None):
    return decision_name(decide(event, known, policy or Policy(), NOW))


DECISIONS = "Decisions by entry and event"
TABLE = rows_under(DECISIONS, "Entry | created | renamed | removed")
SETTINGS = rows_under(DECISIONS, "Setting | Entry, event | Decision")
BEFORE = rows_under(DECISIONS, "Event | Decision")


@pytest.mark.parametrize(("entry", "kind"), list(product([row[0] for row in TABLE], EVENTS)))
def test_each_cell_of_the_decision_table(entry, kind):
    cell = dict(zip(EVENTS, next(row for row in TABLE if row[0] == entry)[1:], strict=True))[kind]

    assert decided(EVENTS[kind], a_recollection(entry_of(entry))) == cell


def test_the_decision_table_has_every_status():
    assert {row[0].partition(",")[0] for row in TABLE} == set(Status)


@pytest.mark.parametrize(("setting", "place", "cell"), SETTINGS)
def test_each_setting_changes_its_cell(setting, place, cell):
    name, _, value = setting.strip("`").partition("=")
    policies = {
        "PROVISIONER_REMOVAL": lambda: Policy(removal=Removal(value)),
        "PROVISIONER_UNKNOWN_RENAME": lambda: Policy(unknown_rename=UnknownRename(value)),
    }
    entry, kind = place.split(", ")

    assert decided(EVENTS[kind], a_recollection(entry_of(entry)), policies[name]()) == cell


def test_the_settings_table_has_every_choice():
    choices = {setting.strip("`").partition("=")[2] for setting, _, _ in SETTINGS}

    assert choices == set(Removal) | set(UnknownRename)


def test_the_rules_applied_before_the_table():
    event = renamed(sequence=None, time=NOW.replace(year=2027))
    entry = an_entry(version=event.version)
    other = an_answer(created(id=event.reference.id))
    known = [
        a_recollection(entry, an_answer(event)),
        a_recollection(entry, other),
        a_recollection(entry),
        a_recollection(an_entry()),
    ]
    behind = renamed(sequence=98)
    begun = Begun(renamed(sequence=99).version, renamed(sequence=99).reference, NOW)
    waits = decided(behind, a_recollection(replace(an_entry(), begun=begun)))
    held = decided(renamed(sequence=99), a_recollection(replace(an_entry(), hold=HOLD)))
    gone = decided(renamed(sequence=99), a_recollection(an_entry(gone_at=NOW)))

    assert [row[1] for row in BEFORE] == [*(decided(event, each) for each in known), waits, held, gone]


REMOVALS = rows_under(DECISIONS, "Removal | Decision")
LATE_REMOVALS = rows_under(DECISIONS, "Removal without its message | Decision")
REMOVED = removed(sequence=11)
HOLD = Hold("H1", SALES, HoldReason.LIMIT, "why", REMOVED.bare, AUTH_ID, NAME, NOW)
APPROVED = replace(HOLD, state=HoldState.APPROVED, ruling=Ruling("ada", NOW))
IDLE = (WindowCount(0, 0), WindowCount(0, 0))
LIMITED = Policy(limit=DEFAULT_LIMIT)
SHOWN = ListedSubaccount(AUTH_ID, NAME, enabled=True, created=NOW.date())


def test_each_reason_to_hold_a_removal():
    deletes = Policy(removal=Removal.DELETE)
    counts = [TenantCounts(1, IDLE), TenantCounts(9, (WindowCount(3, 3), WindowCount(3, 3)))]
    inspected = [
        Inspection(SHOWN, tagged=False, inventory=NOTHING, begun=0),
        Inspection(SHOWN, tagged=True, inventory=Inventory(numbers=("1",)), begun=0),
    ]
    guarded = [
        (REMOVED, Recollection(an_entry()), replace(LIMITED, protected=Protected((SALES.id,)))),
        (replace(REMOVED, merged_into="x"), Recollection(an_entry()), LIMITED),
        *((REMOVED, Recollection(an_entry(), counts=each), LIMITED) for each in counts),
        *((REMOVED, Recollection(an_entry(), inspection=each), deletes) for each in inspected),
    ]
    known = [
        (event, replace(known, counts=known.counts or TenantCounts(9, IDLE)), by)
        for event, known, by in guarded
    ]

    assert [row[1] for row in REMOVALS] == [decision_name(next_step(*each, NOW)) for each in known]
    assert [row[1].split("`")[1] for row in REMOVALS] == list(HoldReason)


def test_each_removal_without_its_message():
    removal = Removed(NOW, REMOVED.bare)
    disabled = an_entry(Status.DISABLED, removal=removal)
    cases = [
        (disabled, NOW),
        (disabled, NOW + Policy().grace),
        (an_entry(hold=APPROVED), NOW),
        (an_entry(Status.DELETING, removal=removal), NOW),
        (replace(disabled, removal=replace(removal, cancelled=True)), NOW + Policy().grace),
    ]
    late = LateRemoval.of(SALES, REMOVED)

    decisions = [next_step(late, Recollection(entry), Policy(), now) for entry, now in cases]
    assert [row[1] for row in LATE_REMOVALS] == [decision_name(each) for each in decisions]


def test_the_drawn_stages_match_the_handlers_docstring():
    def stages(text):
        return re.findall(r"^ *(\w+) {2,}\S", text, re.MULTILINE)

    drawn = section("The line").split("```")[1]
    assert stages(drawn) == stages(worker.pipeline.handler.__doc__)
    assert len(stages(drawn)) == 8


def test_the_map_is_short():
    assert len(DOCUMENT.splitlines()) <= LONGEST_MAP


CODE_MAP = rows_under("Code map", "Path | What is there")
MAPPED = [path.strip("`") for row in CODE_MAP for path in row[0].split(", ")]


def test_the_files_of_a_create_are_listed_by_stage():
    stages = [row[0] for row in rows_under("The line", "Stage | Files")]
    drawn = re.findall(r"^(\w+) {2,}\S", section("The line").split("```")[1], re.MULTILINE)

    assert stages == ["deliver", *drawn]


def test_every_path_of_the_code_map_exists():
    assert [path for path in MAPPED if not (PROJECT / path).exists()] == []
    assert len(set(MAPPED)) == len(MAPPED)


def test_files_named_in_the_code_map_exist_in_their_folder():
    named = [
        (row[0].split(", ")[0].strip("`"), file)
        for row in CODE_MAP
        for file in re.findall(r"`(\w+\.py)`", row[1])
    ]

    assert named
    assert [each for each in named if not (PROJECT / each[0] / each[1]).exists()] == []


def test_the_code_map_has_every_folder():
    sources = [path for kind in ("*.py", "*.sql") for path in (PROJECT / "worker").rglob(kind)]
    folders = {f"{source.parent.relative_to(PROJECT)}/" for source in sources}

    assert folders - {"worker/"} - set(MAPPED) == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_named_in_a_document_exists(document):
    named = set(re.findall(r"`((?:worker|contracts|tests|deploy)/[\w./-]*)`", DOCUMENTS[document]))

    assert named
    assert [path for path in sorted(named) if not (PROJECT / path).exists()] == []


def headings(text):
    return {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_has_a_target(document):
    for link in re.findall(r"\]\(([^)]+)\)", DOCUMENTS[document]):
        name, _, anchor = link.partition("#")
        target = PROJECT / "worker" / name if name else PROJECT / "worker" / document
        assert target.exists(), link
        assert not anchor or anchor in headings(target.read_text(encoding="utf-8")), link


def test_the_map_links_to_the_documents_beside_it():
    assert set(BESIDE) <= set(re.findall(r"\]\((\w+\.md)\)", DOCUMENT))


def test_every_test_named_in_a_document_exists():
    tests = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "tests").rglob("test_*.py"))
    named = {name for text in DOCUMENTS.values() for name in re.findall(r"`(test_\w+)`", text)}

    assert named
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_every_invariant_names_the_file_that_enforces_it():
    invariants = rows_under("Invariants", "# | Invariant | Kept by")

    assert [row[0] for row in invariants] == [str(n + 1) for n in range(len(invariants))]
    assert [row for row in invariants if not re.search(r"`[\w/]+\.py`", row[2])] == []
