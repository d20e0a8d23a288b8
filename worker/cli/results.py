"""`provisioner results`, and how results are shown."""

import os
from collections.abc import Sequence
from typing import Annotated

import typer
from pydantic_core import to_json

from contracts.departments import DEFAULT_TENANT
from contracts.subaccounts import ResultKind
from worker.cli import terminal
from worker.cli.loop import run
from worker.cli.options import Departments, Limit, Tenants, one_of
from worker.core.visible import visible
from worker.operations.results import NOT_DONE, Heard, ResultFilter
from worker.operations.results import results as operation
from worker.settings.load import load
from worker.settings.model import BrokerSettings

LISTEN_SECONDS = 5.0
GAP = "  "
WIDTHS = (20, 10, 20)
"""Of time, outcome and department. Later cells are ids, whose width varies."""

Outcomes = Annotated[
    list[ResultKind] | None,
    typer.Option(
        "--outcome", parser=one_of(ResultKind), metavar="OUTCOME", help=f"One of {', '.join(ResultKind)}."
    ),
]


def results(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    limit: Limit = None,
    department: Departments = None,
    tenant: Tenants = None,
    outcome: Outcomes = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line.")] = False,
) -> None:
    """Print results as they are published: from now on, not those of before.

    Without --follow it listens for 5 s. It takes no message from anybody: it has a queue of its own.
    """
    chosen = ResultFilter(tuple(department or ()), tuple(tenant or ()), tuple(outcome or ()))
    run(_results(load(BrokerSettings, os.environ), chosen, limit, follow=follow, as_json=as_json))


async def _results(
    settings: BrokerSettings, chosen: ResultFilter, limit: int | None, *, follow: bool, as_json: bool
) -> None:
    from worker.cli import open_ports

    shown = 0
    async with open_ports.listener(settings) as listener:
        terminal.advise("listening for results; Ctrl-C stops" if follow else "listening for results for 5 s")
        async for heard in operation(listener, chosen, None if follow else LISTEN_SECONDS):
            _print(heard, as_json=as_json)
            shown += 1
            if shown == limit:
                return
    if not shown:
        terminal.advise("no result came; --follow keeps listening")


def _print(heard: Heard, *, as_json: bool) -> None:
    """Prints one result at once, also into a pipe."""
    if as_json:
        terminal.write(terminal.ascii_json(to_json(heard.document)).decode() + "\n")
    else:
        for line in _lines(heard):
            terminal.say(line)
    terminal.flush()


def _lines(heard: Heard) -> list[str]:
    """One line, or two on a terminal that is too narrow, and one more for the reason."""
    data = heard.data
    department = data.department_id or "?"
    if data.tenant not in {None, DEFAULT_TENANT}:
        department = f"{data.tenant}/{department}"
    first = [terminal.moment(heard.result.time), data.outcome.value, department]
    columns = [cell.ljust(width) for cell, width in zip(map(visible, first), WIDTHS, strict=True)]
    head = GAP.join(columns)
    ids = (data.auth_id, heard.event.id if heard.event else None)
    rest = GAP.join(visible(one) for one in ids if one)
    indent = " " * (WIDTHS[0] + len(GAP))
    fits = len(head) + len(GAP) + len(rest) <= terminal.OUT.width
    lines = [head + GAP + rest] if fits else [head.rstrip(), indent + rest]
    reason = why(heard)
    return [*lines, *([indent + reason] if reason else [])]


def why(heard: Heard) -> str:
    """The code of a result if it says more than the outcome, its reason, and what supersedes the event."""
    data = heard.data
    newer = data.superseded_by
    said = (data.reason or "").startswith("superseded by ")
    named = (
        (f"event {newer.id}" if said else f"superseded by {newer.id} of {newer.source}") if newer else None
    )
    told = data.code.value == data.outcome.value or (data.reason or "").startswith(data.code.value)
    return "; ".join(part for part in (None if told else data.code.value, data.reason, named) if part)


def show_answers(answers: Sequence[Heard], *, as_json: bool) -> None:
    """Shows the answers to emitted events: a table, or the result messages as a JSON list."""
    if as_json:
        terminal.print_json([heard.document for heard in answers])
        return
    rows = [
        (heard.data.outcome.value, heard.data.department_id, heard.data.auth_id, heard.event.id)
        for heard in answers
        if heard.event
    ]
    terminal.print_table(("outcome", "department", "auth id", "event id"), rows, "no answer")
    reasons = [(heard.event.id, text) for heard in answers if heard.event and (text := why(heard))]
    if reasons:
        terminal.print_table(("event id", "reason"), reasons, "")


def is_done(answers: Sequence[Heard]) -> bool:
    """Whether every answer is final."""
    return not any(heard.data.outcome in NOT_DONE for heard in answers)
