"""Malformed Plivo responses with tokens in them: no token reaches an exception, a log line or a metric."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from io import StringIO
from secrets import token_hex
from typing import Any

import aiohttp
import pytest
from prometheus_client import generate_latest
from pydantic import SecretStr

from tests.conformance.misbehaving import Reply, answer, misbehaving, raw
from tests.support import one_call
from tests.support.canaries import Canaries, RecordedExceptions, assert_absent, chain_of
from worker.adapters.plivo.client import PlivoAccount, PlivoProvider, plivo_provider
from worker.adapters.system import SystemClock
from worker.core.inventory import ResourceKind
from worker.core.judge import Wait, classify
from worker.ports import CallFailed, RateLimit
from worker.settings.rotation import Rotating
from worker.telemetry.events import Telemetry
from worker.telemetry.logs import configure_logging

TOKEN, MAIN = token_hex(20), token_hex(20)
AUTH_ID = "SA" + "X" * 18
GOOD = {
    "auth_id": AUTH_ID,
    "auth_token": TOKEN,
    "name": "Sales",
    "enabled": True,
    "created": "2026-11-21",
}


def body(document: Any) -> bytes:
    return json.dumps(document).encode()


HOSTILE: dict[str, bytes] = {
    "not json": b"auth_token=" + TOKEN.encode(),
    "half json": body(GOOD)[:-3],
    "a list": body([GOOD]),
    "a string": body(TOKEN),
    "token of another type": body(GOOD | {"auth_token": [TOKEN]}),
    "token in place of the id": body(GOOD | {"auth_id": TOKEN}),
    "token in place of a flag": body(GOOD | {"enabled": TOKEN}),
    "token in place of a date": body(GOOD | {"created": TOKEN}),
    "token as a name of a member": body({TOKEN: TOKEN}),
    "error that quotes it": body({"error": f"no such token {TOKEN}", "api_id": TOKEN}),
    "error that is an object": body({"error": {"auth_token": TOKEN}}),
    "not utf-8": b'{"auth_token": "\xff' + TOKEN.encode() + b'"}',
    "page with one bad": body({"objects": [GOOD, GOOD | {"enabled": TOKEN}, {"auth_token": TOKEN}]}),
    "page that is none": body({"objects": TOKEN}),
    "token in place of an owner": body({"objects": [{"number": "1", "sub_account": TOKEN}]}),
    "token in place of a total": body({"objects": [], "meta": {"total_count": TOKEN}}),
}
STATUSES = ("200 OK", "201 Created", "400 Bad Request", "403 Forbidden", "429 Too Many Requests", "503 Busy")
REPLIES: dict[str, Reply] = {
    f"{status} {name}": answer(status, content) for status in STATUSES for name, content in HOSTILE.items()
} | {
    "redirect with it": answer("302 Found", b"", f"Location: http://127.0.0.1:1/{TOKEN}"),
    "retry after it": answer("429 Too Many Requests", b"", f"Retry-After: {TOKEN}"),
    "reason phrase": answer(f"500 {TOKEN}", b""),
    "header that is none": raw("HTTP/1.1 200 OK", f"auth_token {TOKEN}"),
    "header of its name": raw("HTTP/1.1 200 OK", f"X-{TOKEN}\x00: {TOKEN}"),
    "no http at all": raw(TOKEN),
    "content type": answer("200 OK", body(GOOD)[:-1], f"Content-Type: {TOKEN}"),
    "encoding": answer("200 OK", TOKEN.encode(), "Content-Encoding: gzip"),
    "chunks that are none": raw(
        "HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=TOKEN.encode() + b"\r\n"
    ),
    "more than it said": raw("HTTP/1.1 200 OK", "Content-Length: 3", body=body(GOOD)),
    "less than it said": raw("HTTP/1.1 200 OK", "Content-Length: 900", body=body(GOOD)),
    "cookie": answer("200 OK", b"{", f"Set-Cookie: {TOKEN}={TOKEN}; Expires={TOKEN}"),
    "204 with a body": raw("HTTP/1.1 204 No Content", body=body(GOOD)),
}
CALLS: dict[str, Callable[[PlivoProvider], Awaitable[Any]]] = {
    "create": lambda provider: one_call.create(provider, "Sales", "key"),
    "get": lambda provider: one_call.get(provider, AUTH_ID),
    "page": lambda provider: one_call.page(provider, 0),
    "update": lambda provider: one_call.update(provider, AUTH_ID, "key", name="Sales"),
    "delete": lambda provider: one_call.delete(provider, AUTH_ID, "key", cascade=True),
    "count": lambda provider: one_call.resources(provider, ResourceKind.NUMBERS, AUTH_ID),
}


@pytest.fixture
def canaries() -> Canaries:
    canaries = Canaries()
    canaries.add("subaccount", TOKEN)
    canaries.add("main account", MAIN)
    canaries.add("login", f"MA1:{MAIN}")
    return canaries


@pytest.fixture
def everything_logged() -> Iterator[StringIO]:
    """All loggers at DEBUG, after the product has configured its own."""
    configure_logging("json", "debug")
    written = StringIO()
    handler = logging.StreamHandler(written)
    changed = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    before = [(logger, logger.level) for logger in changed]
    logging.getLogger().addHandler(handler)
    for logger in changed:
        logger.setLevel(logging.DEBUG)
    yield written
    logging.getLogger().removeHandler(handler)
    for logger, level in before:
        logger.setLevel(level)


@pytest.mark.parametrize("call", CALLS)
async def test_no_token_of_a_hostile_response_is_exposed(
    canaries: Canaries, everything_logged: StringIO, capfd: pytest.CaptureFixture[str], call: str
):
    telemetry, raised, found = Telemetry(), RecordedExceptions(), dict[str, set[str]]()
    asyncio.get_running_loop().set_debug(True)
    for name, reply in REPLIES.items():
        with raised.recorded():
            text = await text_of(call, reply, telemetry)
        found[f"{name}: failure"] = canaries.found_in(text.encode())
        found[f"{name}: exceptions"] = canaries.found_in("\n".join(raised.texts).encode())
        raised.texts.clear()
    found["logs"] = canaries.found_in((everything_logged.getvalue() + "".join(capfd.readouterr())).encode())
    found["metrics"] = canaries.found_in(generate_latest(telemetry.registry))
    assert_absent(found)


async def text_of(call: str, reply: Reply, telemetry: Telemetry) -> str:
    """All text that results from one response: the value, or the failure and its log line."""
    async with misbehaving(reply) as server:
        account = PlivoAccount(
            server.url,
            "MA1",
            Rotating(SecretStr(MAIN)),
            timedelta(seconds=0.3),
            5,
            RateLimit(1000, timedelta(seconds=1)),
        )
        stopping = asyncio.Event()
        async with plivo_provider(account, SystemClock(), stopping, telemetry.called) as provider:
            try:
                result = await CALLS[call](provider)
            except CallFailed as failed:
                failure = classify(failed.fault)
                telemetry.waiting(failure, Wait(1.0), 1, None, 0.0)
                telemetry.duty_failed(None, str(failed))
                telemetry.step_crashed(failed)
                return f"{list(chain_of(failed))} {failed.fault!r} {failure!r} {account!r}"
            return f"{result!r} {result} {account!r}"


async def test_the_search_finds_a_token_that_is_exposed(canaries: Canaries):
    for written in (TOKEN, f"x{TOKEN}", json.dumps([TOKEN]), TOKEN.encode().hex()):
        assert canaries.found_in(written.encode()) == {"subaccount"}
    login = aiohttp.encode_basic_auth("MA1", MAIN)
    assert canaries.found_in(login.encode()) == {"main account", "login"}
    async with aiohttp.ClientSession() as http, misbehaving(raw(TOKEN)) as server:
        with pytest.raises(aiohttp.ClientError) as raised:
            await http.get(server.url, headers={"Authorization": login})
    text = "".join(chain_of(CallFailedBecauseOf(raised.value))).encode()
    assert canaries.found_in(text) == {"subaccount", "main account", "login"}


class CallFailedBecauseOf(Exception):
    """An exception that chains a secret, which the product must not raise."""

    def __init__(self, error: Exception) -> None:
        super().__init__("the call failed")
        self.__context__ = error
        self.__suppress_context__ = True


async def test_every_exception_of_the_product_is_recorded():
    raised = RecordedExceptions()
    with raised.recorded():
        await text_of("get", answer("200 OK", b"{"), Telemetry())
    assert any(text.startswith("CallFailed ") for text in raised.texts)
