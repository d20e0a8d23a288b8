"""Connects to RabbitMQ, and explains failures in words."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from yarl import URL

from worker.adapters.amqp.errors import (
    BrokerAbsent,
    BrokerRefuses,
    BrokerSilent,
    BrokerUnavailable,
    explain,
    explain_login,
    explain_tls,
    hint,
)
from worker.adapters.amqp.seam import (
    BROKER_ERRORS,
    ClosedSilently,
    Connection,
    LoginRefused,
    open_connection,
)
from worker.adapters.network import REFUSED, host_and_port

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
CONNECT_SECONDS = 10.0
HEARTBEAT_SECONDS = 12
CLOSE_SECONDS = 3.0


async def connect(url: str, name: str) -> Connection:
    """Connects and logs in. Raises `BrokerUnavailable`, or `BrokerRefuses` if retrying cannot help."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await open_connection(url, name, HEARTBEAT_SECONDS)
    except LoginRefused as error:
        raise BrokerRefuses(
            f"RabbitMQ at {address(url)} refuses the login in AMQP_URL: {explain_login(url, str(error))}"
        ) from None
    except TimeoutError:
        why = f"no answer within {CONNECT_SECONDS:.0f} s; is that the host and the port of AMQP?"
        raise BrokerUnavailable(f"RabbitMQ at {address(url)} cannot be used: {why}") from None
    except BROKER_ERRORS as error:
        if refused := explain_tls(error):
            raise BrokerRefuses(f"RabbitMQ at {address(url)} cannot be used: {refused}") from None
        why = explain(error)
        absent = isinstance(error, ClosedSilently) or why == REFUSED
        failure = BrokerAbsent if absent else BrokerUnavailable
        raise failure(f"RabbitMQ at {address(url)} cannot be used: {why}{hint(url, error)}") from None


@asynccontextmanager
async def connected(url: str, name: str) -> AsyncIterator[Connection]:
    """A connection for the time of the block; raises as `connect` does."""
    connection = await connect(url, name)
    try:
        yield connection
    finally:
        await close(connection)


async def close(connection: Connection) -> None:
    """Closes a connection, even a lost one: with a handshake if that takes no more than `CLOSE_SECONDS`."""
    closing = asyncio.ensure_future(connection.close())
    try:
        await asyncio.wait([closing], timeout=CLOSE_SECONDS)
    finally:
        if not closing.done():
            connection.hang_up()
    await asyncio.wait([closing], timeout=CLOSE_SECONDS)
    with suppress(asyncio.CancelledError, asyncio.InvalidStateError):
        closing.exception()


def address(url: str) -> str:
    """Scheme, host, port and virtual host of an AMQP URL, without user and password."""
    parsed = URL(url)
    port = parsed.port or DEFAULT_PORTS.get(parsed.scheme)
    return f"{parsed.scheme}://{host_and_port(parsed.host, port)}{parsed.path}"


@contextmanager
def unavailable_if_lost() -> Iterator[None]:
    """Raises `BrokerUnavailable` if the connection used in the block fails, `BrokerSilent` for no answer."""
    try:
        yield
    except BROKER_ERRORS as error:
        failure = BrokerSilent if isinstance(error, TimeoutError) else BrokerUnavailable
        raise failure(f"RabbitMQ cannot be used: {explain(error)}") from None
