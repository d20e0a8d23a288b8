"""Listing dead letters: how many there are, by reason and department, and the first of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from worker.core.dead_letters import Letter
from worker.operations.dead_letters.session import Found, Session


@dataclass(frozen=True, slots=True)
class OfReason:
    """`departments` counts the departments among them, as far as they could be read."""

    reason: str
    count: int
    departments: int


@dataclass(frozen=True, slots=True)
class OfDepartment:
    """Without ids: the letters whose department could not be read. `reasons` counts them by reason."""

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
    def reasons(self) -> Sequence[OfReason]:
        """Most frequent first."""
        known = Counter(
            reason
            for (_, department_id), reasons in self._departments.items()
            if department_id is not None
            for reason in reasons
        )
        return [OfReason(reason, count, known[reason]) for reason, count in self._reasons.most_common()]

    @property
    def departments(self) -> Sequence[OfDepartment]:
        """Those with most letters first."""
        groups = [OfDepartment(*ids, of.total(), dict(of)) for ids, of in self._departments.items()]
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
    """The first selected letters, with their bodies; whether there are more; how many letters were read."""

    found: Sequence[Found]
    more: bool
    seen: int


async def gather(session: Session, most: int) -> Gathered:
    """The first `most` selected letters, on record in the audit as shown."""
    gathered: list[Found] = []
    async with session.browsing() as browse:
        async for batch in browse.batches():
            gathered += batch
            if len(gathered) > most:
                break
    first = gathered[:most]
    await session.record("show", [(found.letter, "shown") for found in first])
    return Gathered(first, len(gathered) > most, browse.seen)
