"""`provisioner ledger`."""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import terminal
from worker.cli.loop import run, run_to_exit
from worker.cli.options import By, Json
from worker.core.keeping import RETENTION, Table
from worker.operations import ledger as operations
from worker.operations.ledger import Checked, Copied, NotCopied, Purged, Purging
from worker.settings.ledger_url import LedgerUrl, SqliteUrl, parse_ledger_url
from worker.settings.load import load
from worker.settings.model import LedgerSettings
from worker.settings.parse import grace
from worker.settings.show import period

if TYPE_CHECKING:
    from worker.ports import Ledger, OpenedLedger

app = typer.Typer(no_args_is_help=True, help="Copy, back up, check and purge the ledger.")


From = Annotated[str, typer.Option("--from", metavar="URL", help="The ledger to copy.")]
To = Annotated[str, typer.Option("--to", metavar="URL", help="A new file, or an empty database.")]

LEAVE_SECONDS = 6.0
"""A worker that has just ended counts as running for that long, if it could not say so."""


def _url(option: str, text: str) -> LedgerUrl:
    try:
        return parse_ledger_url(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} {error}") from None


def _period(text: str) -> timedelta:
    try:
        parsed = grace(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, timedelta) or not parsed:
        raise typer.BadParameter("write a period above zero, like 12h or 90d")
    return parsed


@app.command()
def copy(
    *,
    source: From,
    target: To,
    as_json: Json = False,
) -> None:
    """Copy a ledger to another file or database: SQLite to PostgreSQL, back, or a backup to its place.

    Everything is copied: departments, answers, holds, wishes, calls, sweeps, snapshots, the audit. It is read
    back and compared by number and digest. A copy that fails leaves the target empty. No worker may run on
    either.

    Give a password in PGPASSWORD or PGPASSFILE: others on this machine can see what a command line says.
    """
    read, written = _url("--from", source), _url("--to", target)
    if _is_same(read, written):
        raise typer.BadParameter("--from and --to are the same ledger")
    run(_copy(read, written, as_json=as_json))


def _is_same(source: LedgerUrl, target: LedgerUrl) -> bool:
    if isinstance(source, SqliteUrl) and isinstance(target, SqliteUrl):
        return source.path.resolve() == target.path.resolve()
    return source == target


async def _copy(source: LedgerUrl, target: LedgerUrl, *, as_json: bool) -> None:
    from worker.adapters.ledgers import open_ledger
    from worker.cli.progress import progress
    from worker.ports import LedgerMissing, LedgerTaken

    try:
        async with open_ledger(source, read_only=True, alone=True) as read:
            await _require_readable(read, source)
            await _require_no_worker(read.ledger, source)
            async with open_ledger(target, alone=True) as written:
                await _require_no_worker(written.ledger, target)
                total = 2 * await operations.size(read.keeping)
                with progress("rows written and compared", total) as display:
                    copied = await operations.copy(read.keeping, written.keeping, display.more)
    except LedgerMissing:
        raise NotCopied(f"nothing was copied: there is no ledger at {source}") from None
    except (LedgerTaken, NotCopied) as refusal:
        raise NotCopied(f"nothing was copied: {refusal}") from None
    _show_copied(source, target, copied, as_json=as_json)


async def _require_readable(opened: "OpenedLedger", url: LedgerUrl) -> None:
    if (trouble := operations.trouble_of(await opened.keeping.schema())) is not None:
        raise NotCopied(f"{url} cannot be read: {trouble}")


async def _require_no_worker(ledger: "Ledger", url: LedgerUrl) -> None:
    from worker.adapters.system import SystemClock
    from worker.operations.wishes import is_running

    clock = SystemClock()
    until = clock.monotonic() + LEAVE_SECONDS
    while await is_running(ledger):
        if clock.monotonic() > until:
            raise NotCopied(f"a worker runs on {url}; stop it first, and start it on the copy afterwards")
        await clock.sleep(0.2)


def _show_copied(source: LedgerUrl, target: LedgerUrl, copied: Copied, *, as_json: bool) -> None:
    if as_json:
        terminal.print_json(
            {"from": str(source), "to": str(target), "counts": copied.counts, "digest": copied.digest}
        )
        return
    terminal.say(f"copied {source} to {target}: {_in_words(copied.counts)}")
    terminal.say(f"both hold the same: sha256 {copied.digest}", "dim")


def _in_words(counts: Mapping[Table, int]) -> str:
    named = (Table.DEPARTMENTS, Table.ANSWERS, Table.HOLDS, Table.AUDIT)
    words = {Table.AUDIT: "lines of the audit"}
    return ", ".join(f"{counts[table]:,} {words.get(table, table)}" for table in named)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; nothing is overwritten.")],
    *,
    as_json: Json = False,
) -> None:
    """Back up the ledger into a new SQLite file, as it is at this moment, while workers write.

    The file is a ledger itself: copy it to its place with `ledger copy`, or name it in LEDGER_URL. A worker
    that starts on it reads Plivo's whole list before its first create, so it creates nothing twice. Keep the
    signing key with it. It holds no token, but every department: it is readable by its owner only.
    """
    settings = load(LedgerSettings, os.environ)
    run(_backup(settings, file, as_json=as_json))


async def _backup(settings: LedgerSettings, file: Path, *, as_json: bool) -> None:
    from worker.adapters.ledgers import open_ledger
    from worker.adapters.sqlite.backup import new_file

    with new_file(file) as partial:
        await _back_up(settings.ledger_url, partial)
    async with open_ledger(SqliteUrl(file), read_only=True) as written:
        schema = await written.keeping.schema()
        departments = await _departments(written) if operations.trouble_of(schema) is None else None
    size = file.stat().st_size  # noqa: ASYNC240 - microseconds
    if as_json:
        terminal.print_json({"file": str(file), "bytes": size, "departments": departments})
        return
    what = "" if departments is None else f"{departments:,} departments, "
    terminal.say(f"backed up {settings.ledger_url} to {file}: {what}{size:,} bytes")


async def _back_up(url: LedgerUrl, file: Path) -> None:
    """Fills a new file. A worker that starts on it takes it for behind."""
    from worker.adapters.ledgers import open_ledger
    from worker.adapters.sqlite.backup import back_up
    from worker.cli.progress import progress

    if isinstance(url, SqliteUrl):
        with progress("pages backed up") as display:
            await back_up(url.path, file, display.out_of)
        return
    async with open_ledger(url, read_only=True) as source, open_ledger(SqliteUrl(file)) as target:
        with progress("rows written and compared", 2 * await operations.size(source.keeping)) as display:
            await operations.copy(source.keeping, target.keeping, display.more)
        await target.ledger.note_caught_up(None)


async def _departments(opened: "OpenedLedger") -> int:
    async with opened.keeping.reading() as rows:
        return (await rows.counts())[Table.DEPARTMENTS]


@app.command()
def check(*, as_json: Json = False) -> None:
    """Check that the ledger is whole and of this version; exit 1 if it is not.

    Reads all of it: the database's own check, every row, and the answer to the newest event of each
    department. Changes nothing, and may run beside a worker. A backup is checked with LEDGER_URL set to it.
    """
    run_to_exit(_check(load(LedgerSettings, os.environ), as_json=as_json))


async def _check(settings: LedgerSettings, *, as_json: bool) -> bool:
    from worker.adapters.ledgers import open_ledger
    from worker.cli.progress import progress

    with progress("departments checked") as display:
        async with open_ledger(settings.ledger_url, read_only=True) as opened:
            found = await operations.check(opened, display.more)
    _show_checked(settings.ledger_url, found, as_json=as_json)
    return not found.troubles


def _show_checked(url: LedgerUrl, found: Checked, *, as_json: bool) -> None:
    from worker.adapters.system import SystemClock

    owner, account = found.bound or (None, None)
    age = SystemClock().now() - found.newest_at if found.newest_at else None
    if as_json:
        terminal.print_json(
            {
                "ledger": str(url),
                "schema": found.schema.applied,
                "schema_known": found.schema.known,
                "owner": owner,
                "provider_account": account,
                "counts": found.counts,
                "newest_at": found.newest_at,
                "newest_age_seconds": round(age.total_seconds(), 3) if age else None,
                "troubles": found.troubles,
            }
        )
        return
    facts: dict[str, object] = {
        "schema": found.schema.applied,
        "bound to": f"owner {owner} of account {account}" if owner else "nobody: no worker has started on it",
        **{table.value.replace("_", " "): f"{number:,}" for table, number in (found.counts or {}).items()},
        "newest event": f"answered at {terminal.moment(found.newest_at)}" if found.newest_at else "none",
    }
    terminal.print_facts(str(url), {name: value for name, value in facts.items() if name != Table.LEDGER})
    if not found.troubles:
        terminal.say("the ledger is whole")
    terminal.complain(found.troubles)


@app.command()
def purge(
    *,
    older_than: Annotated[
        timedelta | None,
        typer.Option(parser=_period, metavar="PERIOD", help="How old an answer must be; 90d by default."),
    ] = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Forget the answers of old events that are not the newest of their department.

    `run` does it daily, with 90 days. A replay of such an event is then answered superseded; the same id with
    another payload is not refused any more. Kept for good: the answers to each department's newest event, to
    its removal and its hold, and those that the broker has not confirmed. The file does not shrink; its free
    pages are used again.
    """
    run(_purge(load(LedgerSettings, os.environ), older_than or RETENTION, by, as_json=as_json))


async def _purge(settings: LedgerSettings, older_than: timedelta, by: str | None, *, as_json: bool) -> None:
    from worker.adapters.system import SystemClock, fresh_id, os_user
    from worker.cli import open_ports
    from worker.cli.progress import progress

    with progress("departments looked at") as display:
        async with open_ports.ledger_to_write(settings) as (ledger, audit):
            purging = Purging(ledger, audit, SystemClock(), by or os_user(), fresh_id())
            done = await purging.purge(older_than, f"--older-than {period(older_than)}", display.more)
    _show_purged(done, as_json=as_json)


def _show_purged(done: Purged, *, as_json: bool) -> None:
    if as_json:
        terminal.print_json({"before": done.before, "answers": done.answers, "departments": done.departments})
        return
    terminal.say(
        f"forgot {done.answers:,} answers from before {terminal.moment(done.before)},"
        f" of {done.departments:,} departments"
    )
