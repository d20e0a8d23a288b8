"""`provisioner status`."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from contracts import topology as names
from worker.cli import terminal
from worker.cli.loop import run_to_exit
from worker.cli.options import Json
from worker.core.model.entry import Status
from worker.core.presence import WorkerSeen
from worker.operations.status import InLedger, InQueues, Overview, in_ledger
from worker.ports import UserError
from worker.settings.load import load
from worker.settings.model import StatusSettings


def status(*, as_json: Json = False) -> None:
    """Show the workers, departments and queues, and what needs a person. Exit code 1 if something does."""
    run_to_exit(_status(load(StatusSettings, os.environ), as_json=as_json))


async def _status(settings: StatusSettings, *, as_json: bool) -> bool:
    """Returns whether nothing needs a person."""
    unseen: list[str] = []
    ledger = await _in_ledger(settings, unseen)
    overview = Overview(ledger, await _in_queues(settings, unseen), unseen)
    if as_json:
        terminal.print_json(document(overview))
        terminal.complain(overview.unseen)
    else:
        _print(overview)
    return not overview.needs


async def _in_ledger(settings: StatusSettings, unseen: list[str]) -> InLedger | None:
    from worker.adapters.system import SystemClock
    from worker.cli import open_ports

    try:
        async with open_ports.ledger_to_read(settings) as (ledger, _):
            return await in_ledger(ledger, SystemClock())
    except UserError as error:
        unseen += str(error).splitlines()
        return None


async def _in_queues(settings: StatusSettings, unseen: list[str]) -> InQueues:
    from worker.cli import open_ports

    own = (names.WORK_QUEUE, names.DEAD_LETTER_QUEUE, names.UNROUTED_QUEUE)
    work, dead_letters, unrouted = map(settings.namespace.of, own)
    parking = [settings.namespace.of(names.retry_queue(delay)) for delay in settings.retry_delays]
    queues = [work, dead_letters, unrouted, *parking]
    try:
        ready = await open_ports.depths(settings, queues)
    except UserError as error:
        unseen += str(error).splitlines()
        return InQueues()
    if hidden := [queue for queue in queues if queue not in ready]:
        why = "missing, or not shown to this user: `provisioner topology check`"
        unseen.append(f"{', '.join(hidden)}: {why}")
    parked = [ready[queue] for queue in parking if queue in ready]
    return InQueues(
        ready=ready.get(work),
        parked=sum(parked) if parked else None,
        dead_letters=ready.get(dead_letters),
        unrouted=ready.get(unrouted),
        unacked=await _unacked(settings, work, unseen),
    )


async def _unacked(settings: StatusSettings, queue: str, unseen: list[str]) -> int | None:
    from worker.cli import open_ports

    managed = open_ports.objects_in_effect(settings)
    try:
        return await managed.unacked(queue) if managed else None
    except UserError as error:
        unseen += str(error).splitlines()
        return None


def document(overview: Overview) -> Mapping[str, Any]:
    """The state as JSON; null for what could not be read."""
    ledger, queues = overview.ledger, overview.queues
    return {
        "workers": [_worker_document(worker) for worker in overview.workers],
        "departments": _departments(ledger) if ledger else None,
        "queue": {"ready": queues.ready, "unacked": queues.unacked},
        "parked": queues.parked,
        "dead_letters": queues.dead_letters,
        "holds": ledger.holds if ledger else None,
        "debts_overdue": ledger.debts_overdue if ledger else None,
        "unrouted": queues.unrouted,
        "circuit": overview.circuit,
    }


def _worker_document(worker: WorkerSeen) -> Mapping[str, Any]:
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "started_at": worker.started_at,
        "seen_at": worker.seen_at,
        "consuming": worker.consuming,
        "rate_share": worker.rate_share,
        "problems": worker.problems,
    }


def _departments(ledger: InLedger) -> Mapping[str, int]:
    return {str(one): ledger.departments.get(one, 0) for one in Status}


def _print(overview: Overview) -> None:
    problems = ("problems",) if any(worker.problems for worker in overview.workers) else ()
    columns = ("host", "pid", "version", "started at", "consuming", "rate share", *problems)
    rows = [_row(worker)[: len(columns)] for worker in overview.workers]
    terminal.print_table(columns, rows, "no worker runs")
    terminal.print_facts("in all", _facts(overview))
    if not overview.needs:
        terminal.say("nothing needs a person", "green")
        return
    terminal.say("needs a person:", "bold")
    for line in overview.needs:
        terminal.say(f"  {line}")


def _row(worker: WorkerSeen) -> Sequence[object]:
    return (
        worker.host,
        worker.pid,
        worker.version,
        worker.started_at,
        worker.consuming,
        worker.rate_share,
        "; ".join(worker.problems),
    )


def _facts(overview: Overview) -> Mapping[str, object]:
    ledger, queues = overview.ledger, overview.queues
    unacked = "" if queues.unacked is None else f", {queues.unacked:,} unacked"
    counts = _departments(ledger).items() if ledger else ()
    return {
        "departments": ", ".join(f"{number:,} {status}" for status, number in counts if number)
        or ("none" if ledger else "unknown"),
        "work queue": f"{_shown(queues.ready)} ready{unacked}",
        "parked": _shown(queues.parked),
        "dead letters": _shown(queues.dead_letters),
        "unrouted": _shown(queues.unrouted),
        "held removals": _shown(ledger.holds if ledger else None),
        "debts overdue": _shown(ledger.debts_overdue if ledger else None),
        "circuit": overview.circuit or "unknown",
    }


def _shown(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"
