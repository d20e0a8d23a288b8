"""Says what would happen to an event now. It reads the ledger, changes nothing, and calls no provider."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic_core import from_json, to_json

from contracts.envelope import Message
from contracts.subaccounts import DeadReason, ResultKind
from worker.core.decide import CountTenant, Policy
from worker.core.forecast import Forecast, Planned, forecast
from worker.core.limits import Admission
from worker.core.model.causes import Event, Reference, Reissue
from worker.core.model.departments import Department
from worker.pipeline.reading import Unreadable, validate
from worker.ports import Ledger, UserError


class CannotPlan(UserError):
    """The file has no event that could be read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An event, its department as far as it is known, and what would happen."""

    event: Reference
    department: Department | None
    forecast: Forecast


def event_in(content: bytes) -> Event | Unreadable:
    """The event in a file, read as the worker reads a message in structured mode.

    An array of one event is that event: `emit --json` prints one. Raises `CannotPlan`.
    """
    reading = validate(Message(_only_event(content), None))
    if isinstance(reading, Reissue):
        raise CannotPlan("a request to reissue credentials is no department event: there is nothing to plan")
    if isinstance(reading, Unreadable) and (reading.subject is None or not _is_named(reading)):
        raise CannotPlan(f"not an event that the worker could read: {reading.verdict.detail}")
    return reading


def _is_named(reading: Unreadable) -> bool:
    """Whether the event is refused by its content, not because it is no event."""
    return reading.verdict.reason is not DeadReason.MALFORMED


def _only_event(content: bytes) -> bytes:
    try:
        value: Any = from_json(content)
    except ValueError:
        return content  # the worker's own words for it are better
    if not isinstance(value, list):
        return content
    if len(value) != 1 or not isinstance(value[0], Mapping):
        raise CannotPlan(f"the file has {len(value):,} events: plan takes one")
    return to_json(value[0])


async def plan(ledger: Ledger, reading: Event | Unreadable, policy: Policy, now: datetime) -> Plan:
    """Forecasts the event at `now`. One that breaks the contract is refused."""
    if isinstance(reading, Event):
        found = await forecast_on(ledger, reading, policy, now)
        return Plan(reading.reference, reading.department, found)
    if reading.subject is None:
        raise ValueError("an event without id or source cannot be planned")
    subject, verdict = reading.subject, reading.verdict
    refused = Forecast(Planned.REFUSE, ResultKind.FAILED, 0, verdict.reason, verdict.detail)
    known = subject.department_id is not None
    which = Department(subject.tenant, subject.department_id or "") if known else None
    return Plan(subject.reference, which, refused)


async def forecast_on(ledger: Ledger, event: Event, policy: Policy, now: datetime) -> Forecast:
    """The forecast for an event on its department's entry, with the tenant's counts where they matter."""
    known = await ledger.recall(event.department, event.reference)
    found = forecast(event, known, policy, now)
    if isinstance(found, CountTenant):
        since = Admission(policy.limit, now).since
        counts = await ledger.tenant_counts(event.department.tenant, since)
        found = forecast(event, replace(known, counts=counts), policy, now)
    if isinstance(found, CountTenant):
        raise TypeError("the tenant was counted, and the decision asks for its counts again")
    return found
