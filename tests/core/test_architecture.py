"""What ARCHITECTURE.md says of the code is so."""

import re
from itertools import product
from pathlib import Path

import pytest

import worker.pipeline.handler
from tests.support.builders import NOW, a_recollection, an_answer, an_entry, created, removed, renamed
from worker.core.decide import Policy, Refuse, Removal, Skip, UnknownRename, decide
from worker.core.model import Status

PROJECT = Path(__file__).parents[2]
DOCUMENT = (PROJECT / "worker/ARCHITECTURE.md").read_text(encoding="utf-8")

NAME, OTHER_NAME = "Marketing", "Sales"
EVENTS = {
    "created": created(NAME, sequence=11),
    "renamed": renamed(NAME, sequence=11),
    "removed": removed(sequence=11),
}


def section(title):
    return DOCUMENT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows_under(title, header):
    """The body of the table that begins with this header: a list of cells for each row."""
    table = section(title).partition(f"| {header} |")[2].partition("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert lines, f"no table {header} under {title}"
    return lines


def decision_name(decision):
    match decision:
        case Skip(why, _) | Refuse(why, _):
            return f"{type(decision).__name__} `{why}`"
        case _:
            return type(decision).__name__


def entry_of(label):
    """`active, other name` -> such an entry, as it is before the event comes."""
    status, _, name = label.partition(", ")
    return an_entry(Status(status), name=OTHER_NAME if name == "other name" else NAME)


def decided(event, known, policy=None):
    return decision_name(decide(event, known, policy or Policy(), NOW))


DECISIONS = "Decisions by entry and event"
TABLE = rows_under(DECISIONS, "Entry | created | renamed | removed")
SETTINGS = rows_under(DECISIONS, "Setting | Entry, event | Decision")
BEFORE = rows_under(DECISIONS, "Event | Decision")


@pytest.mark.parametrize(("entry", "kind"), list(product([row[0] for row in TABLE], EVENTS)))
def test_each_cell_of_the_table(entry, kind):
    cell = dict(zip(EVENTS, next(row for row in TABLE if row[0] == entry)[1:], strict=True))[kind]

    assert decided(EVENTS[kind], a_recollection(entry_of(entry))) == cell


def test_the_table_has_every_status():
    assert {row[0].partition(",")[0] for row in TABLE} == set(Status)


@pytest.mark.parametrize(("setting", "place", "cell"), SETTINGS)
def test_each_setting_that_changes_a_cell(setting, place, cell):
    name, _, value = setting.strip("`").partition("=")
    policies = {
        "PROVISIONER_REMOVAL": lambda: Policy(removal=Removal(value)),
        "PROVISIONER_UNKNOWN_RENAME": lambda: Policy(unknown_rename=UnknownRename(value)),
    }
    entry, kind = place.split(", ")

    assert decided(EVENTS[kind], a_recollection(entry_of(entry)), policies[name]()) == cell


def test_the_settings_have_every_choice():
    choices = {setting.strip("`").partition("=")[2] for setting, _, _ in SETTINGS}

    assert choices == set(Removal) | set(UnknownRename)


def test_what_comes_before_the_table():
    event = renamed(sequence=None, time=NOW.replace(year=2027))
    entry = an_entry(version=event.version)
    other = an_answer(created(id=event.reference.id))
    known = [
        a_recollection(entry, an_answer(event)),
        a_recollection(entry, other),
        a_recollection(entry),
        a_recollection(an_entry()),
    ]

    assert [row[1] for row in BEFORE] == [decided(event, each) for each in known]


def test_the_line_is_that_of_the_pipeline():
    def stages(text):
        return re.findall(r"^ *(\w+) {2,}\S", text, re.MULTILINE)

    drawn = section("The line").split("```")[1]
    assert stages(drawn) == stages(worker.pipeline.handler.__doc__)
    assert len(stages(drawn)) == 8


def test_the_code_map_names_what_is_there():
    mapped = [path for row in rows_under("Code map", "Path | What is there") for path in row[0].split(", ")]

    assert [path for path in mapped if not (PROJECT / path.strip("`")).exists()] == []
    assert len(set(mapped)) == len(mapped)


def test_so_does_every_other_line():
    named = set(re.findall(r"`((?:worker|contracts|tests)/[\w./-]*)`", DOCUMENT))

    assert len(named) > 25
    assert [path for path in sorted(named) if not (PROJECT / path).exists()] == []


def test_every_invariant_names_the_file_that_keeps_it():
    text = section("Invariants")
    invariants = re.split(r"^\d+\. ", text, flags=re.MULTILINE)[1:]

    assert re.findall(r"^(\d+)\. ", text, re.MULTILINE) == [str(n + 1) for n in range(len(invariants))]
    assert [each for each in invariants if not re.search(r"`[\w/]+\.py`", each)] == []
