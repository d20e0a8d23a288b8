"""Tracks replayed letters: the ledger has their answer, or the queue has them as dead letters again."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker.core.dead_letters import Letter
from worker.core.model.causes import Event
from worker.flow.waiting import sleep_unless_stopping
from worker.operations.dead_letters.batches import BATCH_LETTERS
from worker.operations.dead_letters.session import Session, read
from worker.ports import Ledger, QueueTaken

GIVE_UP_SECONDS = 300.0
"""How long to wait for the next outcome: longer than the default time to settle a create."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
POLL_SECONDS = 1.0
BROWSE_FROM_PAUSE_SECONDS = 0.4
"""The ledger is polled often. The queue is read only after longer silence: others want to read it too."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A dead letter on its way through the work queue. Without an event it cannot be answered."""

    letter: Letter
    event: Event | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a replayed letter, as text."""

    letter: Letter
    outcome: str


@dataclass
class ReplayReport:
    """The outcomes of a replay so far.

    `sent` counts the letters sent to work, `seen` those read if none was selected. The other fields are
    filled if the replay is tracked.
    """

    sent: int = 0
    seen: int = 0
    answered: int = 0
    dead_again: list[Outcome] = field(default_factory=list)
    unanswered: list[Outcome] = field(default_factory=list)

    @property
    def is_bad(self) -> bool:
        """Whether a letter is dead again, or has no answer."""
        return bool(self.dead_again or self.unanswered)


class Observer:
    """Receives the progress of a replay. This base class ignores it."""

    def sent(self, more: int) -> None:
        """`more` further letters were sent to work."""

    def settled(self, more: int) -> None:
        """The outcome of `more` further letters is known."""

    def waiting(self, seconds: float) -> None:
        """No outcome became known for `seconds`. Called repeatedly."""


@dataclass
class ReplayTracker:
    """Tracks sent letters and adds their outcomes to `report`. `open`: letters without one, by replay id."""

    session: Session
    ledger: Ledger
    stopping: asyncio.Event
    report: ReplayReport
    observer: Observer
    open: dict[str, Sent] = field(default_factory=dict)
    _asked_at: float = 0.0

    async def poll(self) -> None:
        """Looks up answers in the ledger between two batches, at most once in `POLL_SECONDS`."""
        if self.session.clock.monotonic() - self._asked_at >= POLL_SECONDS:
            await self._update(await self._answered(), {})

    async def wait(self) -> None:
        """Returns once every outcome is known, after `GIVE_UP_SECONDS` of silence, or at a stop."""
        wait, news_at = FIRST_PAUSE_SECONDS, self.session.clock.monotonic()
        while self.open and not self.stopping.is_set():
            answered = await self._answered()
            dead = await self._dead_again() if wait >= BROWSE_FROM_PAUSE_SECONDS and not answered else {}
            silent = self.session.clock.monotonic() - news_at
            if answered or dead:
                await self._update(answered, dead)
                wait, news_at = FIRST_PAUSE_SECONDS, self.session.clock.monotonic()
            elif silent > GIVE_UP_SECONDS:
                return
            else:
                self.observer.waiting(silent)
                await sleep_unless_stopping(self.session.clock, wait, self.stopping)
                wait = min(2 * wait, LONGEST_PAUSE_SECONDS)

    async def finish(self) -> None:
        """Looks up answers a last time and reports the letters still open as unanswered."""
        try:
            await self._update(await self._answered(), {})
        finally:
            left = [Outcome(sent.letter, "no answer yet") for sent in self.open.values()]
            self.report.unanswered += left
            self.open.clear()
        await self._record(left)

    async def _update(self, answered: Mapping[str, str], dead: Mapping[str, str]) -> None:
        settled = {
            replay_id: Outcome(self.open.pop(replay_id).letter, outcome)
            for replay_id, outcome in {**answered, **dead}.items()
        }
        self.report.answered += len(answered)
        self.report.dead_again += [settled[replay_id] for replay_id in dead]
        if settled:
            self.observer.settled(len(settled))
        await self._record(list(settled.values()))

    async def _record(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            await self.session.record("replay", [(one.letter, one.outcome) for one in outcomes])

    async def _answered(self) -> dict[str, str]:
        """The letters whose event has an answer for this payload, by replay id."""
        self._asked_at, found = self.session.clock.monotonic(), {}
        for replay_id, sent in self.open.items():
            if sent.event is not None:
                known = await self.ledger.recall(sent.event.department, sent.event.reference)
                if known.answer and known.answer.payload_digest == sent.event.payload_digest:
                    found[replay_id] = f"answered {known.answer.outcome}"
        return found

    async def _dead_again(self) -> dict[str, str]:
        """The letters that are in the queue again, by replay id; empty while another consumer reads it."""
        found = {}
        try:
            dead_letters = self.session.dead_letters or self.session.queue
            async with dead_letters.browse(waits=False) as browse:
                async for batch in browse.batches(BATCH_LETTERS):
                    for letter in (read(held).letter for held in batch):
                        if letter.replay_id and letter.replay_id in self.open:
                            found[letter.replay_id] = f"dead-lettered again, {letter.reason}: {letter.detail}"
        except QueueTaken:
            return {}
        return found
