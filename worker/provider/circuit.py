"""A circuit breaker around the provider: somebody else's outage is nobody's fault here.

Closed, calls go through. A fault that may be the account's asks a probe; if the probe fails too, or many in a
row met such a fault, the circuit opens: nothing is sent but probes. After a probe that passes it is
half-open: one call goes through and decides, by preference one of the kind that was refused. If it fails, it
is judged as when closed: one department's trouble keeps nobody else waiting. If probes passed when it opened,
calls of one kind are refused: the other kinds then go on beside the one that decides.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

from worker.core.judge import CallFault, Operation, accuses_the_account
from worker.flow.gate import Gate
from worker.ports import CallFailed, Clock, NewSubaccount, ProvidedSubaccount, Provider
from worker.telemetry.events import Telemetry

ENOUGH_IN_A_ROW = 20
PROBE_AGAIN_SECONDS = 0.2
PROBE_AGAIN_WITHIN_SECONDS = 5.0
"""A probe that got no answer for longer is convincing."""
FIRST_INTERVAL_SECONDS = 1.0
LONGEST_INTERVAL_SECONDS = 15.0
PREFERENCE_SECONDS = 1.0
BLOCKER = "circuit"
NOT_CLOSED = "circuit not closed"
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500

T = TypeVar("T")


class State(StrEnum):
    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


class Circuit:
    """The provider port, with a circuit breaker in it."""

    def __init__(self, provider: Provider, gate: Gate, clock: Clock, telemetry: Telemetry) -> None:
        self._provider = provider
        self._gate = gate
        self._clock = clock
        self._telemetry = telemetry
        self._state = State.CLOSED
        self._why = ""
        self._refused: Operation | None = None
        self._in_a_row: dict[Operation, set[str]] = {}
        self._alerted: set[Operation] = set()
        self._failed_trials = 0
        self._openings = 0
        self._pages = 0
        self._half_open_at = 0.0
        self._trial: Operation | None = None
        self._one_kind = False
        self._probing: asyncio.Task[bool] | None = None
        self._recovering: asyncio.Task[None] | None = None
        telemetry.circuit(State.CLOSED)

    @property
    def state(self) -> State:
        return self._state

    async def close(self) -> None:
        """Ends its probes."""
        for task in (self._probing, self._recovering):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    @asynccontextmanager
    async def permit(self, operation: Operation) -> AsyncIterator[None]:
        self._check_not_open(operation)
        async with self._provider.permit(operation):
            with self._let_through(operation):
                yield

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        call = self._provider.create(name, idempotency_key, enabled=enabled)
        return await self._watched("create", idempotency_key, call)

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> None:
        call = self._provider.update(auth_id, idempotency_key, name=name, enabled=enabled)
        await self._watched("update", auth_id, call)

    async def delete(self, auth_id: str, idempotency_key: str) -> None:
        await self._watched("delete", auth_id, self._provider.delete(auth_id, idempotency_key))

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        with self._let_through("get"):
            return await self._watched("get", auth_id, self._provider.get(auth_id))

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        with self._let_through("list"):
            self._pages += 1
            return await self._watched("list", f"page {self._pages}", self._provider.page(offset))

    async def probe(self) -> None:
        await self._provider.probe()

    # What goes through

    def _check_not_open(self, operation: Operation) -> None:
        if self._state is State.OPEN:
            raise CallFailed(CallFault(operation, self._why, sent=False, outage=True))

    @contextmanager
    def _let_through(self, operation: Operation) -> Iterator[None]:
        """Raises `CallFailed` where the circuit does not let a call of this kind through now."""
        self._check_not_open(operation)
        preferred = self._clock.monotonic() < self._half_open_at + PREFERENCE_SECONDS
        other = operation != self._refused
        beside = self._one_kind and other and (preferred or self._trial is not None)
        if self._state is State.CLOSED or beside:
            yield
            return
        if self._trial is not None or (preferred and other):
            why = f"waiting for the outcome of one call after an outage: {self._why}"
            raise CallFailed(CallFault(operation, why, sent=False, outage=True))
        self._trial = operation
        try:
            yield
        finally:
            self._trial = None

    async def _watched(self, operation: Operation, subject: str, call: Awaitable[T]) -> T:
        """`subject` tells the calls of one department from those of another."""
        openings = self._openings
        try:
            result = await call
        except CallFailed as failed:
            fault = await self._assessed(failed.fault, subject)
            opened_meanwhile = self._openings != openings and accuses_the_account(fault)
            raise CallFailed(replace(fault, outage=fault.outage or opened_meanwhile)) from None
        self._answered(operation)
        return result

    # What is made of it

    def _answered(self, operation: Operation) -> None:
        self._in_a_row.pop(operation, None)
        self._alerted.discard(operation)
        if self._decides(operation):
            self._close()

    def _decides(self, operation: Operation) -> bool:
        return self._state is State.HALF_OPEN and self._trial == operation

    async def _assessed(self, fault: CallFault, subject: str) -> CallFault:
        """The fault, marked as an outage where it is one."""
        if fault.outage:
            return fault
        if not accuses_the_account(fault):
            if fault.status != TOO_MANY_REQUESTS:
                self._answered(fault.operation)  # Plivo has dealt with it: the account is in order
            return fault
        if self._state is State.CLOSED or self._decides(fault.operation):
            await self._suspect(fault, subject)
        return replace(fault, outage=self._state is not State.CLOSED)

    async def _suspect(self, fault: CallFault, subject: str) -> None:
        in_a_row = self._in_a_row.setdefault(fault.operation, set())
        in_a_row.add(subject)
        passes = await self._probe_passes()
        if self._state is State.OPEN:
            return
        if not passes or len(in_a_row) >= ENOUGH_IN_A_ROW:
            self._open(fault, one_kind=passes)
        elif self._state is State.HALF_OPEN:
            self._close()  # it is one department's trouble: it must not keep the circuit open for all

    async def _probe_passes(self) -> bool:
        """One probe at a time, for all who ask."""
        if self._probing is None:
            self._probing = asyncio.create_task(self._probe())
            self._probing.add_done_callback(self._probed)
        return await asyncio.shield(self._probing)

    def _probed(self, _probing: "asyncio.Task[bool]") -> None:
        self._probing = None

    async def _probe(self) -> bool:
        """A second try for what may pass by itself: one lost answer is no outage."""
        fault = await self._probe_fault()
        if fault is None:
            return True
        if fault.took_seconds > PROBE_AGAIN_WITHIN_SECONDS:
            return False
        if fault.status is not None and fault.status < SERVER_ERROR:
            return False
        await self._clock.sleep(PROBE_AGAIN_SECONDS)
        return await self._probe_fault() is None

    async def _probe_fault(self) -> CallFault | None:
        """The cheapest call there is. Being told to slow down is an answer, too."""
        try:
            await self._provider.probe()
        except CallFailed as failed:
            # Where nothing could be asked, because the worker stops, nothing is known.
            accuses = accuses_the_account(failed.fault) and not failed.fault.outage
            return failed.fault if accuses else None
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the circuit open for good
            self._telemetry.step_crashed(error)
            return CallFault("list", f"unexpected {type(error).__name__} at a probe")
        return None

    # How it turns

    def _open(self, fault: CallFault, *, one_kind: bool) -> None:
        self._openings += 1
        self._one_kind = one_kind
        self._failed_trials += self._state is State.HALF_OPEN
        told_closed, known = self._state is State.CLOSED, fault.operation in self._alerted
        self._alerted.add(fault.operation)
        self._why = fault.detail
        self._refused = fault.operation
        self._turn(State.OPEN)
        if told_closed:
            self._telemetry.circuit_opened(fault.operation, fault.detail, again=known)
        self._gate.block(BLOCKER, f"circuit open: {fault.detail}", affects_all=not one_kind)
        self._recovering = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        interval = FIRST_INTERVAL_SECONDS * 2.0**self._failed_trials
        while True:
            await self._clock.sleep(
                min(interval, LONGEST_INTERVAL_SECONDS) * (0.5 + self._clock.jitter() / 2)
            )
            if await self._probe_fault() is None:
                break
            interval *= 2
            self._one_kind = False
            self._turn(State.OPEN)
        self._half_open_at = self._clock.monotonic()
        self._turn(State.HALF_OPEN)
        self._gate.unblock(BLOCKER)

    def _close(self) -> None:
        """Calls of another kind than the one that went well may fail as before: they are counted on."""
        self._failed_trials = 0
        self._turn(State.CLOSED)
        self._telemetry.circuit_closed()
        self._gate.waiting.end_pauses()  # of many that waited for one call, it was one

    def _turn(self, state: State) -> None:
        self._state = state
        if state is State.CLOSED or self._one_kind:
            self._gate.waiting.global_outages.discard(NOT_CLOSED)
        else:  # half-open it opens the gate, but all still wait for the same
            self._gate.waiting.global_outages.add(NOT_CLOSED)
        self._telemetry.circuit(state)
