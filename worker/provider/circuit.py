"""The circuit breaker around the provider. It carries out the rules of `core/breaker.py`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from enum import Enum, auto
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
    CallRefused,
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
from worker.core.checks import provider_advice
from worker.core.inventory import ProvidedResource, ResourceKind
from worker.core.judge import CallFault, FaultKind, Operation, blames_request, suggests_outage
from worker.flow.gate import Gate
from worker.flow.waiting import WaitingRoom, sleep_unless_stopping
from worker.ports import Call, CallFailed, Clock, Confirmed, NewSubaccount, ProvidedSubaccount, Provider
from worker.provider.rate import LONGEST_REST_SECONDS
from worker.telemetry.events import Telemetry

PROBE_AGAIN_SECONDS = 0.2
PROBE_AGAIN_WITHIN_SECONDS = 5.0
"""After a probe that took longer there is no second one."""
PROBE_PATIENCE_SECONDS = 2.0
"""How long further calls wait for a probe that is under way. If a gateway refuses everything, few of them
meet it. A provider that is slow to list does not stop the other calls, though."""
BLOCKER = "circuit"
RESTING = "rate limit"
NOT_CLOSED = "circuit not closed"

T = TypeVar("T")


class Probed(Enum):
    """The outcome of a probe."""

    PASSED = auto()
    FAILED = auto()
    UNDECIDED = auto()
    """429, or nothing was sent: the provider may be well."""


class Prober:
    """Sends probes: one at a time for all calls that ask, and a second one after a transient fault."""

    def __init__(self, provider: Provider, clock: Clock, telemetry: Telemetry) -> None:
        self._provider = provider
        self._clock = clock
        self._telemetry = telemetry
        self._next: asyncio.Future[Probed] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def idle(self) -> bool:
        """Whether no call waits for a probe."""
        return self._idle.is_set()

    async def until_idle(self, seconds: float) -> None:
        """Waits for the probe under way, if there is one, for at most `seconds`."""
        if not self.idle:
            await sleep_unless_stopping(self._clock, seconds, self._idle)

    async def outcome(self) -> Probed:
        """The outcome of a probe that begins after this call, or of one under way if that fails.

        One that began earlier and passes proves nothing about a call that failed meanwhile.
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        asked = self._next
        if self._probing is None:
            self._idle.clear()
            self._probing = asyncio.create_task(self._probe_on())
        return await asyncio.shield(asked)

    async def probe(self) -> tuple[Probed, CallFault | None]:
        """Sends one probe; returns its outcome and its fault. Any failure but 429 counts, 400 too."""
        try:
            async with self._one_at_a_time:
                await self._provider.probe()
        except CallFailed as failed:
            undecided = failed.fault.outage or failed.fault.kind is FaultKind.RATE_LIMITED
            return Probed.UNDECIDED if undecided else Probed.FAILED, failed.fault
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the circuit open for good
            self._telemetry.step_crashed(error)
            detail = f"unexpected {type(error).__name__} at a probe"
            return Probed.FAILED, CallFault("list", FaultKind.NO_ANSWER, detail)
        return Probed.PASSED, None

    async def probe_twice(self) -> tuple[Probed, CallFault | None]:
        """Repeats a probe once if its response was lost: that alone is no outage. A refusal is final."""
        outcome, fault = await self.probe()
        passing = {FaultKind.NOT_SENT, FaultKind.NO_ANSWER, FaultKind.SERVER_ERROR}
        if outcome is not Probed.FAILED or fault is None or fault.kind not in passing:
            return outcome, fault
        if fault.took_seconds > PROBE_AGAIN_WITHIN_SECONDS:
            return outcome, fault
        await self._clock.sleep(PROBE_AGAIN_SECONDS)
        return await self.probe()

    async def close(self) -> None:
        """Ends a probe that is under way."""
        await _ended(self._probing)

    async def _probe_on(self) -> None:
        asked: list[asyncio.Future[Probed]] = []
        try:
            while self._next is not None:
                asked, self._next = [self._next], None
                outcome, _ = await self.probe_twice()
                if outcome is Probed.FAILED and self._next is not None:
                    asked, self._next = [*asked, self._next], None
                for one in asked:
                    one.set_result(outcome)
        finally:
            for one in asked:
                one.cancel()
            self._probing = None
            self._idle.set()


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
        self._first: asyncio.Task[None] | None = None
        self._resting: asyncio.Task[None] | None = None
        self._rests_until = 0.0
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

    @property
    def trouble(self) -> str | None:
        """Why no event could succeed now although messages are taken; None if one could."""
        if self._first is not None and not self._first.done():
            return "Plivo has not answered yet: the first call is under way"
        if self._breaker.undecided(self._clock.monotonic()):
            return f"circuit half-open: {self._breaker.why}"
        return None

    def begin(self) -> None:
        """Asks the provider for the first time. A wrong login shows then, not at the first event."""
        self._first = asyncio.create_task(self.ask())

    async def ask(self) -> None:
        """Sends a probe, which opens the circuit if it fails."""
        outcome, fault = await self._prober.probe_twice()
        self._note(fault)
        if outcome is Probed.FAILED and fault is not None:
            self._take(FaultProbed("list", f"{fault.detail}; {provider_advice(fault)}", passes=False))

    async def close(self) -> None:
        """Ends its probes."""
        await self._prober.close()
        for task in (self._recovering, self._first, self._resting):
            await _ended(task)

    @asynccontextmanager
    async def permit(self, operation: Operation) -> AsyncIterator[Call]:
        """See `Provider.permit`. Raises `CallFailed` at once if the breaker refuses a call of this kind.

        While a probe is under way, it waits for its outcome.
        """
        patience = PROBE_PATIENCE_SECONDS
        while True:
            begun = self._clock.monotonic()
            await self._prober.until_idle(patience)
            patience -= self._clock.monotonic() - begun
            self._check_not_open(operation)
            async with self._provider.permit(operation) as call:
                if not self._prober.idle and patience > 0:
                    continue  # a fault was met meanwhile; the slot is given back, for the probe may need it
                with self._let_through(operation):
                    yield WatchedCall(self, call)
                return

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
        if fault.kind is FaultKind.RATE_LIMITED:
            self._rest(fault)
        if blames_request(fault):
            return fault if await self._confirmed(fault) else _doubted(fault)
        if not suggests_outage(fault):
            return fault
        if isinstance(self._take(CallFaulted(fault.operation, subject)), Probe):
            failed = await self._prober.outcome() is Probed.FAILED
            self._take(FaultProbed(fault.operation, fault.detail, not failed))
        return replace(fault, outage=self._breaker.state is not State.CLOSED)

    async def _confirmed(self, refusal: CallFault) -> bool:
        """Whether the provider itself refused this request: a probe passes."""
        if not isinstance(self._take(CallRefused()), Probe):
            return False
        match await self._prober.outcome():
            case Probed.PASSED:
                self._take(CallAnswered(refusal.operation))
                return True
            case Probed.FAILED:
                self._take(FaultProbed(refusal.operation, refusal.detail, passes=False))
        return False

    def _rest(self, limited: CallFault) -> None:
        """Takes no messages while the provider asks for a long time without calls."""
        seconds = limited.retry_after_seconds or 0.0
        until = self._clock.monotonic() + seconds
        if seconds <= LONGEST_REST_SECONDS or until <= self._rests_until:
            return
        self._rests_until = until
        at = (self._clock.now() + timedelta(seconds=seconds)).astimezone(UTC)
        self._gate.block(RESTING, f"{limited.detail}; it wants no call before {at:%Y-%m-%dT%H:%M:%SZ}")
        if self._resting is None or self._resting.done():
            self._resting = asyncio.create_task(self._rested())

    async def _rested(self) -> None:
        while (seconds := self._rests_until - self._clock.monotonic()) > 0:
            await self._clock.sleep(seconds)
        self._gate.unblock(RESTING)

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
        outcome, fault = await self._prober.probe()
        self._note(fault)
        self._take(OutageProbed(passes=outcome is not Probed.FAILED))

    def _note(self, probe_fault: CallFault | None) -> None:
        if probe_fault is not None and probe_fault.kind is FaultKind.RATE_LIMITED:
            self._rest(probe_fault)


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
    ) -> Confirmed:
        """See `Call.update`."""
        call = self.call.update(auth_id, idempotency_key, name=name, enabled=enabled)
        return await self.circuit.watched("update", auth_id, call)

    async def delete(self, auth_id: str, idempotency_key: str, *, cascade: bool = False) -> Confirmed:
        """See `Call.delete`."""
        call = self.call.delete(auth_id, idempotency_key, cascade=cascade)
        return await self.circuit.watched("delete", auth_id, call)

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        """See `Call.get`."""
        return await self.circuit.watched("get", auth_id, self.call.get(auth_id))

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        """See `Call.page`."""
        subject = f"page {next(self.circuit.page_numbers)}"  # it belongs to no department: each counts
        return await self.circuit.watched("list", subject, self.call.page(offset))

    async def resources(self, kind: ResourceKind, auth_id: str, offset: int) -> Sequence[ProvidedResource]:
        """See `Call.resources`."""
        return await self.circuit.watched("count", auth_id, self.call.resources(kind, auth_id, offset))


def _refused(operation: Operation, why: str) -> CallFailed:
    return CallFailed(CallFault(operation, FaultKind.NOT_SENT, why, outage=True))


def _doubted(refusal: CallFault) -> CallFault:
    """A refusal that no probe has confirmed: it may be everybody's, and the word of something else."""
    return replace(refusal, kind=FaultKind.UNEXPECTED, outage=True)


async def _ended(task: "asyncio.Task[object] | None") -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
