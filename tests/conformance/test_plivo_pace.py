"""The limits of the Plivo adapter on concurrent calls and calls per window, and its shutdown."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise

import pytest
from pydantic import SecretStr
from pydantic_core import to_json

from tests.conformance.misbehaving import answer, misbehaving, silence
from tests.conformance.test_plivo import AUTH_ID, SHOWN, FixedDate, fault_of, provider_at
from tests.support import one_call
from worker.adapters.plivo.client import PlivoAccount, PlivoProvider, plivo_provider
from worker.core.judge import FaultKind
from worker.ports import CallFailed, RateLimit
from worker.sandbox import running_sandbox
from worker.settings.rotation import Rotating


async def test_concurrent_calls_are_limited():
    go_on = asyncio.Event()

    async def gated(writer: asyncio.StreamWriter) -> bool:
        await go_on.wait()
        return await answer("204 No Content")(writer)

    async with misbehaving(gated) as server, provider_at(server.url, concurrency=3) as provider:
        calls = [asyncio.create_task(one_call.delete(provider, AUTH_ID, "key")) for _ in range(10)]
        await server.waiting(3)
        go_on.set()
        await asyncio.gather(*calls)
    assert (server.most_open_requests, len(server.asked)) == (3, 10)


async def test_a_cancelled_call_frees_its_permit():
    replies = [silence, answer("204 No Content")]
    async with misbehaving(*replies) as server, provider_at(server.url, concurrency=1) as provider:
        first = asyncio.create_task(one_call.delete(provider, AUTH_ID, "key"))
        await server.waiting(1)
        first.cancel()
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], asyncio.CancelledError)
        await one_call.delete(provider, AUTH_ID, "key")


async def test_reads_need_a_permit_too():
    go_on = asyncio.Event()

    async def gated(writer: asyncio.StreamWriter) -> bool:
        await go_on.wait()
        return await answer("200 OK", to_json(SHOWN))(writer)

    async with misbehaving(gated) as server, provider_at(server.url, concurrency=2) as provider:
        calls = [asyncio.create_task(one_call.get(provider, AUTH_ID)) for _ in range(6)]
        await server.waiting(2)
        go_on.set()
        await asyncio.gather(*calls)
    assert (server.most_open_requests, len(server.asked)) == (2, 6)


async def test_shutdown_completes_open_calls_and_sends_no_more():
    stopping, go_on = asyncio.Event(), asyncio.Event()

    async def gated(writer: asyncio.StreamWriter) -> bool:
        await go_on.wait()
        return await answer("204 No Content")(writer)

    hourly = RateLimit(1, timedelta(hours=1))
    async with (
        misbehaving(gated) as server,
        provider_at(server.url, rate=hourly, stopping=stopping) as provider,
    ):
        under_way = asyncio.create_task(one_call.delete(provider, AUTH_ID, "key"))
        await server.waiting(1)
        waiting = [asyncio.create_task(fault_of(one_call.delete(provider, AUTH_ID, "key"))) for _ in range(3)]
        stopping.set()
        go_on.set()
        await under_way
        faults = [await one for one in waiting] + [await fault_of(one_call.get(provider, AUTH_ID))]
    assert len(server.asked) == 1
    assert {(fault.kind, fault.outage) for fault in faults} == {(FaultKind.NOT_SENT, True)}


async def test_calls_in_any_window_are_limited():
    window, calls = 0.4, 5
    async with (
        misbehaving(answer("204 No Content")) as server,
        provider_at(server.url, rate=RateLimit(calls, timedelta(seconds=window))) as provider,
    ):
        await asyncio.gather(*(one_call.delete(provider, AUTH_ID, "key") for _ in range(3 * calls)))
    seen = [asked.at for asked in server.asked]
    gaps = [later - earlier for earlier, later in zip(seen, seen[calls:], strict=False)]
    assert len(gaps) == 2 * calls
    assert min(gaps) > window / 2, gaps  # the network delay varies


@asynccontextmanager
async def at_a_strict_server(client_limit: RateLimit, sent: list[float]) -> AsyncIterator[PlivoProvider]:
    """A client with this rate limit, and a server that refuses the 21st call in any second."""

    def on_call(_operation: str, _status: int | None, seconds: float) -> None:
        sent.append(asyncio.get_running_loop().time() - seconds)

    async with running_sandbox(rate_limit="20/1s") as sandbox:
        token = Rotating(SecretStr(sandbox.auth_token))
        account = PlivoAccount(sandbox.url, sandbox.auth_id, token, timedelta(seconds=30), 4, client_limit)
        async with plivo_provider(account, FixedDate(), asyncio.Event(), on_call) as provider:
            yield provider


async def refused(provider: PlivoProvider, calls: int) -> int:
    outcomes = await asyncio.gather(
        *(one_call.page(provider, 0) for _ in range(calls)), return_exceptions=True
    )
    kinds = [outcome.fault.kind for outcome in outcomes if isinstance(outcome, CallFailed)]
    assert set(kinds) <= {FaultKind.RATE_LIMITED}
    return len(kinds)


@pytest.mark.xdist_group("alone")
async def test_a_strict_server_refuses_nothing_and_is_used_fully():
    """Sends the calls of three windows: none is refused, and there are exactly two pauses."""
    sent: list[float] = []
    async with at_a_strict_server(RateLimit(20, timedelta(seconds=1)), sent) as provider:
        assert await refused(provider, 60) == 0
    pauses = [later - earlier for earlier, later in pairwise(sorted(sent)) if later - earlier > 0.5]
    assert len(pauses) == 2


async def test_a_client_with_a_too_high_limit_slows_down():
    sent: list[float] = []
    async with at_a_strict_server(RateLimit(100, timedelta(seconds=1)), sent) as provider:
        assert await refused(provider, 100) > 0
        assert provider._limiter.allowed < 100


async def test_the_wait_of_a_probe_for_its_slot_is_no_timeout():
    """The timeout starts when the probe is sent: a wait of the rate limiter is no sign of an outage."""
    page = answer("200 OK", to_json({"objects": []}))
    rate = RateLimit(1, timedelta(seconds=1))
    async with (
        misbehaving(page) as server,
        provider_at(server.url, rate=rate, timeout_seconds=0.5) as provider,
    ):
        await one_call.page(provider, 0)
        await provider.probe()
    assert len(server.asked) == 2


async def test_a_probe_has_the_timeout_of_any_call():
    async with misbehaving(silence) as server, provider_at(server.url, timeout_seconds=0.2) as provider:
        fault = await fault_of(provider.probe())
    assert (fault.operation, fault.kind) == ("list", FaultKind.NO_ANSWER)
    assert fault.took_seconds >= 0.2


async def test_a_permit_allows_one_call():
    async with (
        misbehaving(answer("204 No Content")) as server,
        provider_at(server.url) as provider,
        provider.permit("delete") as call,
    ):
        await call.delete(AUTH_ID, "key")
        with pytest.raises(ValueError, match="one call"):
            await call.delete(AUTH_ID, "key")
    assert len(server.asked) == 1
