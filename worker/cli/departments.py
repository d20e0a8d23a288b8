"""`provisioner departments` and `provisioner reissue`."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import typer

from contracts.departments import DEFAULT_TENANT
from contracts.subaccounts import ResultCode, ResultKind
from contracts.topology import SECRETS, SECRETS_QUEUE, Namespace, secrets_queue
from worker.cli import terminal
from worker.cli.consent import ask, is_interactive
from worker.cli.documents import department_document, history_document, version_document
from worker.cli.loop import run, run_to_exit
from worker.cli.options import By, DepartmentId, Json, Limit, Tenant, Yes, spelt
from worker.core.decide import Policy
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.credentials import ANY_RECIPIENT
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.holds import Hold, HoldState
from worker.operations import departments as operations
from worker.operations import reset_version as resets
from worker.operations.departments import (
    MEANINGS,
    STATES,
    History,
    UnknownDepartment,
    credentials_state,
    pending,
    state_of,
)
from worker.operations.reset_version import Forgotten, Resetting, described
from worker.operations.wishes import Asking
from worker.settings.load import load
from worker.settings.model import LedgerSettings, PolicySettings, ReissueSettings

COLUMNS = ("tenant", "department", "name", "status", "auth id", "credentials", "newest event")
ROWS_AT_ONCE = 1000
"""Rows that are laid out together, as one table."""

app = typer.Typer(no_args_is_help=True, help="Show departments as the ledger has them, and help them on.")


def _state(text: str) -> str:
    if text not in STATES:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(STATES)}")
    return text


States = Annotated[
    list[str] | None,
    typer.Option("--status", parser=_state, metavar="STATUS", help=f"In this state: {', '.join(STATES)}."),
]


@app.command("list")
def list_(
    tenant: Annotated[
        str | None, typer.Option(parser=spelt, metavar="NAME", help="Only departments of this tenant.")
    ] = None,
    status: States = None,
    *,
    owed: Annotated[
        bool, typer.Option("--owed", help="Only those that owe credentials or enabling.")
    ] = False,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """List all departments with their state."""
    settings = load(PolicySettings, os.environ)
    run(_list(settings, tenant, status or [], owed=owed, limit=limit, as_json=as_json))


async def _list(
    settings: PolicySettings,
    tenant: str | None,
    states: Sequence[str],
    *,
    owed: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    from worker.cli import open_ports

    filtered = tenant is not None or bool(states) or owed
    async with (
        open_ports.ledger_to_read(settings) as (ledger, _),
        aclosing(operations.departments(ledger, tenant, states, owed=owed)) as entries,
    ):
        if as_json:
            await _print_departments(entries, limit, settings.policy)
        else:
            await _show_departments(
                entries, limit, "no department matches" if filtered else "no department yet"
            )


@app.command()
def show(department_id: DepartmentId, tenant: Tenant = DEFAULT_TENANT, *, as_json: Json = False) -> None:
    """Show the whole story of one department.

    Its subaccount and what becomes of it, what it waits for, the answer to each of its events, its holds, the
    last 50 calls to Plivo, and what people did. An idempotency key was sent with its call; Plivo's support
    asks for the api_id.
    """
    run(_show(load(PolicySettings, os.environ), Department(tenant, department_id), as_json=as_json))


async def _show(settings: PolicySettings, which: Department, *, as_json: bool) -> None:
    from worker.adapters.system import SystemClock
    from worker.cli import open_ports

    async with open_ports.ledger_to_read(settings) as (ledger, audit):
        found = await operations.history(ledger, audit, which, SystemClock().now())
    _show_history(found, settings.policy, as_json=as_json)


@app.command()
def recreate(
    department_id: DepartmentId,
    tenant: Tenant = DEFAULT_TENANT,
    *,
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Have the running worker create a new subaccount for a department whose own was deleted at Plivo.

    The worker looks once more first: a subaccount that is there is kept. The new credentials are issued with
    the next generation. Exit 1 if none was created. Asks first at a terminal.
    """
    settings = load(LedgerSettings, os.environ)
    which = Department(tenant, department_id)
    entry = run(_recreatable(settings, which))
    if is_interactive() and not yes:
        ask(f"Create a new subaccount for department {which.id} ({_standing(entry)})?")
    run_to_exit(_recreate(settings, which, by, as_json=as_json))


async def _recreatable(settings: LedgerSettings, which: Department) -> Entry:
    from worker.cli import open_ports

    async with open_ports.ledger_to_read(settings) as (ledger, _):
        return await operations.recreatable(ledger, which)


def _standing(entry: Entry) -> str:
    if entry.gone_at is not None:
        which = f"{entry.auth_id} is" if entry.auth_id else "its own is"
        return f"{which} gone since {terminal.moment(entry.gone_at)}"
    return f"{entry.auth_id} is not known to be gone; the worker looks first"


async def _recreate(settings: LedgerSettings, which: Department, by: str | None, *, as_json: bool) -> bool:
    """Returns whether a subaccount was created."""
    from worker.adapters.system import SystemClock, fresh_id, os_user
    from worker.cli import open_ports

    async with open_ports.ledger_to_write(settings) as (ledger, audit):
        asking = Asking(ledger, audit, SystemClock(), by or os_user(), fresh_id, _say_begun)
        answer = await asking.recreate(which)
    _show_recreated(which, answer, as_json=as_json)
    return answer.outcome is not ResultKind.FAILED


def _say_begun() -> None:
    terminal.advise("the worker has begun; a subaccount whose loss is new is asked for a while before")


@app.command("reset-version")
def reset_version(
    department_id: Annotated[str | None, typer.Argument(parser=spelt, metavar="DEPARTMENT")] = None,
    tenant: Annotated[
        str | None, typer.Option(parser=spelt, metavar="NAME", help="The tenant; with --source: all.")
    ] = None,
    *,
    source: Annotated[
        str | None, typer.Option(help="All departments whose newest event came from this source.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="With --source: all its departments, as without.")
    ] = False,
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forget the newest version of departments: the next event applies, whatever its sequence or time is.

    For a source that numbers its events anew, and for a version that a wrong clock made too new. An event
    that was answered stays answered. Exit 1 if a version was kept. Asks first at a terminal.
    """
    if (department_id is None) == (source is None) or (every and source is None):
        raise typer.BadParameter("name a DEPARTMENT, or a --source for all its departments")
    settings = load(LedgerSettings, os.environ)
    entries = run(_versions(settings, department_id, tenant, source))
    if entries and is_interactive() and not yes:
        ask(f"Forget {_versions_in_words(entries)}? The next event of any sequence then applies.")
    selection = f"--source {source}" if source is not None else str(department_id)
    run_to_exit(_reset(settings, entries, selection, by, as_json=as_json))


async def _versions(
    settings: LedgerSettings, department_id: str | None, tenant: str | None, source: str | None
) -> Sequence[Entry]:
    """The entries whose versions are to be forgotten."""
    from worker.cli import open_ports

    async with open_ports.ledger_to_read(settings) as (ledger, _):
        if source is not None:
            return await resets.of_source(ledger, source, tenant)
        which = Department(tenant or DEFAULT_TENANT, department_id or "")
        return [entry for entry in await resets.of_department(ledger, which) if entry.version]


def _versions_in_words(entries: Sequence[Entry]) -> str:
    if len(entries) == 1 and (version := entries[0].version):
        return f"{described(version)} as the newest of department {entries[0].department.id}"
    return f"the newest versions of {len(entries):,} departments"


async def _reset(
    settings: LedgerSettings, entries: Sequence[Entry], selection: str, by: str | None, *, as_json: bool
) -> bool:
    """Returns whether all versions were forgotten."""
    from worker.adapters.system import SystemClock, fresh_id, os_user
    from worker.cli import open_ports

    async with open_ports.ledger_to_write(settings) as (ledger, audit):
        resetting = Resetting(ledger, audit, SystemClock(), by or os_user(), fresh_id(), selection)
        results = await resetting.reset(entries)
    _show_reset(results, as_json=as_json)
    return all(result.left is None for result in results)


def reissue(
    department_id: DepartmentId,
    tenant: Tenant = DEFAULT_TENANT,
    *,
    recipient: Annotated[str | None, typer.Option(help="Only for this recipient; all by default.")] = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Have the running worker publish a department's credentials again; exit 1 if it did not."""
    settings = load(ReissueSettings, os.environ)
    which = Department(tenant, department_id)
    run_to_exit(_reissue(settings, which, recipient or None, by, as_json=as_json))


async def _reissue(
    settings: ReissueSettings, which: Department, recipient: str | None, by: str | None, *, as_json: bool
) -> bool:
    """Returns whether credentials were issued again."""
    from worker.adapters.system import SystemClock, fresh_id, os_user
    from worker.cli import open_ports

    async with open_ports.ledger_to_write(settings) as (ledger, audit):
        asking = Asking(ledger, audit, SystemClock(), by or os_user(), fresh_id)
        try:
            answer = await asking.reissue(which, recipient)
        except UnknownDepartment as unknown:
            if not as_json:
                raise
            _print_reissued(which, None, ResultCode.UNKNOWN_DEPARTMENT, str(unknown), {})
            return False
    _show_reissued(which, answer, settings.namespace, as_json=as_json)
    return answer.outcome is not ResultKind.FAILED


async def _print_departments(entries: AsyncIterator[Entry], limit: int | None, policy: Policy) -> None:
    with terminal.json_array() as add:
        printed = 0
        async for entry in entries:
            add(department_document(entry, policy))
            printed += 1
            if printed == limit:
                return


async def _show_departments(entries: AsyncIterator[Entry], limit: int | None, empty: str) -> None:
    """Shows tables of at most `ROWS_AT_ONCE` departments. `empty`: the text for one without rows."""
    rows: list[tuple[object, ...]] = []
    found = shown = held = 0
    async for entry in entries:
        found += 1
        held += entry.hold is not None and entry.hold.state is HoldState.WAITING
        if limit is None or shown < limit:
            rows.append(_entry_row(entry))
            shown += 1
        if len(rows) == ROWS_AT_ONCE:
            terminal.print_table(COLUMNS, rows, empty)
            rows.clear()
    if rows or not shown:
        terminal.print_table(COLUMNS, rows, empty)
    if shown < found:
        terminal.say(f"and {found - shown:,} more; --limit shows more", "dim")
    if held:
        which = "1 removal waits" if held == 1 else f"{held:,} removals wait"
        terminal.say(f"{which} for a person: `provisioner holds list`", "dim")


def _show_history(found: History, policy: Policy, *, as_json: bool) -> None:
    if as_json:
        terminal.print_json(history_document(found, policy))
        return
    terminal.print_facts(found.entry.department.id, _facts(found.entry, policy))
    if waiting := [(one.what, one.since, one.next_try) for one in pending(found.entry)]:
        terminal.print_table(("waits for", "since", "next try"), waiting, "")
    columns = ("answered at", "event", "type", "version", "outcome", "confirmed", "reason")
    terminal.print_table(columns, map(_answer_row, found.answers), "no event answered yet")
    if found.holds:
        terminal.print_table(
            ("id", "reason", "state", "held at", "event", "detail"), map(_hold_row, found.holds), ""
        )
    if found.calls:
        terminal.print_table(
            ("called at", "operation", "status", "api_id", "idempotency key", "error"),
            map(_call_row, found.calls),
            "",
        )
    if found.lines:
        lines = [(line.at, line.by, line.action, line.outcome) for line in found.lines]
        terminal.print_table(("audited at", "by", "action", "outcome"), lines, "")


def _facts(entry: Entry, policy: Policy) -> dict[str, object]:
    """The facts for a person; `--json` has more."""
    tenant, state = entry.department.tenant, state_of(entry)
    what_comes = operations.fate(entry, policy)
    return {
        "tenant": tenant if tenant != DEFAULT_TENANT else None,
        "name": entry.name,
        "status": f"{state}: {MEANINGS[state]}" + (f"; {what_comes}" if what_comes else ""),
        "auth id": entry.auth_id,
        "credentials": credentials_state(entry),
        "newest event": f"{described(entry.version)}, {entry.version.kind}" if entry.version else None,
        "created at": entry.created_at,
        "removed at": entry.removal.removed_at if entry.removal else None,
        "gone since": entry.gone_at,
        "last api_id": entry.api_id,
        "reissued at": entry.issued.reissued_at if entry.issued else None,
        "what to do": operations.advice(entry),
    }


def _show_recreated(which: Department, answer: Answer, *, as_json: bool) -> None:
    created = answer.outcome is not ResultKind.FAILED
    if as_json:
        ids = {"tenant": which.tenant, "department_id": which.id, "recreated": created}
        what = {"outcome": answer.outcome, "code": answer.code, "auth_id": answer.auth_id}
        terminal.print_json(ids | what | {"reason": answer.reason, "id": answer.event.id})
    elif created:
        terminal.say(f"department {which.id}: {answer.outcome} {answer.auth_id}, its credentials are issued")
    else:
        terminal.complain([f"department {which.id}: {answer.code}: {answer.reason}"])


def _show_reset(results: Sequence[Forgotten], *, as_json: bool) -> None:
    reset = [(one.department, one.version) for one in results if one.version is not None]
    left = [one for one in results if one.left is not None]
    if as_json:
        forgotten = [
            {"tenant": which.tenant, "department_id": which.id, "version": version_document(version)}
            for which, version in reset
        ]
        kept = [
            {"tenant": one.department.tenant, "department_id": one.department.id, "why": one.left}
            for one in left
        ]
        terminal.print_json({"reset": forgotten, "left": kept})
        return
    for one in left:
        terminal.complain([f"department {one.department.id}: {one.left}"])
    rows = [(*which, described(version)) for which, version in reset]
    terminal.print_table(("tenant", "department", "forgotten"), rows, "nothing to forget")


def _show_reissued(which: Department, answer: Answer, namespace: Namespace, *, as_json: bool) -> None:
    recipients = sorted(answer.recipients - {ANY_RECIPIENT})
    queues = [namespace.of(secrets_queue(one)) for one in recipients] or [namespace.of(SECRETS_QUEUE)]
    exchange = namespace.of(SECRETS)
    issued = answer.outcome is not ResultKind.FAILED
    if as_json:
        where = {"exchange": exchange, "queues": queues, "recipients": recipients}
        _print_reissued(which, answer, answer.code, answer.reason, where if issued else {})
    elif issued:
        place = f"through the exchange {exchange}, in {', '.join(queues)}"
        terminal.say(f"department {which.id}: {answer.reason}, {place}")
    else:
        terminal.complain([f"department {which.id}: {answer.reason} ({answer.code})"])


def _print_reissued(
    which: Department, answer: Answer | None, code: ResultCode, reason: str | None, where: dict[str, Any]
) -> None:
    nowhere: dict[str, Any] = {"exchange": None, "queues": [], "recipients": []}
    ids = {"tenant": which.tenant, "department_id": which.id, "issued": code is ResultCode.REISSUED}
    known = {"auth_id": answer and answer.auth_id, "id": answer and answer.event.id}
    terminal.print_json(ids | {"code": code, "reason": reason} | known | nowhere | where)


def _entry_row(entry: Entry) -> tuple[object, ...]:
    newest = f"{entry.version.kind} {terminal.moment(entry.version.time)}" if entry.version else None
    return (*entry.department, entry.name, state_of(entry), entry.auth_id, credentials_state(entry), newest)


def _answer_row(answer: Answer) -> tuple[object, ...]:
    event = answer.event
    newness = described(answer.version).partition(" of ")[0] if answer.version else None
    return (
        answer.answered_at,
        event.id,
        event.type,
        newness,
        answer.outcome,
        answer.confirmed,
        answer.reason,
    )


def _hold_row(hold: Hold) -> tuple[object, ...]:
    return hold.id, hold.reason, hold.state, hold.held_at, hold.cause.reference.id, hold.detail


def _call_row(call: CallNote) -> tuple[object, ...]:
    status = "no response" if call.status is None else call.status
    return call.at, call.operation, status, call.api_id, call.idempotency_key, call.error
