"""`provisioner topology`."""

import os
from collections.abc import Mapping
from typing import Annotated

import typer

from contracts.topology import BrokerVersion
from worker.cli import terminal
from worker.cli.loop import run, run_to_exit
from worker.cli.options import Json
from worker.operations.topology import (
    Applied,
    Comparison,
    TopologyOptions,
    apply_topology,
    check_topology,
    export_topology,
)
from worker.ports import UserError
from worker.settings.load import SettingsError, load
from worker.settings.model import TopologySettings

OTHER_BROKER = (
    "these definitions are for RabbitMQ {}.{}, and the broker at AMQP_URL is {}.{}: do not import them there"
)
BLIND_SPOT = "AMQP does not show bindings and policies; set PROVISIONER_MANAGEMENT_URL to check them too"

app = typer.Typer(no_args_is_help=True, help="The broker's exchanges, queues and bindings.")


@app.command()
def apply(*, as_json: Json = False) -> None:
    """Declare every exchange, queue and binding that is missing."""
    run(_apply(load(TopologySettings, os.environ), as_json=as_json))


async def _apply(settings: TopologySettings, *, as_json: bool) -> None:
    from worker.cli import open_ports

    async with open_ports.broker_objects(settings) as broker:
        managed = open_ports.objects_in_effect(settings)
        applied = await apply_topology(broker, managed, _options(settings))
    _show_applied(applied, as_json=as_json)


@app.command()
def check(*, as_json: Json = False) -> None:
    """Compare the broker's objects with the expected ones; exit 1 if any is missing or differs."""
    run_to_exit(_check(load(TopologySettings, os.environ), as_json=as_json))


async def _check(settings: TopologySettings, *, as_json: bool) -> bool:
    from worker.cli import open_ports

    async with open_ports.broker_objects(settings) as broker:
        managed = open_ports.objects_in_effect(settings)
        compared = await check_topology(broker, managed, _options(settings))
    _show_compared(compared, as_json=as_json)
    return compared.fits


@app.command()
def export(
    broker: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="RabbitMQ's version; by default that of the broker at AMQP_URL."
        ),
    ] = None,
    vhost: Annotated[
        str | None, typer.Option(metavar="NAME", help="The virtual host; by default that of AMQP_URL.")
    ] = None,
) -> None:
    """Print the topology as RabbitMQ definitions for rabbitmqctl import_definitions."""
    settings = load(TopologySettings, os.environ)
    given = _version(broker) if broker is not None else None
    version = run(_version_for(settings, given, is_named=_names_a_broker(os.environ)))
    terminal.print_json(export_topology(version, _options(settings), vhost or settings.vhost))


def _version(text: str) -> BrokerVersion:
    try:
        return BrokerVersion.parse(text)
    except ValueError:
        raise SettingsError(f"--broker {text!r} is not a version; write 3.10 or 4.1") from None


def _names_a_broker(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("AMQP_URL") or environ.get("AMQP_URL_FILE"))


async def _version_for(
    settings: TopologySettings, given: BrokerVersion | None, *, is_named: bool
) -> BrokerVersion:
    """The version to write for: the given one, or that of the broker; raises `SettingsError` for neither.

    Definitions for one version lose messages on another, so a broker in AMQP_URL that differs is told.
    """
    if given is not None and not is_named:
        return given
    try:
        seen = await _broker_version(settings)
    except UserError as error:
        if given is None:
            raise SettingsError(f"give --broker VERSION, such as 3.10 or 4.1: {error}") from None
        return given
    if given is not None and given != seen:
        terminal.complain([OTHER_BROKER.format(*given, *seen)])
    return given or seen


async def _broker_version(settings: TopologySettings) -> BrokerVersion:
    from worker.cli import open_ports

    async with open_ports.broker_objects(settings) as broker:
        return BrokerVersion.parse(broker.version)


def _options(settings: TopologySettings) -> TopologyOptions:
    return TopologyOptions(settings.retry_delays, settings.recipient_names, settings.namespace)


def _show_applied(applied: Applied, *, as_json: bool) -> None:
    counts = {"exchanges": applied.exchanges, "queues": applied.queues, "bindings": applied.bindings}
    if as_json:
        terminal.print_json({"broker": applied.broker} | counts)
        return
    counted = ", ".join(f"{count} {what}" for what, count in counts.items())
    terminal.say(f"{counted} in place on RabbitMQ {applied.broker}")


def _show_compared(compared: Comparison, *, as_json: bool) -> None:
    rows = [(found.kind, found.name, found.state, found.detail) for found in compared.findings]
    if as_json:
        terminal.print_json(
            [dict(zip(("kind", "name", "state", "detail"), row, strict=True)) for row in rows]
        )
        return
    terminal.print_table(("", "name", "state", "detail"), rows, "")
    if not compared.complete:
        terminal.say(BLIND_SPOT)
