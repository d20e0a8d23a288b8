"""Predicts the outcome of a replay. Reads the queue and the ledger, and changes neither."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from contracts.departments import Version
from worker.core.dead_letters import Letter
from worker.core.decide import Policy, Refuse, Republish, Skip
from worker.core.forecast import ANSWERED, Forecast, Planned
from worker.core.model.causes import Event, Reissue
from worker.core.model.departments import Department
from worker.core.reissue import Issue, decide_reissue
from worker.operations.dead_letters.session import Found, Session
from worker.operations.plan import forecast_on
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
    event, now = found.reading, session.clock.now()
    if isinstance(event, Unreadable):
        return Prospect(found.letter, f"still {event.verdict.reason}", event.verdict.detail, 0)
    if isinstance(event, Reissue):
        known = await ledger.recall(event.department, event.reference)
        outcome, detail, calls = reissue_prospect(decide_reissue(event, known, policy, now))
    else:
        outcome, detail, calls = event_prospect(await forecast_on(ledger, event, policy, now))
    return Prospect(found.letter, outcome, detail, calls)


def event_prospect(forecast: Forecast) -> tuple[str, str, int]:
    """A forecast as one or two words (`create`, `superseded`, `still invalid`), a text, and its calls."""
    reason, detail = forecast.reason or "", forecast.detail or ""
    match forecast.decision:
        case Planned.REFUSE:
            return f"still {reason}", detail, forecast.calls
        case Planned.SKIP | Planned.REPUBLISH if reason == ANSWERED:
            return "already answered", detail, forecast.calls
        case Planned.SKIP:
            why = "; ".join(text for text in (reason, detail) if text)
            return str(forecast.outcome), why or "nothing to change", forecast.calls
        case Planned.HOLD:
            return "hold", f"{reason}: {detail}", forecast.calls
        case decision:
            return decision, detail, forecast.calls


def reissue_prospect(decision: Issue | Skip | Republish | Refuse) -> tuple[str, str, int]:
    """The same for a request to issue credentials again: the token is read for it."""
    match decision:
        case Refuse(reason, detail):
            return f"still {reason}", detail, 0
        case Republish(answer):
            again = "" if answer.confirmed else "; its result goes out again"
            return "already answered", f"{answer.outcome} at {answer.answered_at:%F %T}Z{again}", 0
        case Skip(outcome, reason):
            return str(outcome), reason or "", 0
        case Issue():
            return "issue", "", 1
