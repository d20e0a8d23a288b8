"""For any history of a tenant: no removal that something forbids, and one final answer for each event.

Several departments live in virtual time. Events come in any order, calls fail in every way, others change the
subaccounts, a person approves, rejects and protects, and at times no worker runs. The rules are looked at
before each step of a removal and after each step.
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contracts.departments import Kind
from contracts.subaccounts import ResultKind
from tests.core.rehearsal import Fate, Rehearsal, counts_of
from tests.support.builders import created, removed, renamed
from worker.core.decide import Delete, Disable, Policy, Refuse, Removal, Skip, Step
from worker.core.inventory import Inventory
from worker.core.limits import Window
from worker.core.model.causes import Event, LateRemoval, Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import HoldReason, HoldState
from worker.core.next_step import Asked
from worker.core.protected import Protected
from worker.core.removal import APPROVAL_VALID_FOR, RULES

pytestmark = pytest.mark.no_cover

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
pauses = st.sampled_from([timedelta(hours=1), APPROVAL_VALID_FOR, GRACE])


class Tenant(RuleBasedStateMachine):
    """One tenant, its ledger and its subaccounts."""

    @initialize(
        removal=st.sampled_from([*[Removal.DISABLE_THEN_DELETE] * 3, *[Removal.DELETE] * 2, Removal.DISABLE]),
        limited=st.booleans(),
        lateness=st.sampled_from([0.1, 0.9, 1.0]),
        first=st.integers(1, len(DEPARTMENTS)),
    )
    def begin(self, removal: Removal, limited: bool, lateness: float, first: int) -> None:  # noqa: FBT001
        self.policy = Policy(removal, GRACE, limit=LIMIT if limited else ())
        self.coming: deque[Fate] = deque()
        self.events: dict[Reference, Event] = {}
        self.open: set[Reference] = set()
        self.decided: dict[str, list[Event]] = {id_: [] for id_ in DEPARTMENTS}
        self.returning: dict[str, Event] = {}
        self.approved: dict[Reference, set[HoldReason]] = {}
        self.rejected: set[Reference] = set()
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
        self._deliver(id_, kind, name, older)

    @rule(id_=departments, merged_into=st.sampled_from([None, None, None, "another"]))
    def remove(self, id_: str, merged_into: str | None) -> None:
        """The newest event of a department removes it."""
        self._deliver(id_, Kind.REMOVED, "A", 0, merged_into)

    @rule(id_=departments, first=fates, second=fates)
    def remove_overtaken(self, id_: str, first: list[Fate], second: list[Fate]) -> None:
        """A removal that has failed comes again after a newer event that has failed."""
        self.coming.extend(first)
        self._deliver(id_, Kind.REMOVED, "A", 0)
        overtaken = self.events.get(Reference("/hr", f"event-{self.sequence}", "department.removed.v1"))
        self.coming.extend(second)
        self._deliver(id_, Kind.CREATED, "B", 0)
        if overtaken is not None:
            self._try(overtaken)

    def _deliver(self, id_: str, kind: Kind, name: str, older: int, merged_into: str | None = None) -> None:
        self.sequence += 10
        number = self.sequence - 25 * older
        event = OF_KIND[kind](name, department_id=id_, sequence=number, id=f"event-{self.sequence}")
        event = replace(event, merged_into=merged_into)
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

    @rule(by=pauses)
    def pause(self, by: timedelta) -> None:
        """No worker runs for a time."""
        for one in self.rehearsals.values():
            one.pause(by)

    @precondition(lambda self: self._held())
    @rule(data=st.data(), cascade=st.none() | st.integers(0, 2), numbers=st.none() | st.integers(1, 2))
    def approve(self, data: st.DataObject, cascade: int | None, numbers: int | None) -> None:
        """A person approves; others may have added numbers meanwhile."""
        one = data.draw(st.sampled_from(self._held()))
        if numbers is not None:
            self.hang(one.entry.department.id, numbers)
        self._approve(one, cascade)
        one.remove_late()

    @precondition(lambda self: self._held())
    @rule(data=st.data(), by=pauses)
    def approve_and_pause(self, data: st.DataObject, by: timedelta) -> None:
        """The worker stops before it can carry the removal out."""
        self._approve(data.draw(st.sampled_from(self._held())), None)
        self.pause(by)
        self.wait(timedelta(seconds=1))

    @precondition(lambda self: self._held())
    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self._held()))
        hold = one.entry.hold
        one.reject()
        if hold is not None and one.entry.hold is None:
            self.rejected.add(hold.cause.reference)

    @rule(ids=st.permutations(DEPARTMENTS))
    def remove_all(self, ids: list[str]) -> None:
        """Every department is removed at once, as by a wiped org chart."""
        for id_ in ids:
            self._deliver(id_, Kind.REMOVED, "A", 0)

    @rule(id_=departments, what=st.sampled_from(["protected", "enabled", "numbers"]))
    def remove_and_meet(self, id_: str, what: str) -> None:
        """A department that is removed comes to have a reason to hold its deletion; the grace ends."""
        self._deliver(id_, Kind.REMOVED, "A", 0)
        match what:
            case "protected":
                self.protect(id_)
            case "enabled":
                self.enable(id_)
            case _:
                self.hang(id_, 2)
        self.wait(GRACE)

    @rule(id_=st.none() | departments)
    def protect(self, id_: str | None) -> None:
        """The settings name one department as protected, or none any more."""
        self.policy = replace(self.policy, protected=Protected((id_,) if id_ else ()))
        for one in self.rehearsals.values():
            one.policy = self.policy

    def _held(self) -> list[Rehearsal]:
        """The departments with an open hold."""
        if not hasattr(self, "rehearsals"):
            return []
        return [one for one in self.rehearsals.values() if one.entry.hold is not None]

    def _approve(self, one: Rehearsal, cascade: int | None = None) -> None:
        one.approve(cascade)
        hold = one.entry.hold
        if hold is not None and hold.state is HoldState.APPROVED:
            self.approved.setdefault(hold.cause.reference, set()).add(hold.reason)

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
        """An event whose step has begun does not wait any more, unless the answered one is older."""
        pending = self.returning.get(answered.department.id)
        if pending is not None and not pending.version.newer_than(answered.version):
            del self.returning[answered.department.id]

    def _is_superseded(self, one: Rehearsal, event: Event) -> bool:
        answers = one.answers[event.reference[:2]]
        return answers[0].outcome is ResultKind.SUPERSEDED

    def _looked_at(self, asked: Asked, step: Step, entry: Entry) -> None:
        """Before a step acts."""
        decided = self.decided[entry.department.id]
        if isinstance(asked, Event) and asked.kind is not Kind.REMOVED and not isinstance(step, Skip):
            self.returning[entry.department.id] = asked
        if isinstance(step, Disable | Delete) and not _finds_nothing(step):
            self._may_be_removed(asked, self.rehearsals[entry.department.id].entry)
        if not isinstance(step, Delete):
            return
        waits = self.returning.get(entry.department.id)
        if waits is not None and not _finds_nothing(step):
            assert asked.version is not None
            assert asked.version.newer_than(waits.version), f"{waits} says that the department exists"
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
        if not _finds_nothing(step):
            self._may_be_deleted(asked, step, self.rehearsals[entry.department.id].entry)

    def _may_be_removed(self, asked: Asked, before: Entry) -> None:
        """Nothing holds the removal of a subaccount that is there, or a person has approved it in time."""
        one = self.rehearsals[before.department.id]
        if isinstance(asked, LateRemoval):
            assert asked.reference not in self.rejected
            ruling = before.hold.ruling if before.hold else None
            assert ruling is None or one.now - ruling.at < APPROVAL_VALID_FOR, "the approval has lapsed"
        elif isinstance(asked, Event) and before.removal is None:
            assert not self.policy.protected.includes(before.department)
            assert asked.merged_into is None
            others = (other.entry for other in self.rehearsals.values() if other is not one)
            if self.policy.limit and before.removing is None:
                assert any(other.is_counted_active for other in others), "it is the last active one"

    def _may_be_deleted(self, asked: Asked, step: Delete, before: Entry) -> None:
        """A person has approved this very removal where its deletion must wait for one."""
        approved = self.approved.get(asked.reference, set())
        if self.policy.protected.includes(before.department):
            assert approved & RULES
        found = step.inspection.found if step.inspection else None
        if found is not None and found.enabled and before.removal is not None:
            assert HoldReason.DRIFT in approved

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
                self._approve(one)
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


def _finds_nothing(step: Disable | Delete) -> bool:
    """Whether the subaccount of the deletion is gone already: there is nothing left to be held."""
    return isinstance(step, Delete) and step.inspection is not None and step.inspection.found is None


TestTenant = Tenant.TestCase
TestTenant.settings = settings(max_examples=200, stateful_step_count=40, deadline=None, print_blob=True)
