"""`provisioner plan`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from worker.cli import terminal
from worker.cli.documents import Document, event_document, history_document
from worker.cli.files import read_bytes
from worker.cli.loop import run
from worker.cli.options import Json
from worker.core.decide import Policy
from worker.core.forecast import Planned
from worker.core.model.causes import Event
from worker.operations import plan as operation
from worker.operations.departments import MEANINGS, History, fate, history_so_far, state_of
from worker.operations.plan import Plan
from worker.pipeline.reading import Unreadable
from worker.settings.load import load
from worker.settings.model import PlanSettings

WORDS = {
    Planned.CREATE: "create a subaccount",
    Planned.ADOPT: "look for the subaccount of a create that is under way",
    Planned.RENAME: "rename the subaccount",
    Planned.RESTORE: "enable the subaccount again",
    Planned.DISABLE: "disable the subaccount",
    Planned.DELETE: "delete the subaccount",
    Planned.HOLD: "hold the removal for a person",
    Planned.SKIP: "change nothing",
    Planned.REPUBLISH: "publish the recorded result again",
    Planned.REFUSE: "dead-letter the event",
}


def plan(
    file: Annotated[
        Path,
        typer.Option(metavar="FILE", help="One event as JSON, as `emit --json` prints it; - is stdin."),
    ],
    *,
    as_json: Json = False,
) -> None:
    """Show what would happen to an event now. Changes nothing, and asks no provider.

    The event is read and decided as a worker with these settings would. The number of calls to Plivo is the
    least: it takes Plivo to be as the ledger has it. Exit 0 if the event could be read, also if it would be
    refused.
    """
    settings = load(PlanSettings, os.environ)
    run(_plan(settings, operation.event_in(read_bytes(file)), as_json=as_json))


async def _plan(settings: PlanSettings, reading: Event | Unreadable, *, as_json: bool) -> None:
    from worker.adapters.system import SystemClock
    from worker.cli import open_ports

    now = SystemClock().now()
    async with open_ports.ledger_to_plan(settings) as (ledger, audit):
        made = await operation.plan(ledger, reading, settings.policy, now)
        story = await history_so_far(ledger, audit, made.department, now) if made.department else None
    if as_json:
        terminal.print_json(_document(made, story, settings.policy))
    else:
        _print(made, story, settings.policy)


def _document(made: Plan, story: History | None, policy: Policy) -> Document:
    forecast = made.forecast
    return {
        "decision": forecast.decision,
        "outcome": forecast.outcome,
        "reason": forecast.reason,
        "detail": forecast.detail,
        "calls": forecast.calls,
        "event": event_document(made.event),
        "department": history_document(story, policy) if story else None,
    }


def _print(made: Plan, story: History | None, policy: Policy) -> None:
    forecast = made.forecast
    facts = {
        "event": f"{made.event.id} of {made.event.source}",
        "type": made.event.type,
        "department": made.department.id if made.department else None,
        "tenant": made.department.tenant if made.department else None,
        "now": _standing(story, policy) if story else None,
        "decision": f"{forecast.decision}: {WORDS[forecast.decision]}",
        "outcome": forecast.outcome or "only Plivo can tell",
        "reason": forecast.reason,
        "detail": forecast.detail,
        "calls": f"at least {forecast.calls} to Plivo" if forecast.calls else "none to Plivo",
    }
    terminal.print_facts("what would happen now", facts)
    terminal.say(
        f"by PROVISIONER_REMOVAL={policy.removal},"
        f" PROVISIONER_UNKNOWN_RENAME={policy.unknown_rename}; nothing was changed",
        "dim",
    )


def _standing(story: History, policy: Policy) -> str:
    state = state_of(story.entry)
    comes = fate(story.entry, policy)
    return f"{state}: {MEANINGS[state]}" + (f"; {comes}" if comes else "")
