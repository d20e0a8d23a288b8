"""`provisioner events`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, NoReturn

import typer
from pydantic import TypeAdapter

from contracts import topology as names
from contracts.departments import DEFAULT_TENANT
from worker.cli import terminal
from worker.cli.loop import run
from worker.cli.options import Json, Request, Unlimited
from worker.core.dead_letters import Letter, Selection
from worker.operations import events as operation
from worker.operations.events import Course, Evidence, UnknownEvent
from worker.ports import UserError
from worker.settings.load import load
from worker.settings.model import EventSettings

PLACES = LEDGER, DEAD_LETTERS, UNROUTED = "ledger and audit", "dead letters", "unrouted messages"

app = typer.Typer(no_args_is_help=True, help="Show what became of an event.")


@app.callback()
def _group() -> None:
    """Keep `show` a subcommand: Typer would make an only command the whole."""


@app.command()
def show(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The event's id, or a dead letter's.")],
    source: Annotated[str | None, typer.Option(help="Only the event of this source.")] = None,
    *,
    unlimited: Unlimited = False,
    as_json: Json = False,
) -> None:
    """Show the course of one event: answer, credentials, dead letter, replays; exit 1 if it is unknown.

    Looks in the ledger, its audit, the dead letters and the unrouted messages; says what it could not read.
    """
    run(_show(load(EventSettings, os.environ), event_id, source, unlimited=unlimited, as_json=as_json))


async def _show(
    settings: EventSettings, event_id: str, source: str | None, *, unlimited: bool, as_json: bool
) -> None:
    found, unseen = Evidence(), dict[str, str]()
    with _noted(LEDGER, unseen):
        await _look_in_ledger(settings, found, event_id)
    request = Request(Selection(id=(event_id,)), assume_unlimited=unlimited)
    with _noted(DEAD_LETTERS, unseen):
        found.letters = await _letters(settings, request)
    with _noted(UNROUTED, unseen):
        found.unrouted = await _letters(settings, replace(request, unrouted=True))
    courses = operation.courses(event_id, found, source)
    if not courses:
        waiting = {} if DEAD_LETTERS in unseen else await _waiting(settings)
        _unknown(event_id, source, unseen, waiting)
    _print(event_id, courses, unseen, as_json=as_json)


async def _look_in_ledger(settings: EventSettings, found: Evidence, event_id: str) -> None:
    from worker.cli import open_ports

    async with open_ports.ledger_to_read(settings) as (ledger, audit):
        await operation.look_in_ledger(found, event_id, ledger, audit)


async def _letters(settings: EventSettings, request: Request) -> Sequence[Letter]:
    from worker.cli import open_ports

    async with open_ports.reading_session(settings, request) as session:
        return await operation.letters_of(session)


@contextmanager
def _noted(place: str, unseen: dict[str, str]) -> Iterator[None]:
    """Notes a place that cannot be read, and why."""
    try:
        yield
    except UserError as error:
        unseen[place] = str(error)


async def _waiting(settings: EventSettings) -> Mapping[str, int]:
    from worker.cli import open_ports

    queues = map(settings.namespace.of, [names.WORK_QUEUE, *map(names.retry_queue, settings.retry_delays)])
    return await open_ports.depths(settings, list(queues))


def _unknown(
    event_id: str, source: str | None, unseen: Mapping[str, str], waiting: Mapping[str, int]
) -> NoReturn:
    places = [place for place in PLACES if place not in unseen]
    where = f" in {', '.join(places)}" if places else ""
    of_source = f" of {source}" if source else ""
    parts = [
        f"no event {event_id}{of_source} was found{where}",
        *(f"{place} could not be read: {why}" for place, why in unseen.items()),
    ]
    if counts := [f"{count:,} in {queue}" for queue, count in waiting.items() if count]:
        parts.append(f"it may be among the messages that wait, which cannot be searched: {', '.join(counts)}")
    raise UnknownEvent("; ".join(parts))


def _print(event_id: str, courses: Sequence[Course], unseen: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        events = TypeAdapter(list[Course]).dump_python(list(courses), mode="json")
        terminal.print_json({"id": event_id, "events": events, "not_read": dict(unseen)})
        return
    for course in courses:
        terminal.say(_title(course))
        rows = [(moment.at or "unknown", moment.what, moment.detail) for moment in course.moments]
        terminal.print_table(("at", "what", "detail"), rows, "")
    if len(courses) > 1:
        terminal.advise(f"{len(courses)} sources have an event {event_id}; --source shows one of them")
    terminal.advise(*(f"{place} could not be read: {why}" for place, why in unseen.items()))
    terminal.advise(f"calls and waits are in the worker's log alone: search it for event_id {event_id}")


def _title(course: Course) -> str:
    department = course.department_id or "?"
    if course.tenant not in {None, DEFAULT_TENANT}:
        department = f"{course.tenant}/{department}"
    source = f" of {course.source}" if course.source else ", a message that cannot be read"
    kind = f", {course.type}" if course.type else ""
    return f"event {course.id}{source}{kind}, department {department}"
