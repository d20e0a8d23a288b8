"""The HTTP server of the intake, with limits for senders that are slow, many, or never end a request."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from worker.service.health import cannot_listen
from worker.service.intake.replies import RETRY_SECONDS
from worker.settings.parse import Address

MAX_CONNECTIONS = 1_000
IDLE_SECONDS = 20.0
"""A connection is closed when this long after its last response the headers of a request are not there."""
READ_BUFFER_BYTES = 32 << 10
"""Of one connection; aiohttp buffers up to twice as much."""
LINGER_SECONDS = 3.0
"""For how long the rest of a refused body is read, so that its sender sees the response."""
_BACKLOG = 512
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 34\r\n"
    b"Retry-After: %d\r\nConnection: close\r\n\r\n"
    b'{"error":"too many connections"}\r\n'
)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class BoundedServer(web.Server):
    """A server with a limit of open connections. One beyond it gets 503 at once."""

    def __init__(self, handler: Handler, max_connections: int, idle_seconds: float) -> None:
        super().__init__(
            handler,
            handler_cancellation=False,  # a publish goes on when its sender has left
            access_log=None,
            logger=_silent_log(),
            keepalive_timeout=idle_seconds,
            lingering_time=LINGER_SECONDS,
            read_bufsize=READ_BUFFER_BYTES,
            auto_decompress=False,  # proofs are over the bytes as they came
        )
        self._max_connections = max_connections

    @property
    def open_connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """See `web.Server`."""
        if len(self._connections) >= self._max_connections:
            transport.write(_FULL % RETRY_SECONDS)
            transport.close()
        super().connection_made(handler, transport)


def _silent_log() -> logging.Logger:
    """A logger that says nothing: aiohttp would write what malformed requests hold."""
    log = logging.getLogger("worker.intake.http")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    log.setLevel(logging.CRITICAL + 1)
    return log


class Listening:
    """A server that listens at an address."""

    def __init__(self, server: BoundedServer, runner: web.ServerRunner, site: web.TCPSite, host: str) -> None:
        self._server = server
        self._site = site
        self.address = Address(host, runner.addresses[0][1])

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return self._server.open_connections

    async def stop_accepting(self) -> None:
        """Takes no more connections; those that are open stay."""
        await self._site.stop()


@asynccontextmanager
async def listening(
    address: Address,
    handler: Handler,
    *,
    max_connections: int = MAX_CONNECTIONS,
    idle_seconds: float = IDLE_SECONDS,
) -> AsyncIterator[Listening]:
    """Serves for the time of the block; drain before its end. Raises `AddressUnusable`."""
    server = BoundedServer(handler, max_connections, idle_seconds)
    runner = web.ServerRunner(server, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address.host, address.port, backlog=_BACKLOG)
        try:
            await site.start()
        except (OSError, UnicodeError) as error:
            raise cannot_listen(address, error, "PROVISIONER_INTAKE") from None
        yield Listening(server, runner, site, address.host)
    finally:
        await runner.cleanup()
