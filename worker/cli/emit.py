"""`provisioner emit`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.departments import Kind, canonical_type
from contracts.envelope import CloudEvent, document
from worker.adapters.system import SystemClock, fresh_id
from worker.cli import terminal
from worker.cli.loop import run
from worker.cli.options import Json, one_of
from worker.operations import emit as operation
from worker.ports import UserError
from worker.settings.load import load
from worker.settings.model import BrokerSettings


class FileUnreadable(UserError):
    """The file of events cannot be read."""


def emit(
    kind: Annotated[
        Kind | None,
        typer.Argument(parser=one_of(Kind), metavar="KIND", help="created, renamed or removed"),
    ] = None,
    *,
    department_id: Annotated[str | None, typer.Option("--id", help="The department's id.")] = None,
    name: Annotated[str | None, typer.Option(help="The department's name.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The department's tenant.")] = None,
    cause: Annotated[str | None, typer.Option(help="removed: deleted, merged or deactivated")] = None,
    merged_into: Annotated[
        str | None, typer.Option(help="removed: the id of the department it was merged into.")
    ] = None,
    sequence: Annotated[
        int | None,
        typer.Option(help="The event's place among those of the department; the highest is newest."),
    ] = None,
    event_id: Annotated[str | None, typer.Option(help="The event's id; a new one by default.")] = None,
    source: Annotated[str | None, typer.Option(help="The event's source, a URI reference.")] = None,
    time: Annotated[str | None, typer.Option(help="The event's time, RFC 3339; now by default.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Send many: a file with one JSON event per line, - for stdin.", allow_dash=True),
    ] = None,
    binary: Annotated[bool, typer.Option("--binary", help="CloudEvents binary mode.")] = False,
    as_json: Json = False,
) -> None:
    """Check department events against the contract, then publish them."""
    attributes = {
        "id": event_id,
        "source": source,
        "time": time,
        "tenant": tenant,
        "sequence": sequence,
        "type": f"department.{kind}.v1" if kind else None,
    }
    data = {"department_id": department_id, "name": name, "cause": cause, "merged_into": merged_into}
    if (file is None) == (kind is None):
        raise typer.BadParameter("give either what happened (created, renamed, removed) or --file")
    needed = {"--id": department_id} | ({"--name": name} if kind is not Kind.REMOVED else {})
    if kind and (missing := [option for option, value in needed.items() if value is None]):
        raise typer.BadParameter(f"{kind} needs {' and '.join(missing)}")
    settings = load(BrokerSettings, os.environ)
    events = _events_in(file) if file else [_event(_given(attributes) | {"data": _given(data)})]
    run(_emit(settings, events, binary=binary, as_json=as_json))


async def _emit(
    settings: BrokerSettings, events: Sequence[CloudEvent], *, binary: bool, as_json: bool
) -> None:
    from rich.progress import Progress

    from worker.cli import open_ports

    async with open_ports.publisher(settings) as publisher:
        with Progress(console=terminal.ERR, transient=True, disable=len(events) == 1) as bar:
            task = bar.add_task("sending", total=len(events))
            async for sent in operation.emit(publisher, events, binary=binary):
                bar.update(task, completed=sent)
    _show(events, as_json=as_json)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _event(given: dict[str, Any]) -> CloudEvent:
    return operation.complete_event(given, SystemClock().now(), fresh_id)


def _events_in(file: Path) -> list[CloudEvent]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FileUnreadable(f"{file} cannot be read: {error}") from None
    return operation.events_in(text.splitlines(), SystemClock().now(), fresh_id)


def _show(events: Sequence[CloudEvent], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json([document(event) for event in events])
        return
    rows = [(canonical_type(event.type), event.data.department_id, event.id) for event in events]
    terminal.print_table(("type", "department", "event id"), rows, "nothing to send")
