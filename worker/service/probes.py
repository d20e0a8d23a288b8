"""`/livez`, `/readyz`, `/metrics` and the worker's public keys, answered by a thread of their own.

An event loop that hangs would take a server on it along; the thread can still say what is wrong.
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
from typing import Any, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from worker.adapters.jose.key_files import KeyFileError, public_jwks
from worker.bootstrap import RunningWorker
from worker.ports import ForPeople, LedgerFailed, LedgerForeign
from worker.settings.parse import Address
from worker.telemetry.events import Telemetry

BEAT_SECONDS = 0.5
STUCK_SECONDS = 5.0
LEDGER_CHECK_SECONDS = 1.0

# Kubernetes waits a second for an answer by default.
LEDGER_ANSWER_SECONDS = 0.7
READY_ANSWER_SECONDS = 0.9


class AddressUnusable(ForPeople):
    """Nobody can listen there: it is taken, or not this machine's."""

    exit_code = 2


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes


class Readiness:
    """What keeps the worker from doing its job now. Being connected is not enough: it must be consuming."""

    def __init__(self, worker: RunningWorker) -> None:
        self._worker = worker
        self._checking = asyncio.Lock()
        self._checked_at: float | None = None
        self._ledger_wrong: list[str] = []

    async def wrong(self) -> list[str]:
        """A line for each thing that is wrong."""
        worker = self._worker
        wrong = [
            *worker.blocks(),
            *await worker.consumer.problems(),
            *await worker.publisher_problems(),
            *await self._ledger(),
        ]
        return list(dict.fromkeys(wrong))

    async def _ledger(self) -> list[str]:
        """Written to, and not too often: a disk may be full or gone without a read noticing."""
        async with self._checking:
            now = asyncio.get_running_loop().time()
            if self._checked_at is None or now - self._checked_at >= LEDGER_CHECK_SECONDS:
                self._ledger_wrong = await self._write()
                self._checked_at = now
        return self._ledger_wrong

    async def _write(self) -> list[str]:
        settings = self._worker.settings
        try:
            async with asyncio.timeout(LEDGER_ANSWER_SECONDS):
                await self._worker.ledger.bind(settings.owner, settings.plivo_auth_id)
        except TimeoutError:
            return ["the ledger takes no write in time: the disk is slow, or another process holds the file"]
        except (LedgerFailed, LedgerForeign) as error:
            return [str(error)]
        return []


class Probes:
    """The answers, given on any thread. `beat` runs on the worker's loop, for as long as that runs."""

    def __init__(self, telemetry: Telemetry, signing_key: Path) -> None:
        self._readiness: Readiness | None = None
        self._without_worker = "the worker is starting"
        self._registry = telemetry.registry
        self._signing_key = signing_key
        self._loop = asyncio.get_running_loop()
        self._beaten_at = self._loop.time()

    @contextmanager
    def watching(self, worker: RunningWorker) -> Iterator[None]:
        """For the time of the block it can be ready."""
        self._readiness = Readiness(worker)
        try:
            yield
        finally:
            self._readiness = None
            self._without_worker = "the worker is ending"

    async def beat(self) -> None:
        while True:
            self._beaten_at = self._loop.time()
            await asyncio.sleep(BEAT_SECONDS)

    def answer(self, path: str) -> Answer | None:
        match path.partition("?")[0]:
            case "/livez":
                return _told("alive", "not alive", self._stuck())
            case "/readyz":
                return _told("ready", "not ready", self._stuck() or self._not_ready())
            case "/metrics":
                return Answer(200, CONTENT_TYPE_LATEST, generate_latest(self._registry))
            case "/.well-known/jwks.json":
                return self._keys()
        return None

    def _stuck(self) -> list[str]:
        silent_seconds = self._loop.time() - self._beaten_at
        return (
            [f"the event loop has hung for {silent_seconds:.0f} s"] if silent_seconds > STUCK_SECONDS else []
        )

    def _keys(self) -> Answer:
        try:
            return Answer(200, "application/json", json.dumps(public_jwks(self._signing_key)).encode())
        except KeyFileError as error:
            return Answer(503, "application/json", json.dumps({"error": str(error)}).encode())

    def _not_ready(self) -> list[str]:
        readiness = self._readiness
        if readiness is None:
            return [self._without_worker]
        asked = asyncio.run_coroutine_threadsafe(readiness.wrong(), self._loop)
        try:
            return asked.result(READY_ANSWER_SECONDS)
        except TimeoutError:
            asked.cancel()
            return ["the worker is too busy to answer in time"]


def _told(well: str, ill: str, wrong: list[str]) -> Answer:
    body = json.dumps({"status": ill if wrong else well, "wrong": wrong}).encode()
    return Answer(503 if wrong else 200, "application/json", body)


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: Address, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Whoever asked has gone: nothing to tell anybody."""


def _handler(answer: Callable[[str], Answer | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # for a client that says nothing

        def do_GET(self) -> None:
            given = answer(self.path) or Answer(404, "text/plain", b"ask for /livez, /readyz or /metrics\n")
            self.send_response(given.status)
            self.send_header("Content-Type", given.content_type)
            self.send_header("Content-Length", str(len(given.body)))
            self.end_headers()
            self.wfile.write(given.body)

        def log_message(self, *_: Any) -> None:
            """Probes come every few seconds."""

    return Handler


@asynccontextmanager
async def serving(probes: Probes, address: Address) -> AsyncIterator[Address]:
    """Yields the address it listens on. Raises `AddressUnusable`."""
    try:
        server = _Server(address, _handler(probes.answer))
    except (OSError, ValueError) as error:  # ValueError: it cannot be a host's name
        why = getattr(error, "strerror", None) or "no name of a host"
        raise AddressUnusable(
            f"cannot listen on {address.host}:{address.port} ({why}); set PROVISIONER_HTTP to another address"
        ) from None
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
