"""Sending dead letters through the work queue again: a few first, more while they fare well."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from worker.core.dead_letters import batch_sizes, replayed
from worker.core.messages import Outgoing
from worker.core.model import Event
from worker.operations.dead_letters.fates import Fates, Observer, Sent, Watch
from worker.operations.dead_letters.looking import Desk, Found
from worker.operations.dead_letters.pace import Pace
from worker.operations.dead_letters.removal import Dealt, Remover
from worker.ports import ForPeople, Ledger, Publisher, PublishFailed, Unroutable


class ReplayFailed(ForPeople):
    """The broker did not take all that was to be sent. What it did not take is where it was."""


@dataclass
class Replay:
    """`per_second` slows it down; `stopping` ends it between two batches; `observer` hears of each.

    `fates` is what has come of it so far, whatever ended it.
    """

    desk: Desk
    per_second: float | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    observer: Observer = field(default_factory=Observer)
    fates: Fates = field(default_factory=Fates)
    _numbers: "count[int]" = field(default_factory=lambda: count(1))
    _watch: Watch | None = None

    def __post_init__(self) -> None:
        self._pace = Pace(self.desk.clock, self.per_second)

    async def send(self, most: int | None) -> Fates:
        """Sends up to `most` and asks for nothing more; raises `ReplayFailed`."""
        remover = Remover(self.desk, self._deal, self._pace, self.stopping)
        await remover.remove(most)
        self.fates.seen = self.fates.seen or remover.seen
        return self.fates

    async def send_and_watch(self, most: int | None, ledger: Ledger) -> Fates:
        """In growing batches. The first that does not fare well is the last; raises `ReplayFailed`."""
        self._watch = watch = Watch(self.desk, ledger, self.stopping, self.fates, self.observer)
        for size in batch_sizes():
            before = self.fates.sent
            wanted = size if most is None else min(size, most - before)
            await self._send_and_watch(wanted, watch)
            if self.fates.is_bad or self.fates.sent - before < wanted or self.fates.sent == most:
                break
        return self.fates

    async def _send_and_watch(self, wanted: int, watch: Watch) -> None:
        """Whatever ends it, what is known then of the batch is counted and on record."""
        try:
            await self.send(wanted)
            await watch.see()
        finally:
            await watch.conclude()

    async def _deal(self, batch: Sequence[Found]) -> Dealt:
        """Published and confirmed, then on record, then gone: if we die in between, it is in both queues."""
        ids = [f"{self.desk.run}-{next(self._numbers)}" for _ in batch]
        outgoing = [
            replayed(found.held.original, replay_id, self.desk.by)
            for found, replay_id in zip(batch, ids, strict=True)
        ]
        failures = await publish_all(self.desk.publisher, outgoing)
        taken = [
            (found, replay_id)
            for found, replay_id, failure in zip(batch, ids, failures, strict=True)
            if failure is None
        ]
        self.fates.sent += len(taken)
        self.observer.sent(len(taken))
        await self.desk.note("replay", [(found.letter, "sent to work") for found, _ in taken])
        if self._watch is not None:
            self._watch.open |= {replay_id: _sent(found) for found, replay_id in taken}
            await self._watch.glance()
        return Dealt([found for found, _ in taken], next(filter(None, failures), None))


async def publish_all(publisher: Publisher, outgoing: Sequence[Outgoing]) -> list[ReplayFailed | None]:
    """All at once, each waiting for its own confirm; in their order, why one was not taken."""
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
