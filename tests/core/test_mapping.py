"""From foreign payloads to events: coercion, times, ids, visible headers, and what cannot be mapped."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.core.intake.mapping import MOST_ITEMS, map_item, map_received
from worker.core.intake.parsing import parse_profile
from worker.core.intake.received import Received
from worker.core.intake.unmapped import profile_of, received_of, shown, unmapped

NOW = datetime(2026, 11, 1, 8, 30, 12, 345678, tzinfo=UTC)
ITEM = {"id": 42, "name": "Sales", "at": "2026-11-01T08:30:00Z"}


def profile(**changes):
    document = {
        "auth": {"kind": "none"},
        "id": "item.id",
        "name": "item.name",
        "samples": [{"body": {}, "events": []}],
    }
    return parse_profile("acme", document | changes)


def mapped(body, at=NOW, headers=None, **changes):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return map_received(profile(**changes), Received(raw, headers or {}, at))


def one(body, **options) -> Any:
    found = mapped(body, **options)
    assert found.unmappable == ()
    (event,) = found.events
    return event


def reason(body, **options) -> str:
    found = mapped(body, **options)
    assert found.events == ()
    (line,) = found.unmappable
    return line


def test_a_live_item_becomes_a_created_event():
    event = one(ITEM, time="item.at")

    assert (event.type, event.source, event.subject) == ("department.created.v1", "/in/acme", "42")
    assert (event.data.department_id, event.data.name, event.tenant) == ("42", "Sales", "default")
    assert event.time == datetime(2026, 11, 1, 8, 30, tzinfo=UTC)
    assert event.sequence is None


@pytest.mark.parametrize("number", [0, 42, 2**53 + 1, 10**30])
def test_an_integer_is_read_as_its_decimal_text(number):
    assert one(ITEM | {"id": number}).data.department_id == str(number)


@pytest.mark.parametrize("key", ["id", "name", "tenant", "event_id"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "missing"),
        (True, "must be text or an integer, not true or false"),
        (7.0, "must be text or an integer, not a number with a fraction"),
        (0.5, "must be text or an integer, not a number with a fraction"),
        ([], "must be text or an integer, not a list or an object"),
        ({}, "must be text or an integer, not a list or an object"),
        ("", "must not be empty"),
    ],
)
def test_an_odd_value_is_refused_by_its_key(key, value, expected):
    assert reason(ITEM | {"odd": value}, **{key: "item.odd"}) == f"{key}: {expected}"


def test_no_reason_shows_the_payload():
    canary = "canary\u0000"
    found = mapped(
        [{"id": canary, "name": "A"}, {"id": 1, "name": canary}, {"id": 1, "name": "A", "at": canary}],
        each="body",
        time="item.at",
    )

    assert len(found.unmappable) == 3
    assert "canary" not in "".join(found.unmappable)


def test_the_text_of_null_is_not_the_word_null():
    assert reason({"name": "A"}, id="to_string(item.id)") == "id: missing"
    key = "join('/', [to_string(item.id), to_string(item.revision)])"
    assert reason(ITEM, event_id=key) == "event_id: join() was given null, not array-string"


def test_a_function_on_a_wrong_type_names_both():
    assert reason(ITEM, name="join('-', item.name)") == "name: join() was given string, not array-string"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "body: empty"),
        (b"Ping test", "body: not JSON"),
        (b"\xff\xfe{\x00}\x00", "body: UTF-16, not UTF-8"),
        (b"[" * 300 + b"]" * 300, "body: nested deeper than 200 levels"),
        (b'{"id": 1, "name": NaN}', "body: not JSON"),
    ],
)
def test_a_body_that_is_no_json_is_unmappable(body, expected):
    assert reason(body).startswith(expected)


def test_expressions_on_the_deepest_body_do_not_break():
    body = b'{"id": 1, "name": "A", "x": ' + b"[" * 199 + b"]" * 199 + b"}"

    assert mapped(body, tenant="to_string(item.x)").unmappable[0].startswith("tenant: ")
    assert one(body).data.name == "A"


@pytest.mark.parametrize(
    ("format_", "value", "expected"),
    [
        ("rfc3339", "2026-11-01T09:30:00.5+01:00", "2026-11-01T08:30:00.500000+00:00"),
        ("rfc3339", "2026-11-01 08:30:00Z", "2026-11-01T08:30:00+00:00"),
        ("date", "2026-11-01", "2026-11-01T00:00:00+00:00"),
        ("epoch-s", 1793521800, "2026-11-01T08:30:00+00:00"),
        ("epoch-s", "1793521800.25", "2026-11-01T08:30:00.250000+00:00"),
        ("epoch-ms", 1793521800123, "2026-11-01T08:30:00.123000+00:00"),
        ("epoch-ms", "1793521800123", "2026-11-01T08:30:00.123000+00:00"),
        ("epoch-ms", "/Date(1793521800123+0100)/", "2026-11-01T08:30:00.123000+00:00"),
        ("epoch-ms", "/Date(1793521800123)/", "2026-11-01T08:30:00.123000+00:00"),
    ],
)
def test_a_time_in_each_format(format_, value, expected):
    assert one(ITEM | {"at": value}, time="item.at", time_format=format_).time.isoformat() == expected


@pytest.mark.parametrize(
    ("format_", "value", "expected"),
    [
        ("rfc3339", None, "missing"),
        ("rfc3339", "2026-11-01T08:30:00", "has no offset"),
        ("rfc3339", 1793521800, "not an RFC 3339 time"),
        ("date", "2026-02-30", "there is no such day"),
        ("date", "2026-11-01T08:30:00Z", "not a date"),
        ("epoch-s", 1793521800123, "too large for seconds"),
        ("epoch-ms", 1793521800, "too small for milliseconds"),
        ("epoch-s", True, "not a number since 1970"),
        ("epoch-s", "soon", "not a number since 1970"),
        ("epoch-s", -1, "not a number since 1970"),
        ("epoch-ms", 10**18 - 1, "lies outside the years"),
    ],
)
def test_a_time_that_is_not_of_the_format(format_, value, expected):
    assert reason(ITEM | {"at": value}, time="item.at", time_format=format_).startswith(f"time: {expected}")


@pytest.mark.parametrize(("value", "expected"), [(7, 7), ("7", 7), ("007", 7), (0, 0), (10**18, 10**18)])
def test_a_sequence(value, expected):
    assert one(ITEM | {"seq": value}, sequence="item.seq").sequence == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "missing; an event without a sequence would lose"),
        (True, "must be an integer"),
        (1.5, "must be an integer"),
        ("v7", "must be an integer"),
        (-1, "must not be negative"),
        (10**20, "must have at most 20 digits"),
    ],
)
def test_a_sequence_that_is_none(value, expected):
    assert reason(ITEM | {"seq": value}, sequence="item.seq").startswith(f"sequence: {expected}")


@pytest.mark.parametrize(
    ("value", "is_removed"), [(True, True), (False, False), (None, False), ([], False), ([0], True)]
)
def test_a_condition(value, is_removed):
    event = one(ITEM | {"gone": value}, removed_when="item.gone")

    assert (event.type == "department.removed.v1") is is_removed


@pytest.mark.parametrize("value", [0, 1, "false", "", "2026-11-01", {}])
def test_a_condition_that_is_neither_true_nor_false_is_refused(value):
    assert reason(ITEM | {"gone": value}, removed_when="item.gone").startswith(
        "removed_when: must be true or false"
    )


def test_ignored_items_are_counted():
    found = mapped([ITEM, {"kind": "role"}, ITEM | {"id": 43}], each="body", ignore="item.kind == 'role'")

    assert [event.data.department_id for event in found.events] == ["42", "43"]
    assert (found.ignored, found.unmappable) == (1, ())


def test_an_unmappable_item_does_not_stop_its_neighbours():
    found = mapped([ITEM, {}, ITEM | {"id": 43}], each="body")

    assert len(found.events) == 2
    assert found.unmappable == ("item 1: id: missing",)


def test_each_must_give_a_list_that_is_not_too_long():
    assert reason({"changes": {}}, each="body.changes") == "each: must give a list"
    assert reason({}, each="body.changes") == "each: must give a list"
    assert mapped([], each="body").events == ()
    assert reason([ITEM] * (MOST_ITEMS + 1), each="body") == "each: gives more than 1,000 items"


@pytest.mark.parametrize("name", [None, "", 7.5, "\u0000", {}])
def test_a_removal_needs_no_name(name):
    event = one({"id": 42, "name": name}, removed_when="`true`")

    assert event.data.name is None


def test_the_cause_of_a_removal():
    assert one(ITEM, removed_when="`true`", cause="'deactivated'").data.cause == "deactivated"
    assert one(ITEM, removed_when="`true`", cause="item.cause").data.cause is None
    assert reason(ITEM, removed_when="`true`", cause="'closed'").startswith("cause: must be deleted, merged")
    assert one(ITEM, removed_when="item.gone", cause="'closed'").type == "department.created.v1"


def test_an_odd_parent_is_left_out():
    assert one(ITEM | {"parent": [1, "Company"]}, parent="item.parent[0]").data.parent_id == "1"
    assert one(ITEM | {"parent": False}, parent="item.parent").data.parent_id is None


# Ids


def test_the_id_is_that_of_the_version():
    versions = [
        one(ITEM, time="item.at"),
        one(ITEM | {"at": "2026-11-01T08:31:00Z"}, time="item.at"),
        one(ITEM, time="item.at", tenant="'acme'"),
        one(ITEM | {"id": 43}, time="item.at"),
        one(ITEM, time="item.at", removed_when="`true`"),
        one(ITEM | {"seq": 7}, time="item.at", sequence="item.seq"),
        one(ITEM | {"seq": 8}, time="item.at", sequence="item.seq"),
    ]

    assert len({event.id for event in versions}) == len(versions)


def test_a_repeated_request_has_the_same_ids_whenever_it_comes():
    first = one(ITEM, time="item.at")

    assert one(ITEM, time="item.at", at=NOW + timedelta(days=3)).id == first.id
    assert one(ITEM | {"at": "2026-11-01T09:30:00+01:00"}, time="item.at").id == first.id


def test_with_a_sequence_the_time_is_not_in_the_id():
    item = ITEM | {"seq": "7"}

    assert (
        one(item, sequence="item.seq", at=NOW).id
        == one(item | {"seq": 7}, sequence="item.seq", at=NOW + timedelta(hours=1)).id
    )


def test_without_a_version_the_arrival_counts():
    first, later = one(ITEM), one(ITEM, at=NOW + timedelta(seconds=47))

    assert first.time == NOW
    assert later.id == first.id
    assert one(ITEM, at=NOW + timedelta(seconds=48)).id != first.id
    assert one(ITEM | {"name": "Other"}).id != first.id


def test_without_a_version_the_items_of_a_body_keep_their_order():
    found = mapped([ITEM, ITEM | {"name": "Other"}, ITEM], each="body")

    assert len({event.id for event in found.events}) == 3
    assert max(found.events, key=lambda event: event.version.rank()).data.name == "Sales"


def test_an_id_of_its_own():
    assert one(ITEM, event_id="to_string(item.id)").id == "42"
    assert reason(ITEM | {"name": "x" * 2000}, event_id="item.name").startswith("event_id: must have at most")


# Headers

SIGNED = {
    "kind": "hmac",
    "header": "X-Signature",
    "signed": "{id}.{body}",
    "id_header": "X-Delivery",
    "secret_file": "acme.secret",
}
SENT = {
    "x-delivery": "d-1",
    "x-topic": "department",
    "x-signature": "00",
    "authorization": "Bearer t0ken",
    "cookie": "c",
    "content-type": "application/json",
}


@pytest.mark.parametrize(
    ("auth", "seen"),
    [
        (SIGNED, {"x-delivery"}),
        (SIGNED | {"signed": "body"}, set()),
        ({"kind": "bearer", "secret_file": "x"}, {"x-delivery", "x-topic", "x-signature", "content-type"}),
        (
            {"kind": "bearer", "secret_file": "x", "header": "X-Topic"},
            {"x-delivery", "x-signature", "content-type"},
        ),
        ({"kind": "none"}, {"x-delivery", "x-topic", "x-signature", "content-type"}),
    ],
)
def test_only_headers_that_the_proof_covers_are_seen(auth, seen):
    event = one(ITEM, headers=SENT, auth=auth, name="join(',', ['seen', keys(headers)][])")

    assert set(event.data.name.split(",")) == {"seen"} | seen


def test_a_header_is_found_in_any_case():
    assert one(ITEM, headers=SENT, auth=SIGNED, event_id='headers."X-Delivery"').id == "d-1"


# The queue of unmapped payloads


def test_an_unmapped_payload_is_kept_with_what_a_remap_needs():
    acme = profile(auth=SIGNED, event_id='headers."x-delivery"')
    received = Received(b"\xffno json", SENT, NOW)
    message = unmapped(acme, received, map_received(acme, received).unmappable)

    assert message.message.body == b"\xffno json"
    assert message.message.headers == {
        "x-profile": "acme",
        "x-unmapped-reason": "body: not UTF-8",
        "x-received-at": "2026-11-01T08:30:12.345678Z",
        "x-header-x-delivery": "d-1",
    }
    assert profile_of(message) == "acme"
    again = received_of(message, NOW + timedelta(days=1))
    assert (again.body, again.at, again.headers) == (received.body, NOW, {"x-delivery": "d-1"})


def test_a_kept_payload_has_no_header_that_its_profile_does_not_read():
    acme = profile(
        auth={"kind": "bearer", "secret_file": "x"}, tenant='headers."x-topic"', name="headers.cookie"
    )
    kept = unmapped(acme, Received(b"{}", SENT, NOW), ["id: missing"]).message.headers

    assert [name for name in kept if name.startswith("x-header-")] == ["x-header-x-topic"]


def test_many_reasons_are_one_line():
    assert shown(["a"]) == "a"
    assert shown(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more"
    assert len(shown(["x" * 400] * 3)) == 500


def test_an_item_by_itself():
    event = map_item(profile(tenant="body.tenant"), ITEM, Received(b"", {}, NOW), body={"tenant": "acme"})

    assert event is not None
    assert (event.tenant, event.data.department_id) == ("acme", "42")
    assert map_item(profile(ignore="`true`"), ITEM, Received(b"", {}, NOW)) is None
