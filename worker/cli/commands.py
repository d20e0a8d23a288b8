"""The front door at the terminal: runs an operation and shows what came of it."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from contracts.departments import canonical_type
from contracts.envelope import CloudEvent, document
from contracts.subaccounts import ResultKind
from contracts.topology import BrokerVersion, definitions, topology
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.broker import wanted_topology
from worker.adapters.amqp.management import check_in_effect
from worker.adapters.system import SystemClock, os_user
from worker.cli import terminal as console
from worker.core.model import EVERYBODY, Answer, Department, Entry
from worker.operations import actions as operations
from worker.ports import ForPeople, PublishFailed, Unroutable
from worker.settings.load import SettingsError
from worker.settings.model import BrokerSettings, LedgerSettings, TopologySettings

BLIND_SPOT = "AMQP does not show bindings and policies; set PROVISIONER_MANAGEMENT_URL to check them too"


class NotDone(ForPeople):
    """A command could not do what was asked."""


def events_of(file: Path | None, attributes: Mapping[str, Any], data: Mapping[str, Any]) -> list[CloudEvent]:
    """The events a command line asks for, all valid; raises `BadEvent`."""
    now = SystemClock().now()
    if file is None:
        return [operations.complete_event({**attributes, "data": data}, now)]
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise NotDone(f"{file} cannot be read: {error}") from None
    return operations.events_in(text.splitlines(), now)


async def emit(
    settings: BrokerSettings, events: Sequence[CloudEvent], *, binary: bool, as_json: bool
) -> None:
    async with operations.publisher(settings) as publisher:
        for sent, event in enumerate(_tracked(events)):
            try:
                await publisher.publish(operations.inbound(event, binary=binary))
            except Unroutable:
                hint = "no queue is bound: start `provisioner run` or `provisioner topology apply` first"
                raise NotDone(f"{sent} of {len(events)} sent; {hint}") from None
            except PublishFailed as error:
                raise NotDone(f"{sent} of {len(events)} sent; {error}") from None
    _show_emitted(events, as_json=as_json)


def _tracked(events: Sequence[CloudEvent]) -> Iterable[CloudEvent]:
    return track(events, "sending", console=console.ERR, transient=True, disable=len(events) == 1)


def _show_emitted(events: Sequence[CloudEvent], *, as_json: bool) -> None:
    if as_json:
        console.print_json([document(event) for event in events])
        return
    rows = [(canonical_type(event.type), event.data.department_id, event.id) for event in events]
    console.print_table(("type", "department", "event id"), rows, "nothing to send")


async def topology_apply(settings: TopologySettings, *, as_json: bool) -> None:
    async with operations.connection(settings) as connection:
        wanted = wanted_topology(connection, settings)
        await rabbitmq_topology.apply(connection, wanted)
        made = {
            "broker": connection.server_version,
            "exchanges": len(wanted.exchanges),
            "queues": len(wanted.queues),
            "bindings": len(wanted.bindings),
        }
    if as_json:
        console.print_json(made)
    else:
        counts = ", ".join(f"{count} {what}" for what, count in made.items() if what != "broker")
        console.OUT.print(f"{counts} in place on RabbitMQ {made['broker']}")


async def topology_check(settings: TopologySettings, *, as_json: bool) -> bool:
    """Whether everything is as it should be."""
    async with operations.connection(settings) as connection:
        wanted = wanted_topology(connection, settings)
        findings = await rabbitmq_topology.check(connection, wanted)
    if settings.management_url is not None:
        findings += await check_in_effect(settings.management_url, settings.vhost, wanted)
    if as_json:
        console.print_json(findings)
    else:
        rows = [(found.kind, found.name, found.state, found.detail) for found in findings]
        console.print_table(("", "name", "state", "detail"), rows, "")
        if settings.management_url is None:
            console.OUT.print(BLIND_SPOT)
    return all(found.state == "ok" for found in findings)


def topology_export(settings: TopologySettings, broker: str, vhost: str) -> None:
    try:
        version = BrokerVersion.parse(broker)
    except ValueError:
        raise SettingsError(f"--broker {broker!r} is not a version; write 3.10 or 4.1") from None
    console.print_json(definitions(topology(version, settings.retry_delays, settings.recipient_names), vhost))


async def departments_list(settings: LedgerSettings, tenant: str | None, *, as_json: bool) -> None:
    entries = await operations.departments(settings, tenant)
    if as_json:
        console.print_json([console.entry_document(entry) for entry in entries])
        return
    columns = ("tenant", "department", "name", "status", "auth id", "credentials", "newest event")
    console.print_table(columns, [_entry_row(entry) for entry in entries], "no department yet")


async def departments_show(settings: LedgerSettings, which: Department, *, as_json: bool) -> None:
    history = await operations.department(settings, which)
    if history is None:
        raise operations.NeverHeardOf(which)
    if as_json:
        answers = [console.answer_document(answer) for answer in history.answers]
        console.print_json(console.entry_document(history.entry) | {"answers": answers})
        return
    shown = console.entry_document(history.entry) | {"credentials": credentials_told(history.entry)}
    hidden = {"owed_to", "version", "claim", "issued_for", "revision", "enable_owed"}
    facts = [(name.replace("_", " "), value) for name, value in shown.items() if name not in hidden]
    console.print_table(("", history.entry.department.id), facts, "")
    columns = ("answered at", "event", "type", "outcome", "confirmed", "reason")
    console.print_table(columns, [_answer_row(answer) for answer in history.answers], "no event answered yet")


async def reissue(
    settings: LedgerSettings, which: Department, recipient: str | None, asked_by: str | None, *, as_json: bool
) -> bool:
    """Whether credentials were issued again."""
    answer = await operations.reissue(settings, which, recipient, asked_by or os_user())
    issued = answer.outcome is not ResultKind.FAILED
    if as_json:
        told = {"tenant": which.tenant, "department_id": which.id, "issued": issued}
        console.print_json(told | {"auth_id": answer.auth_id, "reason": answer.reason, "id": answer.event.id})
    elif issued:
        console.OUT.print(f"department {which.id}: {answer.reason}", markup=False)
    else:
        console.complain([f"department {which.id}: {answer.reason}"])
    return issued


def _entry_row(entry: Entry) -> tuple[object, ...]:
    newest = f"{entry.version.kind} {entry.version.time:%Y-%m-%d %H:%M:%S}" if entry.version else None
    return (*entry.department, entry.name, entry.status, entry.auth_id, credentials_told(entry), newest)


def credentials_told(entry: Entry) -> str | None:
    """Whether the department's credentials have gone out, and what is still owed."""
    if entry.generation == 0:
        return None
    if not entry.owes:
        return f"sent ({entry.generation})"
    owed = [recipient for recipient in sorted(entry.owed_to) if recipient != EVERYBODY]
    owed += ["enabling"] if entry.enable_owed else []
    return f"owed: {', '.join(owed)} ({entry.generation})" if owed else f"owed ({entry.generation})"


def _answer_row(answer: Answer) -> tuple[object, ...]:
    at = f"{answer.answered_at:%Y-%m-%d %H:%M:%S}"
    said = "yes" if answer.confirmed else "no"
    return (at, answer.event.id, answer.event.type, answer.outcome, said, answer.reason)
