"""Predicts the outcome of a replay. Reads the queue and the ledger, and changes neither."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from contracts.departments import Kind, Version
from contracts.subaccounts import DeadReason, ResultKind
from worker.core.dead_letters import Letter, least_calls
from worker.core.decide import Decision, Look, Policy, Refuse, Republish, Skip, decide, gone_detail
from worker.core.model import Department, Event, Reissue
from worker.core.reissue import Issue, decide_reissue
from worker.operations.dead_letters.session import Found, Session
from worker.pipeline.reading import Reading, Unreadable
from worker.ports import Ledger


@dataclass(frozen=True, slots=True)
class Prospect:
    """The outcome of one dead letter if it were replayed alone; `calls`: the minimum of provider calls."""

    letter: Letter
    outcome: str
    detail: str
    calls: int


@dataclass
class Plan:
    """The prospects of all selected letters, counted by outcome; the first `keep` prospects are kept."""

    keep: int
    outcomes: Counter[str] = field(default_factory=Counter)
    prospects: list[Prospect] = field(default_factory=list)
    selected: int = 0
    seen: int = 0
    _newest: dict[Department, tuple[Version, int]] = field(default_factory=dict)

    @property
    def least_calls(self) -> int:
        """The minimum of provider calls: of each department only the newest event is certain to need any."""
        return sum(calls for _, calls in self._newest.values())

    def add(self, reading: Reading, prospect: Prospect) -> None:
        """Counts one selected letter."""
        self.selected += 1
        self.outcomes[prospect.outcome] += 1
        if len(self.prospects) < self.keep:
            self.prospects.append(prospect)
        if isinstance(reading, Event):
            known = self._newest.get(reading.department)
            if known is None or reading.version.newer_than(known[0]):
                self._newest[reading.department] = (reading.version, prospect.calls)


async def plan(
    session: Session, ledger: Ledger, policy: Policy, keep: int, on_progress: Callable[[int], None]
) -> Plan:
    """Decides each selected letter as a worker would. `on_progress` gets the number of letters read."""
    made = Plan(keep)
    async with session.browsing() as browse:
        async for batch in browse.batches():
            for found in batch:
                made.add(found.reading, await _prospect(session, ledger, policy, found))
            on_progress(browse.seen)
        made.seen = browse.seen
    return made


async def _prospect(session: Session, ledger: Ledger, policy: Policy, found: Found) -> Prospect:
    event = found.reading
    if isinstance(event, Unreadable):
        return Prospect(found.letter, f"still {event.verdict.reason}", event.verdict.detail, 0)
    known = await ledger.recall(event.department, event.reference)
    if isinstance(event, Reissue):
        asked = decide_reissue(event, known, policy, session.clock.now())
        return Prospect(
            found.letter, outcome_of(asked), detail_of(asked), 1 if isinstance(asked, Issue) else 0
        )
    decision = decide(event, known, policy, session.clock.now())
    calls = least_calls(decision, event, known.entry)
    if isinstance(decision, Look):
        outcome = "removed" if event.kind is Kind.REMOVED else f"still {DeadReason.REJECTED}"
        return Prospect(found.letter, outcome, gone_detail(known.entry), calls)
    return Prospect(found.letter, outcome_of(decision), detail_of(decision), calls)


def outcome_of(decision: Decision | Issue) -> str:
    """A decision as one word or two: `create`, `superseded`, `still invalid`."""
    match decision:
        case Refuse(reason, _):
            return f"still {reason}"
        case Republish():
            return "already answered"
        case Skip(outcome, _):
            return str(outcome)
        case _:
            return type(decision).__name__.lower()


def detail_of(decision: Decision | Issue) -> str:
    """The reason for a decision as a short text; empty where the outcome says it all."""
    match decision:
        case Refuse(_, detail):
            return detail
        case Republish(answer):
            again = "" if answer.confirmed else "; its result goes out again"
            return f"{answer.outcome} at {answer.answered_at:%F %T}Z{again}"
        case Skip(ResultKind.SUPERSEDED, reason):
            return reason or "a newer event holds"
        case Skip(_, reason):
            return reason or "nothing to change"
        case _:
            return ""
