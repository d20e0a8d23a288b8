"""`provisioner dead-letters`: opens what an operation needs, runs it, shows what came of it."""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worker import console, operations
from worker.adapters.rabbitmq_dead_letters import RabbitDeadLetters
from worker.adapters.sqlite import SqliteLedger, sqlite_ledger, sqlite_ledger_read
from worker.adapters.sqlite_audit import SqliteAudit
from worker.adapters.system import SystemClock, fresh_id, os_user
from worker.core.dead_letters import AuditLine, Selection
from worker.core.messages import Outgoing
from worker.dead_letters import looking, plan, removal, transfer
from worker.dead_letters.looking import EVERYTHING, Desk
from worker.dead_letters.replay import Replay
from worker.entrypoints import dead_letters_shown as shown
from worker.entrypoints.signals import stop_signal
from worker.ports import Audit, ForPeople, LedgerFailed, Publisher
from worker.settings import DeadLetterSettings, LedgerSettings

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
    """How many are meant."""
    async with _desk(settings, asked) as desk:
        return (await _summary(desk, 0)).selected


async def list_(settings: DeadLetterSettings, asked: Asked, limit: int) -> None:
    async with _desk(settings, asked) as desk:
        summary = await _summary(desk, limit)
    shown.summary(summary, as_json=asked.as_json)


async def show(settings: DeadLetterSettings, asked: Asked, limit: int) -> None:
    async with _desk(settings, asked) as desk:
        found = await looking.gather(desk, limit)
        await desk.note("show", [(one.letter, "shown") for one in found])
    shown.letters(found, limit, as_json=asked.as_json)


async def plan_(settings: DeadLetterSettings, asked: Asked, limit: int) -> None:
    async with sqlite_ledger_read(settings.ledger) as ledger, _desk(settings, asked) as desk:
        with _progress("looking") as progress:
            made = await plan.plan(desk, ledger, settings.policy, limit, progress)
    shown.plan(made, settings, as_json=asked.as_json)


async def replay(
    settings: DeadLetterSettings, asked: Asked, most: int | None, rate: float | None, *, wait: bool
) -> bool:
    """Whether all fared well, as far as was waited for."""
    async with _audited_desk(settings, asked) as (desk, ledger):
        stopping = stop_signal()
        with _progress("replaying", most) as progress:
            work = Replay(desk, rate, stopping, _added(progress))
            fates = await (work.send_and_watch(most, ledger) if wait else work.send(most))
    shown.fates(fates, desk.run, watched=wait, stopped=stopping.is_set(), as_json=asked.as_json)
    return not (fates.is_bad or stopping.is_set())


async def discard(settings: DeadLetterSettings, asked: Asked, most: int | None) -> bool:
    """Whether it came to its end."""
    async with _audited_desk(settings, asked) as (desk, _):
        stopping = stop_signal()
        with _progress("discarding", most) as progress:
            gone = await removal.discard(desk, most, stopping, _added(progress))
    shown.count("discarded", gone, as_json=asked.as_json)
    return not stopping.is_set()


async def export(settings: DeadLetterSettings, asked: Asked, most: int | None, output: Path | None) -> None:
    """First to a file of our own: a reader of ours that dawdles must not hold up others' look."""
    with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as spool:
        async with _desk(settings, asked) as desk:
            with _progress("looking") as progress:
                written = await transfer.export(desk, most, spool, progress)  # type: ignore[arg-type]
        spool.seek(0)
        try:
            with _writing(output) as file:
                copyfileobj(spool, file)
        except OSError as error:
            raise NotDone(f"{output or 'standard output'} cannot be written: {error.strerror}") from None
    if output is not None:
        shown.count("exported", written, as_json=asked.as_json)


async def import_(
    settings: DeadLetterSettings, asked: Asked, edited: Sequence[transfer.Edited], *, discard_originals: bool
) -> None:
    async with _audited_desk(settings, asked) as (desk, _):
        with _progress("sending", len(edited)) as progress:
            sent = await transfer.send_edited(desk, edited, _added(progress))
        gone = await transfer.discard_originals(desk, edited) if discard_originals else None
    shown.imported(sent, gone, as_json=asked.as_json)


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
    async with sqlite_ledger(settings.ledger, must_exist=True) as ledger:
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


async def _summary(desk: Desk, keep: int) -> looking.Summary:
    with _progress("looking") as progress:
        return await looking.summarize(desk, keep, progress)


@contextmanager
def _progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; what it yields is told how many are done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console.ERR, transient=True, disable=not console.ERR.is_terminal) as bar:
        task = bar.add_task(what, total=total, rate="")

        def done(number: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=number, rate=f"{speed:,.0f}/s" if speed else "")

        yield done


def _added(progress: Callable[[int], None]) -> Callable[[int], None]:
    """For those who tell how many more are done."""
    done = 0

    def more(number: int) -> None:
        nonlocal done
        done += number
        progress(done)

    return more


@contextmanager
def _writing(output: Path | None) -> Iterator[BinaryIO]:
    """For its owner only: it may hold what is nobody else's business."""
    descriptor = 1 if output is None else os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb", closefd=output is not None) as file:
        yield file
