"""Slow, many and leaving senders, and the drain."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from contracts.intake import EVENTS_PATH
from tests.intake.conftest import TOKEN, Intake, event, running_intake
from worker.service.intake import requests
from worker.service.intake.bodies import Bodies
from worker.service.intake.serve import RunningIntake

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


Connect = Callable[[Intake], Awaitable[Connection]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections to an intake, and closes them after the test."""
    opened: list[Connection] = []

    async def connected(intake: Intake) -> Connection:
        host, port = intake.url.removeprefix("http://").split(":")
        opened.append(await asyncio.open_connection(host, int(port)))
        return opened[-1]

    yield connected
    for _, writer in opened:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def head(length: int, **more: str) -> bytes:
    lines = {
        "Host": "intake",
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/cloudevents+json",
        "Content-Length": str(length),
        **more,
    }
    written = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {EVENTS_PATH} HTTP/1.1\r\n{written}\r\n".encode()


async def status_of(connection: Connection) -> int:
    line = await asyncio.wait_for(connection[0].readline(), 5)
    return int(line.split()[1])


BODY = json.dumps(event()).encode()


async def begun(intake: Intake) -> None:
    """Waits for a publish that begins."""
    await asyncio.wait_for(intake.broker.begun.acquire(), 5)


async def connections(intake: Intake, number: int) -> None:
    """Waits until so many are open."""
    async with asyncio.timeout(5):
        while intake.running.server.connections != number:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0)


async def refused(intake: Intake, connect: Connect) -> None:
    """Waits until it takes no more connections."""
    async with asyncio.timeout(5):
        while True:
            try:
                await connect(intake)
            except ConnectionError:  # refused, or reset if it waited to be accepted
                return


async def test_a_slow_body_is_given_up(tokens: Path, connect: Connect):
    async with running_intake(tokens, bodies=Bodies(read_seconds=0.1)) as intake:
        slow = await connect(intake)
        slow[1].write(head(len(BODY)) + BODY[:5])
        assert await status_of(slow) == 408
        assert b"Connection: close" in await asyncio.wait_for(slow[0].read(), 5)


async def test_slow_headers_are_given_up(tokens: Path, connect: Connect):
    async with running_intake(tokens, idle_seconds=0.2) as intake:
        reader, writer = await connect(intake)
        writer.write(head(len(BODY))[:30])
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_a_sender_may_wait_for_the_permission_to_send_its_body(intake: Intake, connect: Connect):
    sender = await connect(intake)
    sender[1].write(head(len(BODY), Expect="100-continue"))
    assert await status_of(sender) == 100
    await sender[0].readline()
    sender[1].write(BODY)
    assert await status_of(sender) == 202


async def test_the_bodies_in_memory_are_bounded(tokens: Path):
    async with running_intake(tokens, bodies=Bodies(max_held_bytes=2 * len(BODY) - 1)) as intake:
        intake.broker.open.clear()
        first = asyncio.create_task(intake.post(BODY))
        await begun(intake)
        second, *_ = await intake.post(BODY)
        intake.broker.open.set()
        assert (second, (await first)[0]) == (503, 202)
        assert (await intake.post(BODY))[0] == 202


async def test_the_requests_in_flight_are_bounded(intake: Intake, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requests, "MAX_IN_FLIGHT", 1)
    intake.broker.open.clear()
    first = asyncio.create_task(intake.post(event(1)))
    await begun(intake)
    second, _, headers = await intake.post(event(2))
    intake.broker.open.set()
    assert (second, headers["Retry-After"], (await first)[0]) == (503, "2", 202)


async def test_the_connections_are_bounded(tokens: Path, connect: Connect):
    async with running_intake(tokens, max_connections=2) as intake:
        kept = [await connect(intake) for _ in range(2)]
        for one in kept:
            one[1].write(head(len(BODY)) + BODY)
            assert await status_of(one) == 202
        beyond = await connect(intake)
        answer = await asyncio.wait_for(beyond[0].read(), 5)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 2\r\n" in answer
        kept[0][1].close()
        await kept[0][1].wait_closed()
        await connections(intake, 1)
        assert (await intake.post(event()))[0] == 202


async def test_a_publish_goes_on_when_its_sender_leaves(intake: Intake, connect: Connect):
    intake.broker.open.clear()
    sender = await connect(intake)
    sender[1].write(head(len(BODY)) + BODY)
    await begun(intake)
    sender[1].transport.abort()
    await connections(intake, 0)
    intake.broker.open.set()
    await asyncio.wait_for(intake.running.requests.idle.wait(), 5)
    assert [one["id"] for one in intake.broker.documents] == ["event-1"]


async def test_the_drain_answers_what_is_under_way(intake: Intake, connect: Connect):
    intake.broker.open.clear()
    uploading = await connect(intake)
    uploading[1].write(head(len(BODY)) + BODY[:5])
    waiting = asyncio.create_task(intake.post(event()))
    await begun(intake)
    drained = asyncio.create_task(intake.running.drain())
    await refused(intake, connect)
    assert await intake.running.requests.problems() == [requests.ENDING]
    intake.broker.open.set()
    uploading[1].write(BODY[5:])

    assert await drained is True
    status, _, headers = await waiting
    assert (status, headers["Connection"]) == (202, "close")
    assert await status_of(uploading) == 202


async def test_the_drain_waits_for_a_request_that_begins_as_the_last_one_ends(
    intake: Intake, connect: Connect
):
    requests, server = intake.running.requests, intake.running.server
    requests.answering = 1
    requests.idle.clear()
    drained = asyncio.create_task(RunningIntake(requests, server, intake.telemetry, 5).drain())
    await refused(intake, connect)
    requests.idle.set()  # the last one ends, and in the same turn of the loop another one begins
    requests.idle.clear()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not drained.done()
    requests.answering = 0
    requests.idle.set()
    assert await drained is True


async def test_a_malformed_request_is_answered_and_not_logged(intake: Intake, capfd, connect: Connect):
    sender = await connect(intake)
    sender[1].write(b"POST /secret-in-the-path HTTP/1.1\r\nbad header secret\r\n\r\n")
    assert await status_of(sender) == 400
    chunked = await connect(intake)
    chunked[1].write(head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz-secret\r\n")
    assert await status_of(chunked) == 400
    assert (await intake.post(event()))[0] == 202
    assert "secret" not in "".join(capfd.readouterr())
