"""`provisioner holds`."""

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from worker.cli import terminal
from worker.cli.consent import ask, is_interactive
from worker.cli.documents import audit_documents, hold_document
from worker.cli.loop import run, run_to_exit
from worker.cli.options import By, Departments, Json, Tenants, Yes, one_of
from worker.core.decide import Policy
from worker.core.model.holds import Hold, HoldReason, HoldState
from worker.core.model.wishes import Approving, Rejecting
from worker.operations import holds as operation
from worker.operations.holds import Ending, HoldFilter, HoldStory, Outcome, Ruled, Rulings
from worker.operations.wishes import Asking
from worker.settings.load import load
from worker.settings.model import LedgerSettings, PolicySettings

WHAT_NEXT = (
    "`provisioner holds show ID` tells what an approval does; `provisioner holds approve ID` or `reject ID`,"
    " with one id or several, decides"
)

app = typer.Typer(no_args_is_help=True, help="List held removals, and approve or reject them.")

HoldIds = Annotated[list[str], typer.Argument(metavar="ID...", help="The ids of holds, from list.")]
NoWait = Annotated[
    bool,
    typer.Option("--no-wait", help="Leave it for the worker, for 24 h, and do not wait until it is done."),
]


@app.command("list")
def list_(
    *,
    all_: Annotated[bool, typer.Option("--all", help="Also those that do not wait any more.")] = False,
    reason: Annotated[
        list[HoldReason] | None,
        typer.Option(
            parser=one_of(HoldReason), metavar="REASON", help=f"The reason: {', '.join(HoldReason)}."
        ),
    ] = None,
    department: Departments = None,
    tenant: Tenants = None,
    as_json: Json = False,
) -> None:
    """List the removals that wait for a person, oldest first."""
    which = HoldFilter(all_, tuple(reason or ()), tuple(department or ()), tuple(tenant or ()))
    run(_list(load(LedgerSettings, os.environ), which, as_json=as_json))


async def _list(settings: LedgerSettings, which: HoldFilter, *, as_json: bool) -> None:
    from worker.adapters.system import SystemClock
    from worker.cli import open_ports

    async with open_ports.ledger_to_read(settings) as (ledger, _):
        found = await operation.holds(ledger, SystemClock().now(), which)
    if as_json:
        terminal.print_json([hold_document(hold) for hold in found])
        return
    rows = [_row(hold, with_state=which.all_) for hold in found]
    filtered = which != HoldFilter(all_=which.all_)
    state = ("state",) if which.all_ else ()
    columns = ("id", "tenant", "department", "name", "reason", *state, "held at", "detail")
    terminal.print_table(columns, rows, "no hold matches" if filtered else "no removal is held")
    if any(hold.state is HoldState.WAITING for hold in found):
        terminal.say(WHAT_NEXT, "dim")


def _row(hold: Hold, *, with_state: bool) -> tuple[object, ...]:
    state = (hold.state,) if with_state else ()
    return (hold.id, *hold.department, hold.name, hold.reason, *state, hold.held_at, hold.detail)


@app.command()
def show(hold_id: Annotated[str, typer.Argument(metavar="ID")], *, as_json: Json = False) -> None:
    """Show one hold: why it is held, what an approval or a rejection does, and its history."""
    run(_show(load(PolicySettings, os.environ), hold_id, as_json=as_json))


async def _show(settings: PolicySettings, hold_id: str, *, as_json: bool) -> None:
    from worker.adapters.system import SystemClock
    from worker.cli import open_ports

    async with open_ports.ledger_to_read(settings) as (ledger, audit):
        story = await operation.hold_story(ledger, audit, SystemClock().now(), hold_id)
    if as_json:
        consequences = _consequences(story.hold, settings.policy)
        terminal.print_json(
            hold_document(story.hold) | consequences | {"audit": audit_documents(story.lines)}
        )
        return
    _print_story(story, settings.policy)


def _consequences(hold: Hold, policy: Policy) -> dict[str, str | None]:
    return {
        "approval": operation.consequence(hold, policy) if hold.is_open else None,
        "rejection": operation.rejection(hold) if hold.is_open else None,
    }


def _print_story(story: HoldStory, policy: Policy) -> None:
    hold = story.hold
    event, ruling, consequences = hold.cause.reference, hold.ruling, _consequences(hold, policy)
    facts = {
        "department": hold.department.id,
        "tenant": hold.department.tenant,
        "name": hold.name,
        "auth id": hold.auth_id,
        "reason": hold.reason,
        "detail": hold.detail,
        "state": hold.state,
        "ruled by": f"{ruling.by}, {terminal.moment(ruling.at)}" if ruling else None,
        "held at": hold.held_at,
        "event": f"{event.id} of {event.source}",
        "type": event.type,
        "hangs on it": str(hold.resources) if hold.resources else None,
        "an approval": consequences["approval"],
        "a rejection": consequences["rejection"],
        "to approve": operation.approval_command(hold) if hold.is_open else None,
        "to reject": f"provisioner holds reject {hold.id}" if hold.is_open else None,
    }
    terminal.print_facts(hold.id, facts)
    columns = ("at", "by", "action", "outcome")
    lines = [(line.at, line.by, line.action, line.outcome) for line in story.lines]
    if lines:
        terminal.print_table(columns, lines, "")


@app.command()
def approve(
    hold_ids: HoldIds,
    *,
    cascade: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID=COUNT",
            help="Destroy the resources too, if there are COUNT at that moment; else nothing is done.",
        ),
    ] = None,
    by: By = None,
    no_wait: NoWait = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Have the running worker carry out the removals held under these ids, and no others.

    The worker decides again at that moment: whether the removal is the newest event still, and of which
    subaccount. Exit 1 if one was not taken or not done; the others are. Asks first at a terminal.
    """
    ids = list(dict.fromkeys(hold_ids))
    counts = _cascades(ids, cascade or ())
    asks = [Approving(hold_id, counts.get(hold_id)) for hold_id in ids]
    question = f"Approve {_in_words(ids)}?"
    if counts:
        destroyed = ", ".join(f"{count:,} of {hold_id}" for hold_id, count in counts.items())
        question = f"Approve {_in_words(ids)}, and destroy resources for good ({destroyed})?"
    _rule(asks, question, by, yes=yes, waits=not no_wait, as_json=as_json)


@app.command()
def reject(
    hold_ids: HoldIds, *, by: By = None, no_wait: NoWait = False, yes: Yes = False, as_json: Json = False
) -> None:
    """Have the running worker drop the removals held under these ids.

    A department that is active stays active; one that is disabled stays disabled and is not deleted. Exit 1
    if one was not taken or not done; the others are. Asks first at a terminal.
    """
    ids = list(dict.fromkeys(hold_ids))
    asks = [Rejecting(hold_id) for hold_id in ids]
    _rule(asks, f"Reject {_in_words(ids)}?", by, yes=yes, waits=not no_wait, as_json=as_json)


def _cascades(ids: Sequence[str], given: Sequence[str]) -> dict[str, int]:
    """The number of resources to be destroyed, by hold."""
    counts: dict[str, int] = {}
    for text in given:
        hold_id, _, count = text.rpartition("=")
        if not (count.isascii() and count.isdigit() and int(count) > 0):
            raise typer.BadParameter(f"--cascade {text}: write ID=COUNT, with the number of all resources")
        if hold_id not in ids:
            raise typer.BadParameter(
                f"--cascade {text}: {hold_id or 'no id'} is not among the ids to approve"
            )
        if counts.setdefault(hold_id, int(count)) != int(count):
            raise typer.BadParameter(f"--cascade {text}: another count for this id was given before")
    return counts


def _in_words(ids: Sequence[str]) -> str:
    return f"the removal held under {ids[0]}" if len(ids) == 1 else f"{len(ids):,} held removals"


def _rule(
    asks: Sequence[Ruled], question: str, by: str | None, *, yes: bool, waits: bool, as_json: bool
) -> None:
    settings = load(LedgerSettings, os.environ)
    if is_interactive() and not yes:
        ask(question)
    run_to_exit(_carry_out(settings, asks, by, waits=waits, as_json=as_json))


async def _carry_out(
    settings: LedgerSettings, asks: Sequence[Ruled], by: str | None, *, waits: bool, as_json: bool
) -> bool:
    """Returns whether each was done, or left if nobody waits."""
    from worker.adapters.system import SystemClock, fresh_id, os_user
    from worker.cli import open_ports
    from worker.cli.progress import progress

    async with open_ports.ledger_to_write(settings) as (ledger, audit):
        asking = Asking(ledger, audit, SystemClock(), by or os_user(), fresh_id)
        with progress("waiting for the worker", len(asks)) as display:
            outcomes = await Rulings(asking, display.at).ask(asks, waits=waits)
    _show_outcomes(outcomes, as_json=as_json)
    return all(outcome.well for outcome in outcomes)


def _show_outcomes(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json([_outcome_document(outcome) for outcome in outcomes])
        return
    rows = [(one.id, one.ending, one.detail) for one in outcomes if one.well]
    if rows:
        terminal.print_table(("id", "", "detail"), rows, "")
    terminal.complain(
        f"hold {one.id}: {_words(one.ending)}: {one.detail}" for one in outcomes if not one.well
    )


def _words(ending: Ending) -> str:
    return ending.replace("-", " ")


def _outcome_document(outcome: Outcome) -> dict[str, object]:
    hold = outcome.hold
    document: dict[str, object] = hold_document(hold) if hold else {"id": outcome.id}
    return document | {"ending": outcome.ending, "why": outcome.detail}
