"""The facts of a dead letter, the filters that select it, and the message of its replay."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from contracts.envelope import STRUCTURED, Message
from contracts.topology import DEAD_LETTERS, REPLAY, BrokerVersion
from tests.support.builders import (
    NOW,
)
from worker.cli.view import filter_text
from worker.core.dead_letters import (
    Selection,
    exported,
    from_json_safe,
    letter_of,
    may_be_lost,
    next_return_loses,
    replayed,
)
from worker.core.judge import DeadLetter
from worker.core.messages import Outgoing, Subject, dead_letter
from worker.core.model.causes import Reference
from worker.operations.dead_letters.batches import batch_sizes

SUBJECT = Subject(Reference("/hr", "hr-1", "com.example.department.created"), "acme", "sales")
OWN_HEADERS = {"x-producer": "hr", "traceparent": "00-1-2-01", "raw": b"\xff"}
ORIGINAL = Outgoing(
    "departments", "department.created.eu", Message(b"{}", STRUCTURED, OWN_HEADERS), {"priority": 2}
)


def dead(reason="invalid", detail="data.name: missing", subject=SUBJECT, at=NOW):
    return dead_letter(ORIGINAL, DeadLetter(reason, detail), subject, 3, at)


LETTER = letter_of(dead(), SUBJECT)


def test_a_letter_has_reason_time_and_subject():
    assert (LETTER.reason, LETTER.detail, LETTER.dead_at) == ("invalid", "data.name: missing", NOW)
    assert (LETTER.source, LETTER.event_id, LETTER.tenant) == ("/hr", "hr-1", "acme")
    assert (LETTER.department_id, LETTER.attempts, LETTER.size_bytes) == ("sales", 3, 2)


@pytest.mark.parametrize("headers", [{}, {"x-dead-at": "soon", "x-attempts": "x", "x-dead-reason": b"\xff"}])
def test_a_foreign_message_in_the_queue_is_read_too(headers):
    letter = letter_of(Outgoing(DEAD_LETTERS, "any", Message(b"\xff", None, headers)), None)
    assert (letter.dead_at, letter.attempts, letter.event_id) == (None, None, None)
    assert not Selection(since=NOW).takes(letter)
    assert Selection().takes(letter)


def test_each_death_of_a_message_has_its_own_fingerprint():
    again = letter_of(dead(at=NOW + timedelta(seconds=1)), SUBJECT)
    assert LETTER.fingerprint == letter_of(dead(), None).fingerprint != again.fingerprint


MATCHING = [
    Selection(),
    Selection(reason=("invalid", "rejected")),
    Selection(id=(LETTER.fingerprint,)),
    Selection(department=("sales",), tenant=("acme",), id=("hr-1",)),
    Selection(type=("created",)),
    Selection(type=("department.created.v1",)),
    Selection(type=("com.example.department.created",)),
    Selection(since=NOW, until=NOW),
    Selection(text="NAME"),
]
NOT_MATCHING = [
    Selection(reason=("rejected",)),
    Selection(department=("hr",)),
    Selection(tenant=("default",)),
    Selection(id=("hr-2",)),
    Selection(type=("renamed",)),
    Selection(since=NOW + timedelta(seconds=1)),
    Selection(until=NOW - timedelta(seconds=1)),
    Selection(text="department_id"),
    Selection(reason=("invalid",), id=("hr-2",)),
]


@pytest.mark.parametrize("selection", MATCHING, ids=filter_text)
def test_a_filter_takes_matching_letters(selection):
    assert selection.takes(LETTER)


@pytest.mark.parametrize("selection", NOT_MATCHING, ids=filter_text)
def test_a_filter_skips_other_letters(selection):
    assert not selection.takes(LETTER)


def test_a_filter_is_printed_as_its_options():
    asked = Selection(reason=("invalid",), since=datetime(2026, 11, 1, tzinfo=UTC), text="no name")
    assert filter_text(asked) == "--reason invalid --since 2026-11-01T00:00:00Z --text 'no name'"
    assert filter_text(Selection()) == "all"


def test_a_replay_restores_the_message_and_names_its_operator():
    with_foreign_headers = dead()
    headers = {
        **with_foreign_headers.message.headers,
        "x-death": [],
        "x-first-death-queue": "q",
        "x-delivery-count": 7,
    }
    headers |= {"x-replay-id": "older-1", "x-replayed-by": "mo", "x-edited-from": "hr-0"}
    with_foreign_headers = replace(with_foreign_headers, message=Message(b"{}", STRUCTURED, headers))
    sent = replayed(with_foreign_headers, "run-1", "ada")
    assert (sent.exchange, sent.routing_key) == (REPLAY, "department.created.eu")
    assert sent.message.headers == OWN_HEADERS | {"x-replay-id": "run-1", "x-replayed-by": "ada"}
    assert (sent.message.body, sent.message.content_type) == (b"{}", STRUCTURED)
    assert sent.properties == {"priority": 2}


def test_batches_grow_to_a_maximum_size():
    sizes = list(islice(batch_sizes(), 12))
    assert sizes[:7] == [1, 2, 5, 10, 20, 50, 100]
    assert sizes == sorted(sizes)
    assert sizes[-2:] == [1000, 1000]


def test_an_export_holds_body_and_headers_for_an_import():
    body = {"body": "{}"}
    line = exported(LETTER, dead())
    assert line.items() >= body.items()
    assert from_json_safe(line["headers"]) == OWN_HEADERS
    assert exported(LETTER, replace(ORIGINAL, message=Message(b"\xff", None)))["body_base64"] == "/w=="


@pytest.mark.parametrize(
    ("version", "returns", "wary", "last"),
    [
        ((3, 10), 15, False, False),
        ((4, 1), 9, False, False),
        ((4, 1), 10, True, False),
        ((4, 1), 20, True, True),
        ((4, 1), 21, False, False),
    ],
)
def test_many_returns_risk_the_delivery_limit_of_rabbitmq_4(version, returns, wary, last):
    broker = BrokerVersion(*version)
    assert (may_be_lost(broker, returns), next_return_loses(broker, returns)) == (wary, last)
