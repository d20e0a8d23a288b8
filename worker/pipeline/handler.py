"""Handles one delivery, from its lane to its ack.

    validate   the bytes are a department event            else: dead letter, with the reason
    recall     the department's entry in the ledger
    decide     the step to take
    claim      the intent is durable before the effect
    act        the provider call
    record     the outcome is durable, the answer with it
    publish    credentials owed and the answer, confirmed by the broker
    ack        the one place that ends a delivery

`Line` carries an event from recall to publish. `Handler` runs it until the delivery has ended: a try gives a
result, `judge` makes a verdict of it, and `_end` carries the verdict out. Only `_end` acks.
"""

import asyncio
from dataclasses import dataclass

from worker.core import messages
from worker.core.decide import Policy
from worker.core.judge import (
    DeadLetter,
    Done,
    Failure,
    Park,
    Pause,
    Permanent,
    RetryPolicy,
    Unavailable,
    Verdict,
    Wait,
    judge,
    parking_delay,
)
from worker.core.model.causes import Event, Reissue
from worker.flow.lanes import Lanes, Progress
from worker.flow.ledger_watch import LedgerWatch
from worker.flow.waiting import WaitingRoom, WaitOutcome
from worker.pipeline.failures import failure_of, is_unexpected
from worker.pipeline.line import Line, Overtaken, Result
from worker.pipeline.outbox import Outbox
from worker.pipeline.quarantine import Quarantine
from worker.pipeline.reading import Reading, Unreadable
from worker.pipeline.reissues import Reissues
from worker.pipeline.work import Work
from worker.ports import Clock, Delivery, DepartmentLocks, LedgerFailed
from worker.telemetry.events import MessageType, Telemetry

MAX_HELD_SECONDS = 900.0
"""After this long, a waiting delivery is parked, uncounted. RabbitMQ closes the channel of a consumer that
does not ack for 30 minutes by default: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout"""


@dataclass
class Handler:
    """Takes deliveries to their end: answered, parked, dead-lettered, or left to the broker by a drain."""

    line: Line
    reissues: Reissues
    quarantine: Quarantine
    outbox: Outbox
    lanes: Lanes
    locks: DepartmentLocks
    waiting: WaitingRoom
    ledger_watch: LedgerWatch
    clock: Clock
    policy: Policy
    retry: RetryPolicy
    telemetry: Telemetry
    stopping: asyncio.Event
    left: int = 0
    """Messages that a drain left unacked, for the broker to deliver again."""

    def receive(self, delivery: Delivery) -> None:
        """Files a delivery into its department's lane. The consumer calls it; it returns at once."""
        leave_at = self.clock.monotonic() + MAX_HELD_SECONDS
        work = Work.of(delivery, self.policy.unknown_rename, self.clock.now(), leave_at)
        self.telemetry.received(_type_of(work.reading))
        self.lanes.file(work.lane, lambda: self._handle(work), work.rank)
        self.waiting.make_room()

    async def drain(self) -> None:
        """Finishes running work. Work that waits is left for the broker to deliver again."""
        self.stopping.set()
        self.waiting.close()
        await self.lanes.idle()

    async def _handle(self, work: Work) -> Progress:
        """Takes a delivery to its end, in one span."""
        reading = work.reading
        cause = None if isinstance(reading, Unreadable) else reading
        with self.telemetry.handling(_type_of(reading), cause):
            return await self._try_until_ended(work)

    async def _try_until_ended(self, work: Work) -> Progress:
        """Takes a delivery to its end, in as many tries as it needs."""
        while work.delivery.live and not self.stopping.is_set():
            result = await self._try(work)
            if isinstance(result, Overtaken):
                return Progress.YIELDED
            verdict = await self._end(work, self._judge(work, result))
            if isinstance(verdict, Wait | Pause):
                work = work.again(verdict)
                verdict = await self._wait_or_park(work, verdict)
            if not isinstance(verdict, Wait | Pause):
                return Progress.ENDED
        self.left += work.delivery.live
        return Progress.ENDED

    async def _try(self, work: Work) -> Result:
        """One try. Returns every failure as a value: it must not affect other lanes."""
        try:
            return await self.quarantine.admit(work, self._work_on)
        except LedgerFailed as error:
            return self._failure_of(error)

    async def _work_on(self, work: Work) -> Result:
        if isinstance(work.reading, Unreadable):
            verdict = work.reading.verdict
            return Permanent(verdict.reason, verdict.detail, verdict.code)
        try:
            async with self.locks.hold(work.reading.department):
                self.ledger_watch.check()
                match work.reading:
                    case Reissue() as request:
                        return await self.reissues.answer(request)
                    case Event() as event:
                        return await self.line.carry(event, lambda: self._is_overtaken(work))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not affect other lanes
            return self._failure_of(error)

    def _is_overtaken(self, work: Work) -> bool:
        return self.lanes.overtaken(work.lane, work.rank)

    def _failure_of(self, error: Exception) -> Failure:
        if isinstance(error, LedgerFailed):
            self.ledger_watch.failed(error)
        if is_unexpected(error):
            self.telemetry.step_crashed(error)
        return failure_of(error)

    def _judge(self, work: Work, result: Done | Failure) -> Verdict:
        if isinstance(result, Done):
            return result
        verdict = judge(result, work.state, self.retry, self.clock.jitter())
        if isinstance(verdict, Wait | Pause) and not self.stopping.is_set():
            now = self.clock.monotonic()
            self.telemetry.waiting(result, verdict, work.state.tries, work.subject, now)
        return verdict

    async def _end(self, work: Work, verdict: Verdict) -> Verdict:
        """Carries the verdict out; only this ends a delivery. Returns `Done`, or the reason to go on."""
        try:
            match verdict:
                case Wait() | Pause():
                    return verdict
                case DeadLetter():
                    await self._dead_letter(work, verdict)
                case Park():
                    await self._park(work, verdict)
            await work.delivery.ack()
        except Exception as error:  # noqa: BLE001 - as in `_work_on`
            return self._judge(work, Unavailable(self._failure_of(error).detail))
        return Done()

    async def _park(self, work: Work, verdict: Park) -> None:
        await self.outbox.publish(messages.parked(work.original, verdict))
        self.telemetry.parked(verdict, work.subject, counted=verdict.attempts > work.state.attempts)

    async def _dead_letter(self, work: Work, verdict: DeadLetter) -> None:
        subject = work.subject
        # The id of an unattributed result is derived from the time of death: each try has the same.
        now = work.received_at if subject is None else self.clock.now()
        await self.outbox.dead_letter(work.original, verdict, subject, work.state.attempts + 1, now)
        self.telemetry.dead_lettered(_type_of(work.reading), verdict, subject)

    async def _wait_or_park(self, work: Work, verdict: Wait | Pause) -> Verdict:
        """Waits for the next try. A message that is held too long, or evicted, is parked uncounted."""
        overdue = self.clock.monotonic() >= work.leave_at and not self.stopping.is_set()
        leaves = overdue or await self._wait(work, verdict) is WaitOutcome.EVICTED
        if not leaves or not work.delivery.live:
            return verdict
        delay = parking_delay(verdict.seconds, self.retry.delays)
        ended = await self._end(work, Park(delay, work.state.attempts))
        if isinstance(ended, Wait | Pause):  # it could not be parked
            await self._wait(work, ended, evictable=False)
        return ended

    async def _wait(self, work: Work, verdict: Wait | Pause, *, evictable: bool = True) -> WaitOutcome:
        paused = isinstance(verdict, Pause)
        return await self.waiting.wait(
            verdict.seconds, lambda: self.lanes.filed(work.lane), paused=paused, evictable=evictable
        )


def _type_of(reading: Reading) -> MessageType:
    match reading:
        case Event():
            return reading.kind
        case Reissue():
            return "reissue"
        case Unreadable():
            return "unreadable"
