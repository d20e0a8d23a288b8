"""What a history tells, read note by note; what is wrong at its very moment is noted as broken.

It believes nobody: what is answered is what reached the disk, what is published is what the broker confirmed,
what there is is what the provider shows.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.simulation.history import Note
from tests.simulation.story import CREATED, RENAMED, StoryEvent

FINAL = {"created", "renamed", "disabled", "restored", "removed", "unchanged", "superseded"}
MOST_CREATES = 3
OFTEN = 20
"""Deliveries after which a message may be taken for what kills its workers."""
UNDECIDED = {"create-unknown", "rejected", "exhausted", "delivery-limit"}
"""Given up, perhaps with something begun: a deletion has no way back."""


class Terms(NamedTuple):
    """What this run's operator has chosen, and whether two of a department may be there for a while."""

    impatient: bool = False
    published_first: bool = False
    removals_ignored: bool = False
    unknown_renames_rejected: bool = False
    doubles_allowed: bool = False
    outages_only: bool = False
    two_workers: bool = False


@dataclass
class Answered:
    outcome: str
    name: str | None
    auth_id: str | None


class OnRecord(NamedTuple):
    """A department as the ledger has it."""

    status: str = "absent"
    auth_id: str | None = None


class Since(NamedTuple):
    """What had been confirmed of a message when it was delivered."""

    dead: int
    failed: int
    parked: int


@dataclass
class Known:
    """A history, read note by note: what stands at the moment read."""

    terms: Terms
    sent: dict[str, list[StoryEvent]] = field(default_factory=lambda: defaultdict(list))
    answered: dict[str, Answered] = field(default_factory=dict)
    results: dict[str, dict[str, set[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    attempted: dict[str, dict[str, set[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    dead: dict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))
    undecided: set[str] = field(default_factory=set)
    failed: Counter[str] = field(default_factory=Counter)
    parked: Counter[bytes] = field(default_factory=Counter)
    deliveries: Counter[bytes] = field(default_factory=Counter)
    since: dict[int, Since] = field(default_factory=dict)  # by delivery
    credentials: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    subaccounts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: defaultdict(dict))
    ever_there: set[str] = field(default_factory=set)
    on_record: dict[str, OnRecord] = field(default_factory=lambda: defaultdict(OnRecord))
    open_creates: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # by key
    mended: set[str] = field(default_factory=set)
    outages: int = 0
    reported: set[str] = field(default_factory=set)
    tried_half_open: int | None = None  # calls begun since the circuit is half-open; None while it is not
    broken: list[str] = field(default_factory=list)


def read(notes: Iterable[Note], terms: Terms) -> Known:
    known = Known(terms)
    for note in notes:
        if (reader := _READERS.get(note.what)) is not None:
            reader(known, note)
        if note.what in {"exists", "changed"} and not terms.doubles_allowed:
            _at_most_one(known, note)
        if note.what in {"exists", "changed"} and terms.published_first:
            _inert_before_published(known, note)
    return known


def _sent(known: Known, note: Note) -> None:
    event = note.detail["story"]
    known.sent[event.id if event.department else event.body].append(event)


def _answered(known: Known, note: Note) -> None:
    answered = Answered(note.detail["outcome"], note.detail["name"], note.detail["auth_id"])
    if answered.outcome == "superseded" and note.detail["event"] not in known.answered:
        _superseded(known, note)
    known.answered.setdefault(note.detail["event"], answered)
    known.reported.update((note.detail["reason"] or "").replace(",", " ").split())
    if note.department and answered.outcome != "superseded":  # which says nothing of its create
        known.undecided.discard(note.department)


def _superseded(known: Known, note: Note) -> None:
    """G3: by what is on record already, not by what may yet fail. Two payloads may share an id."""
    id_ = note.detail["event"]
    rank = min(event.rank() for event in known.sent[id_])
    newer = (
        event
        for other in known.answered
        if other != id_
        for event in known.sent[other]
        if event.department == note.department and event.rank() > rank
    )
    if not any(newer):
        known.broken.append(f"G3: {id_} was superseded by nothing on record, at {note.at:.3f}")


def _delivered(known: Known, note: Note) -> None:
    event, body = note.detail["event"], note.detail["body"]
    since = Since(len(known.dead[body]), known.failed[event], known.parked[body])
    known.since[note.detail["tag"]] = since
    known.deliveries[body] += 1


def _attempted(known: Known, note: Note) -> None:
    if note.detail["to"] == "results":
        message = note.detail["message"]
        id_, outcome = message["data"]["event"]["id"], message["data"]["outcome"]
        known.attempted[id_][outcome].add(message["id"])
        if outcome in FINAL and id_ not in known.answered:
            known.broken.append(f"G1: {id_} was told {outcome} before that was durable, at {note.at:.3f}")
    elif note.detail["to"] == "secrets" and note.department:
        known.credentials[note.department].append(note.detail["message"] | {"confirmed": False})


def _confirmed(known: Known, note: Note) -> None:
    if note.detail["to"] == "results":
        message = note.detail["message"]
        id_, outcome = message["data"]["event"]["id"], message["data"]["outcome"]
        known.results[id_][outcome].add(message["id"])
        known.failed[id_] += outcome == "failed"
    elif note.detail["to"] == "secrets" and note.department:
        known.credentials[note.department].append(note.detail["message"] | {"confirmed": True})
    elif note.detail["to"] == "retry":
        known.parked[note.detail["body"]] += 1
        if known.terms.outages_only and not known.terms.impatient and note.detail["attempts"]:
            known.broken.append(f"G7: an outage was counted against {note.detail['event']}, at {note.at:.3f}")
    elif note.detail["to"] == "dead letters":
        known.dead[note.detail["body"]].append(note.detail["reason"])
        if note.detail["routing_key"] != note.detail["sent_with"]:
            known.broken.append(
                f"a dead letter of {note.detail['event']} came by {note.detail['routing_key']},"
                f" but was sent with {note.detail['sent_with']}"
            )
        if note.department:
            _dead(known, note, note.department)


def _dead(known: Known, note: Note, department: str) -> None:
    reason, id_ = note.detail["reason"], note.detail["event"]
    if reason in UNDECIDED:
        known.undecided.add(department)
    exhausted = reason == "exhausted" and not known.terms.impatient
    limited = reason == "delivery-limit" and known.deliveries[note.detail["body"]] <= OFTEN
    if exhausted or limited or reason in {"malformed", "unsupported-type"}:
        known.broken.append(f"G7: {id_} is whole and was dead-lettered {reason}, at {note.at:.3f}")
    rejected = known.terms.unknown_renames_rejected and known.sent[id_][0].kind == RENAMED
    # By this worker, at least: the other one may just have made it.
    unheard_of = known.terms.two_workers or known.on_record[department].status in {"absent", "claimed"}
    if reason == "invalid" and not (rejected and unheard_of):
        known.broken.append(f"G7: {id_} is valid and was dead-lettered, at {note.at:.3f}")


def _unroutable(known: Known, note: Note) -> None:
    if note.detail["to"] == "results":
        _confirmed(known, note)


def _ack(known: Known, note: Note) -> None:
    """G1: durable and confirmed, the one way or the other, before the ack is sent."""
    event, body = note.detail["event"], note.detail["body"]
    since = known.since[note.detail["tag"]]
    answer = known.answered.get(event)
    if known.parked[body] > since.parked:
        return
    reasons = known.dead[body][since.dead :]
    confirmed = answer is not None and known.results[event].get(answer.outcome)
    # Those of a second copy, where this one was answered; but a conflicting duplicate shares the event's id.
    of_this_one = reasons and not (confirmed and "conflicting-duplicate" not in reasons)
    if of_this_one:
        if note.department and known.failed[event] <= since.failed:
            known.broken.append(
                f"G4: {event} was dead-lettered without a result that says so, at {note.at:.3f}"
            )
    elif answer is None:
        known.broken.append(f"G1: {event} acked before its outcome was durable, at {note.at:.3f}")
    elif not confirmed:
        known.broken.append(f"G1: {event} acked before its answer was confirmed, at {note.at:.3f}")
    elif answer.outcome == "created" and note.department:
        _owes_nothing(known, note, note.department, answer.auth_id)


def _owes_nothing(known: Known, note: Note, department: str, auth_id: str | None) -> None:
    """Whoever made a subaccount has handed on its credentials, unless it is on record no more."""
    told = (one["data"]["auth_id"] for one in known.credentials.get(department, ()) if one["confirmed"])
    if known.on_record[department] == ("active", auth_id) and auth_id not in told:
        known.broken.append(
            f"credentials: those of {auth_id} were not confirmed when {note.detail['event']} was acked,"
            f" at {note.at:.3f}"
        )


def _recorded(known: Known, note: Note) -> None:
    if note.department is None:
        return
    status = note.detail["status"]
    known.on_record[note.department] = OnRecord(status, note.detail["auth_id"])
    creates, key = known.open_creates[note.department], note.detail["key"]
    # Whoever comes after it was given up, or after another event's create, counts from zero.
    kept = 0 if note.detail["attempt"] == 0 else creates[key]
    creates.clear()
    creates[key] = kept
    if note.department in known.mended and status in {"active", "disabled"} and not note.detail["check_at"]:
        if known.terms.two_workers:  # by the other one: whoever set it right finds that out, and then records
            return
        known.broken.append(
            f"G3: {note.department} was set right and is not looked at again, at {note.at:.3f}"
        )
    known.mended.discard(note.department)


def _mended(known: Known, note: Note) -> None:
    if note.department:
        known.mended.add(note.department)


def _forgotten(known: Known, note: Note) -> None:
    """That something was set right did not get to the ledger."""
    known.mended = known.mended - {note.department} if note.department else set()


def _circuit(known: Known, note: Note) -> None:
    known.tried_half_open = 0 if note.detail["state"] == "half-open" else None
    known.outages += note.detail["state"] == "open"


def _called(known: Known, note: Note) -> None:
    """G7: one call finds out for all. Two workers have a circuit each; a 429 finds out nothing."""
    probe = note.what == "> list" and "offset" not in note.detail
    if known.tried_half_open is None or probe or not known.terms.outages_only:
        return
    known.tried_half_open += 1
    if known.tried_half_open > 1:
        known.broken.append(
            f"G7: {known.tried_half_open} calls while the circuit was half-open, at {note.at:.3f}"
        )


def _ledger_lost(known: Known, _note: Note) -> None:
    known.answered.clear()
    known.on_record.clear()
    known.open_creates.clear()


def _create(known: Known, note: Note) -> None:
    _called(known, note)
    if note.department is None:
        return
    of_department, key = known.open_creates[note.department], note.detail["key"]
    of_department[key] += 1
    if of_department[key] > MOST_CREATES + known.outages:  # what ended unknown in an outage is not counted
        known.broken.append(f"G2: {note.department} was created {of_department[key]} times under {key}")


def _not_created(known: Known, note: Note) -> None:
    if note.department and note.detail["certain"]:
        known.open_creates[note.department][note.detail["key"]] -= 1


def _exists(known: Known, note: Note) -> None:
    if note.department is None:
        return
    events = (event for events in known.sent.values() for event in events)
    if known.terms.unknown_renames_rejected and not any(
        event.kind == CREATED and event.department == note.department for event in events
    ):
        known.broken.append(f"rename: {note.department} was created by one, at {note.at:.3f}")
    known.ever_there.add(note.department)
    known.subaccounts[note.department][note.detail["auth_id"]] = note.detail


def _changed(known: Known, note: Note) -> None:
    if note.department is None:
        return
    there, auth_id = known.subaccounts[note.department], note.detail["auth_id"]
    if _tag(there[auth_id]["name"]) != _tag(note.detail["name"]):
        known.broken.append(f"G2: {auth_id} bears another tag than it was made with, at {note.at:.3f}")
    there[auth_id] = note.detail


def _tag(name: str) -> str:
    return name.rpartition(" ")[2]


def _gone(known: Known, note: Note) -> None:
    if note.department:
        known.subaccounts[note.department].pop(note.detail["auth_id"], None)


def _doubles(known: Known, note: Note) -> None:
    known.reported.update(note.detail["doubles"])


_READERS = {
    "sent": _sent,
    "answered": _answered,
    "delivered": _delivered,
    "> publish": _attempted,
    "confirmed": _confirmed,
    "unroutable": _unroutable,
    "> ack": _ack,
    "recorded": _recorded,
    "mended": _mended,
    "duty failed": _forgotten,
    "worker dead": _forgotten,
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
    "doubles reported": _doubles,
}


def _at_most_one(known: Known, note: Note) -> None:
    if note.department and len(there := known.subaccounts[note.department]) > 1:
        known.broken.append(f"G2: {note.department} has {sorted(there)} at {note.at:.3f}")


def _inert_before_published(known: Known, note: Note) -> None:
    """One made disabled is enabled after its credentials are confirmed, and never two at once."""
    if note.department is None:
        return
    enabled = [id_ for id_, one in known.subaccounts[note.department].items() if one["enabled"]]
    if len(enabled) > 1:
        known.broken.append(f"G2: {note.department} has {sorted(enabled)} enabled at {note.at:.3f}")
    told = {one["data"]["auth_id"] for one in known.credentials.get(note.department, ()) if one["confirmed"]}
    for early in set(enabled) - told:
        known.broken.append(f"enabled: {early} before its credentials were confirmed, at {note.at:.3f}")
