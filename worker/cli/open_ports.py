"""Opens the ports that operations need, from settings. Slow to import, so a command does it when it runs."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from functools import partial

from contracts.topology import DEAD_LETTER_QUEUE, UNMAPPED_QUEUE, UNROUTED_QUEUE
from worker.adapters.amqp.dead_letters import RabbitDeadLetters
from worker.adapters.amqp.listener import listening
from worker.adapters.amqp.seam import BROKER_ERRORS, Connection
from worker.adapters.amqp.topology import state_of
from worker.adapters.brokers import AmqpObjects, ManagedObjects, open_connection, open_publisher
from worker.adapters.ledgers import open_ledger
from worker.adapters.memory.dead_letters import MemoryAudit
from worker.adapters.memory.ledger import MemoryLedger
from worker.adapters.memory.snapshots import MemorySnapshots
from worker.adapters.system import SystemClock, fresh_id, os_user
from worker.cli import terminal
from worker.cli.options import Request
from worker.cli.view import filter_text
from worker.core.dead_letters import AuditLine
from worker.core.messages import Outgoing
from worker.core.model.departments import Department
from worker.operations.dead_letters.session import Session
from worker.operations.intake import Remap, RemapOptions
from worker.ports import Audit, Ledger, LedgerFailed, LedgerMissing, Listener, Publisher, Snapshots
from worker.settings.model import (
    BrokerSettings,
    DeadLetterSettings,
    LedgerSettings,
    QueueSettings,
    RemapSettings,
)
from worker.telemetry.events import Telemetry


@asynccontextmanager
async def ledger_to_read(settings: LedgerSettings) -> AsyncIterator[tuple[Ledger, Audit]]:
    """The ledger and its audit, both read-only. Raises `LedgerFailed`."""
    async with open_ledger(settings.ledger_url, read_only=True) as opened:
        yield opened.ledger, opened.audit


@asynccontextmanager
async def ledger_to_plan(settings: LedgerSettings) -> AsyncIterator[tuple[Ledger, Audit]]:
    """The ledger, read-only; an empty one, and a hint, where none was made yet. Raises `LedgerFailed`."""
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(ledger_to_read(settings))
        except LedgerMissing as missing:
            terminal.advise(f"{missing}; this is planned as on a new one")
            opened = MemoryLedger(), MemoryAudit()
        yield opened


@asynccontextmanager
async def snapshots_to_plan(settings: LedgerSettings) -> AsyncIterator[Snapshots]:
    """The snapshots of sources; none, and a hint, where no ledger was made yet. Raises `LedgerFailed`."""
    async with AsyncExitStack() as stack:
        try:
            opening = open_ledger(settings.ledger_url, read_only=True)
            snapshots = (await stack.enter_async_context(opening)).snapshots
        except LedgerMissing as missing:
            terminal.advise(f"{missing}; this is planned as on a new one")
            snapshots = MemorySnapshots()
        yield snapshots


@asynccontextmanager
async def snapshots_to_write(settings: LedgerSettings) -> AsyncIterator[tuple[Snapshots, Audit]]:
    """The snapshots of sources, and the audit; raises `LedgerFailed`, also for a missing ledger."""
    async with open_ledger(settings.ledger_url, must_exist=True) as opened:
        yield opened.snapshots, opened.audit


@asynccontextmanager
async def ledger_to_write(settings: LedgerSettings) -> AsyncIterator[tuple[Ledger, Audit]]:
    """The ledger and its audit; raises `LedgerFailed`, also for a missing ledger, which is not created."""
    async with open_ledger(settings.ledger_url, must_exist=True) as opened:
        yield opened.ledger, opened.audit


@asynccontextmanager
async def publisher(settings: BrokerSettings) -> AsyncIterator[Publisher]:
    """A connected publisher; raises `BrokerUnavailable`."""
    async with open_publisher(settings.amqp_url, Telemetry(), settings.namespace) as opened:
        yield opened


@asynccontextmanager
async def listener(settings: BrokerSettings) -> AsyncIterator[Listener]:
    """Hears all results from the start of the block on; raises `BrokerUnavailable`."""
    async with listening(settings.amqp_url, settings.namespace) as opened:
        yield opened


@asynccontextmanager
async def broker_objects(settings: BrokerSettings) -> AsyncIterator[AmqpObjects]:
    """The broker's objects over AMQP; raises `BrokerUnavailable`."""
    async with open_connection(settings.amqp_url) as connection:
        yield AmqpObjects(connection)


async def depths(settings: BrokerSettings, queues: Sequence[str]) -> Mapping[str, int]:
    """The number of messages ready in each queue that exists and may be asked.

    Raises `BrokerUnavailable`.
    """
    found: dict[str, int] = {}
    async with open_connection(settings.amqp_url) as connection:
        for queue in queues:
            with suppress(*BROKER_ERRORS):
                if (state := await state_of(connection, queue)) is not None:
                    found[queue] = state.messages
    return found


async def existing_queues(
    settings: BrokerSettings, queues: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """Of these queues those that exist, and those that we may not ask for. Raises `BrokerUnavailable`."""
    there, refused = [], []
    async with open_connection(settings.amqp_url) as connection:
        for queue in queues:
            try:
                there += [queue] if await state_of(connection, queue) is not None else []
            except BROKER_ERRORS:
                refused.append(queue)
    return there, refused


def objects_in_effect(settings: QueueSettings) -> ManagedObjects | None:
    """The broker's objects over its management API; None if the settings name none."""
    if settings.management_url is None:
        return None
    return ManagedObjects(settings.management_url, settings.vhost)


@asynccontextmanager
async def reading_session(settings: DeadLetterSettings, request: Request) -> AsyncIterator[Session]:
    """For commands that change nothing: works without a ledger, and connects a publisher only if needed."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(open_connection(settings.amqp_url))
        publisher_, audit = _LazyPublisher(settings, stack), _OptionalAudit(settings, stack)
        yield _session(settings, request, connection, publisher_, audit)


@asynccontextmanager
async def changing_session(
    settings: DeadLetterSettings, request: Request
) -> AsyncIterator[tuple[Session, Ledger]]:
    """For commands whose changes must be recorded: raises `LedgerFailed` without a ledger."""
    async with AsyncExitStack() as stack:
        ledger, audit = await stack.enter_async_context(ledger_to_write(settings))
        connection = await stack.enter_async_context(open_connection(settings.amqp_url))
        opened = await stack.enter_async_context(publisher(settings))
        yield _session(settings, request, connection, opened, audit), ledger


@asynccontextmanager
async def remap(settings: RemapSettings, options: RemapOptions, *, dry: bool) -> AsyncIterator[Remap]:
    """A remap of the payloads that no profile could map; raises `BrokerUnavailable`."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(open_connection(settings.amqp_url))
        opened = await stack.enter_async_context(publisher(settings))
        say = partial(_say_waiting, "unmapped payloads")
        queue = RabbitDeadLetters(connection, SystemClock(), say, settings.namespace, UNMAPPED_QUEUE)
        yield Remap(queue, opened, SystemClock(), options, dry=dry)


def _session(
    settings: BrokerSettings, request: Request, connection: Connection, publisher: Publisher, audit: Audit
) -> Session:
    def queue(name: str) -> RabbitDeadLetters:
        say = partial(_say_waiting, f"{request.noun}s")
        return RabbitDeadLetters(connection, SystemClock(), say, settings.namespace, name)

    selection = filter_text(request.selection)
    return Session(
        queue(UNROUTED_QUEUE if request.unrouted else DEAD_LETTER_QUEUE),
        publisher,
        audit,
        SystemClock(),
        by=request.by or os_user(),
        run=fresh_id(),
        asked=str(request.file or (f"--unrouted {selection}" if request.unrouted else selection)),
        selection=request.selection,
        assume_unlimited=request.assume_unlimited,
        unrouted=request.unrouted,
        dead_letters=queue(DEAD_LETTER_QUEUE),
    )


def _say_waiting(what: str) -> None:
    terminal.ERR.print(f"another consumer is reading the {what}; waiting for it", style="yellow")


class _LazyPublisher:
    """Connects at the first message; most commands send none."""

    def __init__(self, settings: BrokerSettings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._publisher: Publisher | None = None

    async def publish(self, outgoing: Outgoing) -> None:
        if self._publisher is None:
            self._publisher = await self._stack.enter_async_context(publisher(self._settings))
        await self._publisher.publish(outgoing)


class _OptionalAudit:
    """Opens the ledger at the first line. Without a ledger it warns once and drops the lines."""

    def __init__(self, settings: LedgerSettings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._audit: Audit | None = None
        self._missing = False

    async def append(self, lines: Sequence[AuditLine]) -> None:
        if self._missing or not lines:
            return
        try:
            if self._audit is None:
                opened = ledger_to_write(self._settings)
                self._audit = (await self._stack.enter_async_context(opened))[1]
            await self._audit.append(lines)
        except LedgerFailed as error:
            self._missing = True
            terminal.complain([f"not on record in the audit: {error}"])

    async def lines(
        self,
        since: datetime | None = None,
        by: str | None = None,
        id_: str | None = None,
        department: Department | None = None,
    ) -> Sequence[AuditLine]:
        return await self._audit.lines(since, by, id_, department) if self._audit else []
