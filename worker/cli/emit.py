"""`provisioner emit`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.departments import Kind, canonical_type
from contracts.envelope import CloudEvent, document
from worker.adapters.system import SystemClock, fresh_id
from worker.cli import terminal
from worker.cli.files import read_text
from worker.cli.loop import run, run_to_exit
from worker.cli.options import Json, one_of, seconds
from worker.cli.results import is_done, show_answers
from worker.operations import emit as operation
from worker.operations.results import Answers, Heard
from worker.ports import Publisher
from worker.settings.load import load
from worker.settings.model import BrokerSettings

TIMEOUT_SECONDS = 30.0


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
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Print the answer too; exit 1 for failed, held, or no answer."),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=seconds,
            metavar="TIME",
            help="With --wait: how long to wait for the next answer.",
            show_default="30s",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check department events against the contract, then publish them.

    With --wait: print what became of them.
    """
    attributes = {
        "id": event_id,
        "source": source,
        "time": time,
        "tenant": tenant,
        "sequence": sequence,
        "type": f"department.{kind}.v1" if kind else None,
    }
    data = {"department_id": department_id, "name": name, "cause": cause, "merged_into": merged_into}
    if timeout is not None and not wait:
        raise typer.BadParameter("--timeout needs --wait")
    if (file is None) == (kind is None):
        raise typer.BadParameter("give either what happened (created, renamed, removed) or --file")
    needed = {"--id": department_id} | ({"--name": name} if kind is not Kind.REMOVED else {})
    if kind and (missing := [option for option, value in needed.items() if value is None]):
        raise typer.BadParameter(f"{kind} needs {' and '.join(missing)}")
    settings = load(BrokerSettings, os.environ)
    events = _events_in(file) if file else [_event(_given(attributes) | {"data": _given(data)})]
    if not wait:
        run(_emit(settings, events, binary=binary, as_json=as_json))
    elif events:
        silence = TIMEOUT_SECONDS if timeout is None else timeout
        run_to_exit(_emit_and_wait(settings, events, silence, binary=binary, as_json=as_json))
    else:
        show_answers([], as_json=as_json)


async def _emit(
    settings: BrokerSettings, events: Sequence[CloudEvent], *, binary: bool, as_json: bool
) -> None:
    from worker.cli import open_ports

    async with open_ports.publisher(settings) as publisher:
        await _send(publisher, events, binary=binary)
    _show(events, as_json=as_json)
    if terminal.ERR.is_terminal:
        terminal.advise("sent; with --wait you also see what became of it")


async def _emit_and_wait(
    settings: BrokerSettings, events: Sequence[CloudEvent], silence: float, *, binary: bool, as_json: bool
) -> bool:
    """Returns whether each event has a final answer."""
    from worker.cli import open_ports
    from worker.cli.progress import progress

    heard: list[Heard] = []
    async with open_ports.listener(settings) as listener, open_ports.publisher(settings) as publisher:
        answers = Answers(listener, events)
        await _send(publisher, events, binary=binary)
        with progress("answered", len(answers.missing)) as display:
            async for answer in answers.come(silence):
                heard.append(answer)
                display.more(1)
    show_answers(heard, as_json=as_json)
    if answers.missing:
        terminal.complain([_no_answer(list(answers.missing.values()), silence)])
    return is_done(heard) and not answers.missing


async def _send(publisher: Publisher, events: Sequence[CloudEvent], *, binary: bool) -> None:
    from rich.progress import Progress

    with Progress(console=terminal.ERR, transient=True, disable=len(events) == 1) as bar:
        task = bar.add_task("sending", total=len(events))
        async for sent in operation.emit(publisher, events, binary=binary):
            bar.update(task, completed=sent)


def _no_answer(missing: Sequence[CloudEvent], silence: float) -> str:
    first = missing[0].id
    which = f"event {first}" if len(missing) == 1 else f"{len(missing):,} events, the first is {first}"
    return (
        f"no answer within {silence:g} s: {which}; look at `provisioner events show {first}` and at"
        " /readyz of `provisioner run` (an event that was answered before is not answered again)"
    )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _event(given: dict[str, Any]) -> CloudEvent:
    return operation.complete_event(given, SystemClock().now(), fresh_id)


def _events_in(file: Path) -> list[CloudEvent]:
    return operation.events_in(read_text(file), SystemClock().now(), fresh_id)


def _show(events: Sequence[CloudEvent], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json([document(event) for event in events])
        return
    rows = [(canonical_type(event.type), event.data.department_id, event.id) for event in events]
    terminal.print_table(("type", "department", "event id"), rows, "nothing to send")
