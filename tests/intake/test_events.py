"""`/v1/events`: CloudEvents in each mode, the order of the refusals, and what is published."""

import asyncio
import json
import time
from datetime import timedelta
from pathlib import Path

import pytest

from contracts import topology as names
from contracts.intake import EVENTS_PATH, MAX_BATCH, MAX_BODY_BYTES
from tests.intake.conftest import BATCH, STRUCTURED, TOKEN, Intake, event, running_intake, write
from worker.ports import RateLimit

BINARY = {
    "Content-Type": "application/json",
    "ce-specversion": "1.0",
    "ce-id": "event%201",
    "ce-source": '"/test/hr"',
    "ce-type": "com.example.department.deleted",
    "ce-time": "2026-11-01T08:30:00Z",
    "ce-sequence": "7",
}
LARGE = b" " * (MAX_BODY_BYTES + 1)


def accepted(*events: tuple[str, str, str]) -> dict[str, object]:
    told = [{"id": id_, "type": type_, "department_id": department} for id_, type_, department in events]
    return {"accepted": told, "ignored": 0, "unmapped": 0}


async def test_a_structured_event_is_published_as_it_was_sent(intake: Intake):
    body = json.dumps(event(attributes={"a": 1.0, "b": "é"}), indent=1).encode()
    status, told, _ = await intake.post(body, {"Content-Type": "Application/CloudEvents+JSON; charset=UTF-8"})

    assert (status, told) == (202, accepted(("event-1", "department.created.v1", "d-1")))
    (sent,) = intake.broker.taken
    assert (sent.exchange, sent.routing_key) == (names.DEPARTMENTS, "department.created")
    assert (sent.message.body, sent.message.content_type) == (body, "application/cloudevents+json")


async def test_plain_json_with_a_specversion_is_read_too(intake: Intake):
    status, *_ = await intake.post(event(), {"Content-Type": "application/json"})
    assert status == 202


async def test_a_binary_event_is_published_in_structured_mode(intake: Intake):
    status, told, _ = await intake.post({"department_id": 42}, BINARY)

    assert (status, told) == (202, accepted(("event 1", "department.removed.v1", "42")))
    assert intake.broker.documents == [
        {
            "specversion": "1.0",
            "id": "event 1",
            "source": "/test/hr",
            "type": "com.example.department.deleted",
            "time": "2026-11-01T08:30:00Z",
            "sequence": "7",
            "datacontenttype": "application/json",
            "data": {"department_id": 42},
        }
    ]
    assert intake.broker.taken[0].routing_key == "department.removed"


async def test_a_batch_is_published_in_its_order(intake: Intake):
    status, told, _ = await intake.post([event(number) for number in range(MAX_BATCH)], BATCH)
    assert status == 202
    assert [one["id"] for one in told["accepted"]] == [one["id"] for one in intake.broker.documents]
    assert len(intake.broker.taken) == MAX_BATCH


async def test_an_empty_batch_is_accepted(intake: Intake):
    status, told, _ = await intake.post([], BATCH)
    assert (status, told) == (202, accepted())


async def test_a_batch_with_a_mistake_is_refused_whole(intake: Intake):
    wrong = event(2, data={"departmentId": "x", "name": "Sales"}, time="yesterday")
    status, told, _ = await intake.post([event(1), wrong, 5], BATCH)

    assert status == 422
    assert [(one["index"], one["field"]) for one in told["errors"]] == [(1, "time"), (2, "body")]
    assert intake.broker.taken == []


@pytest.mark.parametrize(
    ("wrong", "field", "error"),
    [
        ({"data": {"departmentId": "x", "name": "S"}}, "data.departmentId", "did you mean department_id?"),
        ({"data": {"department_id": "x", "name": " "}}, "data.name", "must not be empty"),
        ({"id": None}, "id", "missing"),
        ({"type": "department.create"}, "type", "not department.created.v1"),
    ],
)
async def test_a_mistake_names_the_field(intake: Intake, wrong: dict[str, object], field: str, error: str):
    status, told, _ = await intake.post(event(1, **wrong))
    assert status == 422
    assert [(one["index"], one["field"]) for one in told["errors"]] == [(0, field)]
    assert told["errors"][0]["error"].startswith(error)


@pytest.mark.parametrize(
    ("body", "headers", "token", "status"),
    [
        (LARGE, {"Content-Type": "text/plain"}, None, 413),
        (event(), {"Content-Type": "text/plain"}, None, 415),
        (event(), STRUCTURED | {"Content-Encoding": "gzip"}, None, 415),
        (event(), {"Content-Type": "application/cloudevents+avro"}, TOKEN, 415),
        (b"{", STRUCTURED, None, 401),
        (b"{", STRUCTURED, "wrong", 401),
        (b"{", STRUCTURED, TOKEN, 400),
        (b"", STRUCTURED, TOKEN, 400),
        ([event()], STRUCTURED, TOKEN, 422),
        ({}, BATCH, TOKEN, 422),
        ([event()] * (MAX_BATCH + 1), BATCH, TOKEN, 413),
    ],
    ids=[
        *("size", "content type", "encoding", "format", "no token", "wrong token", "no json", "nothing"),
        *("a batch as one", "one as a batch", "too many"),
    ],
)
async def test_the_refusals_have_an_order(
    intake: Intake, body: object, headers: dict[str, str], token: str | None, status: int
):
    found, told, _ = await intake.post(body, headers, token=token)
    assert found == status
    assert told.keys() <= {"error", "errors"}
    assert intake.broker.taken == []


async def test_the_size_comes_first_for_a_body_of_unknown_length_too(intake: Intake):
    async def chunks():
        for _ in range(17):
            yield b" " * (1 << 16)

    async with intake.session.post(intake.url + EVENTS_PATH, data=chunks()) as response:
        assert response.status == 413


async def test_every_cause_has_one_text_and_the_header_names_the_scheme(intake: Intake):
    replies = [await intake.post(event(), token=token) for token in (None, "wrong", f"{TOKEN} ", TOKEN[:-1])]
    assert [status for status, *_ in replies] == [401, 401, 202, 401]
    refusals = [(told, headers["WWW-Authenticate"]) for status, told, headers in replies if status == 401]
    assert refusals == [({"error": "not authorized"}, "Bearer")] * 3


async def test_other_methods_and_paths(intake: Intake):
    async def asked(method: str, path: str) -> tuple[int, str | None]:
        async with intake.session.request(method, intake.url + path) as response:
            return response.status, response.headers.get("Allow")

    assert await asked("GET", EVENTS_PATH) == (405, "POST, OPTIONS")
    assert await asked("DELETE", "/readyz") == (405, "GET, HEAD")
    assert await asked("POST", "/v2/events") == (404, None)
    assert await asked("POST", "/in/nobody") == (404, None)
    assert await asked("POST", "/in/standard-webhooks") == (404, None)  # there is no secret for it
    for path in ("/livez", "/readyz", "/metrics"):
        assert await asked("GET", path) == (200, None)
        assert await asked("HEAD", path) == (200, None)


async def test_the_handshake_of_cloudevents(intake: Intake):
    asked = {"WebHook-Request-Origin": "events.example.com", "WebHook-Request-Rate": "120"}
    async with intake.session.options(intake.url + EVENTS_PATH, headers=asked) as response:
        assert response.status == 200
        assert response.headers["WebHook-Allowed-Origin"] == "events.example.com"
        assert response.headers["WebHook-Allowed-Rate"] == "600000"
        assert "POST" in response.headers["Allow"]


async def test_beyond_the_rate_a_sender_is_told_when_to_come_again(tokens: Path):
    write(tokens, f"hr: {TOKEN}\ncrm: another\n")
    async with running_intake(tokens, rate=RateLimit(2, timedelta(seconds=30))) as intake:
        replies = [await intake.post(event(number)) for number in range(3)]
        other, *_ = await intake.post(event(9), token="another")

    assert [status for status, *_ in replies] == [202, 202, 429]
    assert 25 <= int(replies[-1][2]["Retry-After"]) <= 30
    assert other == 202


async def test_tokens_are_read_again_when_their_file_changes(intake: Intake, tokens: Path):
    write(tokens, f"hr: {TOKEN}\nhr: the-next-token\n")
    both = [(await intake.post(event(), token=each))[0] for each in (TOKEN, "the-next-token")]
    write(tokens, "hr: the-next-token\n")
    later = [(await intake.post(event(), token=each))[0] for each in (TOKEN, "the-next-token")]
    write(tokens, "half a li")
    kept, *_ = await intake.post(event(), token="the-next-token")

    assert (both, later, kept) == ([202, 202], [401, 202], 202)
    assert intake.counted("intake_secret_used_total", sender="hr", place="2") == 1


async def test_without_a_confirm_the_answer_is_503_and_the_repetition_has_the_same_ids(tokens: Path):
    async with running_intake(tokens, confirm_seconds=0.05) as intake:
        intake.broker.open.clear()
        batch = [event(1), event(2)]
        status, _, headers = await intake.post(batch, BATCH)
        unready = await intake.running.requests.problems()
        intake.broker.open.set()
        await asyncio.sleep(0)
        again, *_ = await intake.post(batch, BATCH)

    assert (status, headers["Retry-After"]) == (503, "2")
    assert len(unready) == 1
    assert again == 202
    assert [one["id"] for one in intake.broker.documents] == ["event-1", "event-2"] * 2
    assert await intake.running.requests.problems() == []


async def test_one_unconfirmed_event_of_a_batch_makes_it_503(intake: Intake):
    intake.broker.refuse = lambda outgoing: b"event-2" in outgoing.message.body
    status, told, _ = await intake.post([event(1), event(2), event(3)], BATCH)
    assert (status, told.keys()) == (503, {"error"})
    assert "refused by the test" not in str(told)
    assert intake.counted("intake_events_total", sender="hr", outcome="accepted") == 0


async def test_without_a_connection_nothing_is_tried_and_it_is_not_ready(intake: Intake):
    intake.broker.connected = False
    began = time.monotonic()
    status, *_ = await intake.post(event())
    async with intake.session.get(f"{intake.url}/readyz") as response:
        told = await response.json()

    assert (status, response.status, intake.broker.begun.locked()) == (503, 503, True)
    assert told == {"status": "not ready", "wrong": ["no connection to publish on"]}
    assert time.monotonic() - began < 1.5


async def test_a_bug_tells_nobody_what_it_holds(intake: Intake, capfd):
    def broken(_outgoing: object) -> bool:
        raise RuntimeError(TOKEN)

    intake.broker.refuse = broken
    status, told, _ = await intake.post(event())
    assert (status, told) == (503, {"error": "an error of the intake; try again"})
    assert TOKEN not in "".join(capfd.readouterr())
