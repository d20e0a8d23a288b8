"""What a person may do besides running the worker, for every front door."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from contracts import topology as names
from contracts.departments import Invalid, Kind, UnsupportedType, canonical_type, department_event
from contracts.envelope import CloudEvent, Message, describe
from contracts.reissues import REISSUE_KEY, asks_for_reissue
from worker.adapters.amqp.connect import close, connect
from worker.adapters.amqp.errors import BrokerUnavailable
from worker.adapters.amqp.link import Link
from worker.adapters.amqp.publisher import RabbitPublisher
from worker.adapters.amqp.seam import Connection
from worker.adapters.sqlite.audit import SqliteAudit
from worker.adapters.sqlite.ledger import sqlite_ledger, sqlite_ledger_read
from worker.adapters.system import SystemClock, fresh_id
from worker.core.dead_letters import AuditLine
from worker.core.messages import Outgoing
from worker.core.model import Answer, Department, Entry, Wish
from worker.core.reissue import WISHES, request_of
from worker.ports import Clock, ForPeople, Ledger, Publisher
from worker.settings.model import BrokerSettings, LedgerSettings
from worker.telemetry.events import Telemetry

EMITTED_FROM = "/subaccount-provisioner/emit"


WISH_PATIENCE_SECONDS = 10.0
WISH_LOOK_SECONDS = 0.1


class NeverHeardOf(ForPeople):
    """The ledger knows no such department."""

    def __init__(self, which: Department) -> None:
        super().__init__(f"the ledger has never heard of department {which.id} of tenant {which.tenant}")


class NobodyTookIt(ForPeople):
    """No worker did what a person asked for."""


class BadEvent(ForPeople):
    """An event to be sent breaks the contract; the text says where and how."""

    exit_code = 2


def complete_event(given: Mapping[str, Any], now: datetime) -> CloudEvent:
    """An event true to the contract, with id, source, time and version made up where they are not given.

    Raises `BadEvent`.
    """
    made_up = {"specversion": "1.0", "id": fresh_id(), "source": EMITTED_FROM, "time": now}
    try:
        event = CloudEvent.model_validate(made_up | dict(given))
        return department_event(event)
    except ValidationError as error:
        raise BadEvent(describe(error)) from None
    except (Invalid, UnsupportedType) as error:
        raise BadEvent(str(error)) from None


def events_in(lines: Iterable[str], now: datetime) -> list[CloudEvent]:
    """One event a line, as JSON; raises `BadEvent`, with the line's number, for the first that is wrong."""
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            events.append(complete_event(_object(line), now))
        except BadEvent as error:
            raise BadEvent(f"line {number}: {error}") from None
    return events


def _object(line: str) -> dict[str, Any]:
    try:
        given = from_json(line)
    except ValueError as error:
        raise BadEvent(f"not JSON ({error})") from None
    if not isinstance(given, dict):
        raise BadEvent("not a JSON object")
    return given


def inbound(event: CloudEvent, *, binary: bool = False) -> Outgoing:
    """A department event, or a request, as its producer sends it."""
    message = Message.binary(event) if binary else Message.structured(event)
    if asks_for_reissue(event):
        return Outgoing(names.DEPARTMENTS, REISSUE_KEY, message)
    kind = Kind(canonical_type(event.type).split(".")[1])
    return Outgoing(names.DEPARTMENTS, f"department.{kind}", message)


@asynccontextmanager
async def publisher(settings: BrokerSettings) -> AsyncIterator[Publisher]:
    """For a command: fails at once where there is no broker. Raises `BrokerUnavailable`."""
    async with connection(settings):
        pass
    link = Link("command", settings.amqp_url, SystemClock(), Telemetry())
    async with RabbitPublisher.running(link) as rabbit:
        yield rabbit


@asynccontextmanager
async def connection(settings: BrokerSettings) -> AsyncIterator[Connection]:
    """A connection to the first broker that takes one."""
    found = await _first_that_connects(settings.amqp_url)
    try:
        yield found
    finally:
        await close(found)


async def _first_that_connects(urls: Sequence[str]) -> Connection:
    *others, last = urls
    for url in others:
        try:
            return await connect(url, "provisioner command")
        except BrokerUnavailable:
            continue
    return await connect(last, "provisioner command")


@dataclass(frozen=True, slots=True)
class History:
    """One department, and what its events were answered, oldest first."""

    entry: Entry
    answers: Sequence[Answer]


async def departments(settings: LedgerSettings, tenant: str | None = None) -> Sequence[Entry]:
    async with sqlite_ledger_read(settings.ledger) as ledger:
        return await ledger.entries(tenant)


async def department(settings: LedgerSettings, which: Department) -> History | None:
    """None for a department the ledger has never heard of."""
    async with sqlite_ledger_read(settings.ledger) as ledger:
        known = {entry.department: entry for entry in await ledger.entries(which.tenant)}
        if which not in known:
            return None
        return History(known[which], await ledger.answers(which))


async def reissue(
    settings: LedgerSettings, which: Department, recipient: str | None, asked_by: str
) -> Answer:
    """Asks the running worker to issue credentials again; what came of it: `failed` where nothing was issued.

    Raises `NeverHeardOf`, or `NobodyTookIt` in the end: then it is withdrawn.
    """
    clock = SystemClock()
    wish = Wish(fresh_id(), which, recipient, asked_by, clock.now())
    async with sqlite_ledger(settings.ledger, must_exist=True) as ledger:
        if not (await ledger.recall(which, request_of(wish).reference)).entry.revision:
            raise NeverHeardOf(which)
        audit = SqliteAudit(ledger)
        await audit.note([_audited(wish, "asked for", clock.now())])
        await ledger.wish(wish)
        try:
            async with asyncio.timeout(WISH_PATIENCE_SECONDS):
                answer = await _answer_to(wish, ledger, clock)
            await audit.note([_audited(wish, answer.reason or "", clock.now())])
        except TimeoutError:
            await audit.note([_audited(wish, "withdrawn, no worker has done it", clock.now())])
            raise NobodyTookIt(
                f"no worker has done it within {WISH_PATIENCE_SECONDS:.0f} s, and it is withdrawn:"
                " is `provisioner run` running on this ledger? If so, its log tells what is wrong"
            ) from None
        else:
            return answer
        finally:
            await ledger.close_wish(wish.id)


def _audited(wish: Wish, outcome: str, at: datetime) -> AuditLine:
    return AuditLine(
        at=at,
        by=wish.asked_by,
        action="reissue",
        run=wish.id,
        selection=f"--recipient {wish.recipient}" if wish.recipient else "all",
        event_id=wish.id,
        source=WISHES,
        tenant=wish.department.tenant,
        department_id=wish.department.id,
        reason="",
        outcome=outcome,
    )


async def _answer_to(wish: Wish, ledger: Ledger, clock: Clock) -> Answer:
    request = request_of(wish)
    while True:
        known = await ledger.recall(request.department, request.reference)
        if known.answer is not None:
            return known.answer
        await clock.sleep(WISH_LOOK_SECONDS)
