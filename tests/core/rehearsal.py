"""One department and its provider, rehearsed without IO: the core's functions in the pipeline's order.

The provider here carries a call out at once, never, or late, but within the settle window. Time passes with
every wait, and when what is due is attended to.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from itertools import chain, count, repeat

from pydantic import SecretStr

from tests.support.builders import IDEMPOTENCY_KEY, NOW, SALES
from worker.core.conclude import (
    Changed,
    Deleted,
    Failed,
    Made,
    NothingDone,
    NothingSeen,
    Outcome,
    conclude,
    confirmed,
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
from worker.core.duties import Duty, check_done, check_repaired, due_duty, duplicates_checked, suspend_debt
from worker.core.judge import (
    CallFault,
    Failure,
    FaultKind,
    Operation,
    Pause,
    RetryPolicy,
    RetryState,
    Wait,
    classify,
    judge,
)
from worker.core.model import Answer, Entry, Event, Recollection, Status


class Fate(Enum):
    """What becomes of one provider call."""

    SUCCEEDS = auto()
    NOT_SENT = auto()
    REFUSED = auto()
    LOST = auto()  # no answer, and not carried out
    UNHEARD = auto()  # carried out, but no answer
    LATE = auto()  # no answer, and carried out later
    CRASH_BEFORE = auto()  # the worker dies, the call not sent
    CRASH_AFTER = auto()  # the worker dies, the call carried out
    CRASH_LATE = auto()  # the worker dies, the call is carried out later


CARRIED_OUT = {Fate.SUCCEEDS, Fate.UNHEARD, Fate.CRASH_AFTER}
CARRIED_OUT_LATE = {Fate.LATE, Fate.CRASH_LATE}
CRASHES = {Fate.CRASH_BEFORE, Fate.CRASH_AFTER, Fate.CRASH_LATE}


@dataclass
class Subaccount:
    incarnation: int  # what its tag tells
    name: str
    enabled: bool = True


@dataclass
class Rehearsal:
    """`creates` are the fates of creates, `fates` those of all other calls; when they run out, all succeed.

    `lateness` is the part of the settle window after which a late call is carried out, in (0, 1].
    """

    policy: Policy = field(default_factory=Policy)
    creates: Iterable[Fate] = ()
    fates: Iterable[Fate] = ()
    lateness: float = 1.0
    now: datetime = NOW
    entry: Entry = field(default_factory=lambda: Entry(SALES))
    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    subaccounts: dict[str, Subaccount] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fates_of_creates: Iterator[Fate] = chain(self.creates, repeat(Fate.SUCCEEDS))
        self._fates: Iterator[Fate] = chain(self.fates, repeat(Fate.SUCCEEDS))
        self._numbers = count(1)
        self._late: list[tuple[datetime, Callable[[], object]]] = []

    def deliver(self, event: Event) -> Republish | Refuse | None:
        """One try. None where it did not come to its end: a call failed, or the worker died."""
        self._attend()
        while isinstance(decision := self._decide(event), Step):
            self.entry = intend(decision, self.entry, event, IDEMPOTENCY_KEY, self.policy, self.now)
            fate = self._fate(decision)
            outcome = self._call(decision, fate)
            if fate in CRASHES:
                return None
            conclusion = conclude(self.entry, event, decision, outcome, self.policy, self.now)
            self.entry = conclusion.entry
            if conclusion.answer is not None:
                self.answers.setdefault(event.reference[:2], []).append(conclusion.answer)
            if conclusion.failure is not None:
                self._wait_for(conclusion.failure)
                return None
        return decision

    def deliver_until_ended(self, event: Event) -> Republish | Refuse:
        """As a lane does: tried, or delivered again, or replayed, before what comes after it."""
        while (end := self.deliver(event)) is None:
            pass
        return end

    def settle(self) -> None:
        """Time passes until nothing is due any more, and nothing under way."""
        while coming := [*filter(None, [self.entry.due_at]), *(at for at, _ in self._late)]:
            self._pass_until(min(coming))
            self._attend()

    def _decide(self, event: Event) -> Decision:
        answer = next(iter(self.answers.get(event.reference[:2], ())), None)
        return decide(event, Recollection(self.entry, answer), self.policy, self.now)

    def _fate(self, step: Step) -> Fate:
        match step:
            case Skip():
                return Fate.SUCCEEDS
            case Create():
                return next(self._fates_of_creates)
            case _:
                return next(self._fates)

    def _wait_for(self, failure: Failure) -> None:
        verdict = judge(failure, RetryState(tries=1), RetryPolicy(), 0.5)
        if isinstance(verdict, Wait | Pause):
            self._pass_until(self.now + timedelta(seconds=verdict.seconds))

    def _pass_until(self, moment: datetime) -> None:
        self.now = max(self.now, moment)
        due = [carry_out for at, carry_out in self._late if at <= self.now]
        self._late = [(at, carry_out) for at, carry_out in self._late if at > self.now]
        for carry_out in due:
            carry_out()

    def _attend(self) -> None:
        """Does the duties that are due, as the scheduler does."""
        while duty := due_duty(self.entry, self.now):
            self.entry = self._done(duty)

    def _done(self, duty: Duty) -> Entry:
        match duty:
            case Duty.CHECK if self._repaired():
                return check_repaired(self.entry, self.policy, self.now)
            case Duty.CHECK:
                return check_done(self.entry)
            case Duty.CHECK_DUPLICATES:
                return duplicates_checked(self.entry)
            case Duty.PAY_DEBT:
                return confirmed(self.entry, self.entry.owed_to)
            case Duty.SUSPEND_DEBT:
                return suspend_debt(self.entry)

    def _repaired(self) -> bool:
        """Whether it was not what the entry says, and is now."""
        held = self.subaccounts.get(self.entry.auth_id or "")
        if held is None:
            return False
        before = (held.name, held.enabled)
        self._set(self.entry.auth_id or "", self.entry.name, enabled=self.entry.status is Status.ACTIVE)
        return before != (held.name, held.enabled)

    def _call(self, step: Step, fate: Fate) -> Outcome:
        match = self._match() if isinstance(step, Adopt) else None
        if isinstance(step, Adopt) and match is None:  # nothing but looking is done
            return NothingSeen(self.now) if fate is Fate.SUCCEEDS else _failed("list", fate)
        if fate in CARRIED_OUT_LATE:
            incarnation = self.entry.incarnation
            late_by = self.lateness * self.policy.settle_window
            self._late.append((self.now + late_by, lambda: self._carry_out(step, match, incarnation)))
        elif fate in CARRIED_OUT:
            outcome = self._carry_out(step, match, self.entry.incarnation)
            if fate is Fate.SUCCEEDS:
                return outcome
        return _failed(_operation(step), fate)

    def _match(self) -> str | None:
        """The subaccount that bears the tag, if there is one by now."""
        of_tag = (id_ for id_, held in self.subaccounts.items() if held.incarnation == self.entry.incarnation)
        return next(of_tag, None)

    def _carry_out(self, step: Step, match: str | None, incarnation: int) -> Outcome:
        match step:
            case Create(name):
                return self._create(name, incarnation)
            case Adopt(name):
                assert match is not None
                self._set(match, name, enabled=True)
                return Made(match, SecretStr("made-up"))
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

    def _create(self, name: str, incarnation: int) -> Outcome:
        auth_id = f"SA{next(self._numbers):018d}"
        self.subaccounts[auth_id] = Subaccount(incarnation, name)
        return Made(auth_id, SecretStr("made-up"))

    def _set(self, auth_id: str, name: str | None, *, enabled: bool | None) -> Outcome:
        if (subaccount := self.subaccounts.get(auth_id)) is not None:  # a late call may find it deleted
            subaccount.name = subaccount.name if name is None else name
            subaccount.enabled = subaccount.enabled if enabled is None else enabled
        return Changed()


def _operation(step: Step) -> Operation:
    match step:
        case Create():
            return "create"
        case Delete():
            return "delete"
        case _:
            return "update"


def _failed(operation: Operation, fate: Fate) -> Failed:
    kinds = {Fate.REFUSED: FaultKind.REJECTED, Fate.NOT_SENT: FaultKind.NOT_SENT}
    return Failed(classify(CallFault(operation, kinds.get(fate, FaultKind.NO_ANSWER), "no")))
