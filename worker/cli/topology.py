"""`provisioner topology`."""

import os
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
from worker.settings.load import SettingsError, load
from worker.settings.model import TopologySettings

BLIND_SPOT = "AMQP does not show bindings and policies; set PROVISIONER_MANAGEMENT_URL to check them too"

app = typer.Typer(no_args_is_help=True, help="The broker's exchanges, queues and bindings.")


@app.command()
def apply(*, as_json: Json = False) -> None:
    """Declare every exchange, queue and binding that is missing."""
    run(_apply(load(TopologySettings, os.environ), as_json=as_json))


async def _apply(settings: TopologySettings, *, as_json: bool) -> None:
    from worker.cli import open_ports

    async with open_ports.broker_objects(settings) as broker:
        applied = await apply_topology(broker, _options(settings))
    _show_applied(applied, as_json=as_json)


@app.command()
def check(*, as_json: Json = False) -> None:
    """Compare the broker's objects with the expected ones; exit 1 if any is missing or differs."""
    run_to_exit(_check(load(TopologySettings, os.environ), as_json=as_json))


async def _check(settings: TopologySettings, *, as_json: bool) -> bool:
    from worker.cli import open_ports

    async with open_ports.broker_objects(settings) as broker:
        in_effect = open_ports.objects_in_effect(settings)
        compared = await check_topology(broker, in_effect, _options(settings))
    _show_compared(compared, as_json=as_json)
    return compared.fits


@app.command()
def export(
    broker: Annotated[str, typer.Option(help="The version of RabbitMQ to write for.")] = "4.1",
    vhost: Annotated[str, typer.Option(help="The virtual host.")] = "/",
) -> None:
    """Print the topology as RabbitMQ definitions for rabbitmqctl import_definitions."""
    settings = load(TopologySettings, os.environ)
    try:
        version = BrokerVersion.parse(broker)
    except ValueError:
        raise SettingsError(f"--broker {broker!r} is not a version; write 3.10 or 4.1") from None
    terminal.print_json(export_topology(version, _options(settings), vhost))


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
