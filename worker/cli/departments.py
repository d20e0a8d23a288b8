"""`provisioner departments` and `provisioner reissue`."""

import os
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from contracts.subaccounts import ResultKind
from worker.cli import terminal
from worker.cli.loop import run, run_to_exit
from worker.cli.options import DepartmentId, Json, Tenant, spelt
from worker.core.model import NO_TRACE, Answer, Department, Entry
from worker.operations import departments as operations
from worker.operations.departments import History, credentials_state
from worker.operations.wishes import Asking
from worker.settings.load import load
from worker.settings.model import LedgerSettings

app = typer.Typer(no_args_is_help=True, help="Show departments as the ledger has them.")


@app.command("list")
def list_(
    tenant: Annotated[
        str | None, typer.Option(parser=spelt, metavar="NAME", help="Only departments of this tenant.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """List all departments with their state."""
    run(_list(load(LedgerSettings, os.environ), tenant, as_json=as_json))


async def _list(settings: LedgerSettings, tenant: str | None, *, as_json: bool) -> None:
    from worker.cli import open_ports

    async with open_ports.ledger_to_read(settings) as (ledger, _):
        entries = await operations.departments(ledger, tenant)
    _show_departments(entries, as_json=as_json)


@app.command()
def show(department_id: DepartmentId, tenant: Tenant = "default", *, as_json: Json = False) -> None:
    """Show one department: its subaccount, its debts, and the answer to each of its events."""
    run(_show(load(LedgerSettings, os.environ), Department(tenant, department_id), as_json=as_json))


async def _show(settings: LedgerSettings, which: Department, *, as_json: bool) -> None:
    from worker.cli import open_ports

    async with open_ports.ledger_to_read(settings) as (ledger, _):
        found = await operations.history(ledger, which)
    _show_history(found, as_json=as_json)


def reissue(
    department_id: DepartmentId,
    tenant: Tenant = "default",
    *,
    recipient: Annotated[str | None, typer.Option(help="Only for this recipient; all by default.")] = None,
    by: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="The operator; the OS user by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Have the running worker publish a department's credentials again; exit 1 if it did not."""
    settings = load(LedgerSettings, os.environ)
    which = Department(tenant, department_id)
    run_to_exit(_reissue(settings, which, recipient or None, by, as_json=as_json))


async def _reissue(
    settings: LedgerSettings, which: Department, recipient: str | None, by: str | None, *, as_json: bool
) -> bool:
    """Returns whether credentials were issued again."""
    from worker.adapters.system import SystemClock, fresh_id, os_user
    from worker.cli import open_ports

    async with open_ports.ledger_to_write(settings) as (ledger, audit):
        asking = Asking(ledger, audit, SystemClock(), by or os_user(), fresh_id)
        answer = await asking.reissue(which, recipient)
    _show_reissued(which, answer, as_json=as_json)
    return answer.outcome is not ResultKind.FAILED


_HIDDEN = frozenset({"owed_to", "version", "claim", "issued_for", "issued_trace", "revision", "enable_owed"})


def _show_departments(entries: Sequence[Entry], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json([_document(_entry_members(entry)) for entry in entries])
        return
    columns = ("tenant", "department", "name", "status", "auth id", "credentials", "newest event")
    terminal.print_table(columns, map(_entry_row, entries), "no department yet")


def _show_history(found: History, *, as_json: bool) -> None:
    entry = _entry_members(found.entry)
    if as_json:
        answers = [_answer_document(answer) for answer in found.answers]
        terminal.print_json(_document(entry) | {"answers": answers})
        return
    shown = entry | {"credentials": credentials_state(found.entry)}
    facts = {name.replace("_", " "): value for name, value in shown.items() if name not in _HIDDEN}
    terminal.print_facts(found.entry.department.id, facts)
    columns = ("answered at", "event", "type", "outcome", "confirmed", "reason")
    terminal.print_table(columns, map(_answer_row, found.answers), "no event answered yet")


def _show_reissued(which: Department, answer: Answer, *, as_json: bool) -> None:
    issued = answer.outcome is not ResultKind.FAILED
    if as_json:
        ids = {"tenant": which.tenant, "department_id": which.id, "issued": issued}
        what = {"code": answer.code, "auth_id": answer.auth_id, "reason": answer.reason}
        terminal.print_json(ids | what | {"id": answer.event.id})
    elif issued:
        terminal.say(f"department {which.id}: {answer.reason}")
    else:
        terminal.complain([f"department {which.id}: {answer.reason}"])


def _entry_row(entry: Entry) -> tuple[object, ...]:
    newest = f"{entry.version.kind} {terminal.moment(entry.version.time)}" if entry.version else None
    return (*entry.department, entry.name, entry.status, entry.auth_id, credentials_state(entry), newest)


def _answer_row(answer: Answer) -> tuple[object, ...]:
    event = answer.event
    return (answer.answered_at, event.id, event.type, answer.outcome, answer.confirmed, answer.reason)


def _entry_members(entry: Entry) -> dict[str, Any]:
    """What is shown of an entry, by its JSON key: all but the token's fingerprint."""
    issued, debt, check = entry.issued, entry.debt, entry.check
    return {
        "tenant": entry.department.tenant,
        "department_id": entry.department.id,
        "revision": entry.revision,
        "status": entry.status,
        "incarnation": entry.incarnation,
        "generation": entry.generation,
        "name": entry.name,
        "auth_id": entry.auth_id,
        "version": entry.version,
        "version_type": entry.version_type,
        "claim": entry.claim,
        "owed_to": entry.owed_to,
        "issued_for": issued.cause if issued else None,
        "issued_trace": issued.trace if issued else NO_TRACE,
        "owed_at": debt.retry_at if debt else None,
        "created_at": entry.created_at,
        "removed_at": entry.removal.removed_at if entry.removal else None,
        "check_at": check.at if check else None,
        "late_call": check is not None and check.late_call,
        "recount_at": entry.duplicates_check_at,
        "enable_owed": debt is not None and debt.enable,
        "reissued_at": issued.reissued_at if issued else None,
        "mends": entry.repairs,
    }


def _document(members: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = TypeAdapter(dict[str, Any]).dump_python(members, mode="json")
    return document


def _answer_document(answer: Answer) -> dict[str, Any]:
    document: dict[str, Any] = TypeAdapter(Answer).dump_python(answer, mode="json")
    document["event"] = dict(zip(("source", "id", "type"), document["event"], strict=True))
    return {name: value for name, value in document.items() if name not in {"department", "trace"}}
