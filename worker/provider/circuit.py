"""The circuit breaker around the provider. It carries out the rules of `core/breaker.py`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

from worker.core import breaker
from worker.core.breaker import (
    Admit,
    Alert,
    Block,
    Breaker,
    CallAnswered,
    CallAsked,
    CallFaulted,
    Effect,
    FaultProbed,
    OutageProbed,
    Probe,
    ProbeIn,
    Refuse,
    ReportClosed,
    Show,
    State,
    TrialEnded,
    Unblock,
)
from worker.core.capabilities import Capabilities
from worker.core.judge import CallFault, FaultKind, Operation, suggests_outage
from worker.flow.gate import Gate
from worker.flow.waiting import WaitingRoom
from worker.ports import Call, CallFailed, Clock, NewSubaccount, ProvidedSubaccount, Provider
from worker.telemetry.events import Telemetry

PROBE_AGAIN_SECONDS = 0.2
PROBE_AGAIN_WITHIN_SECONDS = 5.0
"""After a probe that took longer there is no second one."""
BLOCKER = "circuit"
NOT_CLOSED = "circuit not closed"

T = TypeVar("T")


class Prober:
    """Sends probes: one at a time for all calls that ask, and a second one after a transient fault."""

    def __init__(self, provider: Provider, clock: Clock, telemetry: Telemetry) -> None:
        self._provider = provider
        self._clock = clock
        self._telemetry = telemetry
        self._probing: asyncio.Task[bool] | None = None

    async def passes(self) -> bool:
        """Whether the provider responds to us."""
        if self._probing is None:
            self._probing = asyncio.create_task(self._probe_twice())
            self._probing.add_done_callback(self._done)
        return await asyncio.shield(self._probing)

    async def fault(self) -> CallFault | None:
        """Sends one probe. The fault if it failed; None for a response, even for 429."""
        try:
            await self._provider.probe()
        except CallFailed as failed:
            # If nothing was sent because the worker stops, nothing is known.
            suspicious = suggests_outage(failed.fault) and not failed.fault.outage
            return failed.fault if suspicious else None
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the circuit open for good
            self._telemetry.step_crashed(error)
            detail = f"unexpected {type(error).__name__} at a probe"
            return CallFault("list", FaultKind.NO_ANSWER, detail)
        return None

    async def close(self) -> None:
        """Ends a probe that is under way."""
        await _ended(self._probing)

    async def _probe_twice(self) -> bool:
        """Repeats a probe once if its response was lost: that alone is no outage. A refusal is final."""
        fault = await self.fault()
        if fault is None:
            return True
        passing = {FaultKind.NOT_SENT, FaultKind.NO_ANSWER, FaultKind.SERVER_ERROR}
        if fault.took_seconds > PROBE_AGAIN_WITHIN_SECONDS or fault.kind not in passing:
            return False
        await self._clock.sleep(PROBE_AGAIN_SECONDS)
        return await self.fault() is None

    def _done(self, _probing: "asyncio.Task[bool]") -> None:
        self._probing = None


class Circuit:
    """Implements the provider port with a circuit breaker."""

    def __init__(
        self, provider: Provider, gate: Gate, waiting: WaitingRoom, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._provider = provider
        self._gate = gate
        self._waiting = waiting
        self._clock = clock
        self._telemetry = telemetry
        self._prober = Prober(provider, clock, telemetry)
        self._breaker = Breaker()
        self._recovering: asyncio.Task[None] | None = None
        self.page_numbers = count(1)
        telemetry.circuit(State.CLOSED)

    @property
    def capabilities(self) -> Capabilities:
        """See `Provider.capabilities`."""
        return self._provider.capabilities

    @property
    def state(self) -> State:
        """The state of the breaker."""
        return self._breaker.state

    async def close(self) -> None:
        """Ends its probes."""
        await self._prober.close()
        await _ended(self._recovering)

    @asynccontextmanager
    async def permit(self, operation: Operation) -> AsyncIterator[Call]:
        """See `Provider.permit`. Raises `CallFailed` at once if the breaker refuses a call of this kind."""
        self._check_not_open(operation)
        async with self._provider.permit(operation) as call:
            with self._let_through(operation):
                yield WatchedCall(self, call)

    async def probe(self) -> None:
        """See `Provider.probe`. The breaker does not watch it."""
        await self._provider.probe()

    async def watched(self, operation: Operation, subject: str, call: Awaitable[T]) -> T:
        """Awaits the call, and reports its outcome to the breaker. Raises `CallFailed`.

        `subject` distinguishes the departments: auth id, idempotency key or page.
        """
        openings = self._breaker.openings
        try:
            result = await call
        except CallFailed as failed:
            fault = await self._assessed(failed.fault, subject)
            opened_meanwhile = self._breaker.openings != openings and suggests_outage(fault)
            raise CallFailed(replace(fault, outage=fault.outage or opened_meanwhile)) from None
        self._take(CallAnswered(operation))
        return result

    def _check_not_open(self, operation: Operation) -> None:
        """Spares a call the wait for its permit."""
        if self._breaker.state is State.OPEN:
            raise _refused(operation, self._breaker.why)

    @contextmanager
    def _let_through(self, operation: Operation) -> Iterator[None]:
        """Raises `CallFailed` if the breaker refuses a call of this kind now."""
        match self._take(CallAsked(operation)):
            case Refuse(why):
                raise _refused(operation, why)
            case Admit(decides=True):
                try:
                    yield
                finally:
                    self._take(TrialEnded())
            case _:
                yield

    async def _assessed(self, fault: CallFault, subject: str) -> CallFault:
        """The fault, marked as an outage if it is one."""
        if fault.outage:
            return fault
        if not suggests_outage(fault):
            if fault.kind is not FaultKind.RATE_LIMITED:
                self._take(CallAnswered(fault.operation))
            return fault
        if isinstance(self._take(CallFaulted(fault.operation, subject)), Probe):
            passes = await self._prober.passes()
            self._take(FaultProbed(fault.operation, fault.detail, passes))
        return replace(fault, outage=self._breaker.state is not State.CLOSED)

    def _take(self, event: breaker.Event) -> Effect | None:
        """Passes the event to the breaker and carries out its effects. Returns an Admit, Refuse or Probe."""
        self._breaker, effects = breaker.transition(self._breaker, event, self._clock.monotonic())
        answer: Effect | None = None
        for effect in effects:
            match effect:
                case Admit() | Refuse() | Probe():
                    answer = effect
                case _:
                    self._carry_out(effect)
        return answer

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Show():
                self._show()
            case Alert(operation, detail, again):
                self._telemetry.circuit_opened(operation, detail, again=again)
            case Block(why, affects_all):
                self._gate.block(BLOCKER, why, affects_all=affects_all)
            case Unblock():
                self._gate.unblock(BLOCKER)
            case ReportClosed():
                self._telemetry.circuit_closed()
                self._waiting.end_pauses()  # the messages that waited for the one call that decided
            case ProbeIn(seconds):
                self._recovering = asyncio.create_task(self._probe_in(seconds))

    def _show(self) -> None:
        if self._breaker.affects_all:
            self._waiting.global_outages.add(NOT_CLOSED)
        else:
            self._waiting.global_outages.discard(NOT_CLOSED)
        self._telemetry.circuit(self._breaker.state)

    async def _probe_in(self, seconds: float) -> None:
        await self._clock.sleep(seconds * (0.5 + self._clock.jitter() / 2))
        self._take(OutageProbed(passes=await self._prober.fault() is None))


@dataclass(frozen=True, slots=True)
class WatchedCall:
    """A permitted call that reports its outcome to the breaker."""

    circuit: Circuit
    call: Call

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        """See `Call.create`."""
        call = self.call.create(name, idempotency_key, enabled=enabled)
        return await self.circuit.watched("create", idempotency_key, call)

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> None:
        """See `Call.update`."""
        call = self.call.update(auth_id, idempotency_key, name=name, enabled=enabled)
        await self.circuit.watched("update", auth_id, call)

    async def delete(self, auth_id: str, idempotency_key: str) -> None:
        """See `Call.delete`."""
        await self.circuit.watched("delete", auth_id, self.call.delete(auth_id, idempotency_key))

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        """See `Call.get`."""
        return await self.circuit.watched("get", auth_id, self.call.get(auth_id))

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        """See `Call.page`."""
        subject = f"page {next(self.circuit.page_numbers)}"  # it belongs to no department: each counts
        return await self.circuit.watched("list", subject, self.call.page(offset))


def _refused(operation: Operation, why: str) -> CallFailed:
    return CallFailed(CallFault(operation, FaultKind.NOT_SENT, why, outage=True))


async def _ended(task: "asyncio.Task[object] | None") -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
