"""Looking at dead letters: each is read, those meant are handed on, and all stay where they are."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property

from worker.core.dead_letters import (
    DEFAULT_DELIVERY_LIMIT,
    AuditLine,
    Letter,
    Selection,
    audit_line,
    letter_of,
    may_be_lost,
    next_return_loses,
    replayed,
)
from worker.pipeline.reading import Reading, glimpse, reading_of
from worker.ports import Audit, Clock, DeadLetterQueue, HeldLetter, Look, Publisher, TooManyLooks

AT_ONCE = 500
EVERYTHING = Selection()


@dataclass(frozen=True)
class Found:
    """A dead letter somebody means."""

    held: HeldLetter
    letter: Letter

    @cached_property
    def reading(self) -> Reading:
        """What it says to a worker; takes longer than all else that is done with most letters."""
        return reading_of(self.held.original)


@dataclass(frozen=True)
class Desk:
    """What operators work with.

    For the audit: `by` is who does it, `run` names this command, `asked` is its filter or file.
    """

    queue: DeadLetterQueue
    publisher: Publisher
    audit: Audit
    clock: Clock
    by: str
    run: str
    asked: str = "all"
    selection: Selection = EVERYTHING
    surely_unlimited: bool = False

    @asynccontextmanager
    async def looking(self) -> AsyncIterator["Looking"]:
        async with self.queue.look() as look:
            yield Looking(self, look)

    def means(self, letter: Letter) -> bool:
        """What this very command sent to work, and is dead again, it does not take up once more."""
        return self.selection.takes(letter) and not (letter.replay_id or "").startswith(f"{self.run}-")

    async def note(self, action: str, outcomes: Sequence[tuple[Letter, str]]) -> None:
        """In one transaction: what came of each."""
        await self.audit.note([self._line(action, letter, outcome) for letter, outcome in outcomes])

    def _line(self, action: str, letter: Letter, outcome: str) -> AuditLine:
        return audit_line(
            letter,
            outcome,
            at=self.clock.now(),
            by=self.by,
            action=action,
            run=self.run,
            selection=self.asked,
        )


@dataclass
class Looking:
    """One look, narrowed to the desk's selection. `seen` counts all that went by."""

    desk: Desk
    look: Look
    seen: int = 0

    async def found(self, most: int = AT_ONCE) -> AsyncIterator[Sequence[Found]]:
        """Those meant, in batches of the queue's, of which some hold none.

        Be done with one before asking for the next.
        """
        async for batch in self.look.batches(most):
            if not self.seen:
                await self._beware(batch[0])
            self.seen += len(batch)
            yield [found for found in map(read, batch) if self.desk.means(found.letter)]

    async def _beware(self, oldest: HeldLetter) -> None:
        """Stops while it is alone in our hands, where being given back once too often would end it."""
        desk, returns = self.desk, oldest.returns
        if not may_be_lost(self.look.broker, returns) or desk.surely_unlimited:
            return
        if await desk.queue.is_unlimited():
            return
        if next_return_loses(self.look.broker, returns):
            await self._rescue(oldest)
        raise TooManyLooks(
            f"the oldest dead letter was given back {returns} times, and beyond {DEFAULT_DELIVERY_LIMIT}"
            " RabbitMQ 4 drops it unless the queue has x-delivery-limit -1: have somebody who may configure"
            " it run `provisioner topology check`, and give --no-delivery-limit if it is ok"
        )

    async def _rescue(self, oldest: HeldLetter) -> None:
        """Given back it would be gone. Sent to work it is dead-lettered anew, if nothing has changed."""
        letter = read(oldest).letter
        await self.desk.publisher.publish(replayed(oldest.original, f"{self.desk.run}-0", self.desk.by))
        await self.desk.note("rescue", [(letter, "sent to work, lest it is lost")])
        await self.look.remove([oldest])


def read(held: HeldLetter) -> Found:
    original = held.original
    return Found(held, letter_of(original, glimpse(original.message)))


@dataclass(frozen=True, slots=True)
class OfReason:
    """`departments` counts those whose name could be read."""

    reason: str
    count: int
    departments: int


@dataclass(frozen=True, slots=True)
class OfDepartment:
    """No ids: letters that do not tell theirs. `reasons` with how many of each."""

    tenant: str | None
    department_id: str | None
    count: int
    reasons: Mapping[str, int]


@dataclass
class Summary:
    """How many dead letters there are, by reason and by department, and the first of them."""

    keep: int
    letters: list[Letter] = field(default_factory=list)
    selected: int = 0
    seen: int = 0
    _reasons: Counter[str] = field(default_factory=Counter)
    _departments: dict[tuple[str | None, str | None], Counter[str]] = field(default_factory=dict)

    def add(self, letter: Letter) -> None:
        self.selected += 1
        self._reasons[letter.reason] += 1
        whose = (letter.tenant, letter.department_id)
        self._departments.setdefault(whose, Counter())[letter.reason] += 1
        if len(self.letters) < self.keep:
            self.letters.append(letter)

    @property
    def reasons(self) -> Sequence[OfReason]:
        """Most first."""
        known = Counter(
            reason
            for (_, department_id), reasons in self._departments.items()
            if department_id is not None
            for reason in reasons
        )
        return [OfReason(reason, count, known[reason]) for reason, count in self._reasons.most_common()]

    @property
    def departments(self) -> Sequence[OfDepartment]:
        """Most first."""
        told = [OfDepartment(*whose, of.total(), dict(of)) for whose, of in self._departments.items()]
        return sorted(told, key=lambda one: one.count, reverse=True)


async def summarize(desk: Desk, keep: int, on_progress: Callable[[int], None]) -> Summary:
    """Looks at all, keeps what is told of the first `keep` meant, and no body."""
    summary = Summary(keep)
    async with desk.looking() as looking:
        async for batch in looking.found():
            for found in batch:
                summary.add(found.letter)
            on_progress(looking.seen)
        summary.seen = looking.seen
    return summary


@dataclass(frozen=True, slots=True)
class Gathered:
    """The first that are meant, and whether there are more; of `seen` looked at."""

    found: Sequence[Found]
    more: bool
    seen: int


async def gather(desk: Desk, most: int) -> Gathered:
    """The first `most` meant, bodies and all."""
    gathered: list[Found] = []
    async with desk.looking() as looking:
        async for batch in looking.found():
            gathered += batch
            if len(gathered) > most:
                break
    return Gathered(gathered[:most], len(gathered) > most, looking.seen)
