"""The circuit breaker: the faults that open it, the calls it admits, and the calls that close it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest

from tests.pipeline.outages import Refusing, a_fault
from tests.support.builders import NOW
from tests.support.settling_loop import settled
from worker.adapters.memory.clock import MemoryClock
from worker.core.breaker import IDLE_SECONDS, MAX_FAILED_IN_A_ROW, MAX_FAILED_LISTS, State
from worker.core.inventory import ResourceKind
from worker.core.judge import CallFault, FaultKind, Operation
from worker.flow.gate import Gate
from worker.flow.waiting import WaitingRoom
from worker.ports import Call, CallFailed
from worker.provider.circuit import BLOCKER, PROBE_PATIENCE_SECONDS, RESTING, Circuit
from worker.telemetry.events import Telemetry

OPERATIONS: tuple[Operation, ...] = get_args(Operation)
REFUSED = {"sent": False}
SUGGESTS_OUTAGE = [
    *[(operation, {"status": status}) for operation in OPERATIONS for status in (401, 402, 403, 500, 503)],
    *[
        (operation, {"status": status, "own": False})
        for operation in OPERATIONS
        for status in (302, 400, 403, 404, 405, 407, 410, 421, 451)
    ],
    *[(operation, more) for operation in OPERATIONS for more in ({}, REFUSED)],
    ("create", {"status": 404}),
    *[("list", {"status": status}) for status in (400, 404, 405, 422)],
]
BLAMES_REQUEST = [
    *[(operation, status) for operation in OPERATIONS for status in (400, 405, 422) if operation != "list"],
    *[(operation, 404) for operation in ("update", "delete", "get", "count")],
]


@dataclass
class Bench:
    provider: Refusing = field(default_factory=Refusing)
    clock: MemoryClock = field(default_factory=lambda: MemoryClock(NOW, jitter=1.0))
    telemetry: Telemetry = field(default_factory=Telemetry)

    def __post_init__(self) -> None:
        self.gate = Gate(self.clock, self.telemetry, WaitingRoom(self.clock, 10))
        self.circuit = Circuit(self.provider, self.gate, self.gate.waiting, self.clock, self.telemetry)
        self.made = 0

    async def call(self, operation: Operation, subject: str = "") -> Any:
        async with self.circuit.permit(operation) as call:
            return await self.send(call, operation, subject)

    def send(self, call: Call, operation: Operation, subject: str = "") -> Awaitable[Any]:
        self.made += 1
        calls: dict[Operation, Callable[[], Awaitable[Any]]] = {
            "create": lambda: call.create("Sales", subject or f"key-{self.made}"),
            "update": lambda: call.update(subject or "SA1", "key", name="Sales"),
            "delete": lambda: call.delete(subject or "SA1", "key"),
            "get": lambda: call.get(subject or "SA1"),
            "list": lambda: call.page(0),
            "count": lambda: call.resources(ResourceKind.NUMBERS, subject or "SA1", 0),
        }
        return calls[operation]()

    async def fails(self, operation: Operation, subject: str = "") -> CallFault:
        with pytest.raises(CallFailed) as failure:
            await self.in_time(self.call(operation, subject))
        return failure.value.fault

    async def in_time(self, work: Any) -> Any:
        """Advances time until the work is done, for example over the pause before a second probe."""
        task = asyncio.ensure_future(work)
        while not task.done():
            asleep = asyncio.ensure_future(self.clock.asleep())
            await asyncio.wait({task, asleep}, return_when=asyncio.FIRST_COMPLETED)
            asleep.cancel()
            if not task.done():
                self.clock.advance(self.clock.seconds_to_next())
        return task.result()

    async def opened(self, operation: Operation = "create", **refusal: Any) -> None:
        """Opens the circuit by one refused call and one refused probe."""
        self.provider.refuse_all(**(refusal or {"status": 401}))
        assert (await self.fails(operation)).outage
        assert self.circuit.state is State.OPEN

    async def refused_in_a_row(self, operation: Operation) -> None:
        """Refuses calls until the circuit opens, while the probe passes."""
        for _ in range(MAX_FAILED_IN_A_ROW):
            await self.fails(operation)
        assert self.circuit.state is State.OPEN

    async def half_opened(self, operation: Operation = "create") -> None:
        """Lets the probe pass again; calls are refused as before."""
        if self.circuit.state is State.CLOSED:
            await self.opened(operation)
        self.provider.refuses.pop("probe")
        await self.half_opened_by_time()

    async def half_opened_by_time(self) -> None:
        await self.by_time(State.HALF_OPEN)

    async def by_time(self, state: State) -> None:
        """Advances time until the circuit has this state."""
        while self.circuit.state is not state:
            await self.clock.asleep()
            self.clock.advance(self.clock.seconds_to_next())
            await settled()

    def sent(self) -> int:
        return len(self.provider.calls)

    def alerts(self) -> float | None:
        return self.telemetry.registry.get_sample_value("provisioner_circuit_opened_total")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.circuit.close()


# Opening


@pytest.mark.parametrize(("operation", "refusal"), SUGGESTS_OUTAGE, ids=str)
async def test_a_failed_call_and_a_failed_probe_open_the_circuit(bench, operation, refusal):
    bench.provider.refuse_all(**refusal)
    fault = await bench.fails(operation)
    assert (fault.outage, bench.circuit.state) == (True, State.OPEN)
    assert BLOCKER in bench.gate.blocks
    assert bench.alerts() == 1


@pytest.mark.parametrize(("operation", "refusal"), SUGGESTS_OUTAGE, ids=str)
async def test_a_failed_call_with_a_passing_probe_keeps_it_closed(bench, operation, refusal):
    bench.provider.refuses[operation] = a_fault(operation, **refusal)
    fault = await bench.fails(operation)
    assert (fault.outage, bench.circuit.state, bench.provider.probes) == (False, State.CLOSED, 1)
    assert not bench.gate.blocks


@pytest.mark.parametrize(("operation", "status"), BLAMES_REQUEST)
async def test_a_refused_request_is_believed_while_the_probe_passes(bench, operation, status):
    refusal = a_fault(operation, status)
    for _ in range(2 * MAX_FAILED_IN_A_ROW):
        bench.provider.refuses[operation] = refusal
        assert await bench.fails(operation) == refusal
    assert (bench.circuit.state, bench.provider.probes) == (State.CLOSED, 2 * MAX_FAILED_IN_A_ROW)


@pytest.mark.parametrize(("operation", "status"), BLAMES_REQUEST)
async def test_a_refused_request_is_not_believed_while_the_probe_fails(bench, operation, status):
    bench.provider.refuses = {operation: a_fault(operation, status), "probe": a_fault("list", 400)}
    fault = await bench.fails(operation)
    assert (fault.outage, fault.kind) == (True, FaultKind.UNEXPECTED)
    assert bench.circuit.state is State.OPEN


@pytest.mark.parametrize("probe", [{"status": 429}, {"sent": False, "outage": True}], ids=str)
async def test_a_refused_request_is_tried_again_while_no_probe_decides(bench, probe):
    bench.provider.refuses = {"create": a_fault("create", 400), "probe": a_fault("list", **probe)}
    fault = await bench.fails("create")
    assert (fault.outage, fault.kind) == (True, FaultKind.UNEXPECTED)
    assert bench.circuit.state is State.CLOSED


async def test_429_needs_no_probe(bench):
    bench.provider.refuse_all(401)
    bench.provider.refuses["create"] = a_fault("create", 429)
    assert not (await bench.fails("create")).outage
    assert (bench.circuit.state, bench.provider.probes) == (State.CLOSED, 0)


async def test_failed_pages_of_the_list_open_it_despite_the_probe(bench):
    bench.provider.refuses["list"] = a_fault("list", 500)
    faults = [await bench.fails("list") for _ in range(MAX_FAILED_LISTS)]
    assert [fault.outage for fault in faults] == [False] * (MAX_FAILED_LISTS - 1) + [True]
    assert (bench.circuit.state, bench.circuit._breaker.one_kind) == (State.OPEN, True)


@pytest.mark.parametrize("refusal", [{"status": 503}, {}, REFUSED], ids=str)
async def test_a_possibly_transient_fault_is_probed_twice(bench, refusal):
    bench.provider.refuse_all(**refusal)
    await bench.fails("create")
    assert (bench.provider.probes, bench.circuit.state) == (2, State.OPEN)


async def test_a_refused_login_is_probed_once(bench):
    await bench.opened(status=401)
    assert bench.provider.probes == 1


async def test_a_call_that_spans_an_outage_fails_as_part_of_it(bench, monkeypatch):
    hangs = asyncio.Event()

    async def create(*_: Any, **__: Any) -> None:
        await hangs.wait()
        raise CallFailed(a_fault("create"))

    with monkeypatch.context() as patched:
        patched.setattr(bench.provider, "create", create)
        hanging = asyncio.create_task(bench.call("create", "slow"))
        await settled()
    await bench.opened("list")
    bench.provider.refuses.clear()
    await bench.by_time(State.CLOSED)
    hangs.set()
    with pytest.raises(CallFailed) as failure:
        await bench.in_time(hanging)
    assert failure.value.fault.outage
    assert bench.circuit.state is State.CLOSED


@pytest.mark.parametrize("slow", [False, True])
async def test_a_probe_that_timed_out_is_not_repeated(bench, slow):
    bench.provider.refuse_all()
    bench.provider.refuses["probe"] = a_fault("list", took_seconds=20.0 if slow else 0.1)
    await bench.fails("create")
    assert (bench.provider.probes, bench.circuit.state) == (1 if slow else 2, State.OPEN)


async def test_a_probe_answered_429_passes(bench):
    bench.provider.refuse_all(503)
    bench.provider.refuses["probe"] = a_fault("list", 429)
    assert not (await bench.fails("create")).outage
    assert bench.circuit.state is State.CLOSED


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("status", [400, 404, 405, 409, 410, 422, 451])
async def test_a_probe_refused_by_any_status_fails(bench, status, own):
    """A list request is always the same: its refusal can be no message's fault."""
    bench.provider.refuse_all(503)
    bench.provider.refuses["probe"] = a_fault("list", status, own=own)
    assert (await bench.fails("create")).outage
    assert bench.circuit.state is State.OPEN


async def test_a_probe_not_sent_during_shutdown_is_ignored(bench):
    bench.provider.refuse_all(503)
    bench.provider.refuses["probe"] = a_fault("list", sent=False, outage=True)
    assert not (await bench.fails("create")).outage
    assert (bench.circuit.state, bench.alerts()) == (State.CLOSED, 0)


async def test_many_departments_in_a_row_open_it_despite_the_probe(bench):
    bench.provider.refuses["create"] = a_fault("create", 403)
    faults = [await bench.fails("create") for _ in range(MAX_FAILED_IN_A_ROW)]
    assert [fault.outage for fault in faults] == [False] * (MAX_FAILED_IN_A_ROW - 1) + [True]
    assert bench.circuit.state is State.OPEN


async def test_one_department_alone_never_opens_it(bench):
    bench.provider.refuses["create"] = a_fault("create", 403)
    for _ in range(3 * MAX_FAILED_IN_A_ROW):
        assert not (await bench.fails("create", "the same key")).outage


async def test_a_success_between_failures_keeps_it_closed(bench):
    for _ in range(3):
        bench.provider.refuses["create"] = a_fault("create", 403)
        for _ in range(MAX_FAILED_IN_A_ROW - 1):
            assert not (await bench.fails("create")).outage
        bench.provider.refuses.clear()
        await bench.call("create")


async def test_concurrent_failures_share_one_probe(bench):
    bench.provider.refuse_all(401)
    faults = await asyncio.gather(*(bench.fails("create") for _ in range(15)))
    assert {fault.outage for fault in faults} == {True}
    assert (bench.provider.probes, bench.alerts()) == (1, 1)


async def test_calls_wait_while_a_probe_is_under_way(bench):
    """If a gateway refuses everything, few calls meet it before the probe shows that."""
    asked, answers = asyncio.Event(), asyncio.Event()

    async def probe() -> None:
        asked.set()
        await answers.wait()
        raise CallFailed(a_fault("list", 400, own=False))

    bench.provider.probe = probe
    bench.provider.refuse_all(400, own=False)
    first = asyncio.create_task(bench.call("create"))
    await asked.wait()
    others = [asyncio.create_task(bench.call(operation)) for operation in OPERATIONS for _ in range(20)]
    await settled()
    assert bench.sent() == 1
    answers.set()
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert all(isinstance(one, CallFailed) and one.fault.outage for one in outcomes)
    assert bench.sent() == 1


async def test_a_call_that_waited_long_for_its_turn_waits_for_a_probe_too(bench):
    turn, asked = asyncio.Event(), asyncio.Event()
    permit = bench.provider.permit

    @asynccontextmanager
    async def in_turn(operation: Operation) -> AsyncIterator[Call]:
        if operation == "list":
            await turn.wait()
        async with permit(operation) as call:
            yield call

    async def probe() -> None:
        asked.set()
        await asyncio.Event().wait()

    bench.provider.permit, bench.provider.probe = in_turn, probe
    queued = asyncio.create_task(bench.call("list"))
    await settled()
    bench.clock.advance(10 * PROBE_PATIENCE_SECONDS)
    bench.provider.refuses["create"] = a_fault("create", 403)
    failing = asyncio.create_task(bench.call("create"))
    await asked.wait()
    turn.set()
    await settled()
    assert not queued.done()
    failing.cancel()
    queued.cancel()


async def test_calls_wait_for_a_slow_probe_for_a_while_only(bench):
    answers = asyncio.Event()
    bench.provider.probe = answers.wait
    bench.provider.refuses["create"] = a_fault("create", 403)
    failing = asyncio.create_task(bench.call("create"))
    await settled()
    waiting = asyncio.create_task(bench.call("list"))
    await settled()
    bench.clock.advance(PROBE_PATIENCE_SECONDS)
    await waiting
    answers.set()
    with pytest.raises(CallFailed):
        await failing


async def test_a_probe_that_began_before_a_refusal_does_not_confirm_it(bench):
    """It passed; everything is refused since."""
    asked, answers = asyncio.Event(), asyncio.Event()

    async def probe() -> None:
        if asked.is_set():
            raise CallFailed(a_fault("list", 400))
        asked.set()
        await answers.wait()

    refused = asyncio.Event()

    async def update(*_: Any, **__: Any) -> None:
        await refused.wait()
        raise CallFailed(a_fault("update", 400))

    bench.provider.probe, bench.provider.update = probe, update
    under_way = asyncio.create_task(bench.call("update"))
    await settled()
    bench.provider.refuses["create"] = a_fault("create", 403)
    failing = asyncio.create_task(bench.call("create"))
    await asked.wait()
    refused.set()
    await settled()
    answers.set()
    outcomes = await asyncio.gather(under_way, failing, return_exceptions=True)
    faults = [one.fault for one in outcomes if isinstance(one, CallFailed)]
    assert [(fault.kind, fault.outage) for fault in faults] == [
        (FaultKind.UNEXPECTED, True),
        (FaultKind.FORBIDDEN, False),
    ]
    assert bench.circuit.state is State.OPEN


# The first probe


async def test_the_first_probe_opens_the_circuit_before_any_call(bench):
    bench.provider.refuse_all(401)
    bench.circuit.begin()
    assert bench.circuit.trouble == "Plivo has not answered yet: the first call is under way"
    await settled()
    assert bench.circuit.trouble is None
    advice = "set PLIVO_AUTH_ID and PLIVO_AUTH_TOKEN to those that Plivo's console shows"
    assert bench.gate.blocks == {BLOCKER: f"circuit open: Plivo answered 401 to list; {advice}"}
    bench.provider.refuses.clear()
    await bench.by_time(State.CLOSED)  # the probe itself is a call of the refused kind
    assert not bench.gate.blocks


@pytest.mark.parametrize("probe", [None, {"status": 429}], ids=str)
async def test_a_first_probe_that_is_answered_keeps_it_closed(bench, probe):
    if probe:
        bench.provider.refuses["probe"] = a_fault("list", **probe)
    bench.circuit.begin()
    await settled()
    assert (bench.circuit.trouble, bench.circuit.state, dict(bench.gate.blocks)) == (None, State.CLOSED, {})


# A long rest after 429


@pytest.mark.parametrize("asks", ["call", "probe"])
async def test_a_long_retry_after_blocks_the_gate_until_it_has_run_out(bench, asks):
    limited = a_fault("list", 429, retry_after_seconds=600.0)
    bench.provider.refuses = {"list" if asks == "call" else "probe": limited}
    if asks == "call":
        await bench.fails("list")
    else:
        bench.circuit.begin()
        await settled()
    ends = "2026-11-21T12:10:00Z"
    assert bench.gate.blocks == {
        RESTING: f"Plivo answered 429 to list; it wants no call before {ends}",
    }
    assert bench.gate.waiting.global_outages == {RESTING}
    await settled()
    bench.clock.advance(599)
    await settled()
    assert RESTING in bench.gate.blocks
    bench.clock.advance(1)
    await settled()
    assert not bench.gate.blocks


async def test_a_longer_retry_after_extends_the_rest(bench):
    bench.provider.refuses["list"] = a_fault("list", 429, retry_after_seconds=60.0)
    await bench.fails("list")
    bench.provider.refuses["list"] = a_fault("list", 429, retry_after_seconds=600.0)
    await bench.fails("list")
    await settled()
    bench.clock.advance(60)
    await settled()
    assert RESTING in bench.gate.blocks
    await settled()
    bench.clock.advance(540)
    await settled()
    assert not bench.gate.blocks


async def test_a_short_retry_after_does_not_block_the_gate(bench):
    bench.provider.refuses["list"] = a_fault("list", 429, retry_after_seconds=5.0)
    await bench.fails("list")
    assert not bench.gate.blocks


# Open


async def test_no_call_is_sent_while_it_is_open(bench):
    await bench.opened()
    sent = bench.sent()
    for operation in OPERATIONS:
        fault = await bench.fails(operation)
        assert (fault.outage, fault.kind) == (True, FaultKind.NOT_SENT)
        assert "401" in fault.detail
    assert bench.sent() == sent


async def test_probe_intervals_grow(bench):
    await bench.opened()
    bench.clock.naps.clear()
    for _ in range(7):
        await bench.clock.asleep()
        bench.clock.advance(bench.clock.seconds_to_next())
        await settled()
    assert bench.clock.naps[:7] == [2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0]
    assert bench.circuit.state is State.OPEN


async def test_a_crashed_probe_is_repeated(bench, monkeypatch):
    await bench.opened()

    async def crash() -> None:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as crashing:
        crashing.setattr(bench.provider, "probe", crash)
        await bench.clock.asleep()
        bench.clock.advance(bench.clock.seconds_to_next())
        await settled()
        assert bench.circuit.state is State.OPEN
    await bench.half_opened()
    assert not bench.gate.blocks


# Half-open


async def test_one_call_at_a_time_is_admitted(bench):
    await bench.half_opened()
    sent = bench.sent()
    async with bench.circuit.permit("create"):
        for operation in OPERATIONS:
            fault = await bench.fails(operation)
            assert (fault.outage, fault.kind) == (True, FaultKind.NOT_SENT)
    assert bench.sent() == sent
    assert bench.circuit.state is State.HALF_OPEN


async def test_the_refused_operation_is_preferred_as_trial(bench):
    await bench.half_opened("update")
    bench.provider.refuses.clear()
    for operation in ("create", "delete", "get", "list"):
        assert (await bench.fails(operation)).outage
    bench.clock.advance(1.1)  # no such call came in time
    await bench.call("create")
    assert bench.circuit.state is State.CLOSED


async def test_half_open_is_trouble_until_the_trial_ends(bench):
    await bench.half_opened()
    assert bench.circuit.trouble == "circuit half-open: Plivo answered 401 to create"
    bench.provider.refuses.clear()
    async with bench.circuit.permit("create") as deciding:
        bench.clock.advance(10 * IDLE_SECONDS)
        assert bench.circuit.trouble
        await bench.send(deciding, "create")
    assert bench.circuit.trouble is None


async def test_half_open_without_any_call_is_trouble_for_a_while_only(bench):
    await bench.half_opened()
    bench.clock.advance(IDLE_SECONDS)
    assert bench.circuit.trouble is None


async def test_a_successful_trial_closes_it(bench):
    await bench.half_opened()
    bench.provider.refuses.clear()
    await bench.call("create")
    assert bench.circuit.state is State.CLOSED
    await asyncio.gather(*(bench.call("create") for _ in range(5)))
    assert bench.alerts() == 1


async def test_a_trial_that_plivo_rejects_closes_it(bench):
    await bench.half_opened()
    bench.provider.refuses = {"create": a_fault("create", 400)}
    assert not (await bench.fails("create")).outage
    assert bench.circuit.state is State.CLOSED


async def test_a_trial_of_a_failing_department_does_not_keep_it_open(bench):
    """The admitted call may belong to a department that always fails, while the probe passes."""
    await bench.half_opened()
    bench.provider.refuses = {"create": a_fault("create", 403)}
    assert not (await bench.fails("create")).outage
    assert bench.circuit.state is State.CLOSED


async def test_after_many_failures_in_a_row_a_failed_trial_reopens_it(bench):
    bench.provider.refuses["create"] = a_fault("create", 403)
    await bench.refused_in_a_row("create")
    for _ in range(3):
        await bench.half_opened_by_time()
        assert (await bench.fails("create")).outage
        assert bench.circuit.state is State.OPEN


async def test_other_operations_are_admitted_beside_the_trial(bench):
    made = await bench.provider.create("Sales", "key")
    bench.provider.refuses["create"] = a_fault("create", 503)
    await bench.refused_in_a_row("create")
    await bench.half_opened_by_time()
    async with bench.circuit.permit("create") as deciding:
        for operation in ("update", "get", "list", "delete"):
            await bench.call(operation, made.auth_id)
        bench.clock.advance(1.1)  # the trial is slow
        await bench.call("list")
        assert (await bench.fails("create")).outage
        bench.provider.refuses["update"] = a_fault("update", 403)
        assert (await bench.fails("update")).outage
        assert bench.circuit.state is State.HALF_OPEN
        bench.provider.refuses.clear()
        await bench.send(deciding, "create")
    assert bench.circuit.state is State.CLOSED


async def test_an_outage_of_one_operation_is_not_global(bench):
    """Messages may still be evicted: all wait for the same outage only if all operations are refused."""
    bench.provider.refuses["create"] = a_fault("create", 503)
    await bench.refused_in_a_row("create")
    assert bench.gate.blocks
    assert not bench.gate.waiting.global_outages
    await bench.half_opened_by_time()
    assert not bench.gate.waiting.global_outages


async def test_an_outage_of_one_operation_may_become_global(bench):
    bench.provider.refuses["create"] = a_fault("create", 503)
    await bench.refused_in_a_row("create")
    bench.provider.refuse_all(503)
    await bench.clock.asleep()
    bench.clock.advance(bench.clock.seconds_to_next())
    await settled()
    assert bench.gate.waiting.global_outages
    bench.provider.refuses.clear()
    await bench.half_opened_by_time()
    assert (await bench.fails("list")).outage
    await bench.call("create")
    assert not bench.gate.waiting.global_outages


async def test_a_trial_answered_429_decides_nothing(bench):
    await bench.half_opened()
    bench.provider.refuses = {"create": a_fault("create", 429)}
    await bench.fails("create")
    assert bench.circuit.state is State.HALF_OPEN
    bench.provider.refuses.clear()
    await bench.call("create")
    assert bench.circuit.state is State.CLOSED


async def test_failed_trials_reopen_it_for_longer_without_an_alert(bench):
    intervals = []
    for _ in range(5):
        await bench.half_opened()
        bench.clock.naps.clear()
        bench.provider.refuse_all(401)
        assert (await bench.fails("create")).outage
        assert bench.circuit.state is State.OPEN
        await settled()
        intervals.append(bench.clock.naps[0])
    assert intervals == [2.0, 4.0, 8.0, 15.0, 15.0]
    assert bench.alerts() == 1


async def test_the_next_outage_alerts_and_starts_with_short_intervals(bench):
    for _ in range(2):
        await bench.half_opened()
        bench.provider.refuses.clear()
        await bench.call("create")
        bench.clock.naps.clear()
    await bench.opened()
    await settled()
    assert bench.clock.naps[0] == 1.0
    assert bench.alerts() == 3


async def test_a_success_of_another_operation_keeps_the_count(bench):
    """If reads succeed and creates fail, a reset count would let some creates be given up."""
    bench.provider.refuses["create"] = a_fault("create", 503)
    await bench.refused_in_a_row("create")
    for _ in range(3):
        await bench.half_opened_by_time()
        bench.clock.advance(1.1)
        await bench.call("list")
        assert bench.circuit.state is State.CLOSED
        assert (await bench.fails("create")).outage
        assert bench.circuit.state is State.OPEN
    assert bench.alerts() == 1


@pytest.mark.parametrize("gone", ["unused", "cancelled", "crashed"])
async def test_a_permit_without_a_call_admits_the_next_call(bench, gone):
    await bench.half_opened()
    bench.provider.refuses.clear()
    if gone == "cancelled":

        async def wait_for_ever() -> None:
            async with bench.circuit.permit("create"):
                await asyncio.Event().wait()

        waiting = asyncio.create_task(wait_for_ever())
        await settled()
        assert (await bench.fails("create")).outage
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    elif gone == "crashed":
        with pytest.raises(RuntimeError):
            async with bench.circuit.permit("create"):
                raise RuntimeError
    else:
        async with bench.circuit.permit("create"):
            pass
    await bench.call("create")
    assert bench.circuit.state is State.CLOSED


async def test_a_late_failure_from_before_decides_nothing(bench):
    """The call was in flight when the circuit opened, and times out when it is half-open."""
    slow, answered = asyncio.Event(), bench.provider.create

    async def create_slowly(*call: Any, **more: Any) -> Any:
        await slow.wait()
        return await answered(*call, **more)

    bench.provider.create = create_slowly
    under_way = asyncio.create_task(bench.call("create"))
    await settled()
    await bench.half_opened("update")
    slow.set()
    with pytest.raises(CallFailed) as failed:
        await under_way
    assert failed.value.fault.outage
    assert bench.circuit.state is State.HALF_OPEN


async def test_closing_the_circuit_ends_its_probes():
    bench = Bench()
    await bench.opened()
    await bench.circuit.close()
    bench.provider.refuses.clear()
    bench.clock.advance(3600)
    await settled()
    assert bench.circuit.state is State.OPEN
