"""Builders of complete values: a test names only the fields that it is about.

`department_*` build an event as its producer sends it; `created`, `renamed` and `removed` build the same
event as the core sees it. All of them concern one department, SALES.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, Unpack

from contracts.departments import (
    DepartmentCreated,
    DepartmentRemoved,
    DepartmentRenamed,
    Kind,
    payload_digest,
)
from contracts.envelope import Message, read
from contracts.reissues import ReissueRequested
from contracts.subaccounts import ResultCode, ResultKind
from worker.core.dead_letters import AuditLine
from worker.core.model.answers import Answer
from worker.core.model.causes import Event
from worker.core.model.credentials import Debt, IssuedCredentials
from worker.core.model.departments import Department
from worker.core.model.entry import Claim, Entry, Status
from worker.core.model.recollection import Recollection
from worker.core.model.removals import Deletion, Removed
from worker.core.presence import WorkerSeen

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SALES = Department("acme", "sales")
AUTH_ID = "SA000000000000000001"
IDEMPOTENCY_KEY = "7b1d7a3e-0000-5000-8000-000000000001"

AnyDepartmentEvent = DepartmentCreated | DepartmentRenamed | DepartmentRemoved
AnyEvent = AnyDepartmentEvent | ReissueRequested


class Attributes(TypedDict, total=False):
    """Attributes of every event. The id contains kind and sequence, so events of a test differ."""

    id: str
    source: str
    time: datetime
    sequence: int | None
    tenant: str
    department_id: str
    traceparent: str
    tracestate: str
    correlationid: str


def department_created(name: str = "Sales", **attributes: Unpack[Attributes]) -> DepartmentCreated:
    return DepartmentCreated.model_validate(_content(Kind.CREATED, {"name": name}, attributes))


def department_renamed(name: str = "Marketing", **attributes: Unpack[Attributes]) -> DepartmentRenamed:
    return DepartmentRenamed.model_validate(_content(Kind.RENAMED, {"name": name}, attributes))


def department_removed(name: str | None = None, **attributes: Unpack[Attributes]) -> DepartmentRemoved:
    return DepartmentRemoved.model_validate(_content(Kind.REMOVED, {"name": name}, attributes))


def reissue_requested(recipient: str | None = None, **attributes: Unpack[Attributes]) -> ReissueRequested:
    given = {"source": "/crm", "time": NOW, "tenant": SALES.tenant, "id": "reissue"} | dict(attributes)
    data = {"department_id": given.pop("department_id", SALES.id), "recipient": recipient}
    return ReissueRequested.model_validate(given | {"data": data})


def created(name: str = "Sales", **attributes: Unpack[Attributes]) -> Event:
    return event_of(department_created(name, **attributes))


def renamed(name: str = "Marketing", **attributes: Unpack[Attributes]) -> Event:
    return event_of(department_renamed(name, **attributes))


def removed(name: str | None = None, **attributes: Unpack[Attributes]) -> Event:
    return event_of(department_removed(name, **attributes))


def event_of(event: AnyDepartmentEvent) -> Event:
    return Event.of(event, event.type, payload_digest(read(Message.structured(event))))


def an_entry(status: Status = Status.ACTIVE, **fields: Any) -> Entry:
    """An entry with this status, as the worker writes it after an event with sequence 10."""
    whole = {name: value for name, (value, statuses) in _HELD_IN.items() if status in statuses}
    given: dict[str, Any] = {"department": SALES, "revision": 4, "status": status} | whole | fields
    return Entry(**given)


def owing(*recipients: str, enable: bool = False, retry_at: datetime | None = None) -> Debt | None:
    """The debt of an entry; None if nothing is owed."""
    return Debt(frozenset(recipients), enable, retry_at) if recipients or enable else None


def an_answer(event: Event, outcome: ResultKind = ResultKind.CREATED, **fields: Any) -> Answer:
    """An answer; the code of a `held` or `failed` one is made up."""
    code = {ResultKind.HELD: ResultCode.LIMIT, ResultKind.FAILED: ResultCode.NOT_ACTIVE}.get(outcome)
    answer = Answer(
        event.department,
        event.reference,
        event.payload_digest,
        outcome,
        code or ResultCode(outcome),
        NOW,
        event.name,
        version=event.version,
    )
    return replace(answer, **fields)


def a_worker(id_: str = "w1", **fields: Any) -> WorkerSeen:
    """`seen_at` is long ago: only the ledger's clock may count."""
    given: dict[str, Any] = {
        "host": "host-1",
        "pid": 4711,
        "version": "1.2.3",
        "started_at": NOW,
        "seen_at": NOW - timedelta(days=100),
        "consuming": True,
        "rate_share": 300,
    }
    return WorkerSeen(id_, **given | fields)


def a_recollection(entry: Entry | None = None, answer: Answer | None = None) -> Recollection:
    """A recollection of an unknown department, or of the given entry."""
    return Recollection(entry or Entry(SALES), answer)


def _content(kind: Kind, data: dict[str, Any], attributes: Attributes) -> dict[str, Any]:
    given = {"source": "/hr", "time": NOW, "sequence": 1, "tenant": SALES.tenant} | dict(attributes)
    given.setdefault("id", f"{kind}-{given['sequence']}")
    data["department_id"] = given.pop("department_id", SALES.id)
    return given | {"data": data}


_LAST = created(sequence=10)
ISSUED = IssuedCredentials(_LAST.reference)
"""Default fields of every entry with a subaccount."""
CLAIM = Claim(NOW, IDEMPOTENCY_KEY, created(sequence=11).reference)
"""That of every claimed entry, unless a test gives another."""
_EXISTING = {Status.ACTIVE, Status.DISABLED, Status.DELETING}
_ONCE_MADE = _EXISTING | {Status.REMOVED}

_HELD_IN: dict[str, tuple[Any, set[Status]]] = {
    "name": ("Sales", _ONCE_MADE | {Status.CLAIMED}),
    "auth_id": (AUTH_ID, _EXISTING),
    "version": (_LAST.version, _ONCE_MADE),
    "issued": (ISSUED, _ONCE_MADE),
    "created_at": (NOW, _ONCE_MADE),
    "incarnation": (2, {Status.REMOVED}),
    "removal": (Removed(NOW), {Status.DISABLED, Status.REMOVED}),
    "deletion": (Deletion(NOW), {Status.DELETING}),
    "claim": (CLAIM, {Status.CLAIMED}),
}


AUDIT_LINE = AuditLine(
    at=NOW,
    by="ada",
    action="replay",
    run="run-1",
    selection="--reason invalid",
    event_id="hr-1",
    source="/hr",
    tenant="acme",
    department_id="sales",
    reason="invalid",
    outcome="sent to work",
)
"""One line of the audit: a replay by an operator."""
