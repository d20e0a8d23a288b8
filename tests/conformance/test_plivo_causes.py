"""Why Plivo gave no response, in words: host, port and cause, from real sockets."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from pydantic_core import to_json

from tests.conformance.misbehaving import answer, hang_up, misbehaving, raw, reset, silence
from tests.conformance.test_plivo import CALLS, MADE, closed_port, fault_of, full_backlog, provider_at
from tests.support import one_call
from tests.support.certificates import Authority, Issued
from tests.support.forward_proxy import PASSWORD, ForwardProxy, forward_proxy
from worker.adapters.network import cause_of
from worker.core.judge import CallFault, FaultKind
from worker.settings.rotation import Rotating

LISTED = to_json({"objects": []})
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def failing(url: str, operation: str = "create", **options: Any) -> CallFault:
    async with provider_at(url, **options) as provider:
        fault = await fault_of(CALLS[operation](provider))
    assert PASSWORD not in fault.detail
    assert "Client" not in fault.detail  # no name of a class
    return fault


def unreached(fault: CallFault) -> str:
    assert fault.kind is FaultKind.NOT_SENT
    assert fault.detail.startswith("Plivo cannot be reached for create: ")
    return fault.detail.removeprefix("Plivo cannot be reached for create: ")


def unanswered(fault: CallFault) -> str:
    assert fault.kind is FaultKind.NO_ANSWER
    assert fault.detail.startswith("Plivo gave no readable response for create: ")
    return fault.detail.removeprefix("Plivo gave no readable response for create: ")


async def test_an_unknown_name():
    told = unreached(await failing("https://no-such.invalid"))
    assert told == "no-such.invalid: name not known (DNS)"


async def test_a_refused_connection():
    with closed_port() as port:
        told = unreached(await failing(f"http://127.0.0.1:{port}"))
    assert told == f"127.0.0.1:{port}: connection refused"


async def test_a_name_with_several_addresses_that_all_refuse():
    with closed_port() as port:
        told = unreached(await failing(f"http://localhost:{port}"))
    assert told == f"localhost:{port}: connection refused"


async def test_an_unreachable_network():
    told = unreached(await failing("http://[2001:db8::1]:81", timeout_seconds=2))
    assert told.startswith("[2001:db8::1]:81: ")
    assert told.removeprefix("[2001:db8::1]:81: ") in {
        "network unreachable",
        "host unreachable (no route)",
        "timeout while connecting, after 1 s",
    }


async def test_a_timeout_while_connecting_and_one_of_the_response_differ():
    with full_backlog() as port:
        told = unreached(await failing(f"http://127.0.0.1:{port}", timeout_seconds=0.4))
    assert told == f"127.0.0.1:{port}: timeout while connecting, after 0.2 s"
    async with misbehaving(silence) as server:
        told = unanswered(await failing(server.url, timeout_seconds=0.3))
    assert told == f"{server.url.removeprefix('http://')}: no response within 0.3 s"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (reset, "connection reset"),
        (hang_up, "the connection was closed without a response"),
        (raw("HTTP/1.1 abc"), "the response is not valid HTTP"),
        (raw("SSH-2.0-OpenSSH_9"), "the response is not valid HTTP"),
    ],
)
async def test_a_lost_or_foreign_response(reply, words):
    async with misbehaving(reply) as server:
        told = unanswered(await failing(server.url))
    assert told == f"{server.url.removeprefix('http://')}: {words}"


async def test_a_response_that_was_cut_off():
    async def cut(writer: asyncio.StreamWriter) -> bool:
        await raw("HTTP/1.1 201 Created", "Content-Length: 1000", body=MADE)(writer)
        return False

    async with misbehaving(cut) as server:
        assert unanswered(await failing(server.url)).endswith(": the response was cut off")


@asynccontextmanager
async def listening(serve: Serve, **options: Any) -> AsyncIterator[int]:
    async with await asyncio.start_server(serve, "127.0.0.1", 0, **options) as server:
        port: int = server.sockets[0].getsockname()[1]
        yield port


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        await reader.readuntil(b"\r\n\r\n")
        await answer("200 OK", LISTED, "Connection: close")(writer)
    writer.close()


async def test_http_on_a_port_of_tls():
    async def alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x15\x03\x03\x00\x02\x02\x46")
        writer.close()

    async with listening(alert) as port:
        told = unanswered(await failing(f"http://127.0.0.1:{port}"))
    assert told == f"127.0.0.1:{port}: that port speaks TLS; write https:// in the URL"


async def test_tls_on_a_port_of_plain_http():
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with listening(plain) as port:
        told = unreached(await failing(f"https://127.0.0.1:{port}"))
    assert told == (
        f"127.0.0.1:{port}: that port does not speak TLS; write http:// in the URL, or the port of https"
    )


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that the adapter trusts beside none."""
    made = Authority(tmp_path)
    trusting = ssl.create_default_context(cafile=str(made.certificate))
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
    return made


def tls_options(issued: Issued) -> dict[str, Any]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate, issued.key)
    return {"ssl": context}


@contextmanager
def handshake_with(issued: Issued) -> Iterator[int]:
    """The port of a server that makes one TLS handshake with this certificate."""

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with contextlib.suppress(OSError), connection:
            tls_options(issued)["ssl"].wrap_socket(connection, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = Thread(target=serve, args=[listening])
        serving.start()
        yield listening.getsockname()[1]
        serving.join()


@pytest.mark.usefixtures("authority")
class TestCertificates:
    async def told(self, issued: Issued) -> str:
        with handshake_with(issued) as port:
            told = unreached(await failing(f"https://localhost:{port}"))
        return told.removeprefix(f"localhost:{port}: ")

    async def test_one_for_another_name(self, authority: Authority):
        told = await self.told(authority.issue("other", "other.example"))
        assert told.startswith("its TLS certificate is for another name (Hostname mismatch")

    async def test_an_expired_one(self, authority: Authority):
        yesterday = datetime.now(UTC) - timedelta(days=1)
        told = await self.told(authority.issue("late", "localhost", valid_until=yesterday))
        assert told == "its TLS certificate has expired"

    async def test_one_of_an_unknown_authority(self, tmp_path: Path):
        told = await self.told(Authority(tmp_path, "Other CA").issue("other", "localhost"))
        assert told.startswith("its TLS certificate is of an unknown authority (")


def test_a_cause_is_found_behind_its_wrappers():
    wrapped = ConnectionError(1, "TLS failed")
    wrapped.__cause__ = ConnectionResetError(104, "reset")
    assert cause_of(wrapped) == "connection reset"
    assert cause_of(ValueError("none of these")) is None


# ---- proxies


def through(proxy: ForwardProxy, password: str = PASSWORD) -> Rotating[SecretStr | None]:
    return Rotating(SecretStr(f"http://user:{password}@127.0.0.1:{proxy.port}"))


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_calls_go_through_the_proxy(authority: Authority, scheme: str):
    """Only the proxy knows the name, and only the proxy gets its login."""
    seen: list[bytes] = []

    async def plivo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        await answer("200 OK", LISTED, "Connection: close")(writer)
        writer.close()

    tls = tls_options(authority.issue("plivo", "plivo.invalid")) if scheme == "https" else {}
    async with listening(plivo, **tls) as port, forward_proxy(to_port=port) as proxy:
        url = f"{scheme}://plivo.invalid:{port}"
        async with provider_at(url, proxy=through(proxy)) as provider:
            assert await one_call.page(provider, 0) == []
    assert proxy.asked == [f"plivo.invalid:{port}"]
    assert b"Basic" in seen[0]
    assert b"proxy-authorization" not in seen[0].lower()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_refused_login_at_the_proxy_sends_nothing(scheme: str):
    async with forward_proxy(to_port=1) as proxy:
        told = unreached(await failing(f"{scheme}://plivo.invalid", proxy=through(proxy, "wrong")))
    assert told == (
        f"the proxy 127.0.0.1:{proxy.port}: it refuses the login in its URL (407); correct PLIVO_PROXY_URL"
    )


async def test_a_proxy_that_is_away_or_unknown_is_named():
    with closed_port() as port:
        away = Rotating(SecretStr(f"http://user:{PASSWORD}@127.0.0.1:{port}"))
        told = unreached(await failing("https://plivo.invalid", proxy=away))
    assert told == f"the proxy 127.0.0.1:{port}: connection refused"
    unknown = Rotating(SecretStr(f"http://user:{PASSWORD}@no-such.invalid:3128"))
    told = unreached(await failing("https://plivo.invalid", proxy=unknown))
    assert told == "the proxy no-such.invalid: name not known (DNS)"


async def test_a_proxy_that_cannot_reach_plivo_says_its_status():
    with closed_port() as port:
        async with forward_proxy(to_port=port) as proxy:
            told = unreached(await failing("https://plivo.invalid", proxy=through(proxy)))
    assert told == f"the proxy 127.0.0.1:{proxy.port}: it answers 502 to CONNECT plivo.invalid:443"


@pytest.mark.parametrize(
    ("reply", "words"),
    [(hang_up, "the connection was closed without a response"), (reset, "connection reset")],
)
async def test_a_proxy_that_drops_the_connect_sent_nothing_to_plivo(reply, words):
    async with misbehaving(reply) as server:
        where = server.url.removeprefix("http://")
        proxy = Rotating(SecretStr(f"http://user:{PASSWORD}@{where}"))
        told = unreached(await failing("https://plivo.invalid", proxy=proxy))
    assert told == f"plivo.invalid:443 through the proxy {where}: {words}"


# ---- rotation


async def test_a_refused_token_is_read_again_before_the_next_call():
    token = Rotating(SecretStr("old"), "PLIVO_AUTH_TOKEN", lambda: SecretStr("new"))
    refused, done = answer("401 Unauthorized", b"{}"), answer("200 OK", LISTED)
    async with (
        misbehaving(refused, done) as server,
        provider_at(server.url, auth_token=token) as provider,
    ):
        assert (await fault_of(one_call.page(provider, 0))).kind is FaultKind.LOGIN_REFUSED
        await one_call.page(provider, 0)
    logins = [asked.headers["authorization"] for asked in server.asked]
    assert logins == [aiohttp.encode_basic_auth("MA1", password) for password in ("old", "new")]


async def test_a_token_is_read_until_it_is_accepted():
    """A half-written file gives a token that is refused too."""
    contents = iter(["ne", "ne", "new"])
    token = Rotating(SecretStr("old"), "PLIVO_AUTH_TOKEN", lambda: SecretStr(next(contents)))
    refused, broken = answer("401 Unauthorized", b"{}"), answer("500 Oh", b"{}")
    replies = [refused, refused, broken, answer("200 OK", LISTED), answer("200 OK", LISTED)]
    async with misbehaving(*replies) as server, provider_at(server.url, auth_token=token) as provider:
        for _ in range(3):
            await fault_of(one_call.page(provider, 0))
        await one_call.page(provider, 0)
        await one_call.page(provider, 0)  # not read again
    assert server.asked[-1].headers["authorization"] == aiohttp.encode_basic_auth("MA1", "new")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_refused_login_of_the_proxy_is_read_again(authority: Authority, scheme: str):
    tls = tls_options(authority.issue("plivo", "plivo.invalid")) if scheme == "https" else {}
    async with listening(answer_once, **tls) as port, forward_proxy(to_port=port) as proxy:
        wrong, right = through(proxy, "wrong").value, through(proxy).value
        url = Rotating(wrong, "PLIVO_PROXY_URL", lambda: right)
        async with provider_at(f"{scheme}://plivo.invalid:{port}", proxy=url) as provider:
            await fault_of(one_call.page(provider, 0))
            assert await one_call.page(provider, 0) == []
