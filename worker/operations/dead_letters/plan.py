"""What a replay would come to right now. Reads the queue and the ledger, and changes neither."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from contracts.departments import Version
from worker.core.dead_letters import Letter, described, detail_of, least_calls
from worker.core.decide import Policy, decide
from worker.core.model import Department, Event, Reissue
from worker.core.reissue import Issue, decide_reissue
from worker.operations.dead_letters.looking import Desk, Found
from worker.pipeline.reading import Reading, Unreadable
from worker.ports import Ledger


@dataclass(frozen=True, slots=True)
class Prospect:
    """One dead letter, were it replayed alone: what it comes to, and the provider calls it takes at least."""

    letter: Letter
    outcome: str
    detail: str
    calls: int


@dataclass
class Plan:
    """`least_calls` counts the newest event of each department: the others may end superseded by it."""

    keep: int
    outcomes: Counter[str] = field(default_factory=Counter)
    prospects: list[Prospect] = field(default_factory=list)
    selected: int = 0
    seen: int = 0
    _newest: dict[Department, tuple[Version, int]] = field(default_factory=dict)

    @property
    def least_calls(self) -> int:
        return sum(calls for _, calls in self._newest.values())

    def add(self, reading: Reading, prospect: Prospect) -> None:
        self.selected += 1
        self.outcomes[prospect.outcome] += 1
        if len(self.prospects) < self.keep:
            self.prospects.append(prospect)
        if isinstance(reading, Event):
            before = self._newest.get(reading.department)
            if before is None or reading.version.newer_than(before[0]):
                self._newest[reading.department] = (reading.version, prospect.calls)


async def plan(
    desk: Desk, ledger: Ledger, policy: Policy, keep: int, on_progress: Callable[[int], None]
) -> Plan:
    """`keep`: how many prospects to tell one by one."""
    made = Plan(keep)
    async with desk.looking() as looking:
        async for batch in looking.found():
            for found in batch:
                made.add(found.reading, await _prospect(desk, ledger, policy, found))
            on_progress(looking.seen)
        made.seen = looking.seen
    return made


async def _prospect(desk: Desk, ledger: Ledger, policy: Policy, found: Found) -> Prospect:
    event = found.reading
    if isinstance(event, Unreadable):
        return Prospect(found.letter, f"still {event.verdict.reason}", event.verdict.detail, 0)
    known = await ledger.recall(event.department, event.reference)
    if isinstance(event, Reissue):
        asked = decide_reissue(event, known, policy, desk.clock.now())
        return Prospect(
            found.letter, described(asked), detail_of(asked), 1 if isinstance(asked, Issue) else 0
        )
    decision = decide(event, known, policy, desk.clock.now())
    calls = least_calls(decision, event, known.entry)
    return Prospect(found.letter, described(decision), detail_of(decision), calls)
