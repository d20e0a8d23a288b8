"""Lists dead letters: their numbers by reason and by department, and the first of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from worker.core.dead_letters import Letter
from worker.operations.dead_letters.session import Found, Session


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """The letters of one reason; `departments` counts the readable departments among them."""

    reason: str
    count: int
    departments: int


@dataclass(frozen=True, slots=True)
class DepartmentCount:
    """The letters of one department by reason. Both ids are None for unreadable departments."""

    tenant: str | None
    department_id: str | None
    count: int
    reasons: Mapping[str, int]


@dataclass
class Summary:
    """The numbers of dead letters, and the first `keep` of them without their bodies."""

    keep: int
    letters: list[Letter] = field(default_factory=list)
    selected: int = 0
    seen: int = 0
    _reasons: Counter[str] = field(default_factory=Counter)
    _departments: dict[tuple[str | None, str | None], Counter[str]] = field(default_factory=dict)

    def add(self, letter: Letter) -> None:
        """Counts one selected letter."""
        self.selected += 1
        self._reasons[letter.reason] += 1
        department = (letter.tenant, letter.department_id)
        self._departments.setdefault(department, Counter())[letter.reason] += 1
        if len(self.letters) < self.keep:
            self.letters.append(letter)

    @property
    def reasons(self) -> Sequence[ReasonCount]:
        """Most frequent first."""
        known = Counter(
            reason
            for (_, department_id), reasons in self._departments.items()
            if department_id is not None
            for reason in reasons
        )
        return [ReasonCount(reason, count, known[reason]) for reason, count in self._reasons.most_common()]

    @property
    def departments(self) -> Sequence[DepartmentCount]:
        """Those with most letters first."""
        groups = [DepartmentCount(*ids, of.total(), dict(of)) for ids, of in self._departments.items()]
        return sorted(groups, key=lambda one: one.count, reverse=True)


async def summarize(session: Session, keep: int, on_progress: Callable[[int], None]) -> Summary:
    """Reads every letter; `on_progress` is called with the number read so far."""
    summary = Summary(keep)
    async with session.browsing() as browse:
        async for batch in browse.batches():
            for found in batch:
                summary.add(found.letter)
            on_progress(browse.seen)
        summary.seen = browse.seen
    return summary


@dataclass(frozen=True, slots=True)
class Gathered:
    """The first selected letters with their bodies. `more`: there are others; `seen`: letters read."""

    found: Sequence[Found]
    more: bool
    seen: int


async def gather(session: Session, most: int) -> Gathered:
    """Returns the first `most` selected letters, and records in the audit that they were shown."""
    gathered: list[Found] = []
    async with session.browsing() as browse:
        async for batch in browse.batches():
            gathered += batch
            if len(gathered) > most:
                break
    first = gathered[:most]
    await session.record("show", [(found.letter, "shown") for found in first])
    return Gathered(first, len(gathered) > most, browse.seen)
