"""Reads a history note by note, and records each promise that is broken at the moment of a note.

It trusts only the outside: an answer is what reached the disk, a message is published once the broker
confirmed it, and a subaccount exists if the provider has it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from tests.simulation.chance import SETTLE_WINDOW
from tests.simulation.history import Note
from tests.simulation.producer_events import CREATED, RENAMED, ProducerEvent
from worker.core.model.entry import BEGUN_FOR

FINAL = {"created", "renamed", "disabled", "restored", "removed", "unchanged", "superseded", "reissued"}
HELD = "held"
MAY_FOLLOW = {(HELD, "disabled"), (HELD, "removed"), (HELD, "superseded"), (HELD, "unchanged")} | {
    ("disabled", "removed")
}
"""The pairs of outcomes that one event may have, one after the other."""
MAX_CREATES = 3
QUARANTINE_AFTER_DELIVERIES = 20
"""Deliveries after which a message may be quarantined as a poison message."""
QUARANTINE_DEATHS = 3
"""Workers that must have died before a message may be given up as one that kills them."""
UNDECIDED = {"create-unknown", "rejected", "exhausted", "delivery-limit"}
"""Dead-letter reasons after which a create or a deletion may have been carried out in part."""


class RunConditions(NamedTuple):
    """The operator's settings in this run, and the deviations that its profile allows."""

    gives_up_early: bool = False
    published_first: bool = False
    removals_ignored: bool = False
    unknown_renames_rejected: bool = False
    duplicates_allowed: bool = False
    outages_only: bool = False
    many_workers: bool = False
    removals: bool = False
    deletes_very_late: bool = False


@dataclass
class AnsweredEvent:
    """The recorded answer of an event. `earlier`: the outcomes that it has replaced."""

    outcome: str
    name: str | None
    auth_id: str | None
    reason: str | None = None
    earlier: tuple[str, ...] = ()

    @property
    def outcomes(self) -> set[str]:
        return {self.outcome, *self.earlier}


class InDoubt(NamedTuple):
    """An event whose change may be in effect since `at`, until its outcome is recorded.

    `clock_sets`: how often a wall clock had been set by then.
    """

    event: str
    at: datetime
    clock_sets: int


class RecordedEntry(NamedTuple):
    """The recorded entry of a department."""

    status: str = "absent"
    auth_id: str | None = None


UNATTRIBUTED = "unattributed"
"""Stands for the event of a result without one."""


class ConfirmedBefore(NamedTuple):
    """How many messages about a delivery had been confirmed when it arrived."""

    dead: int
    parked: int


@dataclass
class HistoryState:
    """The state after the notes read so far."""

    conditions: RunConditions
    sent: dict[str, list[ProducerEvent]] = field(default_factory=lambda: defaultdict(list))
    answered: dict[str, AnsweredEvent] = field(default_factory=dict)
    results: dict[str, dict[str, set[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    attempted: dict[str, dict[str, set[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    dead: dict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))
    undecided: set[str] = field(default_factory=set)
    failed: Counter[str] = field(default_factory=Counter)
    failed_before: Counter[str] = field(default_factory=Counter)  # at the ack of the event's last dead letter
    parked: Counter[bytes] = field(default_factory=Counter)
    deliveries: Counter[bytes] = field(default_factory=Counter)
    confirmed_before: dict[int, ConfirmedBefore] = field(default_factory=dict)  # by delivery
    arrived: set[tuple[Any, ...]] = field(default_factory=set)  # bodies, by worker and moment
    twins: set[int] = field(default_factory=set)  # deliveries with an equal one before, at the same moment
    credentials: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    subaccounts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: defaultdict(dict))
    ever_there: set[str] = field(default_factory=set)
    on_record: dict[str, RecordedEntry] = field(default_factory=lambda: defaultdict(RecordedEntry))
    open_creates: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # by key
    repaired: set[str] = field(default_factory=set)
    outages: int = 0
    deaths: int = 0  # of workers
    reported: set[str] = field(default_factory=set)
    tried_half_open: int | None = None  # calls begun since the circuit became half-open; None in other states
    meddled: set[str] = field(default_factory=set)  # departments that a person changed by hand
    deleted_by_hand: set[str] = field(default_factory=set)
    begun: dict[str | None, set[str]] = field(default_factory=lambda: defaultdict(set))  # by department
    in_doubt: dict[str, InDoubt] = field(default_factory=dict)  # by department
    clock_sets: int = 0
    voided: set[str] = field(default_factory=set)  # events whose held removal a newer event has voided
    disabled: set[str] = field(
        default_factory=set
    )  # departments on record as disabled, or deleting after that
    held_disabled: set[str] = field(default_factory=set)  # events held after an earlier removal had disabled
    broken: list[str] = field(default_factory=list)


def read(notes: Iterable[Note], conditions: RunConditions) -> HistoryState:
    """Reads all notes; the result contains the broken promises."""
    state = HistoryState(conditions)
    for note in notes:
        if (reader := _READERS.get(note.what)) is not None:
            reader(state, note)
        if note.what in {"exists", "changed"} and not conditions.duplicates_allowed:
            _at_most_one(state, note)
        if note.what in {"exists", "changed"} and conditions.published_first:
            _inert_before_published(state, note)
    return state


def _sent(state: HistoryState, note: Note) -> None:
    event = note.detail["producer_event"]
    state.sent[event.id if event.department else event.body].append(event)


def _answered(state: HistoryState, note: Note) -> None:
    told, before = note.detail, state.answered.get(note.detail["event"])
    is_new = before is None or before.outcome != told["outcome"]  # else only its confirm is recorded
    if told["outcome"] == "superseded" and is_new:
        _superseded(state, note)
    elif is_new and note.department and told["outcome"] != "removed":
        _nothing_newer_in_doubt(state, note, note.department)
    if is_new:
        earlier = (*before.earlier, before.outcome) if before else ()
        state.answered[told["event"]] = AnsweredEvent(
            told["outcome"], told["name"], told["auth_id"], told["reason"], earlier
        )
        if before and (before.outcome, told["outcome"]) not in MAY_FOLLOW:
            state.broken.append(
                f"G4: {told['event']} was answered {before.outcome}, then {told['outcome']}, at {note.at:.3f}"
            )
    state.reported.update((note.detail["reason"] or "").replace(",", " ").split())
    if note.department and is_new and told["outcome"] != "superseded":  # which says nothing about a create
        state.undecided.discard(note.department)


def _superseded(state: HistoryState, note: Note) -> None:
    """G3: only an event on record may supersede another. Two payloads may share an id."""
    id_ = note.detail["event"]
    rank = min(event.rank() for event in state.sent[id_])
    # The event that voids a hold is decided next, on the entry without it.
    on_record = state.sent if id_ in state.voided else {*state.answered, *state.begun[note.department]}
    newer = (
        event
        for other in on_record
        if other != id_
        for event in state.sent[other]
        if event.department == note.department and event.rank() > rank
    )
    if not any(newer):
        state.broken.append(f"G3: {id_} was superseded without a newer event on record, at {note.at:.3f}")


def _clock_set(state: HistoryState, _note: Note) -> None:
    state.clock_sets += 1


def _nothing_newer_in_doubt(state: HistoryState, note: Note, department: str) -> None:
    """G3: no event acts while the change of a newer one may be in effect, by a clock that is not set.

    A deletion in doubt is seen to its end all the same: G8 says when one may be sent.
    """
    newer, own = state.in_doubt.get(department), state.sent.get(note.detail["event"])
    if newer is None or not own or newer.clock_sets != state.clock_sets:
        return
    if abs(note.detail["answered_at"] - newer.at) >= max(SETTLE_WINDOW, BEGUN_FOR):
        return
    if min(one.rank() for one in state.sent[newer.event]) > max(one.rank() for one in own):
        state.broken.append(
            f"G3: {note.detail['event']} acted while {newer.event} was in doubt, at {note.at:.3f}"
        )


def _hold_recorded(state: HistoryState, note: Note) -> None:
    event, kind = note.detail["event"], note.detail["state"]
    if kind == "void":
        state.voided.add(event)
    if kind == "waiting" and note.department in state.disabled:
        state.held_disabled.add(event)


def _delivered(state: HistoryState, note: Note) -> None:
    body = note.detail["body"]
    confirmed_before = ConfirmedBefore(len(state.dead[body]), state.parked[body])
    state.confirmed_before[note.detail["tag"]] = confirmed_before
    moment = body, note.detail["worker"], note.at
    if moment in state.arrived:
        state.twins.add(note.detail["tag"])
    state.arrived.add(moment)
    state.deliveries[body] += 1


def _attempted(state: HistoryState, note: Note) -> None:
    if note.detail["to"] == "results":
        message = note.detail["message"]
        id_, outcome = _event_of(message), message["data"]["outcome"]
        state.attempted[id_][outcome].add(message["id"])
        if outcome in FINAL | {HELD} and id_ not in state.answered:
            state.broken.append(f"G1: {id_} was answered {outcome} before that was durable, at {note.at:.3f}")
    elif note.detail["to"] == "secrets" and note.department:
        state.credentials[note.department].append(note.detail["message"] | {"confirmed": False})


def _event_of(result: dict[str, Any]) -> str:
    event = result["data"]["event"]
    return event["id"] if event else UNATTRIBUTED


def _confirmed(state: HistoryState, note: Note) -> None:
    if note.detail["to"] == "results":
        message = note.detail["message"]
        id_, outcome = _event_of(message), message["data"]["outcome"]
        state.results[id_][outcome].add(message["id"])
        state.failed[id_] += outcome == "failed"
    elif note.detail["to"] == "secrets" and note.department:
        state.credentials[note.department].append(note.detail["message"] | {"confirmed": True})
    elif note.detail["to"] == "retry":
        state.parked[note.detail["body"]] += 1
        if state.conditions.outages_only and not state.conditions.gives_up_early and note.detail["attempts"]:
            state.broken.append(f"G7: an outage was counted against {note.detail['event']}, at {note.at:.3f}")
    elif note.detail["to"] == "dead letters":
        state.dead[note.detail["body"]].append(note.detail["reason"])
        if note.detail["routing_key"] != note.detail["sent_with"]:
            state.broken.append(
                f"a dead letter of {note.detail['event']} came by {note.detail['routing_key']},"
                f" but was sent with {note.detail['sent_with']}"
            )
        if note.department:
            _dead(state, note, note.department)


def _dead(state: HistoryState, note: Note, department: str) -> None:
    reason, id_ = note.detail["reason"], note.detail["event"]
    if reason in UNDECIDED:
        state.undecided.add(department)
    exhausted = reason == "exhausted" and not state.conditions.gives_up_early
    suspected = state.deliveries[note.detail["body"]] > QUARANTINE_AFTER_DELIVERIES
    limited = reason == "delivery-limit" and not (suspected and state.deaths >= QUARANTINE_DEATHS)
    if exhausted or limited or reason in {"malformed", "unsupported-type"}:
        state.broken.append(f"G7: {id_} is well-formed and was dead-lettered {reason}, at {note.at:.3f}")
    rejected = state.conditions.unknown_renames_rejected and state.sent[id_][0].kind == RENAMED
    # Unknown to this worker: with many workers another one may just have created it.
    unknown_department = state.conditions.many_workers or state.on_record[department].status in {
        "absent",
        "claimed",
    }
    if reason == "invalid" and not (rejected and unknown_department):
        state.broken.append(f"G7: {id_} is valid and was dead-lettered, at {note.at:.3f}")


def _unroutable(state: HistoryState, note: Note) -> None:
    if note.detail["to"] == "results":
        _confirmed(state, note)


def _ack(state: HistoryState, note: Note) -> None:
    """G1: before an ack, the outcome is durable and its messages are confirmed."""
    event, body = note.detail["event"], note.detail["body"]
    confirmed_before = state.confirmed_before[note.detail["tag"]]
    answer = state.answered.get(event)
    if state.parked[body] > confirmed_before.parked:
        return
    reasons = state.dead[body][confirmed_before.dead :]
    confirmed = answer is not None and any(map(state.results[event].get, answer.outcomes))
    # If this copy was answered, the dead letter is that of another copy or of a conflicting duplicate.
    of_this_one = reasons and not (confirmed and "conflicting-duplicate" not in reasons)
    if of_this_one:
        told = event if note.department else UNATTRIBUTED
        if not note.department and note.detail["tag"] in state.twins:
            return  # the id is derived from the moment, so one result tells of both
        if state.failed[told] <= state.failed_before[told]:
            state.broken.append(f"G4: {event} was dead-lettered without a failed result, at {note.at:.3f}")
        # Results without an event cannot be told apart, and two workers publish those of two copies at
        # once: there each ack takes one.
        one_by_one = not note.department or state.conditions.many_workers
        state.failed_before[told] = state.failed_before[told] + 1 if one_by_one else state.failed[told]
    elif answer is None:
        state.broken.append(f"G1: {event} acked before its outcome was durable, at {note.at:.3f}")
    elif not confirmed:
        state.broken.append(f"G1: {event} acked before its answer was confirmed, at {note.at:.3f}")
    elif answer.outcome == "created" and note.department:
        _owes_nothing(state, note, note.department, answer.auth_id)


def _owes_nothing(state: HistoryState, note: Note, department: str, auth_id: str | None) -> None:
    """The credentials of a created subaccount are confirmed before the ack, while it is on record.

    There are none to read any more of one that others have deleted.
    """
    if auth_id not in state.subaccounts[department]:
        return
    confirmed_ids = (
        one["data"]["auth_id"] for one in state.credentials.get(department, ()) if one["confirmed"]
    )
    if state.on_record[department] == ("active", auth_id) and auth_id not in confirmed_ids:
        state.broken.append(
            f"credentials: those of {auth_id} were not confirmed when {note.detail['event']} was acked,"
            f" at {note.at:.3f}"
        )


def _recorded(state: HistoryState, note: Note) -> None:
    if note.department is None:
        return
    before, begun = state.in_doubt.pop(note.department, None), note.detail["begun"]
    if begun is not None:
        since = before.clock_sets if before and before[:2] == begun else state.clock_sets
        state.in_doubt[note.department] = InDoubt(begun[0], begun[1], since)
    if note.detail["wanted_by"]:
        state.begun[note.department].add(note.detail["wanted_by"])
    status = note.detail["status"]
    state.on_record[note.department] = RecordedEntry(status, note.detail["auth_id"])
    if status == "disabled":
        state.disabled.add(note.department)
    elif status != "deleting":
        state.disabled.discard(note.department)
    creates, key = state.open_creates[note.department], note.detail["key"]
    # The count restarts after a create was given up and for the create of another event.
    kept = 0 if note.detail["attempt"] == 0 else creates[key]
    creates.clear()
    creates[key] = kept
    if note.department in state.repaired and status in {"active", "disabled"} and not note.detail["check_at"]:
        if (
            state.conditions.many_workers
        ):  # by the other one: whoever set it right finds that out, and then records
            return
        state.broken.append(f"G3: {note.department} was repaired and is not checked again, at {note.at:.3f}")
    state.repaired.discard(note.department)


def _repaired(state: HistoryState, note: Note) -> None:
    if note.department:
        state.repaired.add(note.department)


def _worker_dead(state: HistoryState, note: Note) -> None:
    state.deaths += 1
    _repair_not_recorded(state, note)


def _repair_not_recorded(state: HistoryState, note: Note) -> None:
    """A failed or dead worker did not record its repair."""
    state.repaired = state.repaired - {note.department} if note.department else set()


def _circuit(state: HistoryState, note: Note) -> None:
    state.tried_half_open = 0 if note.detail["state"] == "half-open" else None
    state.outages += note.detail["state"] == "open"


def _called(state: HistoryState, note: Note) -> None:
    """G7: a half-open circuit lets one call through. Only outage runs are checked: a 429 decides nothing."""
    probe = note.what == "> list" and "offset" not in note.detail
    if state.tried_half_open is None or probe or not state.conditions.outages_only:
        return
    state.tried_half_open += 1
    if state.tried_half_open > 1:
        state.broken.append(
            f"G7: {state.tried_half_open} calls while the circuit was half-open, at {note.at:.3f}"
        )


def _ledger_lost(state: HistoryState, _note: Note) -> None:
    state.answered.clear()
    state.on_record.clear()
    state.open_creates.clear()


def _create(state: HistoryState, note: Note) -> None:
    _called(state, note)
    if note.department is None:
        return
    of_department, key = state.open_creates[note.department], note.detail["key"]
    of_department[key] += 1
    if of_department[key] > MAX_CREATES + state.outages:  # unknown creates of outages do not count
        state.broken.append(f"G2: {note.department} was created {of_department[key]} times under {key}")


def _not_created(state: HistoryState, note: Note) -> None:
    if note.department and note.detail["certain"]:
        state.open_creates[note.department][note.detail["key"]] -= 1


def _exists(state: HistoryState, note: Note) -> None:
    if note.department is None:
        return
    events = (event for events in state.sent.values() for event in events)
    if state.conditions.unknown_renames_rejected and not any(
        event.kind == CREATED and event.department == note.department for event in events
    ):
        state.broken.append(f"rename: {note.department} was created by a rename, at {note.at:.3f}")
    state.ever_there.add(note.department)
    state.subaccounts[note.department][note.detail["auth_id"]] = note.detail


def _changed(state: HistoryState, note: Note) -> None:
    if note.department is None:
        return
    there, auth_id = state.subaccounts[note.department], note.detail["auth_id"]
    if note.detail["hand"]:
        state.meddled.add(note.department)
    elif note.department not in state.meddled and _tag(there[auth_id]["name"]) != _tag(note.detail["name"]):
        state.broken.append(f"G2: the tag of {auth_id} changed, at {note.at:.3f}")
    there[auth_id] = note.detail


def _tag(name: str) -> str:
    return name.rpartition(" ")[2]


def _gone(state: HistoryState, note: Note) -> None:
    if note.department:
        if note.detail["hand"] or state.conditions.deletes_very_late:
            state.meddled.add(note.department)
            state.deleted_by_hand.add(note.department)
        state.subaccounts[note.department].pop(note.detail["auth_id"], None)


def _duplicates(state: HistoryState, note: Note) -> None:
    state.reported.update(note.detail["duplicates"])


_READERS = {
    "sent": _sent,
    "answered": _answered,
    "hold recorded": _hold_recorded,
    "delivered": _delivered,
    "> publish": _attempted,
    "confirmed": _confirmed,
    "unroutable": _unroutable,
    "> ack": _ack,
    "recorded": _recorded,
    "repaired": _repaired,
    "duty failed": _repair_not_recorded,
    "worker dead": _worker_dead,
    "clock set": _clock_set,
    "ledger lost": _ledger_lost,
    "circuit": _circuit,
    "> update": _called,
    "> delete": _called,
    "> get": _called,
    "> list": _called,
    "> create": _create,
    "< create": _not_created,
    "exists": _exists,
    "changed": _changed,
    "gone": _gone,
    "duplicates reported": _duplicates,
}


def _at_most_one(state: HistoryState, note: Note) -> None:
    if note.department in state.meddled:  # without its tag, one is not found again
        return
    if note.department and len(there := state.subaccounts[note.department]) > 1:
        state.broken.append(f"G2: {note.department} has {sorted(there)} at {note.at:.3f}")


def _inert_before_published(state: HistoryState, note: Note) -> None:
    """A subaccount created disabled is enabled after its credentials are confirmed; never two at once."""
    if note.department is None or note.department in state.meddled:
        return
    enabled = [id_ for id_, one in state.subaccounts[note.department].items() if one["enabled"]]
    if len(enabled) > 1:
        state.broken.append(f"G2: {note.department} has {sorted(enabled)} enabled at {note.at:.3f}")
    confirmed_ids = {
        one["data"]["auth_id"] for one in state.credentials.get(note.department, ()) if one["confirmed"]
    }
    for early in set(enabled) - confirmed_ids:
        state.broken.append(f"enabled: {early} before its credentials were confirmed, at {note.at:.3f}")
