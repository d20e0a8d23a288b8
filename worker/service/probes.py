"""Serves `/livez`, `/readyz`, `/metrics` and the worker's public keys, in a thread.

A server on the event loop would hang with it; a thread can report that. So it is the plain one of Python.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from threading import Thread
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from worker.adapters.jose.key_files import KeyFileError, public_jwks
from worker.bootstrap.running import RunningWorker
from worker.ports import LedgerFailed, LedgerForeign
from worker.service.health import Response, cannot_listen, health
from worker.settings.ledger_url import PostgresUrl, SqliteUrl
from worker.settings.parse import Address
from worker.telemetry.events import Telemetry

BEAT_SECONDS = 0.5
STUCK_SECONDS = 5.0
LEDGER_CHECK_SECONDS = 1.0

# By default Kubernetes waits one second for a response.
LEDGER_TIMEOUT_SECONDS = 0.7
READY_TIMEOUT_SECONDS = 0.9


SLOW = {
    SqliteUrl: "the ledger takes no write in time: the disk is slow, or another process holds the file",
    PostgresUrl: "the ledger takes no write in time: PostgreSQL or the network to it is slow",
}


NOT_FOUND = Response(404, "text/plain", b"ask for /livez, /readyz or /metrics\n")
NOT_ALLOWED = Response(405, "text/plain", b"ask with GET or HEAD\n")


class Readiness:
    """Checks whether the worker can do its job now: consume, publish and write to the ledger."""

    def __init__(self, worker: RunningWorker) -> None:
        self._worker = worker
        self._checking = asyncio.Lock()
        self._checked_at: float | None = None
        self._ledger_problems: list[str] = []

    async def problems(self) -> list[str]:
        """One line for each problem. Empty when ready."""
        return list(dict.fromkeys([*await self._worker.problems(), *await self._ledger()]))

    async def _ledger(self) -> list[str]:
        """Writes to the ledger, once in `LEDGER_CHECK_SECONDS`: a read would not notice a full disk."""
        async with self._checking:
            now = asyncio.get_running_loop().time()
            if self._checked_at is None or now - self._checked_at >= LEDGER_CHECK_SECONDS:
                self._ledger_problems = await self._write()
                self._checked_at = now
        return self._ledger_problems

    async def _write(self) -> list[str]:
        settings = self._worker.settings
        try:
            async with asyncio.timeout(LEDGER_TIMEOUT_SECONDS):
                await self._worker.ledger.bind(settings.owner, settings.plivo_auth_id)
        except TimeoutError:
            return [SLOW[type(settings.ledger_url)]]
        except (LedgerFailed, LedgerForeign) as error:
            return [str(error)]
        return []


class Probes:
    """Makes the responses, on any thread. `beat` runs on the worker's loop and shows whether it hangs."""

    def __init__(self, telemetry: Telemetry, signing_key: Path | None) -> None:
        self._readiness: Readiness | None = None
        self._without_worker = "the worker is starting"
        self._registry = telemetry.registry
        self._signing_key = signing_key
        self._loop = asyncio.get_running_loop()
        self._beaten_at = self._loop.time()

    @contextmanager
    def watching(self, worker: RunningWorker) -> Iterator[None]:
        """Reports on the worker for the time of the block; outside it nothing is ready."""
        self._readiness = Readiness(worker)
        try:
            yield
        finally:
            self._readiness = None
            self._without_worker = "the worker is ending"

    async def beat(self) -> None:
        """Stores the time every `BEAT_SECONDS`, until it is cancelled."""
        while True:
            self._beaten_at = self._loop.time()
            await asyncio.sleep(BEAT_SECONDS)

    def respond(self, path: str) -> Response | None:
        """The response to a GET of a path; None for an unknown path. A slash at its end does not matter."""
        match path.partition("?")[0].rstrip("/"):
            case "/livez":
                return health("alive", "not alive", self._stuck())
            case "/readyz":
                return health("ready", "not ready", self._stuck() or self._not_ready())
            case "/metrics":
                return Response(200, CONTENT_TYPE_LATEST, generate_latest(self._registry))
            case "/.well-known/jwks.json":
                return self._keys()
        return None

    def _stuck(self) -> list[str]:
        silent_seconds = self._loop.time() - self._beaten_at
        return (
            [f"the event loop has hung for {silent_seconds:.0f} s"] if silent_seconds > STUCK_SECONDS else []
        )

    def _keys(self) -> Response:
        try:
            return Response(200, "application/json", json.dumps(public_jwks(self._signing_key)).encode())
        except KeyFileError as error:
            return Response(503, "application/json", json.dumps({"error": str(error)}).encode())

    def _not_ready(self) -> list[str]:
        readiness = self._readiness
        if readiness is None:
            return [self._without_worker]
        future = asyncio.run_coroutine_threadsafe(readiness.problems(), self._loop)
        try:
            return future.result(READY_TIMEOUT_SECONDS)
        except TimeoutError:
            future.cancel()
            return ["the worker is too busy to answer in time"]


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: Address, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Ignores the error: the client is gone."""


def _handler(respond: Callable[[str], Response | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # for a client that sends nothing

        def do_GET(self) -> None:
            self._send(respond(self.path) or NOT_FOUND)

        def do_HEAD(self) -> None:
            self.do_GET()

        def refuse(self) -> None:
            """Answers any other method. The plain server would call it unknown (501)."""
            self._send(NOT_ALLOWED, ("Allow", "GET, HEAD"))

        def _send(self, response: Response, *headers: tuple[str, str]) -> None:
            self.send_response(response.status)
            self.send_header("Content-Type", response.content_type)
            self.send_header("Content-Length", str(len(response.body)))
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(response.body)

        def log_message(self, *_: Any) -> None:
            """Logs nothing: probes come every few seconds."""

    for method in ("OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"):
        setattr(Handler, f"do_{method}", Handler.refuse)
    return Handler


@asynccontextmanager
async def serving(probes: Probes, address: Address) -> AsyncIterator[Address]:
    """Serves the probes for the time of the block; yields the actual address. Raises `AddressUnusable`."""
    try:
        server = _Server(address, _handler(probes.respond))
    except (OSError, ValueError) as error:  # ValueError: not a valid host name
        raise cannot_listen(address, error, "PROVISIONER_HTTP") from None
    beating = asyncio.create_task(probes.beat())
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="probes", daemon=True)
    thread.start()
    try:
        yield Address(address.host, server.server_address[1])
    finally:
        beating.cancel()
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.wait([beating])
