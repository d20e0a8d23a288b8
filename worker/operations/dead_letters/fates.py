"""What became of what was replayed: answered, by the ledger, or among the dead letters again."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker.core.dead_letters import Letter
from worker.core.model import Event
from worker.flow.waiting import pause
from worker.operations.dead_letters.looking import AT_ONCE, Desk, read
from worker.ports import Ledger, QueueTaken

PATIENCE_SECONDS = 300.0
"""How long to wait for the next news: longer than it takes to settle a create, by default."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
GLANCE_SECONDS = 1.0
LOOK_FROM_PAUSE_SECONDS = 0.4
"""The ledger is asked often; the queue, which others want to read too, only when that was to no avail."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A dead letter on its way through the work queue. Without event nothing can answer it."""

    letter: Letter
    event: Event | None


@dataclass(frozen=True, slots=True)
class Fate:
    letter: Letter
    outcome: str


@dataclass
class Fates:
    """`sent` counts those that went to work, `seen` those looked at where none was meant.

    Of those watched the others tell what came.
    """

    sent: int = 0
    seen: int = 0
    answered: int = 0
    dead_again: list[Fate] = field(default_factory=list)
    unanswered: list[Fate] = field(default_factory=list)

    @property
    def is_bad(self) -> bool:
        return bool(self.dead_again or self.unanswered)


class Observer:
    """Hears how a replay goes; this one says nothing."""

    def sent(self, more: int) -> None:
        """So many more went to work."""

    def settled(self, more: int) -> None:
        """Of so many more it is known what came of them."""

    def waiting(self, seconds: float) -> None:
        """Nothing was heard for so long. Told again and again."""


@dataclass
class Watch:
    """Sees what comes of what is sent, and adds it to `fates`. `open` still is to come to something."""

    desk: Desk
    ledger: Ledger
    stopping: asyncio.Event
    fates: Fates
    observer: Observer
    open: dict[str, Sent] = field(default_factory=dict)
    _asked_at: float = 0.0

    async def glance(self) -> None:
        """While more are sent: what was answered by now, asked now and then."""
        if self.desk.clock.monotonic() - self._asked_at >= GLANCE_SECONDS:
            await self._settle(await self._answered(), {})

    async def see(self) -> None:
        """Returns once all have come to something, or for a long time none has, or at a stop."""
        wait, news_at = FIRST_PAUSE_SECONDS, self.desk.clock.monotonic()
        while self.open and not self.stopping.is_set():
            answered = await self._answered()
            dead = await self._dead_again() if wait >= LOOK_FROM_PAUSE_SECONDS and not answered else {}
            silent = self.desk.clock.monotonic() - news_at
            if answered or dead:
                await self._settle(answered, dead)
                wait, news_at = FIRST_PAUSE_SECONDS, self.desk.clock.monotonic()
            elif silent > PATIENCE_SECONDS:
                return
            else:
                self.observer.waiting(silent)
                await pause(self.desk.clock, wait, self.stopping)
                wait = min(2 * wait, LONGEST_PAUSE_SECONDS)

    async def conclude(self) -> None:
        """What is open still has no answer; but some may have been answered just before the end."""
        try:
            await self._settle(await self._answered(), {})
        finally:
            left = [Fate(sent.letter, "no answer yet") for sent in self.open.values()]
            self.fates.unanswered += left
            self.open.clear()
        await self._note(left)

    async def _settle(self, answered: Mapping[str, str], dead: Mapping[str, str]) -> None:
        told = {
            replay_id: Fate(self.open.pop(replay_id).letter, outcome)
            for replay_id, outcome in {**answered, **dead}.items()
        }
        self.fates.answered += len(answered)
        self.fates.dead_again += [told[replay_id] for replay_id in dead]
        if told:
            self.observer.settled(len(told))
        await self._note(list(told.values()))

    async def _note(self, fates: Sequence[Fate]) -> None:
        if fates:
            await self.desk.note("replay", [(fate.letter, fate.outcome) for fate in fates])

    async def _answered(self) -> dict[str, str]:
        self._asked_at, found = self.desk.clock.monotonic(), {}
        for replay_id, sent in self.open.items():
            if sent.event is not None:
                known = await self.ledger.recall(sent.event.department, sent.event.reference)
                if known.answer and known.answer.payload_digest == sent.event.payload_digest:
                    found[replay_id] = f"answered {known.answer.outcome}"
        return found

    async def _dead_again(self) -> dict[str, str]:
        found = {}
        try:
            async with self.desk.queue.look() as look:
                async for batch in look.batches(AT_ONCE):
                    for letter in (read(held).letter for held in batch):
                        if letter.replay_id and letter.replay_id in self.open:
                            found[letter.replay_id] = f"dead-lettered again, {letter.reason}: {letter.detail}"
        except QueueTaken:
            return {}
        return found
