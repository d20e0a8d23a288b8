"""Sends dead letters to the work queue again: a few first, more while all goes well."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from worker.core.dead_letters import replayed
from worker.core.messages import Outgoing
from worker.core.model.causes import Event
from worker.operations.dead_letters.batches import LetterRate, batch_sizes
from worker.operations.dead_letters.removal import Batch, Remover
from worker.operations.dead_letters.session import Found, Session
from worker.operations.dead_letters.tracking import Observer, ReplayReport, ReplayTracker, Sent
from worker.ports import Ledger, Publisher, PublishFailed, Unroutable, UserError


class ReplayFailed(UserError):
    """The broker did not accept every message. The others stay in the dead-letter queue."""


@dataclass
class Replay:
    """A replay of the selected letters. `per_second` limits its rate; `stopping` ends it between two batches.

    `report` holds the outcomes so far, also after a failure.
    """

    session: Session
    per_second: float | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    observer: Observer = field(default_factory=Observer)
    report: ReplayReport = field(default_factory=ReplayReport)
    _numbers: "count[int]" = field(default_factory=lambda: count(1))
    _tracker: ReplayTracker | None = None

    def __post_init__(self) -> None:
        self._rate = LetterRate(self.session.clock, self.per_second)

    async def send(self, most: int | None) -> ReplayReport:
        """Sends up to `most` letters and does not track them; raises `ReplayFailed`."""
        remover = Remover(self.session, self._publish, self._rate, self.stopping)
        await remover.remove(most)
        self.report.seen = self.report.seen or remover.seen
        return self.report

    async def send_and_track(self, most: int | None, ledger: Ledger) -> ReplayReport:
        """Sends in growing batches and tracks each. The first batch with a bad outcome is the last.

        Raises `ReplayFailed`.
        """
        self._tracker = tracker = ReplayTracker(
            self.session, ledger, self.stopping, self.report, self.observer
        )
        for size in batch_sizes():
            sent_before = self.report.sent
            wanted = size if most is None else min(size, most - sent_before)
            await self._send_and_track(wanted, tracker)
            if self.report.is_bad or self.report.sent - sent_before < wanted or self.report.sent == most:
                break
        return self.report

    async def _send_and_track(self, wanted: int, tracker: ReplayTracker) -> None:
        """Sends one batch and waits for its outcomes; records those it knows even after a failure."""
        try:
            await self.send(wanted)
            await tracker.wait()
        finally:
            await tracker.finish()

    async def _publish(self, letters: Sequence[Found]) -> Batch:
        """Publishes with confirms, then records; removal follows. A crash may leave one in both queues."""
        ids = [f"{self.session.run}-{next(self._numbers)}" for _ in letters]
        outgoing = [
            replayed(found.held.original, replay_id, self.session.by)
            for found, replay_id in zip(letters, ids, strict=True)
        ]
        failures = await publish_all(self.session.publisher, outgoing)
        taken = [
            (found, replay_id)
            for found, replay_id, failure in zip(letters, ids, failures, strict=True)
            if failure is None
        ]
        self.report.sent += len(taken)
        self.observer.sent(len(taken))
        await self.session.record("replay", [(found.letter, "sent to work") for found, _ in taken])
        if self._tracker is not None:
            self._tracker.open |= {replay_id: _sent(found) for found, replay_id in taken}
            await self._tracker.poll()
        return Batch([found for found, _ in taken], next(filter(None, failures), None))


async def publish_all(publisher: Publisher, outgoing: Sequence[Outgoing]) -> list[ReplayFailed | None]:
    """Publishes all at once, each with its own confirm. Returns a failure or None for each, in order."""
    results = await asyncio.gather(*map(publisher.publish, outgoing), return_exceptions=True)
    return [_failure(result) for result in results]


def _failure(result: BaseException | None) -> ReplayFailed | None:
    match result:
        case None:
            return None
        case Unroutable():
            return ReplayFailed(f"{result}: run `provisioner topology apply`")
        case PublishFailed():
            return ReplayFailed(str(result))
        case _:
            raise result


def _sent(found: Found) -> Sent:
    return Sent(found.letter, found.reading if isinstance(found.reading, Event) else None)
