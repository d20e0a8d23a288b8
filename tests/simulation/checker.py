"""Judges a history by what is promised. Shares no code and no type with the worker.

It believes nobody: what is answered is what reached the disk, what is published is what the broker confirmed,
what there is is what the provider shows.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.simulation.chance import Profile
from tests.simulation.history import Note
from tests.simulation.story import KINDS, StoryEvent

FINAL = {"created", "renamed", "disabled", "restored", "removed", "unchanged", "superseded"}
UNDECIDED = {"create-unknown", "rejected"}
MISSING = object()


class Snapshot(NamedTuple):
    """The departments' subaccounts as the provider holds them: department, auth id, name, enabled, token."""

    subaccounts: list[tuple[str | None, str, str, bool, str]]


@dataclass
class Answered:
    outcome: str
    name: str | None


class Since(NamedTuple):
    """What had been confirmed of a message when it was delivered."""

    dead: int
    failed: int
    parked: int


@dataclass
class Known:
    """A history, read note by note: what stands at the moment read."""

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
    since: dict[int, Since] = field(default_factory=dict)  # by delivery
    credentials: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    subaccounts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: defaultdict(dict))
    reported: set[str] = field(default_factory=set)
    published_first: bool = False
    broken: list[str] = field(default_factory=list)


def judge_calm(notes: Sequence[Note]) -> list[str]:
    """All is at rest, dead letters still lie: what was answered holds. Not where a create is undecided."""
    known = _read(notes)
    return list(_states_broken(known, _newest_answered(known), but=known.undecided))


def judge_history(notes: Sequence[Note], now: Snapshot, profile: Profile) -> list[str]:
    """All is at rest and all dead letters were replayed: everything promised holds."""
    known = _read(notes, doubles_allowed=profile.doubles_allowed)
    newest = {department: max(events, key=StoryEvent.rank) for department, events in _by_department(known)}
    return [
        *known.broken,
        *_lost(known),
        *_states_broken(known, newest),
        *_answers_broken(known),
        *_credentials_broken(known, now),
        *_doubles_broken(known),
    ]


def judge_replay(notes: Sequence[Note], before: Snapshot, after: Snapshot) -> list[str]:
    """Everything was sent again after the end: nothing changes but answers."""
    calls = [str(note) for note in notes if note.what in {"> create", "> update", "> delete"}]
    changed = [f"G6: a replay changed {before} to {after}"] if before != after else []
    return changed + [f"G6: a replay made the worker call: {call}" for call in calls]


def _read(notes: Iterable[Note], *, doubles_allowed: bool = False) -> Known:
    known = Known()
    for note in notes:
        if (reader := _READERS.get(note.what)) is not None:
            reader(known, note)
        if note.what in {"exists", "changed"} and not doubles_allowed:
            _at_most_one(known, note)
        if note.what in {"exists", "changed"} and known.published_first:
            _inert_before_published(known, note)
    return known


def _policy(known: Known, note: Note) -> None:
    known.published_first = note.detail["enable"] == "published"


def _sent(known: Known, note: Note) -> None:
    event = note.detail["story"]
    known.sent[event.id if event.department else event.body].append(event)


def _answered(known: Known, note: Note) -> None:
    known.answered.setdefault(note.detail["event"], Answered(note.detail["outcome"], note.detail["name"]))
    known.reported.update((note.detail["reason"] or "").replace(",", " ").split())
    if note.department:
        known.undecided.discard(note.department)


def _delivered(known: Known, note: Note) -> None:
    event, body = note.detail["event"], note.detail["body"]
    since = Since(len(known.dead[body]), known.failed[event], known.parked[body])
    known.since[note.detail["tag"]] = since


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
    elif note.detail["to"] == "dead letters":
        known.dead[note.detail["body"]].append(note.detail["reason"])
        if note.department and note.detail["reason"] in UNDECIDED:
            known.undecided.add(note.department)


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
    if len(known.dead[body]) > since.dead:
        if note.department and known.failed[event] <= since.failed:
            known.broken.append(
                f"G4: {event} was dead-lettered without a result that says so, at {note.at:.3f}"
            )
    elif answer is None:
        known.broken.append(f"G1: {event} acked before its outcome was durable, at {note.at:.3f}")
    elif not known.results[event].get(answer.outcome):
        known.broken.append(f"G1: {event} acked before its answer was confirmed, at {note.at:.3f}")


def _subaccount(known: Known, note: Note) -> None:
    if note.department:
        known.subaccounts[note.department][note.detail["auth_id"]] = note.detail


def _gone(known: Known, note: Note) -> None:
    if note.department:
        known.subaccounts[note.department].pop(note.detail["auth_id"], None)


def _doubles(known: Known, note: Note) -> None:
    known.reported.update(note.detail["doubles"])


_READERS = {
    "policy": _policy,
    "sent": _sent,
    "answered": _answered,
    "delivered": _delivered,
    "> publish": _attempted,
    "confirmed": _confirmed,
    "unroutable": _unroutable,
    "> ack": _ack,
    "exists": _subaccount,
    "changed": _subaccount,
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


def _by_department(known: Known) -> Iterator[tuple[str, list[StoryEvent]]]:
    by: dict[str, list[StoryEvent]] = defaultdict(list)
    for events in known.sent.values():
        for event in events:
            if event.department:
                by[event.department].append(event)
    yield from by.items()


def _newest_answered(known: Known) -> dict[str, StoryEvent]:
    counted = {id_ for id_, answer in known.answered.items() if answer.outcome != "superseded"}
    newest = {}
    for department, events in _by_department(known):
        if answered := [event for event in events if event.id in counted]:
            newest[department] = max(answered, key=StoryEvent.rank)
    return newest


def _states_broken(known: Known, newest: dict[str, StoryEvent], but: Iterable[str] = ()) -> Iterator[str]:
    """G2 and G3: the newest event says what there is, and what it is called."""
    for department, event in newest.items():
        enabled = [one for one in known.subaccounts[department].values() if one["enabled"]]
        if department in but:
            continue
        wanted = 0 if event.kind == KINDS[-1] else 1
        if len(enabled) != wanted:
            ids = [one["auth_id"] for one in enabled]
            yield f"G2: {department} has {ids} enabled, but {event.id} ({event.kind}) is the newest"
        elif wanted and not enabled[0]["name"].startswith(f"{_name(known, event)} ["):
            called, said = enabled[0]["name"], _name(known, event)
            yield f"G3: {department} is called {called!r}, but {event.id} says {said!r}"


def _name(known: Known, event: StoryEvent) -> str | None:
    """Of two payloads under one id the one that was answered counts."""
    answer = known.answered.get(event.id)
    return answer.name if answer else event.name


def _lost(known: Known) -> Iterator[str]:
    for id_, events in known.sent.items():
        for event in events:
            if not known.dead[event.body] and id_ not in known.answered:
                yield f"G1: {id_} was neither answered nor dead-lettered"


def _answers_broken(known: Known) -> Iterator[str]:
    """G4: one final outcome for each event, under one id; `failed` beside each dead letter (see `_ack`)."""
    for id_, events in known.sent.items():
        if events[0].department is None:
            continue
        final = set(known.attempted[id_]) & FINAL
        if final != {known.answered[id_].outcome if id_ in known.answered else None}:
            yield f"G4: {id_} has the final outcomes {sorted(final)}"
        if not set(known.results[id_]) & FINAL:
            yield f"G4: no final outcome of {id_} was confirmed"
        for outcome, ids in known.attempted[id_].items():
            if len(ids) > 1:
                yield f"G4: {id_} was answered {outcome} under {len(ids)} ids"


def _credentials_broken(known: Known, now: Snapshot) -> Iterator[str]:
    for department, messages in known.credentials.items():
        yield from _generations_broken(department, messages)
    for department, auth_id, _, enabled, token in now.subaccounts:
        if not enabled or department is None:
            continue
        confirmed = [one["data"] for one in known.credentials[department] if one["confirmed"]]
        last = confirmed[-1] if confirmed else {}
        if (last.get("auth_id"), last.get("auth_token")) != (auth_id, token):
            yield f"credentials: the last of {department} are {last}, not those of {auth_id}"


def _generations_broken(department: str, messages: list[dict[str, Any]]) -> Iterator[str]:
    """A generation is one subaccount, told under one id; they count up."""
    facts = {(one["data"]["generation"], one["data"]["auth_id"], one["id"]) for one in messages}
    for place in range(3):
        if len({fact[place] for fact in facts}) != len(facts):
            yield f"credentials: generations, ids and subaccounts of {department} disagree: {sorted(facts)}"
            return
    numbers = [one["data"]["generation"] for one in messages]
    if numbers != sorted(numbers) or min(numbers) < 1:
        yield f"credentials: generations of {department} were told in the order {numbers}"


def _doubles_broken(known: Known) -> Iterator[str]:
    """Of several subaccounts all but one were reported."""
    for department, there in known.subaccounts.items():
        unreported = [auth_id for auth_id in there if auth_id not in known.reported]
        if len(unreported) > 1:
            yield f"G2: {department} has {unreported}, and none was reported as a double"
