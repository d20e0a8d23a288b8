"""For any history of a tenant: no removal that something forbids, and one final answer for each event.

Several departments live in virtual time. Events come in any order, calls fail in every way, others change the
subaccounts, and a person approves and rejects. The rules are looked at before each deletion and after each
step.
"""

from collections import Counter, deque
from collections.abc import Iterator
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contracts.departments import Kind
from contracts.subaccounts import ResultKind
from tests.core.rehearsal import Fate, Rehearsal, counts_of
from tests.support.builders import created, removed, renamed
from worker.core.decide import Delete, Policy, Reconsider, Refuse, Removal, Restore, Step
from worker.core.inventory import Inventory
from worker.core.limits import Window
from worker.core.model.causes import Event, LateRemoval, Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import HoldReason, HoldState
from worker.core.next_step import Asked

DEPARTMENTS = [f"d{number}" for number in range(3)]
GRACE = timedelta(days=3)
LIMIT = (
    Window(1, timedelta(hours=24), is_percentage=False),
    Window(2, timedelta(days=30), is_percentage=False),
)
FINAL = set(ResultKind) - {ResultKind.HELD, ResultKind.FAILED}
OF_KIND = {Kind.CREATED: created, Kind.RENAMED: renamed, Kind.REMOVED: removed}

departments = st.sampled_from(DEPARTMENTS)
fates = st.lists(st.sampled_from(Fate), min_size=1, max_size=6)
waits = st.sampled_from([timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), GRACE])


class Tenant(RuleBasedStateMachine):
    """One tenant, its ledger and its subaccounts."""

    @initialize(
        removal=st.sampled_from([Removal.DISABLE_THEN_DELETE, Removal.DELETE, Removal.DISABLE]),
        limited=st.booleans(),
        lateness=st.sampled_from([0.1, 0.9, 1.0]),
        first=st.integers(2, len(DEPARTMENTS)),
    )
    def begin(self, removal: Removal, limited: bool, lateness: float, first: int) -> None:  # noqa: FBT001
        self.policy = Policy(removal, GRACE, limit=LIMIT if limited else ())
        self.coming: deque[Fate] = deque()
        self.events: dict[Reference, Event] = {}
        self.open: set[Reference] = set()
        self.decided: dict[str, list[Event]] = {id_: [] for id_ in DEPARTMENTS}
        self.returning: dict[str, Event] = {}
        self.sequence = 100
        self.rehearsals = {id_: self._rehearsal(id_, lateness) for id_ in DEPARTMENTS}
        for id_ in DEPARTMENTS[:first]:
            self.deliver(id_, Kind.CREATED, "Sales", 0)

    def _rehearsal(self, id_: str, lateness: float) -> Rehearsal:
        others = [other for other in DEPARTMENTS if other != id_]
        return Rehearsal(
            self.policy,
            self._fates(),
            self._fates(),
            lateness,
            entry=Entry(Department("acme", id_)),
            neighbours=lambda: [self.rehearsals[other].entry for other in others],
            on_step=self._looked_at,
        )

    def _fates(self) -> Iterator[Fate]:
        while True:
            yield self.coming.popleft() if self.coming else Fate.SUCCEEDS

    @rule(id_=departments, kind=st.sampled_from(Kind), name=st.sampled_from("AB"), older=st.integers(0, 3))
    def deliver(self, id_: str, kind: Kind, name: str, older: int) -> None:
        """A new event, which may be older than others of its department."""
        self.sequence += 10
        number = self.sequence - 25 * older
        event = OF_KIND[kind](name, department_id=id_, sequence=number, id=f"event-{self.sequence}")
        self.events[event.reference] = event
        self.open.add(event.reference)
        self._try(event)

    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        """An event once more; most often one that has not ended."""
        known = sorted(self.open) or sorted(self.events)
        if known:
            self._try(self.events[data.draw(st.sampled_from(known))])

    @rule(coming=fates)
    def fail(self, coming: list[Fate]) -> None:
        self.coming.extend(coming)

    @rule(by=waits)
    def wait(self, by: timedelta) -> None:
        for one in self.rehearsals.values():
            one.advance(by)

    @rule(id_=departments, cascade=st.none() | st.integers(0, 2))
    def approve(self, id_: str, cascade: int | None) -> None:
        self.rehearsals[id_].approve(cascade)
        self.rehearsals[id_].remove_late()

    @rule(id_=departments)
    def reject(self, id_: str) -> None:
        self.rehearsals[id_].reject()

    @rule(id_=departments, numbers=st.integers(0, 2))
    def hang(self, id_: str, numbers: int) -> None:
        """Others add numbers to the subaccount, or take them away."""
        for one in self.rehearsals[id_].subaccounts.values():
            one.inventory = Inventory(numbers=tuple(str(number) for number in range(numbers)))

    @rule(id_=departments)
    def enable(self, id_: str) -> None:
        """Others enable the subaccount."""
        for one in self.rehearsals[id_].subaccounts.values():
            one.enabled = True

    @rule(id_=departments)
    def publish(self, id_: str) -> None:
        self.rehearsals[id_].publish_owed()

    def _try(self, event: Event) -> None:
        one = self.rehearsals[event.department.id]
        ended = one.deliver(event)
        if isinstance(ended, Refuse) or event in one.given_up:  # dead-lettered: it leaves no mark
            self.open.discard(event.reference)
            self.events.pop(event.reference, None)
            self.returning.pop(event.department.id, None)
            self.decided[event.department.id] = [
                each for each in self.decided[event.department.id] if each != event
            ]
        elif ended is not None:
            self.open.discard(event.reference)
            if not self._is_superseded(one, event):
                self._returned(event)
                self.decided[event.department.id].append(event)
        latest = max(each.now for each in self.rehearsals.values())
        for each in self.rehearsals.values():
            each.advance(latest - each.now)

    def _returned(self, answered: Event) -> None:
        """An event that restores its department is not pending any more, unless the answered one is older."""
        pending = self.returning.get(answered.department.id)
        if pending is not None and not pending.version.newer_than(answered.version):
            del self.returning[answered.department.id]

    def _is_superseded(self, one: Rehearsal, event: Event) -> bool:
        answers = one.answers[event.reference[:2]]
        return answers[0].outcome is ResultKind.SUPERSEDED

    def _looked_at(self, asked: Asked, step: Step, entry: Entry) -> None:
        """Before a step acts."""
        decided = self.decided[entry.department.id]
        if isinstance(step, Restore | Reconsider) and isinstance(asked, Event):
            self.returning[entry.department.id] = asked
        if not isinstance(step, Delete):
            return
        assert entry.department.id not in self.returning, "an event restores the department"
        asked_now = [asked] if isinstance(asked, Event) else []
        newest = max([*decided, *asked_now], key=lambda event: event.version.rank())
        assert newest.kind is Kind.REMOVED, f"{newest} says that the department exists"
        hold = entry.hold if entry.hold and entry.hold.state is HoldState.APPROVED else None
        assert hold is None or isinstance(asked, LateRemoval)
        now = self.rehearsals[entry.department.id].now
        if entry.removal is not None and hold is None and isinstance(asked, LateRemoval):
            grace = GRACE if self.policy.removal is Removal.DISABLE_THEN_DELETE else timedelta()
            assert now >= entry.removal.removed_at + grace
        assert self.policy.removal is not Removal.DISABLE
        assert step.inspection is not None
        total = step.inspection.inventory.counts.total
        if total:
            assert hold is not None
            assert hold.reason is HoldReason.RESOURCES
        if step.cascade:
            assert hold is not None
            assert hold.ruling is not None
            assert hold.ruling.cascade == total > 0

    @invariant()
    def no_window_has_more_removals_than_it_allows(self) -> None:
        now = max(one.now for one in self.rehearsals.values())
        since = [now - window.length for window in self.policy.limit]
        counts = counts_of((one.entry for one in self.rehearsals.values()), since)
        for window, count in zip(self.policy.limit, counts.windows, strict=True):
            assert count.removals <= int(window.most)

    @invariant()
    def no_event_has_two_final_answers(self) -> None:
        for one in self.rehearsals.values():
            for answers in one.answers.values():
                final = [answer.outcome for answer in answers if answer.outcome in FINAL]
                assert len(final) <= 1 or final == [ResultKind.DISABLED, ResultKind.REMOVED], answers

    @invariant()
    def each_owed_result_is_published_once(self) -> None:
        for one in self.rehearsals.values():
            ids = Counter((each.event, each.outcome, each.hold_id) for each in one.published)
            assert set(ids.values()) <= {1}, ids

    @invariant()
    def nothing_restored_is_lost(self) -> None:
        """A department that is active has its subaccount, unless the deletion of a held one came late."""
        for one in self.rehearsals.values():
            if one.entry.is_live and one.entry.hold is None and one.entry.missing_since is None:
                assert one.entry.auth_id in one.subaccounts

    def teardown(self) -> None:
        """In the end nothing fails, and a person rules on every hold."""
        if not hasattr(self, "rehearsals"):
            return
        self.coming.clear()
        for _ in range(4):
            for reference in sorted(self.open):
                self._try(self.events[reference])
            self.wait(timedelta(hours=1))
            for one in self.rehearsals.values():
                one.approve()
            self.wait(GRACE)
        assert not self.open
        for one in self.rehearsals.values():
            one.publish_owed()
            assert one.entry.status is not Status.DELETING
            self._each_event_has_its_answer(one)
        self.no_event_has_two_final_answers()
        self.each_owed_result_is_published_once()

    def _each_event_has_its_answer(self, one: Rehearsal) -> None:
        for event in self.events.values():
            if event.department == one.entry.department:
                outcomes = [answer.outcome for answer in one.answers[event.reference[:2]]]
                held = one.entry.hold is not None and one.entry.hold.cause.reference == event.reference
                assert held or FINAL & set(outcomes), outcomes
        late = {hold.id for hold in one.holds.values() if hold.disabled}
        assert late <= {answer.hold_id for answer in one.published}


TestTenant = Tenant.TestCase
TestTenant.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, print_blob=True)
