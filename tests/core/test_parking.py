"""Parking: a message returns from the retry queue by another exchange and is restored to its original."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.envelope import Message
from contracts.subaccounts import DeadReason
from contracts.topology import DEFAULT_RETRY_DELAYS
from tests.support.builders import NOW, created
from worker.core import messages
from worker.core.judge import DeadLetter, Park
from worker.core.messages import Outgoing, Subject

KEPT = {"cloudEvents_id": "1", "list": [1, {"deep": None}], "x-custom": b"\xff\x00", "nothing": None}
FIRST, *_ = DEFAULT_RETRY_DELAYS
REJECTED = DeadLetter(DeadReason.REJECTED, "Plivo answered 400 to create")
SUBJECT = Subject(created("Sales").reference, "acme", "sales", "Sales")


def an_original(headers=()):
    message = Message(b"{", "application/json", dict(headers))
    return Outgoing("departments", "department.created.eu", message, {"priority": 3})


def returned(parked):
    """A parked message as the broker delivers it after its delay."""
    death = {"x-death": [{"queue": "provisioner.retry.30s", "count": 1}], "x-first-death-reason": "expired"}
    headers = parked.message.headers | death | {"x-last-death-queue": "provisioner.retry.30s"}
    return replace(parked, exchange="provisioner.replay", message=replace(parked.message, headers=headers))


def without_broker_headers(outgoing):
    headers = {name: value for name, value in outgoing.message.headers.items() if "-death" not in name}
    return replace(outgoing, message=replace(outgoing.message, headers=headers))


@given(
    body=st.binary(),
    content_type=st.none() | st.text(),
    headers=st.dictionaries(st.text().filter(lambda name: not name.startswith("x-")), st.text()),
    exchange=st.text(),
    routing_key=st.text(),
    delays=st.lists(st.sampled_from(DEFAULT_RETRY_DELAYS), min_size=1, max_size=8),
)
def test_the_original_is_restored_after_any_number_of_parkings(
    body, content_type, headers, exchange, routing_key, delays
):
    original = Outgoing(exchange, routing_key, Message(body, content_type, headers), {"correlation_id": "7"})
    comes = original

    for attempts, delay in enumerate(delays, 1):
        comes = returned(messages.parked(messages.unparked(comes), Park(delay, attempts)))

        assert messages.attempts_of(comes) == attempts
        assert without_broker_headers(messages.unparked(comes)) == original


@pytest.mark.parametrize(
    ("delay", "label"), list(zip(DEFAULT_RETRY_DELAYS, ["30s", "5m", "1h"], strict=True))
)
def test_a_parked_message_goes_to_the_queue_of_its_delay(delay, label):
    parked = messages.parked(an_original(), Park(delay, 1))

    assert (parked.exchange, parked.routing_key) == ("provisioner.retry", label)


def test_a_parked_message_carries_its_origin_and_attempts():
    parked = messages.parked(an_original(KEPT), Park(FIRST, 3))

    assert parked.message.headers == KEPT | {
        "x-attempts": 3,
        "x-original-exchange": "departments",
        "x-original-routing-key": "department.created.eu",
    }
    assert (parked.message.body, parked.properties) == (b"{", {"priority": 3})


def test_headers_of_the_broker_are_removed():
    """The broker would drop the message as a cycle if x-death were sent back to it."""
    comes = returned(messages.parked(an_original(), Park(FIRST, 1)))
    assert "x-death" in comes.message.headers

    again = messages.parked(messages.unparked(comes), Park(FIRST, 2))

    assert set(again.message.headers) == {"x-attempts", "x-original-exchange", "x-original-routing-key"}


def test_the_original_message_is_unchanged():
    original = an_original(KEPT)

    messages.unparked(messages.parked(original, Park(FIRST, 1)))

    assert original.message.headers == KEPT


@pytest.mark.parametrize("header", ["abc", "7", b"7", -5, 10**9, 3, 2.5, True, None, [1], {"a": 1}])
def test_headers_of_a_never_parked_message_count_no_attempts(header):
    original = an_original({"x-attempts": header})

    assert messages.attempts_of(original) == 0
    assert messages.unparked(original) == original


@pytest.mark.parametrize(
    ("header", "attempts"),
    [
        (3, 3),
        (-5, 0),
        (10**9, 1000),
        ("abc", 0),
        ("7", 0),
        (b"7", 0),
        (2.5, 0),
        (None, 0),
        ([1], 0),
    ],
)
def test_invalid_attempt_counts_are_harmless(header, attempts):
    headers = {"x-attempts": header, "x-original-exchange": "a", "x-original-routing-key": "b"}
    comes = replace(an_original(headers), exchange="provisioner.replay")

    assert messages.attempts_of(comes) == attempts
    assert messages.unparked(comes).message.headers == {}


def test_parking_headers_of_a_producer_are_ignored():
    """A producer of department events must not reach another exchange by these headers."""
    parking_headers = {"x-attempts": 7, "x-original-exchange": "a", "x-original-routing-key": "b"}
    comes = an_original(parking_headers)

    assert messages.attempts_of(comes) == 0
    assert messages.unparked(comes) == comes
    dead = messages.dead_letter(comes, REJECTED, SUBJECT, 1, NOW).message.headers
    assert not {"x-original-exchange", "x-original-routing-key"} & dead.keys()


@pytest.mark.parametrize("exchange", [None, 3, b"departments", ["departments"]])
@pytest.mark.parametrize("key", [None, 3, b"department.created"])
def test_invalid_original_addresses_are_ignored(exchange, key):
    parking_headers = {"x-original-exchange": exchange, "x-original-routing-key": key}
    comes = replace(an_original(parking_headers), exchange="provisioner.replay")

    assert messages.unparked(comes) == comes


def test_parking_changes_only_the_attempts_of_a_dead_letter():
    original = an_original(KEPT)
    comes = returned(messages.parked(original, Park(FIRST, 7)))

    never, often = (
        messages.dead_letter(messages.unparked(each), REJECTED, SUBJECT, attempts, NOW)
        for each, attempts in ((original, 1), (comes, messages.attempts_of(comes) + 1))
    )

    headers = {**never.message.headers, "x-attempts": 8}
    assert often == replace(never, message=replace(never.message, headers=headers))


def test_a_replayed_dead_letter_starts_with_no_attempts():
    letter = messages.dead_letter(an_original(), REJECTED, SUBJECT, 8, NOW)

    assert messages.attempts_of(replace(letter, exchange="provisioner.replay")) == 0


def test_our_headers_written_by_a_producer_have_no_effect():
    headers = {"x-attempts": 7, "x-original-exchange": "a", "x-original-routing-key": "b"}
    comes = an_original(headers)

    assert messages.attempts_of(comes) == 0
    assert messages.unparked(comes) == comes


@pytest.mark.parametrize("exchange", ["departments", "hr.events", ""])
def test_a_producer_cannot_forge_parking_headers_through_any_exchange(exchange: str):
    """HR's own exchange may be bound to ours, and a message keeps the exchange it was published to."""
    forged = {"x-attempts": 7, "x-original-exchange": "departments", "x-original-routing-key": "subaccount.x"}
    came = Outgoing(exchange, "department.created", Message(b"{}", None, forged))
    assert messages.unparked(came) == came
    assert messages.attempts_of(came) == 0
