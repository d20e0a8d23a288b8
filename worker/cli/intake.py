"""`provisioner intake`."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from contracts.departments import DepartmentEvent
from contracts.envelope import document
from worker.cli import terminal
from worker.cli.consent import ask, is_interactive
from worker.cli.documents import Document
from worker.cli.files import read_bytes
from worker.cli.loop import leave, run, run_to_exit
from worker.cli.options import Json, Limit, Unlimited, Yes
from worker.core.intake.mapping import Mapped, map_received
from worker.core.intake.received import Received
from worker.operations import intake as operation
from worker.operations.intake import Checked, RemapOptions, Remapped, named
from worker.ports import UserError
from worker.service.signals import stop_signal
from worker.settings.load import load
from worker.settings.model import IntakeSettings, RemapSettings, SourceSettings
from worker.settings.sources import SecretsMissing, Source, load_sources
from worker.telemetry.logs import configure_logging

ProfileName = Annotated[str, typer.Argument(metavar="PROFILE", help="The name of its file, without .yaml.")]

app = typer.Typer()


@app.callback(invoke_without_command=True)
def intake(context: typer.Context) -> None:
    """Take department events over HTTP, and payloads of other systems by source profiles.

    Without a command: serve until SIGTERM, then answer the requests in flight and exit.
    """
    if context.invoked_subcommand is not None:
        return
    from worker.service.intake.serve import serve

    settings = load(IntakeSettings, os.environ)
    log_format = settings.log_format or ("console" if sys.stderr.isatty() else "json")
    configure_logging(log_format, settings.log_level)
    run_to_exit(serve(settings, dict(os.environ)))


@app.command()
def check(
    profile: Annotated[
        str | None, typer.Argument(metavar="PROFILE", help="Its name; all of them by default.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Run the samples of source profiles; exit 1 if one does not map as it must.

    A profile that cannot be read is refused with its file, the key and the reason (exit 2).
    """
    sources = _sources()
    chosen = list(sources.values()) if profile is None else [named(sources, profile)]
    found = [(source, operation.check(source.profile)) for source in chosen]
    if as_json:
        terminal.print_json([_check_document(source, checked) for source, checked in found])
    else:
        _print_checks(found)
    leave(well=not any(checked.failures for _, checked in found))


@app.command("try")
def try_(
    profile: ProfileName,
    *,
    file: Annotated[
        Path, typer.Option(metavar="PAYLOAD", help="The body of a request; - is stdin.", allow_dash=True)
    ],
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:VALUE", help="A header of the request; may be given several times."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a profile makes of one payload. Sends nothing, and asks for no proof.

    Exit 1 if some of it cannot be mapped.
    """
    from worker.adapters.system import SystemClock

    source = named(_sources(), profile)
    received = Received(read_bytes(file), _headers(header or ()), SystemClock().now())
    mapped = map_received(source.profile, received)
    if as_json:
        terminal.print_json(_mapped_document(mapped))
    else:
        _print_mapped(mapped)
    leave(well=not mapped.unmappable)


@app.command()
def remap(
    *,
    profile: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Only payloads of this profile.")
    ] = None,
    limit: Limit = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done. Changes nothing.")
    ] = False,
    yes: Yes = False,
    unlimited: Unlimited = False,
    as_json: Json = False,
) -> None:
    """Send payloads that could not be mapped through the profiles as they are now.

    What still cannot be mapped stays in the queue, in its order; exit 1 then. Safe to repeat: the events keep
    their ids.
    """
    settings = load(RemapSettings, os.environ)
    sources = load_sources(settings.sources)
    if profile is not None:
        named(sources, profile)
    options = RemapOptions(
        {name: source.profile for name, source in sources.items()}, profile, assume_unlimited=unlimited
    )
    if is_interactive() and not yes and not dry_run:
        planned = run(_planned(settings, options, limit))
        if planned.remapped:
            ask(f"Remap {planned.remapped:,} payload{'s' * (planned.remapped != 1)}?")
            limit = planned.remapped
    run_to_exit(_remap(settings, options, limit, dry=dry_run, as_json=as_json))


async def _planned(settings: RemapSettings, options: RemapOptions, most: int | None) -> Remapped:
    from worker.cli import open_ports

    async with open_ports.remap(settings, options, dry=True) as work:
        return await work.run(most)


async def _remap(
    settings: RemapSettings, options: RemapOptions, most: int | None, *, dry: bool, as_json: bool
) -> bool:
    """Returns whether everything maps; what was done before a failure is shown, too."""
    from worker.cli import open_ports
    from worker.cli.progress import progress

    failure: UserError | None = None
    async with open_ports.remap(settings, options, dry=dry) as work:
        work.stopping = stop_signal(lambda: terminal.advise("stopping…"))
        with progress("reading") as display:
            work.on_progress = display.at
            try:
                await work.run(most)
            except UserError as error:
                failure = error
    if failure and not work.report.remapped:
        raise failure
    _show_remapped(work.report, dry=dry, as_json=as_json)
    if failure:
        terminal.complain(str(failure).splitlines())
    if work.stopping.is_set():
        terminal.advise("stopped; the others are still in the queue")
    return failure is None and not work.report.kept and not work.stopping.is_set()


def _sources() -> Mapping[str, Source]:
    return load_sources(load(SourceSettings, os.environ).sources)


def _headers(given: Sequence[str]) -> dict[str, str]:
    headers = {}
    for each in given:
        name, colon, value = each.partition(":")
        if not colon or not name.strip():
            raise typer.BadParameter("write a header as NAME:VALUE, such as webhook-id:msg_1")
        headers[name.strip().lower()] = value.strip()
    return headers


def _secret_state(source: Source) -> str:
    """Whether requests can be proven: `ok`, or what is missing."""
    if source.profile.secret_file is None:
        return "none needed"
    if (secrets := source.secrets()) is None:
        return "missing: set PROVISIONER_SOURCES"
    if not secrets.path.exists():
        return f"missing: {secrets.path}"
    try:
        secrets.current()
    except SecretsMissing as error:
        return str(error)
    return "ok"


def _check_document(source: Source, checked: Checked) -> Document:
    profile = source.profile
    return {
        "profile": profile.name,
        "source": profile.source,
        "file": source.file,
        "shipped": source.is_shipped,
        "enabled": source.is_enabled,
        "secret": _secret_state(source),
        "samples": len(profile.samples),
        "failures": checked.failures,
        "notes": checked.notes,
    }


def _print_checks(found: Sequence[tuple[Source, Checked]]) -> None:
    rows = []
    for source, checked in found:
        state = "fail" if checked.failures else "ok" if source.is_enabled else "not enabled"
        shipped = "shipped" if source.is_shipped else source.file
        rows.append(
            (source.profile.source, state, len(source.profile.samples), shipped, _secret_state(source))
        )
    terminal.print_table(("path", "state", "samples", "file", "secret"), rows, "no profiles")
    for source, checked in found:
        for line in checked.notes:
            terminal.say(f"{source.file}: {line}", "dim")
    terminal.complain(f"{source.file}: {line}" for source, checked in found for line in checked.failures)


def _mapped_document(mapped: Mapped) -> Document:
    return {
        "events": [document(event) for event in mapped.events],
        "ignored": mapped.ignored,
        "unmapped": list(mapped.unmappable),
    }


def _print_mapped(mapped: Mapped) -> None:
    columns = ("type", "department", "name", "tenant", "time", "sequence", "event id")
    terminal.print_table(columns, map(_row, mapped.events), "no events")
    if mapped.ignored:
        terminal.say(f"{mapped.ignored:,} ignored")
    terminal.complain(f"not mapped: {reason}" for reason in mapped.unmappable)


def _row(event: DepartmentEvent) -> Sequence[object]:
    data = event.data
    return (event.type, data.department_id, data.name, event.tenant, event.time, event.sequence, event.id)


def _show_remapped(report: Remapped, *, dry: bool, as_json: bool) -> None:
    kept = [
        {"profile": profile, "reason": reason, "count": count}
        for (profile, reason), count in report.kept.most_common()
    ]
    if as_json:
        counts = {
            name: getattr(report, name) for name in ("seen", "selected", "remapped", "events", "ignored")
        }
        terminal.print_json(counts | {"kept": kept, "dry_run": dry})
        return
    if not report.selected:
        terminal.say(
            f"nothing to remap among {report.seen:,} payloads" if report.seen else "nothing to remap"
        )
        return
    would = "would be " if dry else ""
    events = f"{report.events:,} event{'s' * (report.events != 1)}"
    ignored = f", {report.ignored:,} ignored" if report.ignored else ""
    terminal.say(f"{report.remapped:,} of {report.selected:,} payloads {would}remapped: {events}{ignored}")
    if kept:
        rows = [(one["profile"], one["count"], one["reason"]) for one in kept]
        terminal.print_table(("profile", "payloads", "reason"), rows, "")
