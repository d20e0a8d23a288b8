"""Checks a history against the promises about removals, note by note. Shares no code with the worker.

A removal begins when the ledger announces it (`removing`), or else when the department is recorded as
disabled or deleting. An approval counts only if a person has asked for it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.history import Note
from tests.simulation.producer_events import REMOVED, ProducerEvent

INSPECTION_VALID_SECONDS = 61.0
CLOCK_SLACK_SECONDS = 12.0
"""A removal is counted as of a moment a little before its write is carried out."""
KINDS = ("numbers", "applications", "endpoints")


@dataclass(frozen=True)
class Rules:
    """An operator's settings in one worker. `limit`: most, whether it is a percentage, and seconds."""

    removal: str
    grace: float
    limit: Sequence[tuple[float, bool, float]]
    protected: Sequence[str]


@dataclass
class HoldState:
    """A hold as it was last recorded."""

    department: str
    reason: str
    event: str
    disabled: bool  # by this removal, before the hold
    disabled_before: bool  # by an earlier removal
    state: str = "waiting"


@dataclass
class Shown:
    """A subaccount as the provider has it, with the times since when each state lasts."""

    name: str
    enabled: bool
    tag: str
    enabled_since: float
    name_since: float
    disabled_at: list[float] = field(default_factory=list)  # by a worker, or changed while it was disabled
    owned: dict[str, float] = field(default_factory=dict)  # resources and since when they are there


@dataclass
class Begun:
    """A removal that has begun. `counts`: no person has approved it."""

    department: str
    tenant: str
    at: float
    counts: bool
    carried_out_at: float = 0.0


@dataclass
class Department:
    """A department as the ledger has it."""

    status: str = "absent"
    is_disabled: bool = False  # on record; a deletion leaves it as it is
    auth_id: str | None = None
    removing: str | None = None
    hold: str | None = None
    wanted_by: str | None = None  # an event under way that says that it exists
    removal: Begun | None = None  # the present one
    disabled_at: float = 0.0  # its disable was confirmed after this
    deleted_for: str | None = None  # the event that the last deletion was begun for, if it was active
    before: str | None = None  # the auth id of the subaccount deleted last
    supersedes: dict[str, str | None] = field(default_factory=dict)  # by auth id


@dataclass
class RemovalState:
    """The state after the notes read so far."""

    deletes_very_late: bool
    events: dict[str, ProducerEvent] = field(default_factory=dict)
    tenants: dict[str, str] = field(default_factory=dict)
    workers: dict[int, Rules] = field(default_factory=dict)
    holds: dict[str, HoldState] = field(default_factory=dict)
    asked: set[tuple[str, str, int | None]] = field(default_factory=set)  # hold, kind, cascade
    departments: dict[str, Department] = field(default_factory=lambda: defaultdict(Department))
    shown: dict[str, Shown] = field(default_factory=dict)
    removals: list[Begun] = field(default_factory=list)
    newest: dict[str, ProducerEvent] = field(default_factory=dict)  # decided, by department
    outcomes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    reads: dict[tuple[int, str], float] = field(default_factory=dict)  # the last GET, by worker and auth id
    counted: dict[tuple[int, str], dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    totals: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    held_ids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by event
    deleted_by_hand: set[str] = field(default_factory=set)
    adopted: set[str] = field(default_factory=set)  # subaccounts that a person wants to be adopted
    credentials: dict[str, set[tuple[str, str | None]]] = field(default_factory=lambda: defaultdict(set))
    broken: list[str] = field(default_factory=list)

    def breaks(self, note: Note, what: str) -> None:
        self.broken.append(f"G8: {note.department} {what}, at {note.at:.3f}")


def judge_removals(notes: Iterable[Note], *, deletes_very_late: bool) -> list[str]:
    """The promises about removals that a finished run has broken."""
    state = read_removals(notes, deletes_very_late=deletes_very_late)
    return [*state.broken, *_held_broken(state), *_rejected_broken(state), *_supersedes_broken(state)]


def read_removals(notes: Iterable[Note], *, deletes_very_late: bool) -> RemovalState:
    """Reads all notes; the result contains the promises broken at the moment of a note."""
    state = RemovalState(deletes_very_late)
    for note in notes:
        if (reader := _READERS.get(note.what)) is not None:
            reader(state, note)
    return state


def _sent(state: RemovalState, note: Note) -> None:
    event = note.detail["producer_event"]
    if event.department:
        state.events.setdefault(event.id, event)
        state.tenants[event.department] = event.tenant


def _worker_started(state: RemovalState, note: Note) -> None:
    told = note.detail
    state.workers[told["worker"]] = Rules(told["removal"], told["grace"], told["limit"], told["protected"])


def _asked(state: RemovalState, note: Note) -> None:
    state.asked.add((note.detail["hold"], note.detail["kind"], note.detail["cascade"]))


def _asked_for(state: RemovalState, note: Note) -> None:
    state.adopted.add(note.detail["auth_id"])


def _hold_recorded(state: RemovalState, note: Note) -> None:
    assert note.department is not None
    told = note.detail
    was_disabled = state.departments[note.department].is_disabled
    made = HoldState(note.department, told["reason"], told["event"], told["disabled"], was_disabled)
    hold = state.holds.setdefault(told["hold"], made)
    before, hold.state = hold.state, told["state"]
    kind = {"approved": "approve", "rejected": "reject"}.get(hold.state)
    if kind and before != hold.state and not _was_asked(state, told["hold"], kind):
        state.breaks(note, f"has hold {told['hold']} {hold.state}, and nobody asked for it")


def _was_asked(state: RemovalState, hold: str, kind: str) -> bool:
    return any(asked[:2] == (hold, kind) for asked in state.asked)


def _answered(state: RemovalState, note: Note) -> None:
    event, outcome = state.events.get(note.detail["event"]), note.detail["outcome"]
    if event is None or event.department is None:
        return
    outcomes = state.outcomes[event.id]
    if not outcomes or outcomes[-1] != outcome:
        outcomes.append(outcome)
    if outcome != "superseded":
        newest = state.newest.get(event.department)
        if newest is None or event.rank() >= newest.rank():
            state.newest[event.department] = event


def _recorded(state: RemovalState, note: Note) -> None:
    assert note.department is not None
    told, one = note.detail, state.departments[note.department]
    status, hold = told["status"], told["hold"]
    rules = state.workers.get(told["writer"])
    if rules is None:
        return
    begins = told["removing"] is not None and one.removing is None
    unannounced = one.status == "active" and status in {"disabled", "deleting"} and one.removal is None
    if (begins or unannounced) and one.removal is None:
        _begins(state, note, one, rules)
    if status == "deleting":
        _deleting(state, note, one, rules)
    if status == "disabled" and one.status == "active" and one.auth_id in state.shown:
        one.disabled_at = _disabled_at(state.shown[one.auth_id], one.removal)
    if one.auth_id and status == "removed":
        one.before = one.auth_id
    if told["auth_id"] and told["auth_id"] not in one.supersedes:
        one.supersedes[told["auth_id"]] = one.before
    _removal_goes_on(state, note, one)
    one.status, one.auth_id, one.removing, one.hold = status, told["auth_id"], told["removing"], hold
    if status != "deleting":
        one.is_disabled = status == "disabled"
    one.wanted_by = told["wanted_by"]


def _removal_goes_on(state: RemovalState, note: Note, one: Department) -> None:
    """Notes what the new state of the department says of its removal."""
    status = note.detail["status"]
    if one.removal is not None and status == "active" and note.detail["removing"] is None:
        state.removals.remove(one.removal)  # restored, or it was never carried out
        one.removal = None
    if one.removal is not None and status in {"disabled", "removed"}:
        one.removal.carried_out_at = note.at
    if one.removal is not None and status == "removed":
        one.removal = None  # it stays among the removals
    elif status == "removed" and one.status == "active":  # found gone: no call of ours, so it is not counted
        department = note.department or ""
        state.removals.append(Begun(department, state.tenants.get(department, ""), note.at, counts=False))


def _disabled_at(shown: Shown, removal: Begun | None) -> float:
    """When the removal disabled it. An earlier try may be carried out after the confirm of a later one."""
    since = removal.at if removal else 0.0
    last = shown.disabled_at[-1] if shown.disabled_at else 0.0
    return next((at for at in shown.disabled_at if at >= since), last)


def _approved(state: RemovalState, one: Department, *reasons: str) -> bool:
    """Whether a person has approved the open hold, and for one of these reasons if any are given."""
    hold = state.holds.get(one.hold or "")
    if hold is None or hold.state != "approved" or not _was_asked(state, one.hold or "", "approve"):
        return False
    return not reasons or hold.reason in reasons


def _begins(state: RemovalState, note: Note, one: Department, rules: Rules) -> None:
    """The removal of an active department begins: by approval, or because no rule holds it."""
    assert note.department is not None
    tenant = state.tenants[note.department]
    approved = _approved(state, one)
    one.removal = Begun(note.department, tenant, note.at, counts=not approved)
    state.removals.append(one.removal)
    if approved:
        return
    event = state.events.get(note.detail["removing"] or "")
    if _is_protected(rules, tenant, note.department):
        state.breaks(note, "is protected, and is removed without an approval")
    if event is not None and event.merged:
        state.breaks(note, "was merged, and is removed without an approval")
    if rules.limit:
        _within_limit(state, note, tenant, rules)


def _is_protected(rules: Rules, tenant: str, department: str) -> bool:
    names = (department, f"{tenant}/{department}")
    return any(
        name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))
        for pattern in rules.protected
        for name in names
    )


def _within_limit(state: RemovalState, note: Note, tenant: str, rules: Rules) -> None:
    active = {
        name
        for name, other in state.departments.items()
        if state.tenants.get(name) == tenant and other.status == "active" and other.removal is None
    }
    if not active - {note.department}:
        state.breaks(note, f"is the last active one of {tenant}, and is removed without an approval")
    removals = [one for one in state.removals if one.tenant == tenant]
    counted = [one for one in removals if one.counts]
    for most, is_percentage, seconds in rules.limit:
        surely = sum(one.at > note.at - seconds + CLOCK_SLACK_SECONDS for one in counted)
        since = note.at - seconds - CLOCK_SLACK_SECONDS
        perhaps = {one.department for one in removals if max(one.at, one.carried_out_at) > since}
        base = len(active | perhaps | {note.department})
        allowed = max(3, int(most * base / 100)) if is_percentage else int(most)
        if surely > allowed:
            state.breaks(
                note, f"is removal {surely} of {tenant} within {seconds} s, and {allowed} are allowed"
            )


def _deleting(state: RemovalState, note: Note, one: Department, rules: Rules) -> None:
    removing = note.detail["removing"]
    if one.status == "deleting":  # a newer removal may take it up
        one.deleted_for = removing or one.deleted_for
        return
    one.deleted_for = removing
    _deletion_begins(state, note, one, rules)


def _deletion_begins(state: RemovalState, note: Note, one: Department, rules: Rules) -> None:
    """A person has approved the deletion itself, or the policy deletes and the grace is over.

    The approval of a hold met before the disable covers only the removal of an active department.
    """
    hold = state.holds.get(one.hold or "")
    if hold is not None and _approved(state, one):
        of_the_deletion = hold.disabled or (one.status == "active" and rules.removal == "delete")
        if of_the_deletion:
            return
    if rules.removal in {"disable", "ignore"}:
        state.breaks(note, f"is deleted, although the policy is {rules.removal}")
    elif rules.removal == "disable-then-delete":
        if one.status != "disabled":
            state.breaks(note, f"is deleted while {one.status}, without grace")
        elif (early := one.disabled_at + rules.grace - note.at) > 0:
            state.breaks(note, f"is deleted {early:.1f} s before its grace of {rules.grace} s is over")


def _read(state: RemovalState, note: Note) -> None:
    key = (note.detail["worker"], note.detail["auth_id"])
    state.reads[key] = note.at
    state.counted[key].clear()


def _counted(state: RemovalState, note: Note) -> None:
    key = (note.detail["worker"], note.detail["auth_id"])
    state.counted[key][str(note.detail["kind"])] = note.at


def _delete(state: RemovalState, note: Note) -> None:
    """A deletion is sent: after an inspection, of a subaccount on record, and not against what it showed."""
    auth_id, worker = note.detail["auth_id"], note.detail["worker"]
    if note.department is None:
        state.breaks(note, f"nobody of ours has {auth_id}, and it is deleted")
        return
    one, shown = state.departments[note.department], state.shown.get(auth_id)
    if (one.status, one.auth_id) != ("deleting", auth_id):
        state.breaks(note, f"has {one.auth_id} {one.status} on record, and {auth_id} is deleted")
    key = (worker, auth_id)
    read_at, counted = state.reads.pop(key, None), state.counted.pop(key, {})
    if read_at is None or note.at - read_at > INSPECTION_VALID_SECONDS:
        state.breaks(note, "is deleted without an inspection")
    elif shown is not None:
        if _waits(state, one):
            state.breaks(
                note, f"is deleted, although {one.wanted_by}, which is under way, says that it exists"
            )
        if set(counted) != set(KINDS):
            state.breaks(note, f"is deleted, and only {sorted(counted)} were counted")
        _as_inspected(state, note, one, shown, read_at)


def _waits(state: RemovalState, one: Department) -> bool:
    """Whether an event is under way that is newer than the removal which the deletion is for."""
    waits, cause = state.events.get(one.wanted_by or ""), state.events.get(one.deleted_for or "")
    return waits is not None and cause is not None and waits.rank() > cause.rank()


def _as_inspected(state: RemovalState, note: Note, one: Department, shown: Shown, read_at: float) -> None:
    drifted = [
        what
        for what, since, differs in (
            ("enabled", shown.enabled_since, shown.enabled and one.is_disabled),
            ("without its tag", shown.name_since, shown.tag not in shown.name),
        )
        if differs and since <= read_at
    ]
    if drifted and not _ever_approved(state, note, "drift"):
        state.breaks(note, f"is deleted {' and '.join(drifted)}, without an approval of the drift")
    owned = [one for one, since in shown.owned.items() if since <= read_at]
    if owned and not _approved(state, one, "resources"):
        state.breaks(note, f"is deleted with {owned}, without an approval of the resources")
    if note.detail["cascade"]:
        _cascade(state, note, one, read_at)


def _ever_approved(state: RemovalState, note: Note, reason: str) -> bool:
    return any(
        hold.department == note.department and hold.reason == reason and _was_asked(state, id_, "approve")
        for id_, hold in state.holds.items()
    )


def _cascade(state: RemovalState, note: Note, one: Department, read_at: float) -> None:
    """The approved count is the number of resources as inspected: one of those while they were counted."""
    approved = {cascade for hold, kind, cascade in state.asked if hold == one.hold and kind == "approve"}
    timeline = state.totals[note.detail["auth_id"]]
    before = [total for at, total in timeline if at <= read_at]
    totals = {before[-1] if before else 0, *(total for at, total in timeline if at > read_at)}
    counts = [count for count in approved if count is not None]
    if not any(min(totals) <= count <= max(totals) for count in counts):
        state.breaks(note, f"is deleted with cascade, approved for {counts}, and had {sorted(totals)}")


def _exists(state: RemovalState, note: Note) -> None:
    name = note.detail["name"]
    state.shown[note.detail["auth_id"]] = Shown(
        name, note.detail["enabled"], name.rpartition(" ")[2], note.at, note.at
    )


def _changed(state: RemovalState, note: Note) -> None:
    shown, told = state.shown.get(note.detail["auth_id"]), note.detail
    if note.department is None and not told["hand"] and told["auth_id"] not in state.adopted:
        state.breaks(note, f"nobody of ours has {told['auth_id']}, and a worker changes it")
    if shown is None:
        return
    if told["enabled"] != shown.enabled:
        shown.enabled, shown.enabled_since = told["enabled"], note.at
    if told["name"] != shown.name:
        if (shown.tag in shown.name) != (shown.tag in told["name"]):
            shown.name_since = note.at
        shown.name = told["name"]
    if not told["enabled"] and not told["hand"]:
        shown.disabled_at.append(note.at)


def _gone(state: RemovalState, note: Note) -> None:
    """A deletion is carried out. Nothing decided since says that the department exists."""
    shown = state.shown.pop(note.detail["auth_id"], None)
    if note.department is None or shown is None:
        return
    newest = state.newest.get(note.department)
    if note.detail["hand"]:
        state.deleted_by_hand.add(note.department)
    elif not _wants_it_gone(state, note.department, newest):
        if state.deletes_very_late:
            state.deleted_by_hand.add(note.department)
        else:
            state.breaks(note, f"is deleted, although {newest and newest.id} says that it exists")


def _wants_it_gone(state: RemovalState, department: str, newest: ProducerEvent | None) -> bool:
    cause = state.events.get(state.departments[department].deleted_for or "")
    if newest is None or newest.kind == REMOVED:
        return newest is not None or cause is not None
    return cause is not None and cause.rank() > newest.rank()


def _moved(state: RemovalState, note: Note) -> None:
    resource = note.detail["resource"]
    for auth_id in (note.detail.get("before"), note.detail["auth_id"]):
        if auth_id is None or (shown := state.shown.get(auth_id)) is None:
            continue
        if note.what == "resource moved" and auth_id == note.detail["auth_id"]:
            shown.owned.setdefault(resource, note.at)
        else:
            shown.owned.pop(resource, None)
        state.totals[auth_id].append((note.at, len(shown.owned)))


def _published(state: RemovalState, note: Note) -> None:
    data = note.detail["message"]["data"] if note.detail["to"] in {"results", "secrets"} else {}
    if note.detail["to"] == "results" and data["outcome"] == "held":
        state.held_ids[data["event"]["id"]].add(note.detail["message"]["id"])
    if note.detail["to"] == "secrets" and note.department:
        state.credentials[note.department].add((data["auth_id"], data.get("supersedes")))


_READERS: dict[str, Any] = {
    "sent": _sent,
    "worker started": _worker_started,
    "asked": _asked,
    "asked for": _asked_for,
    "hold recorded": _hold_recorded,
    "answered": _answered,
    "recorded": _recorded,
    "> get": _read,
    "counted": _counted,
    "> delete": _delete,
    "exists": _exists,
    "changed": _changed,
    "gone": _gone,
    "resource moved": _moved,
    "resource dropped": _moved,
    "> publish": _published,
}


def _held_broken(state: RemovalState) -> Iterator[str]:
    """Each hold has one `held` result, and no removal ends with it."""
    by_event: dict[str, list[HoldState]] = defaultdict(list)
    for hold in state.holds.values():
        by_event[hold.event].append(hold)
    for event, ids in state.held_ids.items():
        if len(ids) > len(by_event[event]):
            yield f"G8: {event} has {len(ids)} results `held`, and {len(by_event[event])} holds"
    for event, holds in by_event.items():
        if state.outcomes[event][-1:] == ["held"] and holds[-1].state != "waiting":
            yield f"G8: {event} has no final answer, and its hold is {holds[-1].state}"
        if len(state.held_ids[event]) < len(holds):
            states = [f"{hold.reason} {hold.state}" for hold in holds]
            yield f"G8: {event} has {len(state.held_ids[event])} results `held` for the holds {states}"


def _rejected_broken(state: RemovalState) -> Iterator[str]:
    """A rejected removal is not carried out, unless a newer event removes the department."""
    for id_, hold in state.holds.items():
        newest = state.newest.get(hold.department)
        if hold.state != "rejected" or newest is None or newest.id != hold.event:
            continue
        status = state.departments[hold.department].status
        wanted = "disabled" if hold.disabled or hold.disabled_before else "active"
        if status != wanted and hold.department not in state.deleted_by_hand:
            yield f"G8: hold {id_} was rejected, and {hold.department} is {status}, not {wanted}"


def _supersedes_broken(state: RemovalState) -> Iterator[str]:
    for department, issued in state.credentials.items():
        wanted = state.departments[department].supersedes
        for auth_id, supersedes in issued:
            if supersedes != wanted.get(auth_id):
                yield (
                    f"G8: the credentials of {auth_id} of {department} supersede {supersedes},"
                    f" not {wanted.get(auth_id)}"
                )
