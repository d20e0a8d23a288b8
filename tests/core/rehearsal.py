"""One department and its provider, rehearsed without IO: the core's functions in the pipeline's order.

The provider here carries a call out at once or never. What is carried out late is no business of the core.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain, count, repeat

from pydantic import SecretStr

from contracts.subaccounts import DeadReason
from tests.builders import IDEMPOTENCY_KEY, NOW, SALES
from worker.core.conclude import (
    Changed,
    Deleted,
    Failed,
    Made,
    NothingDone,
    NothingMade,
    Outcome,
    conclude,
    intend,
)
from worker.core.decide import (
    Adopt,
    Create,
    Decision,
    Delete,
    Disable,
    Policy,
    Refuse,
    Rename,
    Republish,
    Restore,
    Skip,
    Step,
    decide,
)
from worker.core.judge import Permanent, Transient, Unknown
from worker.core.model import Answer, Entry, Event, Recollection


class Fate(Enum):
    """What becomes of one provider call."""

    SUCCEEDS = auto()
    NOT_SENT = auto()
    REFUSED = auto()
    LOST = auto()  # no answer, and not carried out
    UNHEARD = auto()  # carried out, but no answer
    CRASH_BEFORE = auto()  # the worker dies, the call not sent
    CRASH_AFTER = auto()  # the worker dies, the call carried out


CARRIED_OUT = {Fate.SUCCEEDS, Fate.UNHEARD, Fate.CRASH_AFTER}
CRASHES = {Fate.CRASH_BEFORE, Fate.CRASH_AFTER}


@dataclass
class Subaccount:
    incarnation: int  # what its tag tells
    name: str
    enabled: bool = True


@dataclass
class Rehearsal:
    policy: Policy = field(default_factory=Policy)
    fates: Iterable[Fate] = ()
    entry: Entry = field(default_factory=lambda: Entry(SALES))
    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    subaccounts: dict[str, Subaccount] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fates: Iterator[Fate] = chain(self.fates, repeat(Fate.SUCCEEDS))
        self._numbers = count(1)

    def deliver(self, event: Event) -> Republish | Refuse | None:
        """One try. None where it did not come to its end: a call failed, or the worker died."""
        while isinstance(decision := self._decide(event), Step):
            self.entry = intend(decision, self.entry, event, IDEMPOTENCY_KEY, NOW)
            fate = Fate.SUCCEEDS if isinstance(decision, Skip) else next(self._fates)
            outcome = self._call(decision, fate)
            if fate in CRASHES:
                return None
            conclusion = conclude(self.entry, event, decision, outcome, self.policy, NOW)
            self.entry = conclusion.entry
            if conclusion.answer is not None:
                self.answers.setdefault(event.reference[:2], []).append(conclusion.answer)
            if conclusion.failure is not None:
                return None
        return decision

    def deliver_until_ended(self, event: Event) -> Republish | Refuse:
        """As a lane does: tried, or delivered again, before what comes after it."""
        while (end := self.deliver(event)) is None:
            pass
        return end

    def _decide(self, event: Event) -> Decision:
        answer = next(iter(self.answers.get(event.reference[:2], ())), None)
        return decide(event, Recollection(self.entry, answer), self.policy, NOW)

    def _call(self, step: Step, fate: Fate) -> Outcome:
        outcome = self._carry_out(step) if fate in CARRIED_OUT else None
        if outcome is not None and fate is Fate.SUCCEEDS:
            return outcome
        if fate is Fate.REFUSED:
            return Failed(Permanent(DeadReason.REJECTED, "refused"))
        unknown = fate is not Fate.NOT_SENT and isinstance(step, Create | Adopt)
        return Failed(Unknown("no answer") if unknown else Transient("no answer"))

    def _carry_out(self, step: Step) -> Outcome:
        match step:
            case Create(name):
                return self._create(name)
            case Adopt(name):
                return self._adopt(name)
            case Rename(auth_id, name):
                return self._set(auth_id, name, enabled=None)
            case Restore(auth_id, name):
                return self._set(auth_id, name, enabled=True)
            case Disable(auth_id):
                return self._set(auth_id, None, enabled=False)
            case Delete(auth_id):
                self.subaccounts.pop(auth_id, None)
                return Deleted()
            case Skip():
                return NothingDone()

    def _create(self, name: str) -> Outcome:
        auth_id = f"SA{next(self._numbers):018d}"
        self.subaccounts[auth_id] = Subaccount(self.entry.incarnation, name)
        return Made(auth_id, SecretStr("made-up"))

    def _adopt(self, name: str | None) -> Outcome:
        for auth_id, subaccount in self.subaccounts.items():
            if subaccount.incarnation == self.entry.incarnation:
                self._set(auth_id, name, enabled=True)
                return Made(auth_id, SecretStr("made-up"))
        return NothingMade()

    def _set(self, auth_id: str, name: str | None, *, enabled: bool | None) -> Outcome:
        subaccount = self.subaccounts[auth_id]
        subaccount.name = subaccount.name if name is None else name
        subaccount.enabled = subaccount.enabled if enabled is None else enabled
        return Changed()
