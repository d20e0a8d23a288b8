"""Output of lists and replays: totals first, the summary last, and a limited number of lines."""

import io
from dataclasses import replace

import pytest
from pydantic_core import from_json
from rich.console import Console

from contracts.envelope import STRUCTURED, Message
from contracts.subaccounts import DeadReason
from tests.support.builders import NOW
from worker.cli import terminal, view
from worker.cli.view import Ending
from worker.core.dead_letters import letter_of
from worker.core.judge import DeadLetter
from worker.core.messages import Outgoing, Subject, dead_letter
from worker.core.model.causes import Reference
from worker.operations.dead_letters.session import Found
from worker.operations.dead_letters.summary import Gathered, Summary
from worker.operations.dead_letters.tracking import Outcome, ReplayReport
from worker.ports import UserError


@pytest.fixture
def printed_lines(monkeypatch):
    """Lines printed to stdout and stderr, in order."""
    file = io.StringIO()
    both = Console(file=file, width=terminal.WIDE)
    monkeypatch.setattr(terminal, "OUT", both)
    monkeypatch.setattr(terminal, "ERR", both)
    return lambda: [" ".join(line.split()) for line in file.getvalue().splitlines() if line.strip(" ─")]


def original(number, tenant="default"):
    subject = Subject(Reference("/hr", f"e-{number}", "department.created.v1"), tenant, f"d-{number}")
    came = Outgoing("departments", "department.created", Message(b"{}", STRUCTURED), {"priority": number})
    return dead_letter(came, DeadLetter(DeadReason.REJECTED, "400"), subject, 1, NOW), subject


def letter(number, tenant="default"):
    return letter_of(*original(number, tenant))


NAMELESS = letter_of(Outgoing("", "k", Message(b"\xff", None, {"x-dead-reason": "malformed"})), None)


def summary_of(*letters, keep=50):
    summary = Summary(keep)
    for one in letters:
        summary.add(one)
    summary.seen = summary.selected
    return summary


def test_a_list_shows_reasons_then_departments_then_dead_letters(printed_lines):
    view.summary(summary_of(letter(1), letter(1), NAMELESS), as_json=False)
    assert printed_lines() == [
        "3 dead letters",
        "reason messages departments",
        "rejected 2 1",
        "malformed 1 ?",
        "department messages reasons",
        "d-1 2 rejected",
        "and 1 more department",
        "dead since reason type department event or letter detail",
        *["2026-11-21 12:00:00Z rejected created d-1 e-1 400"] * 2,
        f"? malformed {NAMELESS.fingerprint}",
    ]


def test_departments_with_one_letter_each_do_not_push_the_letters_away(printed_lines):
    view.summary(summary_of(*(letter(n) for n in range(40)), keep=1), as_json=False)
    assert printed_lines()[1:5] == [
        "reason messages departments",
        "rejected 40 40",
        "dead since reason type department event or letter detail",
        "2026-11-21 12:00:00Z rejected created d-0 e-0 400",
    ]


def test_a_long_list_shows_the_departments_with_most_letters_and_their_tenants(printed_lines):
    many = [letter(n, "acme") for n in range(30) for _ in range(2)]
    view.summary(summary_of(*many, letter(7, "acme"), keep=1), as_json=False)
    lines = printed_lines()
    assert lines[3] == "tenant department messages reasons"
    assert lines[4] == "acme d-7 3 rejected"
    assert lines[5] == "acme d-0 2 rejected"
    assert lines[9] == "and 25 more departments"
    assert lines[-1] == "and 60 more dead letters: --limit shows more, a filter fewer"


def test_letters_without_a_department_show_their_tenant_where_it_is_known(printed_lines):
    of_a_tenant = replace(NAMELESS, tenant="default", reason="invalid")
    view.summary(summary_of(*[NAMELESS] * 3, *[of_a_tenant] * 2, keep=0), as_json=False)
    assert printed_lines()[4:7] == [
        "tenant department messages reasons",
        "? ? 3 malformed",
        "default ? 2 invalid",
    ]


def test_unrouted_messages_are_called_so(printed_lines):
    view.summary(summary_of(letter(1), letter(2), keep=0), "unrouted message", as_json=False)
    lines = printed_lines()
    assert lines[0] == "2 unrouted messages"
    assert lines[-1] == "and 2 more unrouted messages: --limit shows more, a filter fewer"


def test_a_json_list_is_complete(printed_lines):
    view.summary(summary_of(*(letter(n) for n in range(30))), as_json=True)
    expected = from_json("".join(printed_lines()))
    assert expected["reasons"] == [{"reason": "rejected", "count": 30, "departments": 30}]
    assert len(expected["departments"]) == 30
    assert expected["departments"][0] == {
        "tenant": "default",
        "department_id": "d-0",
        "count": 1,
        "reasons": {"rejected": 1},
    }


def test_times_in_json_end_with_z(printed_lines):
    outgoing, subject = original(7)
    dated = replace(outgoing, properties={"timestamp": NOW})
    found = Found(StoredLetters(dated), letter_of(dated, subject))
    view.letters(Gathered([found], more=False, seen=1), as_json=True)
    text = "".join(printed_lines())
    assert from_json(text)[0]["dead_at"] == "2026-11-21T12:00:00Z"
    assert '"$time": "2026-11-21T12:00:00Z"' in text


class StoredLetters:
    returns = 0

    def __init__(self, outgoing):
        self.original = outgoing


def test_a_dead_letter_is_shown_with_its_properties(printed_lines):
    outgoing, subject = original(7)
    found = Found(StoredLetters(outgoing), letter_of(outgoing, subject))
    view.letters(Gathered([found], more=True, seen=9), as_json=False)
    lines = printed_lines()
    assert f"content type {STRUCTURED}" in lines
    assert "property priority 7" in lines
    assert lines[-1] == "the first 1; --limit shows more"


def test_a_stopped_replay_shows_a_few_letters_and_its_summary_last(printed_lines):
    fates = ReplayReport(sent=500, answered=440)
    fates.unanswered = [Outcome(letter(number), "no answer yet") for number in range(60)]
    view.replayed(fates, "run", Ending(stopped=True), tracked=True, as_json=False)
    lines = printed_lines()
    assert lines[0] == "event or letter department outcome"
    assert len(lines) == 1 + 20 + 2
    assert lines[-2:] == ["and 40 more", "500 replayed, 440 answered; stopped, the rest is where it was"]


def test_a_failed_replay_reports_the_reason_and_the_sent_letters(printed_lines):
    ending = Ending(stopped=False, failure=UserError("RabbitMQ cannot be used: the connection was closed"))
    view.replayed(ReplayReport(sent=3, answered=3), "run", ending, tracked=True, as_json=False)
    assert printed_lines() == [
        "RabbitMQ cannot be used: the connection was closed",
        "3 replayed, 3 answered; the rest is where it was",
    ]


def test_a_failed_replay_in_json_reports_the_same(printed_lines):
    ending = Ending(stopped=False, failure=UserError("gone"))
    view.replayed(ReplayReport(sent=3), "run", ending, tracked=False, as_json=True)
    expected = from_json("".join(printed_lines()[:-1]))
    assert expected == {"run": "run", "stopped": False, "failure": "gone", "replayed": 3, "answered": 0}


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Ending(stopped=False), ["3 discarded"]),
        (Ending(stopped=True), ["3 discarded; stopped, the rest is where it was"]),
        (
            Ending(stopped=False, failure=UserError("gone")),
            ["gone", "3 discarded; the rest is where it was"],
        ),
    ],
)
def test_a_discard_reports_its_outcome(printed_lines, ending, expected):
    view.discarded(3, 9, ending, as_json=False)
    assert printed_lines() == expected
