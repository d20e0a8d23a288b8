"""`provisioner dead-letters`.

Each command has a typer function, which reads options and asks for consent, and a coroutine of the same name,
which opens ports, runs the operation and shows the result.
"""

import os
import sys
import tempfile
from collections.abc import Awaitable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from worker.cli import terminal, view
from worker.cli.consent import ask, is_interactive
from worker.cli.files import output_file, read_text, writing_to
from worker.cli.loop import run, run_to_exit
from worker.cli.options import (
    By,
    Departments,
    Ids,
    Json,
    Limit,
    Reasons,
    Request,
    Shown,
    Since,
    Tenants,
    Types,
    Unlimited,
    Unrouted,
    Until,
    Words,
    Yes,
    selected,
    time_option,
)
from worker.core.dead_letters import Selection
from worker.operations.dead_letters import removal, summary, transfer
from worker.operations.dead_letters.plan import plan as plan_replay
from worker.operations.dead_letters.replay import Replay
from worker.ports import UserError
from worker.service.signals import stop_signal
from worker.settings.load import load
from worker.settings.model import DeadLetterSettings, LedgerSettings

MAX_PER_SECOND = 1_000_000
SPOOL_BYTES = 8 * 1024 * 1024

app = typer.Typer(no_args_is_help=True, help="Inspect dead letters and replay them.")


def _settings() -> DeadLetterSettings:
    return load(DeadLetterSettings, os.environ)


@app.command("list")
def list_(
    *,
    reason: Reasons = None,
    department: Departments = None,
    tenant: Tenants = None,
    type_: Types = None,
    id_: Ids = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    limit: Shown = 50,
    unlimited: Unlimited = False,
    unrouted: Unrouted = False,
    as_json: Json = False,
) -> None:
    """List dead letters, with their numbers by reason and by department."""
    selection = selected(reason, department, tenant, type_, id_, since, until, text)
    run(
        _list(
            _settings(),
            Request(selection, assume_unlimited=unlimited, unrouted=unrouted),
            limit,
            as_json=as_json,
        )
    )


async def _list(settings: DeadLetterSettings, request: Request, limit: int, *, as_json: bool) -> None:
    view.summary(await _summary(settings, request, limit), request.noun, as_json=as_json)


async def _summary(settings: DeadLetterSettings, request: Request, keep: int) -> summary.Summary:
    from worker.cli import open_ports
    from worker.cli.progress import progress

    async with open_ports.reading_session(settings, request) as session:
        with progress("reading") as display:
            return await summary.summarize(session, keep, display.at)


@app.command()
def show(
    *,
    reason: Reasons = None,
    department: Departments = None,
    tenant: Tenants = None,
    type_: Types = None,
    id_: Ids = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    limit: Shown = 10,
    by: By = None,
    unlimited: Unlimited = False,
    unrouted: Unrouted = False,
    as_json: Json = False,
) -> None:
    """Show dead letters in full, with their bodies."""
    selection = selected(reason, department, tenant, type_, id_, since, until, text)
    request = Request(selection, by=by, assume_unlimited=unlimited, unrouted=unrouted)
    run(_show(_settings(), request, limit, as_json=as_json))


async def _show(settings: DeadLetterSettings, request: Request, limit: int, *, as_json: bool) -> None:
    from worker.cli import open_ports

    async with open_ports.reading_session(settings, request) as session:
        gathered = await summary.gather(session, limit)
    view.letters(gathered, request.noun, as_json=as_json)


@app.command()
def plan(
    *,
    reason: Reasons = None,
    department: Departments = None,
    tenant: Tenants = None,
    type_: Types = None,
    id_: Ids = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    limit: Shown = 50,
    unlimited: Unlimited = False,
    unrouted: Unrouted = False,
    as_json: Json = False,
) -> None:
    """Show the outcome a replay of each letter would have now. Changes nothing."""
    selection = selected(reason, department, tenant, type_, id_, since, until, text)
    run(
        _plan(
            _settings(),
            Request(selection, assume_unlimited=unlimited, unrouted=unrouted),
            limit,
            as_json=as_json,
        )
    )


async def _plan(settings: DeadLetterSettings, request: Request, limit: int, *, as_json: bool) -> None:
    from worker.cli import open_ports
    from worker.cli.progress import progress

    async with (
        open_ports.ledger_to_read(settings) as (ledger, _),
        open_ports.reading_session(settings, request) as session,
    ):
        with progress("reading") as display:
            made = await plan_replay(session, ledger, settings.policy, limit, display.at)
    view.plan(made, settings, request.noun, as_json=as_json)


@app.command()
def replay(
    *,
    reason: Reasons = None,
    department: Departments = None,
    tenant: Tenants = None,
    type_: Types = None,
    id_: Ids = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=MAX_PER_SECOND, metavar="N", help="At most this many per second."),
    ] = None,
    limit: Limit = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Send all at once and do not track them.")
    ] = False,
    yes: Yes = False,
    by: By = None,
    unlimited: Unlimited = False,
    unrouted: Unrouted = False,
    as_json: Json = False,
) -> None:
    """Send dead letters to the work queue again, in growing batches while all goes well."""
    selection = selected(reason, department, tenant, type_, id_, since, until, text)
    request = Request(selection, by=by, assume_unlimited=unlimited, unrouted=unrouted)
    most = _confirmed_limit("Replay", request, limit, yes=yes)
    run_to_exit(_replay(_settings(), request, most, rate, track=not no_wait, as_json=as_json))


async def _replay(
    settings: DeadLetterSettings,
    request: Request,
    most: int | None,
    rate: float | None,
    *,
    track: bool,
    as_json: bool,
) -> bool:
    """Returns whether all went well, as far as it was tracked."""
    from worker.cli import open_ports
    from worker.cli.progress import progress

    async with open_ports.changing_session(settings, request) as (session, ledger):
        stopping = stop_signal(_say_stopping)
        with progress("replaying", most, rate, tracked=track) as display:
            work = Replay(session, rate, stopping, display)
            failure = await _failure_of(work.send_and_track(most, ledger) if track else work.send(most))
        if failure and not work.report.sent:
            raise failure
        ending = view.Ending(stopping.is_set(), failure)
        view.replayed(work.report, session.run, ending, request.noun, tracked=track, as_json=as_json)
    return not (work.report.is_bad or ending.is_early)


@app.command()
def discard(
    *,
    reason: Reasons = None,
    department: Departments = None,
    tenant: Tenants = None,
    type_: Types = None,
    id_: Ids = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    everything: Annotated[bool, typer.Option("--all", help="Discard all of them, without a filter.")] = False,
    limit: Limit = None,
    yes: Yes = False,
    by: By = None,
    unlimited: Unlimited = False,
    unrouted: Unrouted = False,
    as_json: Json = False,
) -> None:
    """Discard dead letters; the audit records each of them."""
    selection = selected(reason, department, tenant, type_, id_, since, until, text)
    if (selection == Selection()) is not everything:
        raise typer.BadParameter("give a filter, or --all for all of them")
    request = Request(selection, by=by, assume_unlimited=unlimited, unrouted=unrouted)
    most = _confirmed_limit("Discard", request, limit, yes=yes)
    run_to_exit(_discard(_settings(), request, most, as_json=as_json))


async def _discard(
    settings: DeadLetterSettings, request: Request, most: int | None, *, as_json: bool
) -> bool:
    """Returns False if it was stopped or failed."""
    from worker.cli import open_ports
    from worker.cli.progress import progress

    async with open_ports.changing_session(settings, request) as (session, _):
        stopping = stop_signal(_say_stopping)
        with progress("discarding", most) as display:
            remover = removal.discarding(session, stopping, display.more)
            failure = await _failure_of(remover.remove(most))
        if failure and not remover.gone:
            raise failure
        ending = view.Ending(stopping.is_set(), failure)
        view.discarded(remover.gone, remover.seen, ending, request.noun, as_json=as_json)
    return not ending.is_early


@app.command()
def export(
    *,
    reason: Reasons = None,
    department: Departments = None,
    tenant: Tenants = None,
    type_: Types = None,
    id_: Ids = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    limit: Limit = None,
    by: By = None,
    unlimited: Unlimited = False,
    unrouted: Unrouted = False,
    as_json: Json = False,
) -> None:
    """Write dead letters as JSON, one per line, to be edited and imported."""
    selection = selected(reason, department, tenant, type_, id_, since, until, text)
    request = Request(selection, by=by, assume_unlimited=unlimited, unrouted=unrouted)
    run(_export(_settings(), request, limit, output, as_json=as_json))


async def _export(
    settings: DeadLetterSettings, request: Request, most: int | None, path: Path | None, *, as_json: bool
) -> None:
    """Writes to a spool first, so that a slow reader of the output does not keep the queue from others."""
    from worker.cli import open_ports
    from worker.cli.progress import progress

    with output_file(path) as file, tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
        async with open_ports.reading_session(settings, request) as session:
            with progress("reading") as display:
                written = await transfer.export(session, most, spool, display.at)  # type: ignore[arg-type]
        spool.seek(0)
        with writing_to(path):
            if path is not None and file.seekable():
                file.truncate(0)
            file.writelines(map(terminal.ascii_json, spool))
            file.flush()
    if path is not None:
        view.exported_to(str(path), written, as_json=as_json)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="The edited output of export; - for stdin.", allow_dash=True)],
    *,
    discard_originals: Annotated[
        bool, typer.Option("--discard-originals", help="Afterwards, discard the original dead letters.")
    ] = False,
    yes: Yes = False,
    by: By = None,
    unlimited: Unlimited = False,
    as_json: Json = False,
) -> None:
    """Send edited letters to the work queue as new attempts of their events; none if one is invalid."""
    settings, edited = _settings(), transfer.read_import(read_text(file))
    if not edited:
        view.nothing_to_send(as_json=as_json)
        return
    if is_interactive() and not yes:
        run(_require_ledger(settings))
        ask(f"Send {len(edited):,} message{'s' * (len(edited) != 1)} to work?")
    request = Request(file=file, by=by, assume_unlimited=unlimited)
    run_to_exit(_import(settings, request, edited, discard_originals=discard_originals, as_json=as_json))


async def _import(
    settings: DeadLetterSettings,
    request: Request,
    edited: Sequence[transfer.Edited],
    *,
    discard_originals: bool,
    as_json: bool,
) -> bool:
    """Returns False if it was stopped."""
    from worker.cli import open_ports
    from worker.cli.progress import progress

    async with open_ports.changing_session(settings, request) as (session, _):
        stopping = stop_signal(_say_stopping)
        with progress("sending", len(edited)) as display:
            sent = await transfer.send_edited(session, edited, stopping, display.more)
        gone = await transfer.discard_originals(session, edited[:sent]) if discard_originals else None
        stopped = sent < len(edited)
        view.imported(sent, gone, stopped=stopped, as_json=as_json)
    return not stopped


@app.command()
def audit(
    since: Annotated[datetime | None, time_option("Actions since then; 2h: two hours ago.")] = None,
    by: Annotated[str | None, typer.Option(help="Actions of this operator.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Actions on this event or letter.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show who did what to which dead letter, and the outcome."""
    run(_audit(load(LedgerSettings, os.environ), since, by, id_, as_json=as_json))


async def _audit(
    settings: LedgerSettings, since: datetime | None, by: str | None, id_: str | None, *, as_json: bool
) -> None:
    from worker.cli import open_ports

    async with open_ports.ledger_to_read(settings) as (_, audit):
        lines = await audit.lines(since, by, id_)
    view.audit(lines, as_json=as_json)


def _confirmed_limit(verb: str, request: Request, limit: int | None, *, yes: bool) -> int | None:
    """Asks for consent and returns how many letters to take; on a terminal, no more than there are now."""
    asks = is_interactive() and not yes
    if not (asks or sys.stderr.isatty()):
        return limit
    present = run(_count(_settings(), request))
    most = present if limit is None else min(present, limit)
    if most and asks:
        chosen = view.filter_text(request.selection)
        ask(f"{verb} {most:,} {request.noun}{'s' * (most != 1)} ({chosen})?")
    return most


async def _count(settings: DeadLetterSettings, request: Request) -> int:
    """Raises `LedgerFailed` without a ledger, before the question: the change could not be recorded."""
    await _require_ledger(settings)
    return (await _summary(settings, request, 0)).selected


async def _require_ledger(settings: LedgerSettings) -> None:
    from worker.cli import open_ports

    async with open_ports.ledger_to_write(settings):
        pass


async def _failure_of(work: Awaitable[object]) -> UserError | None:
    """Returns the error that ended the work, so that its partial result can still be shown."""
    try:
        await work
    except UserError as error:
        return error
    return None


def _say_stopping() -> None:
    terminal.advise("stopping…")
