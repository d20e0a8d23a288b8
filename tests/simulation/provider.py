"""A faulty provider: responses are lost, calls are carried out late, its list lags and shifts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from math import inf
from typing import Any, NamedTuple

from pydantic import SecretStr

from tests.simulation.chance import LATEST_SECONDS, TIMEOUT_SECONDS, Chance
from tests.simulation.history import History
from tests.simulation.process import Process
from tests.simulation.producer_events import REFUSED
from worker.adapters.plivo.status import kind_of
from worker.adapters.system import SystemClock
from worker.core.capabilities import EVERYTHING
from worker.core.inventory import ProvidedResource, ResourceKind
from worker.core.judge import CallFault, FaultKind, Operation
from worker.ports import Call, CallFailed, Confirmed, NewSubaccount, ProvidedSubaccount, RateLimit
from worker.provider.rate import RateLimiter

PAGE = 5
CONCURRENCY = 3
RATE = RateLimit(10, timedelta(seconds=1))
LONGEST_LAG_SECONDS = 6.0
CERTAIN = {
    FaultKind.NOT_SENT,
    FaultKind.REJECTED,
    FaultKind.LOGIN_REFUSED,
    FaultKind.FORBIDDEN,
    FaultKind.NOT_FOUND,
    FaultKind.RATE_LIMITED,
}
"""Failures of calls that were certainly not carried out."""
CHANGING = ("create", "update", "delete")


class Refusal(NamedTuple):
    """The response to every call during an outage. `own`: the provider wrote it, not a gateway before it."""

    status: int
    own: bool = True


REFUSALS = (
    *map(Refusal, (401, 403, 503, 400, 404)),
    *(Refusal(status, own=False) for status in (302, 400, 404, 405, 407, 451)),
)


@dataclass
class Subaccount:
    """A subaccount at the provider. `department` is None for those of other users."""

    auth_id: str
    auth_token: str
    name: str
    created: date
    enabled: bool = True
    listed_from: float = 0.0
    department: str | None = None


@dataclass
class Resource:
    """A number, application or endpoint; its owner is None for the main account."""

    kind: ResourceKind
    id: str
    sub_account: str | None


class Ghost(NamedTuple):
    """A deleted subaccount that is read, and listed at its old place, until a virtual time."""

    subaccount: Subaccount
    place: int
    until: float


class CallPlan(NamedTuple):
    """When one call is carried out, if at all, when its response arrives, and its fault. In seconds."""

    answered_after: float
    carried_out_after: float | None = None
    fault: CallFault | None = None


@dataclass
class ProviderServer:
    """The provider's side; it continues when a worker dies."""

    loop: asyncio.AbstractEventLoop
    chance: Chance
    history: History
    now: Callable[[], datetime]
    subaccounts: list[Subaccount] = field(default_factory=list)  # newest first
    resources: list[Resource] = field(default_factory=list)
    ghosts: list[Ghost] = field(default_factory=list)
    under_way: int = 0
    refuses: Refusal | None = None
    page_size: int = PAGE
    keys: list[tuple[str, str | None]] = field(default_factory=list)  # operation and idempotency key of each

    def __post_init__(self) -> None:
        self._made = 0
        self._given = 0
        self._departments: dict[str, str | None] = {}
        self._filters: bool | None = None
        for age in range(self.chance.number(0, 14)):
            self.subaccounts.append(self._new(self._strange_name(), self.now() - timedelta(days=age // 3)))

    def begin(self, plan: CallPlan, effect: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Carries out the effect at the planned time; the future holds the result or the failure."""
        carried_out: asyncio.Future[Any] = self.loop.create_future()
        if plan.carried_out_after is not None:
            self.under_way += 1
            self.loop.call_later(plan.carried_out_after, self._carry_out, carried_out, effect)
        return carried_out

    def _carry_out(self, carried_out: "asyncio.Future[Any]", effect: Callable[[], Any]) -> None:
        self.under_way -= 1
        try:
            carried_out.set_result(effect())
        except CallFailed as refusal:
            carried_out.set_result(refusal)

    def create(self, name: str, listed_by: float, *, enabled: bool = True) -> NewSubaccount:
        if REFUSED in name and not self.chance.healed:
            raise _refusal("create", 400)
        made = self._new(name, self.now())
        made.department = self._departments[made.auth_id] = name.split(" ", maxsplit=1)[0]
        made.enabled = enabled
        lag = self.chance.seconds(0, LONGEST_LAG_SECONDS) if self.chance.strikes("list lags") else 0.0
        made.listed_from = min(self.loop.time() + lag, max(listed_by, self.loop.time()))
        self.subaccounts.insert(0, made)
        self._changed("exists", made, listed_from=round(made.listed_from, 3))
        return NewSubaccount(made.auth_id, SecretStr(made.auth_token))

    def update(
        self,
        auth_id: str,
        name: str | None,
        enabled: bool | None,  # noqa: FBT001
        by: str | None = None,
    ) -> None:
        """`by`: the person who changes it by hand; None for a worker."""
        found = self._found("update", auth_id)
        if name is not None and REFUSED in name and not self.chance.healed:
            raise _refusal("update", 400)
        found.name = found.name if name is None else name
        found.enabled = found.enabled if enabled is None else enabled
        self._changed("changed", found, hand=by)

    def delete(
        self, auth_id: str, *, cascade: bool = False, by: str | None = None, read_until: float = inf
    ) -> None:
        """Deletes it, and with `cascade` its resources too; else they move. The history notes their fate.

        Reads may still show it for a while, until `read_until` at most: a late call and a lag of reads are
        over within the settle window.
        """
        found = self._found("delete", auth_id)
        lag = self.chance.seconds(0, LONGEST_LAG_SECONDS) if self.chance.strikes("deleted but read") else 0.0
        if lag:
            shown = replace(found)
            until = min(self.loop.time() + lag, max(read_until, self.loop.time()))
            self.ghosts.append(Ghost(shown, self.subaccounts.index(found), until))
        self.subaccounts.remove(found)
        found.enabled = False
        owned = self.owned_by(auth_id)
        for one in owned:
            one.sub_account = None
        if cascade:
            self.resources = [one for one in self.resources if one not in owned]
        fate = "destroyed" if cascade else "moved"
        self._changed(
            "gone", found, hand=by, cascade=cascade, **{fate: [f"{one.kind} {one.id}" for one in owned]}
        )

    def get(self, auth_id: str) -> ProvidedSubaccount:
        ghosts = [ghost.subaccount for ghost in self._haunting() if ghost.subaccount.auth_id == auth_id]
        return _shown(ghosts[0] if ghosts else self._found("get", auth_id))

    def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        listed = [one for one in self.subaccounts if one.listed_from <= self.loop.time()]
        for ghost in self._haunting():
            listed.insert(ghost.place, ghost.subaccount)
        if self.chance.strikes("list shifts while read"):
            self.loop.call_soon(self.shift)
        return [_shown(one) for one in listed[offset : offset + self.page_size]]

    def count(self, kind: ResourceKind, auth_id: str, offset: int) -> Sequence[ProvidedResource]:
        """A page of the resources of a kind: of this subaccount, or of all if the filter is ignored."""
        listed = [
            ProvidedResource(one.id, one.sub_account)
            for one in self.resources
            if one.kind is kind and (not self._filters or one.sub_account == auth_id)
        ]
        if self.chance.strikes("list shifts while read"):
            self.loop.call_soon(self.shift_resources)
        return listed[offset : offset + self.page_size]

    def owned_by(self, auth_id: str | None) -> list[Resource]:
        """The resources of a subaccount, or of the main account (None)."""
        return [one for one in self.resources if one.sub_account == auth_id]

    def give(self, auth_id: str | None, kind: ResourceKind) -> Resource:
        """Makes a resource of an account, as its users do; the first one decides whether filters work."""
        if self._filters is None:
            self._filters = self.chance.coin()
        self._given += 1
        given = Resource(kind, f"{self._given:06d}", None)
        self.resources.insert(0, given)
        self.move(given, auth_id)
        return given

    def move(self, resource: Resource, auth_id: str | None) -> None:
        """Moves a resource to another account, as its users do."""
        before, resource.sub_account = resource.sub_account, auth_id
        self.history.note(
            "resource moved",
            self.department_of(auth_id),
            resource=f"{resource.kind} {resource.id}",
            auth_id=auth_id,
            before=before,
        )

    def drop(self, resource: Resource) -> None:
        """Removes a resource, as its users do."""
        self.resources.remove(resource)
        self.history.note(
            "resource dropped",
            self.department_of(resource.sub_account),
            resource=f"{resource.kind} {resource.id}",
            auth_id=resource.sub_account,
        )

    def shift_resources(self) -> None:
        """Changes the lists of resources as users of the main account do."""
        mains = self.owned_by(None)
        if mains and self.chance.coin():
            self.drop(self.chance.one_of(mains))
        else:
            self.give(None, self.chance.one_of(tuple(ResourceKind)))

    def department_of(self, auth_id: str | None) -> str | None:
        """The department that a subaccount was made for; None for those of other users."""
        return self._departments.get(auth_id) if auth_id else None

    def _haunting(self) -> list[Ghost]:
        return [ghost for ghost in self.ghosts if ghost.until > self.loop.time()]

    def shift(self) -> None:
        """Changes the list as other users of the account do: they create and delete subaccounts."""
        strangers = [one for one in self.subaccounts if one.department is None]
        if strangers and self.chance.coin():
            self.subaccounts.remove(self.chance.one_of(strangers))
        else:
            self.subaccounts.insert(0, self._new(self._strange_name(), self.now()))

    def _strange_name(self) -> str:
        """A name of another user. Some have the tag of another deployment."""
        return self.chance.one_of(("somebody else's", "d1 [not a tag]", "d1 north [0123456789]"))

    def _new(self, name: str, created: datetime) -> Subaccount:
        self._made += 1
        return Subaccount(f"SA{self._made:018d}", f"token-{self._made}", name, created.date())

    def _found(self, operation: Operation, auth_id: str) -> Subaccount:
        for one in self.subaccounts:
            if one.auth_id == auth_id:
                return one
        raise _refusal(operation, 404)

    def _changed(self, what: str, one: Subaccount, **more: Any) -> None:
        self.history.note(
            what,
            one.department,
            auth_id=one.auth_id,
            name=one.name,
            enabled=one.enabled,
            token=one.auth_token,
            **more,
        )


class LoopClock(SystemClock):
    """A clock whose monotonic time is the time of the virtual loop."""

    def __init__(self, server: ProviderServer) -> None:
        self.monotonic = server.loop.time  # type: ignore[method-assign]


class SimulatedProvider:
    """The provider port for one process; it is its own permitted call."""

    capabilities = EVERYTHING

    def __init__(
        self,
        server: ProviderServer,
        process: Process,
        on_call: Callable[[Process], None] = lambda _: None,
    ) -> None:
        self._server = server
        self._on_call = on_call
        self._process = process
        self._chance = server.chance
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._limiter = RateLimiter(RATE, LoopClock(server), asyncio.Event())

    @asynccontextmanager
    async def permit(self, _operation: Operation) -> AsyncIterator[Call]:
        async with self._slots:
            slot = await self._limiter.slot()
            slot.begin()
            yield self

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        self._server.keys.append(("create", idempotency_key))
        listed_by = self._server.loop.time() + self._chance.profile.latest_create_seconds
        made: NewSubaccount = await self._send(
            "create",
            lambda: self._server.create(name, listed_by, enabled=enabled),
            name.split(" ", maxsplit=1)[0],
            name=name,
            key=idempotency_key,
            enabled=enabled,
        )
        return made

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> Confirmed:
        self._server.keys.append(("update", idempotency_key))
        await self._send(
            "update",
            lambda: self._server.update(auth_id, name, enabled),
            self._server.department_of(auth_id),
            auth_id=auth_id,
            name=name,
            enabled=enabled,
        )
        return Confirmed()

    async def delete(self, auth_id: str, idempotency_key: str, *, cascade: bool = False) -> Confirmed:
        self._server.keys.append(("delete", idempotency_key))
        read_until = self._server.loop.time() + self._chance.profile.latest_delete_seconds
        await self._send(
            "delete",
            lambda: self._server.delete(auth_id, cascade=cascade, read_until=read_until),
            self._server.department_of(auth_id),
            auth_id=auth_id,
            cascade=cascade,
        )
        return Confirmed()

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        self._server.keys.append(("get", None))
        shown: ProvidedSubaccount = await self._send(
            "get", lambda: self._server.get(auth_id), self._server.department_of(auth_id), auth_id=auth_id
        )
        return shown

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        self._server.keys.append(("list", None))
        page: Sequence[ProvidedSubaccount] = await self._send(
            "list", lambda: self._server.page(offset), None, offset=offset
        )
        return page

    async def resources(self, kind: ResourceKind, auth_id: str, offset: int) -> Sequence[ProvidedResource]:
        self._server.keys.append(("count", None))
        page: Sequence[ProvidedResource] = await self._send(
            "count",
            lambda: self._server.count(kind, auth_id, offset),
            self._server.department_of(auth_id),
            auth_id=auth_id,
            kind=kind,
            offset=offset,
        )
        return page

    async def probe(self) -> None:
        self._server.keys.append(("list", None))
        await self._send("list", lambda: None, None)

    async def _send(
        self, operation: Operation, effect: Callable[[], Any], department: str | None, **told: Any
    ) -> Any:
        self._process.check()
        note = self._server.history.note
        plan = plan_call(operation, self._chance, self._server.refuses)
        note(f"> {operation}", department, worker=self._process.number, **told)
        carried_out = self._server.begin(plan, effect)
        self._process.endanger("crash at a call", self._chance)
        self._on_call(self._process)
        await asyncio.sleep(plan.answered_after)
        self._process.check()
        answer = plan.fault and CallFailed(plan.fault)
        answer = answer or carried_out.result()
        if isinstance(answer, CallFailed):
            certain = answer.fault.kind in CERTAIN
            note(f"< {operation}", department, failed=answer.fault.detail, certain=certain, **told)
            raise answer
        if operation == "count":
            note("counted", department, worker=self._process.number, **told)
        return answer


def plan_call(operation: Operation, chance: Chance, refusal: Refusal | None) -> CallPlan:
    """Draws the faults of one call; `refusal` is that of an outage."""
    quick = chance.latency()
    if refusal is not None:
        return CallPlan(quick, fault=_fault(operation, refusal.status, own=refusal.own))
    if chance.strikes("not connected"):
        return CallPlan(quick, fault=CallFault(operation, FaultKind.NOT_SENT, "not connected"))
    if chance.strikes("too many requests"):
        return CallPlan(quick, fault=_fault(operation, 429))
    if chance.strikes("too many requests, retry after"):
        return CallPlan(quick, fault=_fault(operation, 429, chance.seconds(0.5, 5)))
    if chance.strikes("server error"):
        return CallPlan(quick, fault=_fault(operation, chance.one_of((500, 502, 503))))
    if chance.strikes("unreadable answer"):
        return CallPlan(2 * quick, quick, CallFault(operation, FaultKind.NO_ANSWER, "unreadable 2xx"))
    if chance.strikes("request lost"):
        return CallPlan(TIMEOUT_SECONDS, fault=_no_response(operation))
    if chance.strikes("answers slowly"):
        slow = chance.seconds(0.3, TIMEOUT_SECONDS)
        return CallPlan(slow, slow * 0.99)
    if operation in CHANGING and (in_doubt := _plan_unknown_outcome(operation, chance)):
        return in_doubt
    return CallPlan(2 * quick, quick)


def _plan_unknown_outcome(operation: Operation, chance: Chance) -> CallPlan | None:
    quick = chance.latency()
    if chance.strikes("server error, carried out"):
        return CallPlan(2 * quick, quick, _fault(operation, 500))
    if chance.strikes("in doubt"):
        return CallPlan(quick, fault=_fault(operation, chance.one_of((408, 409))))
    if chance.strikes("in doubt, carried out"):
        return CallPlan(2 * quick, quick, _fault(operation, chance.one_of((408, 409))))
    if chance.strikes("answer lost"):
        return CallPlan(
            TIMEOUT_SECONDS,
            chance.seconds(0, TIMEOUT_SECONDS),
            _no_response(operation),
        )
    if chance.strikes("carried out late"):
        latest = _latest_seconds(operation, chance)
        late = chance.seconds(0.0, latest * 0.999)
        fault = chance.one_of((_no_response(operation), _fault(operation, 503)))
        no_answer = fault.kind is FaultKind.NO_ANSWER
        return CallPlan(TIMEOUT_SECONDS if no_answer else quick, late, fault)
    return None


def _latest_seconds(operation: Operation, chance: Chance) -> float:
    match operation:
        case "create":
            return chance.profile.latest_create_seconds
        case "delete":
            return chance.profile.latest_delete_seconds
        case _:
            return LATEST_SECONDS


def _no_response(operation: Operation) -> CallFault:
    return CallFault(operation, FaultKind.NO_ANSWER, "no answer")


def _fault(
    operation: Operation, status: int, retry_after: float | None = None, *, own: bool = True
) -> CallFault:
    return CallFault(operation, kind_of(status, own=own), f"status {status}", retry_after)


def _refusal(operation: Operation, status: int) -> CallFailed:
    return CallFailed(_fault(operation, status))


def _shown(one: Subaccount) -> ProvidedSubaccount:
    return ProvidedSubaccount(one.auth_id, one.name, one.enabled, one.created, SecretStr(one.auth_token))
