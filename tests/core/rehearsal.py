"""A model of one department and its provider, without IO: it calls the core in the pipeline's order.

The model provider executes a call immediately, never, or late but within the settle window. Time advances on
every wait, and up to each duty that falls due. Removals that are held or late, and the results that an entry
owes, take the ways that the scheduler and the commands take.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from itertools import chain, count, repeat

from pydantic import SecretStr

from tests.support.builders import IDEMPOTENCY_KEY, NOW, SALES
from worker.core.conclude import conclude, intend
from worker.core.conclusions.removal import admission_of
from worker.core.debts import confirmed
from worker.core.decide import (
    Adopt,
    AwaitNewer,
    CountTenant,
    Create,
    Delete,
    Disable,
    HoldBack,
    Inspect,
    Look,
    NothingLeft,
    Policy,
    Reconsider,
    Refuse,
    Rename,
    Republish,
    Restore,
    Skip,
    Step,
    VoidHold,
)
from worker.core.duties import Duty, check_done, check_repaired, due_duty, duplicates_checked, suspend_debt
from worker.core.gone import found, looked_for
from worker.core.holds import Ruled, approved, lapsed, rejected, result_published
from worker.core.inventory import NOTHING, Inspection, Inventory
from worker.core.judge import (
    CallFault,
    Failure,
    FaultKind,
    Operation,
    Pause,
    Permanent,
    RetryPolicy,
    RetryState,
    Unavailable,
    Wait,
    classify,
    judge,
)
from worker.core.limits import TenantCounts, WindowCount
from worker.core.listed import ListedSubaccount
from worker.core.model.answers import Answer
from worker.core.model.causes import Event, LateRemoval
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold, Ruling
from worker.core.model.recollection import Recollection
from worker.core.model.removals import Retry
from worker.core.next_step import Asked, next_step
from worker.core.outcomes import (
    Changed,
    Deleted,
    Failed,
    Inspected,
    Made,
    NothingDone,
    NothingSeen,
    Outcome,
    Seen,
)
from worker.core.removal import has_lapsed, is_removal_due, may_approve

RETRY_PAUSE = timedelta(seconds=10)
"""Between two tries of a late removal."""


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
    inventory: Inventory = NOTHING


def counts_of(entries: Iterable[Entry], since: Iterable[datetime]) -> TenantCounts:
    """The counts that a ledger makes of a tenant's entries."""
    known = list(entries)
    return TenantCounts(
        active=sum(one.is_counted_active for one in known),
        windows=tuple(_within(known, begin) for begin in since),
    )


def _within(entries: Iterable[Entry], begin: datetime) -> WindowCount:
    known = list(entries)
    gone = [one.latest_removal for one in known if not one.is_counted_active]
    return WindowCount(
        removals=sum(at > begin for one in known for at in one.counted_removals),
        departments=sum(at is not None and at > begin for at in gone),
    )


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
    holds: dict[str, Hold] = field(default_factory=dict)
    published: list[Answer] = field(default_factory=list)
    deletions: list[tuple[datetime, str]] = field(default_factory=list)
    given_up: list[Event] = field(default_factory=list)
    neighbours: Callable[[], Iterable[Entry]] = tuple
    on_step: Callable[[Asked, Step, Entry], None] = lambda *_: None

    def __post_init__(self) -> None:
        self._fates_of_creates: Iterator[Fate] = chain(self.creates, repeat(Fate.SUCCEEDS))
        self._fates: Iterator[Fate] = chain(self.fates, repeat(Fate.SUCCEEDS))
        self._numbers = count(1)
        self._late: list[tuple[datetime, Callable[[], object]]] = []

    def deliver(self, event: Event) -> Republish | Refuse | None:
        """Makes one try. Returns None if it did not finish: a call failed, or the worker crashed."""
        self._do_due_duties()
        ended = self._carry(event)
        match ended:
            case Republish(answer):  # its delivery publishes the result
                self.entry = result_published(self.entry, answer)
                return ended
            case Refuse() | None:
                return ended
            case NothingLeft():
                raise AssertionError("an event always has an end")
            case failure:
                self._wait_after(failure)
                if isinstance(failure, Permanent):
                    self.given_up.append(event)
                return None

    def _carry(self, asked: Asked) -> Republish | Refuse | NothingLeft | Failure | None:
        """Takes the line once; None if the worker crashed."""
        known = self._recalled(asked)
        for _ in range(20):
            decision = next_step(asked, known, self.policy, self.now)
            match decision:
                case Republish() | Refuse() | NothingLeft():
                    return decision
                case AwaitNewer(newer):
                    return Unavailable(f"{newer.id} is under way")
                case CountTenant():
                    known = replace(known, counts=self._counts())
                    continue
            intended = intend(decision, self.entry, asked, IDEMPOTENCY_KEY, self.policy, self.now)
            admission = admission_of(self.entry, intended, self.policy, self.now)
            if admission is not None and not admission.allows(counts := self._counts()):
                known = replace(known, counts=counts)
                continue
            self.on_step(asked, decision, intended)
            self.entry = intended
            fate = self._fate(decision)
            outcome = self._call(decision, fate)
            if fate in CRASHES:
                return None
            conclusion = conclude(self.entry, asked, decision, outcome, self.policy, self.now)
            self.entry = conclusion.entry
            self.holds |= {hold.id: hold for hold in conclusion.holds}
            for answer in (*([conclusion.answer] if conclusion.answer else []), *conclusion.answers):
                self._answer(answer)
            if conclusion.failure is not None:
                return conclusion.failure
            known = replace(self._recalled(asked), counts=known.counts, inspection=conclusion.inspection)
        raise AssertionError(f"no end of {asked} on {self.entry}")

    def _answer(self, answer: Answer) -> None:
        self.answers.setdefault(answer.event[:2], []).append(answer)

    def _counts(self) -> TenantCounts:
        since = [self.now - window.length for window in self.policy.limit]
        return counts_of([self.entry, *self.neighbours()], since)

    def remove_late(self) -> None:
        """Carries a late removal out if it is due, as the scheduler does."""
        entry = self.entry
        if entry.hold is not None and entry.deletion is None and has_lapsed(entry.hold, self.now):
            self._ruled(lapsed(entry, entry.hold))
        elif entry.late_removal is not None and is_removal_due(entry, self.policy, self.now):
            failure = self._carry(LateRemoval.of(entry.department, entry.late_removal))
            if failure is not None and not isinstance(failure, NothingLeft | Republish | Refuse):
                retry = Retry(self.now, self.now + RETRY_PAUSE, 1, "no")
                self.entry = replace(self.entry, retry=retry) if self.entry.late_removal else self.entry
        elif entry.retry is not None and entry.retry.at <= self.now:
            self.entry = replace(entry, retry=None)

    def approve(self, cascade: int | None = None) -> None:
        """Approves the open hold, if it may be."""
        hold = self.entry.hold
        if hold is not None and may_approve(hold, self.entry, self.policy) is None:
            self._ruled(approved(self.entry, hold, Ruling("ada", self.now, cascade)))

    def reject(self) -> None:
        """Rejects the open hold, unless its deletion is under way."""
        if self.entry.hold is not None and self.entry.deletion is None:
            self._ruled(rejected(self.entry, self.entry.hold, Ruling("ada", self.now)))

    def _ruled(self, ruled: Ruled) -> None:
        self.entry = ruled.entry
        self.holds[ruled.hold.id] = ruled.hold
        if ruled.answer is not None:
            self._answer(ruled.answer)

    def publish_owed(self) -> None:
        """Publishes the results that the entry owes."""
        for answer in self.entry.owed_results:
            self.published.append(answer)
            self.entry = result_published(self.entry, answer)

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
            if self.entry.results_at is not None and self.entry.results_at <= self.now:
                self.publish_owed()

    def advance(self, by: timedelta) -> None:
        """Lets time pass, with all that falls due in it."""
        end = self.now + by
        while (coming := self._coming(end)) < end:
            self._advance_to(coming)
            self._do_due_duties()
            self.remove_late()
        self._advance_to(end)
        self._do_due_duties()
        self.remove_late()

    def pause(self, by: timedelta) -> None:
        """Lets time pass while no worker runs."""
        self._advance_to(self.now + by)

    def _coming(self, end: datetime) -> datetime:
        """The next moment at which something happens by itself, `end` at the latest."""
        due_at = replace(self.entry, owed_results=(), results_at=None).due_at
        moments = [*filter(None, [due_at]), *(at for at, _ in self._late)]
        return min((at for at in moments if at > self.now), default=end)

    def _recalled(self, asked: Asked) -> Recollection:
        return Recollection(self.entry, next(iter(self.answers.get(asked.reference[:2], ())[-1:]), None))

    def _fate(self, step: Step) -> Fate:
        match step:
            case Skip() | HoldBack() | VoidHold():
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
            case Duty.CHECK if self.entry.auth_id not in self.subaccounts:
                return looked_for(self.entry, self.policy, self.now)
            case Duty.CHECK:
                repaired = self._repaired()
                entry = found(check_done(self.entry), self.policy, self.now)
                return check_repaired(entry, self.policy, self.now) if repaired else entry
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
        if isinstance(step, Inspect | Look | Reconsider):
            return self._read(step) if fate is Fate.SUCCEEDS else _failed("get", fate)
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

    def _read(self, step: Inspect | Look | Reconsider) -> Outcome:
        one = self.subaccounts.get(step.auth_id)
        if isinstance(step, Inspect):
            listed = ListedSubaccount(step.auth_id, one.name, one.enabled, NOW.date()) if one else None
            tagged = one is not None and one.incarnation == self.entry.incarnation
            return Inspected(Inspection(listed, tagged, one.inventory if one else NOTHING, 0.0))
        if one is None:
            return Failed(classify(CallFault("get", FaultKind.NOT_FOUND, "404")))
        return Seen()

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
                if self.subaccounts.pop(auth_id, None) is not None:
                    self.deletions.append((self.now, auth_id))
                return Deleted()
            case Skip() | HoldBack() | VoidHold():
                return NothingDone()
            case Inspect() | Look() | Reconsider():
                return self._read(step)

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
