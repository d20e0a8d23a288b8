"""`provisioner adopt`: the plan of a file, and what the command says, at any width."""

import io
from datetime import date

import pytest
from rich.console import Console

from tests.support.builders import NOW, SALES, an_entry
from tests.support.commands import in_process
from tests.support.entries import entries_of
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.cli import terminal
from worker.core.decide import Policy
from worker.core.listed import ListedSubaccount
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.replace import replace
from worker.core.naming import Names, NameTemplate
from worker.operations.adopt import Choices, Planned, Planning, State
from worker.operations.adoption_lines import AdoptionLine, lines_in
from worker.sandbox import running_sandbox

FREE, OTHER, OFF, TAKEN, GONE = (f"SA0000000000000000A{number}" for number in range(5))
NAMES = Names("default", NameTemplate())
MARKETING, SUPPORT = Department("acme", "marketing"), Department("acme", "support")


def listed(auth_id: str, name: str, *, enabled: bool = True) -> ListedSubaccount:
    return ListedSubaccount(auth_id, name, enabled, date(2026, 1, 1))


LISTED = [
    listed(FREE, "EU 7"),
    listed(OTHER, "US 1"),
    listed(OFF, "Old", enabled=False),
    listed(TAKEN, NAMES.sent("Marketing", Entry(MARKETING))),
]
ON_RECORD = replace(an_entry(auth_id=TAKEN), department=MARKETING)


def planned(
    *lines: AdoptionLine, choices: Choices | None = None, extra: tuple[ListedSubaccount, ...] = ()
) -> list[Planned]:
    everything = {one.auth_id: one for one in (*LISTED, *extra)}
    planning = Planning([ON_RECORD], everything, NAMES, Policy(), "ada", NOW)
    return planning.plan(lines, choices or Choices())


def line(
    number: int, department: Department = SALES, auth_id: str = FREE, name: str | None = None
) -> AdoptionLine:
    return AdoptionLine(number, department, auth_id, name)


def states(of: list[Planned]) -> list[str]:
    return [one.state for one in of]


def test_each_line_is_decided_as_the_worker_would():
    plan = planned(
        line(2),
        line(3, MARKETING, TAKEN),
        line(4, SUPPORT, OFF),
        line(5, Department("acme", "five"), GONE),
        line(6, Department("acme", "six"), TAKEN),
    )

    assert states(plan) == ["adopt", "already", "refused", "refused", "refused"]
    assert [one.name for one in plan] == ["EU 7", "Sales", None, None, None]
    assert [one.reason for one in plan[2:]] == [
        "the subaccount is disabled at Plivo: --enable enables it",
        f"Plivo has no subaccount {GONE} in this account",
        "line 3 names this subaccount already",
    ]
    assert states(planned(line(4, SUPPORT, OFF), choices=Choices(enables=True))) == ["adopt"]


def test_a_department_that_has_another_subaccount_is_refused():
    (plan,) = planned(line(2, MARKETING, FREE))

    assert (plan.state, plan.reason) == ("refused", f"the department has another subaccount, {TAKEN}")


def test_one_on_record_for_another_department_is_refused():
    (plan,) = planned(line(2, SALES, TAKEN))

    assert (plan.state, plan.reason) == ("refused", f"{TAKEN} is on record for department marketing")


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (line(3), "line 2 names this department already"),
        (line(3, SALES, OTHER), "line 2 names this department already"),
        (line(3, SUPPORT, FREE), "line 2 names this subaccount already"),
    ],
)
def test_the_second_of_two_lines_is_a_duplicate(second, why):
    plan = planned(line(2), second, line(4, MARKETING, TAKEN))

    assert states(plan) == ["adopt", "refused", "already"]
    assert plan[1].reason == why


def test_another_subaccount_with_a_tag_of_the_department_is_noticed():
    tagged = listed(GONE, NAMES.sent("Sales", Entry(SALES, incarnation=2)))

    (plan,) = planned(line(2), extra=(tagged,))
    (taken,) = planned(line(2, SALES, GONE), extra=(tagged,))

    assert "another subaccount with the department's tag" in str(plan.reason)
    assert taken.state is State.ADOPT


def test_a_line_with_mistakes_is_refused_with_all_of_them():
    (plan,) = planned(*lines_in("department_id,auth_id,name\n,MA0000000000000000A1,\u3164\n"))

    assert plan.reason == (
        "department_id is missing; auth_id is that of a main account, not of a subaccount;"
        " name must contain a visible character"
    )


@pytest.fixture
async def environ(tmp_path):
    """A ledger on which no worker runs, beside a sandbox."""
    async with sqlite_ledger(tmp_path / "ledger.db"):
        pass
    async with running_sandbox() as sandbox:
        yield {
            "LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
            "PLIVO_AUTH_ID": sandbox.auth_id,
            "PLIVO_AUTH_TOKEN": sandbox.auth_token,
            "PLIVO_API_URL": sandbox.url,
        }


async def test_apply_says_that_no_worker_runs_before_anything_else(environ, tmp_path):
    path = tmp_path / "file.csv"
    path.write_text(f"department_id,auth_id\nsales,{GONE}\n")

    output = await in_process(environ, "adopt", "--from", str(path), "--apply", "--json")

    assert (output.code, output.out) == (1, "")
    assert "no worker runs on this ledger" in output.err
    async with sqlite_ledger(tmp_path / "ledger.db") as ledger:
        assert await ledger.wishes() == await entries_of(ledger) == []


async def test_a_plan_names_every_refused_line(environ, tmp_path):
    path = tmp_path / "file.csv"
    path.write_text(f"department_id,auth_id\nsales,{GONE}\nsupport,{GONE}\n\n")

    output = await in_process(environ, "adopt", "--from", str(path))

    assert output.code == 1
    rows = [row.split() for row in output.out.splitlines() if GONE in row]
    assert [row[0] for row in rows] == ["2", "3"]
    assert "state" in output.out.split()
    assert "2 refused" in output.out
    assert "--skip-bad" in output.err


@pytest.mark.parametrize(
    ("settings", "code", "why"),
    [
        ({"PLIVO_AUTH_TOKEN": "wrong"}, 1, "Plivo's subaccounts cannot be read"),
        ({"PROVISIONER_NAME_TEMPLATE": "{name}"}, 2, "PROVISIONER_NAME_TEMPLATE"),
    ],
)
async def test_a_list_that_cannot_be_read_is_one_line(environ, tmp_path, settings, code, why):
    path = tmp_path / "file.csv"
    path.write_text(f"department_id,auth_id\nsales,{GONE}\n")

    output = await in_process(environ | settings, "adopt", "--from", str(path))

    assert output.code == code
    (complaint,) = output.err.splitlines()
    assert why in complaint


async def test_a_ledger_of_another_account_is_left_alone(environ, tmp_path):
    async with sqlite_ledger(tmp_path / "ledger.db") as ledger:
        await ledger.bind("other", environ["PLIVO_AUTH_ID"])
    path = tmp_path / "file.csv"
    path.write_text(f"department_id,auth_id\nsales,{GONE}\n")

    output = await in_process(environ, "adopt", "--from", str(path), "--apply")

    assert output.code == 2
    assert "the ledger belongs to owner other" in output.err


def test_no_id_is_broken_at_80_columns(monkeypatch):
    from worker.cli import adopt

    text = io.StringIO()
    monkeypatch.setattr(terminal, "OUT", Console(file=text, width=80, force_terminal=True, color_system=None))
    plan = [
        Planned(
            line(number, Department("default", f"department-{number}" * 2), f"SA{number:018d}"),
            state,
            "A long name of it",
            why,
        )
        for number, (state, why) in enumerate(
            [(State.ADOPT, None), (State.REFUSED, "Plivo has no such subaccount in this account")]
        )
    ]
    terminal.print_table(adopt.COLUMNS, map(adopt._row, plan), "")

    lines = text.getvalue().splitlines()
    assert all(len(row) <= 80 for row in lines)
    for one in plan:
        assert one.line.auth_id is not None
        assert one.line.auth_id in text.getvalue()
        assert str(one.line.department and one.line.department.id) in text.getvalue()
    assert "Plivo has no such subaccount in this account" in text.getvalue()


def test_the_department_of_a_removed_entry_is_told_what_to_do():
    removed = replace(an_entry(Status.REMOVED), department=SALES)
    planning = Planning([removed], {FREE: LISTED[0]}, NAMES, Policy(), "ada", NOW)

    (plan,) = planning.plan([line(2)], Choices())

    assert "a newer `created` event" in str(plan.reason)
