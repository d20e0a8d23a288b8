"""A model of one department and its provider, without IO: it calls the core in the pipeline's order.

The model provider executes a call immediately, never, or late but within the settle window. Time advances on
every wait, and up to each duty that falls due.
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
    Seen,
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
    Look,
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
    """The fate of one provider call."""

    SUCCEEDS = auto()
    NOT_SENT = auto()
    REFUSED = auto()
    LOST = auto()  # no response, and not executed
    UNHEARD = auto()  # executed, but the response is lost
    LATE = auto()  # no response, and executed later
    CRASH_BEFORE = auto()  # the worker crashes before it sends the call
    CRASH_AFTER = auto()  # the worker crashes after the call was executed
    CRASH_LATE = auto()  # the worker crashes, and the call is executed later


EXECUTED = {Fate.SUCCEEDS, Fate.UNHEARD, Fate.CRASH_AFTER}
EXECUTED_LATE = {Fate.LATE, Fate.CRASH_LATE}
CRASHES = {Fate.CRASH_BEFORE, Fate.CRASH_AFTER, Fate.CRASH_LATE}


@dataclass
class Subaccount:
    incarnation: int  # taken from its tag
    name: str
    enabled: bool = True


@dataclass
class Rehearsal:
    """`creates` are the fates of creates, `fates` those of all other calls. Once they run out, all succeed.

    `lateness` is the fraction of the settle window after which a late call is executed, in (0, 1].
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
        """Makes one try. Returns None if it did not finish: a call failed, or the worker crashed."""
        self._do_due_duties()
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
                self._wait_after(conclusion.failure)
                return None
        return decision

    def deliver_until_ended(self, event: Event) -> Republish | Refuse:
        """Repeats the event until it ends, as a lane does before it takes the next event."""
        while (end := self.deliver(event)) is None:
            pass
        return end

    def settle(self) -> None:
        """Advances time until no duty is due and no late call is pending."""
        while coming := [*filter(None, [self.entry.due_at]), *(at for at, _ in self._late)]:
            self._advance_to(min(coming))
            self._do_due_duties()

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

    def _wait_after(self, failure: Failure) -> None:
        verdict = judge(failure, RetryState(tries=1), RetryPolicy(), 0.5)
        if isinstance(verdict, Wait | Pause):
            self._advance_to(self.now + timedelta(seconds=verdict.seconds))

    def _advance_to(self, moment: datetime) -> None:
        self.now = max(self.now, moment)
        due = [execute for at, execute in self._late if at <= self.now]
        self._late = [(at, execute) for at, execute in self._late if at > self.now]
        for execute in due:
            execute()

    def _do_due_duties(self) -> None:
        """Performs the duties that are due, as the scheduler does."""
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
        """Makes the subaccount match the entry. Returns whether that changed anything."""
        held = self.subaccounts.get(self.entry.auth_id or "")
        if held is None:
            return False
        before = (held.name, held.enabled)
        self._set(self.entry.auth_id or "", self.entry.name, enabled=self.entry.status is Status.ACTIVE)
        return before != (held.name, held.enabled)

    def _call(self, step: Step, fate: Fate) -> Outcome:
        match = self._match() if isinstance(step, Adopt) else None
        if isinstance(step, Adopt) and match is None:  # the step ends after its scan
            return NothingSeen(self.now) if fate is Fate.SUCCEEDS else _failed("list", fate)
        if fate in EXECUTED_LATE:
            incarnation = self.entry.incarnation
            late_by = self.lateness * self.policy.settle_window
            self._late.append((self.now + late_by, lambda: self._execute(step, match, incarnation)))
        elif fate in EXECUTED:
            outcome = self._execute(step, match, self.entry.incarnation)
            if fate is Fate.SUCCEEDS:
                return outcome
        return _failed(_operation(step), fate)

    def _match(self) -> str | None:
        """The subaccount that carries the tag, if it exists yet."""
        of_tag = (id_ for id_, held in self.subaccounts.items() if held.incarnation == self.entry.incarnation)
        return next(of_tag, None)

    def _execute(self, step: Step, match: str | None, incarnation: int) -> Outcome:
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
            case Look():
                return Seen()
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
