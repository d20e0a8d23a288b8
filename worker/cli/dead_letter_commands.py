"""`provisioner dead-letters`: opens what an operation needs, runs it, shows what came of it."""

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from worker.adapters.amqp.dead_letters import RabbitDeadLetters
from worker.adapters.sqlite.audit import SqliteAudit
from worker.adapters.sqlite.ledger import SqliteLedger, sqlite_ledger, sqlite_ledger_read
from worker.adapters.system import SystemClock, fresh_id, os_user
from worker.cli import terminal as console
from worker.cli import view as shown
from worker.cli.progress import progress
from worker.cli.view import Ending
from worker.core.dead_letters import AuditLine, Selection
from worker.core.messages import Outgoing
from worker.operations import actions as operations
from worker.operations.dead_letters import looking, plan, removal, transfer
from worker.operations.dead_letters.looking import EVERYTHING, Desk
from worker.operations.dead_letters.replay import Replay
from worker.ports import Audit, ForPeople, LedgerFailed, Publisher
from worker.service.signals import stop_signal
from worker.settings.model import DeadLetterSettings, LedgerSettings

IN_MEMORY_BYTES = 8 * 1024 * 1024


class NotDone(ForPeople):
    """A command did not do all it was to do."""


@dataclass(frozen=True)
class Asked:
    """What every one of these commands is told."""

    selection: Selection = EVERYTHING
    file: Path | None = None
    by: str | None = None
    as_json: bool = False
    surely_unlimited: bool = False

    @property
    def who(self) -> str:
        return self.by or os_user()

    @property
    def told(self) -> str:
        """For the audit."""
        return str(self.file or self.selection)


async def count(settings: DeadLetterSettings, asked: Asked) -> int:
    """How many are meant, for those who are to change something: refuses without a ledger, too."""
    async with sqlite_ledger(settings.ledger, must_exist=True), _desk(settings, asked) as desk:
        return (await _summary(desk, 0)).selected


async def require_ledger(settings: LedgerSettings) -> None:
    """Before anybody is asked: what changes something must be on record."""
    async with sqlite_ledger(settings.ledger, must_exist=True):
        pass


async def list_(settings: DeadLetterSettings, asked: Asked, limit: int) -> None:
    async with _desk(settings, asked) as desk:
        summary = await _summary(desk, limit)
    shown.summary(summary, as_json=asked.as_json)


async def show(settings: DeadLetterSettings, asked: Asked, limit: int) -> None:
    async with _desk(settings, asked) as desk:
        gathered = await looking.gather(desk, limit)
        await desk.note("show", [(one.letter, "shown") for one in gathered.found])
    shown.letters(gathered, as_json=asked.as_json)


async def plan_(settings: DeadLetterSettings, asked: Asked, limit: int) -> None:
    async with sqlite_ledger_read(settings.ledger) as ledger, _desk(settings, asked) as desk:
        with progress("looking") as display:
            made = await plan.plan(desk, ledger, settings.policy, limit, display.at)
    shown.plan(made, settings, as_json=asked.as_json)


async def replay(
    settings: DeadLetterSettings, asked: Asked, most: int | None, rate: float | None, *, wait: bool
) -> bool:
    """Whether all fared well, as far as was waited for."""
    async with _audited_desk(settings, asked) as (desk, ledger):
        stopping = stop_signal(_say_stopping)
        with progress("replaying", most, rate, watched=wait) as display:
            work = Replay(desk, rate, stopping, display)
            failure = await _failure_of(work.send_and_watch(most, ledger) if wait else work.send(most))
        if failure and not work.fates.sent:
            raise failure
        ending = Ending(stopping.is_set(), failure)
        shown.fates(work.fates, desk.run, ending, watched=wait, as_json=asked.as_json)
    return not (work.fates.is_bad or ending.is_early)


async def discard(settings: DeadLetterSettings, asked: Asked, most: int | None) -> bool:
    """Whether it came to its end."""
    async with _audited_desk(settings, asked) as (desk, _):
        stopping = stop_signal(_say_stopping)
        with progress("discarding", most) as display:
            remover = removal.discarding(desk, stopping, display.more)
            failure = await _failure_of(remover.remove(most))
        if failure and not remover.gone:
            raise failure
        ending = Ending(stopping.is_set(), failure)
        shown.discarded(remover.gone, remover.seen, ending, as_json=asked.as_json)
    return not ending.is_early


async def _failure_of(work: Awaitable[object]) -> ForPeople | None:
    """What ended it, where what it did until then has to be told."""
    try:
        await work
    except ForPeople as error:
        return error
    return None


async def export(settings: DeadLetterSettings, asked: Asked, most: int | None, output: Path | None) -> None:
    """First to a file of our own: a reader of ours that dawdles must not hold up others' look."""
    with _output(output) as file, tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as spool:
        async with _desk(settings, asked) as desk:
            with progress("looking") as display:
                written = await transfer.export(desk, most, spool, display.at)  # type: ignore[arg-type]
        spool.seek(0)
        with _writing(output):
            if output is not None and file.seekable():
                file.truncate(0)
            file.writelines(map(console.visible_json, spool))
            file.flush()
    if output is not None:
        shown.exported_to(str(output), written, as_json=asked.as_json)


async def import_(
    settings: DeadLetterSettings, asked: Asked, edited: Sequence[transfer.Edited], *, discard_originals: bool
) -> bool:
    """Whether it came to its end."""
    async with _audited_desk(settings, asked) as (desk, _):
        stopping = stop_signal(_say_stopping)
        with progress("sending", len(edited)) as display:
            sent = await transfer.send_edited(desk, edited, stopping, display.more)
        gone = await transfer.discard_originals(desk, edited[:sent]) if discard_originals else None
        stopped = sent < len(edited)
        shown.imported(sent, gone, stopped=stopped, as_json=asked.as_json)
    return not stopped


def read_import(file: Path) -> list[transfer.Edited]:
    """Raises `BadImport`, or `NotDone` for a file that cannot be read."""
    try:
        with file.open("rb") if str(file) != "-" else open(0, "rb", closefd=False) as lines:
            return transfer.read_import(lines)
    except OSError as error:
        raise NotDone(f"{file} cannot be read: {error.strerror}") from None


async def audit(
    settings: LedgerSettings, since: datetime | None, by: str | None, id_: str | None, *, as_json: bool
) -> None:
    async with sqlite_ledger_read(settings.ledger) as ledger:
        lines = await SqliteAudit(ledger).noted(since, by, id_)
    shown.audit(lines, as_json=as_json)


class _LatePublisher:
    """Connects when something is to be sent, which for most commands is never."""

    def __init__(self, settings: DeadLetterSettings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._publisher: Publisher | None = None

    async def publish(self, outgoing: Outgoing) -> None:
        if self._publisher is None:
            opened = operations.publisher(self._settings)
            self._publisher = await self._stack.enter_async_context(opened)
        await self._publisher.publish(outgoing)


class _LateAudit:
    """For commands that change nothing: where there is no ledger they say so and go on."""

    def __init__(self, settings: LedgerSettings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._audit: Audit | None = None
        self._missing = False

    async def note(self, lines: Sequence[AuditLine]) -> None:
        if self._missing or not lines:
            return
        try:
            if self._audit is None:
                opened = sqlite_ledger(self._settings.ledger, must_exist=True)
                self._audit = SqliteAudit(await self._stack.enter_async_context(opened))
            await self._audit.note(lines)
        except LedgerFailed as error:
            self._missing = True
            console.complain([f"not on record in the audit: {error}"])

    async def noted(
        self, since: datetime | None = None, by: str | None = None, id_: str | None = None
    ) -> Sequence[AuditLine]:
        return await self._audit.noted(since, by, id_) if self._audit else []


@asynccontextmanager
async def _desk(settings: DeadLetterSettings, asked: Asked) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(operations.connection(settings))
        yield Desk(
            RabbitDeadLetters(connection, SystemClock(), _say_waiting),
            _LatePublisher(settings, stack),
            _LateAudit(settings, stack),
            SystemClock(),
            asked.who,
            fresh_id(),
            asked.told,
            asked.selection,
            asked.surely_unlimited,
        )


@asynccontextmanager
async def _audited_desk(
    settings: DeadLetterSettings, asked: Asked
) -> AsyncIterator[tuple[Desk, SqliteLedger]]:
    """Refuses where there is no ledger: what changes something must be on record."""
    async with AsyncExitStack() as stack:
        opened = sqlite_ledger(settings.ledger, must_exist=True)
        ledger = await stack.enter_async_context(opened)
        connection = await stack.enter_async_context(operations.connection(settings))
        publisher = await stack.enter_async_context(operations.publisher(settings))
        queue = RabbitDeadLetters(connection, SystemClock(), _say_waiting)
        desk = Desk(
            queue,
            publisher,
            SqliteAudit(ledger),
            SystemClock(),
            asked.who,
            fresh_id(),
            asked.told,
            asked.selection,
            asked.surely_unlimited,
        )
        yield desk, ledger


def _say_waiting() -> None:
    console.ERR.print("somebody else is reading the dead letters; waiting for them", style="yellow")


def _say_stopping() -> None:
    console.advise("stopping…")


async def _summary(desk: Desk, keep: int) -> looking.Summary:
    with progress("looking") as display:
        return await looking.summarize(desk, keep, display.at)


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """For its owner only: it may hold what is nobody else's business.

    Opened before anything is done that goes on record; what is there is kept until there is something new.
    """
    was_there = path is None or path.exists()
    with _writing(path):
        descriptor = 1 if path is None else os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    file = os.fdopen(descriptor, "wb", closefd=path is not None)
    try:
        yield file
    except BaseException:
        if path is not None and not was_there:
            path.unlink(missing_ok=True)
        raise
    finally:
        with _writing(path):
            file.close()


@contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotDone(f"{path or 'standard output'} cannot be written: {error.strerror}") from None
