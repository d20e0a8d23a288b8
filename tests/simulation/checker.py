"""Checks a history against the promises of the product. Shares no code and no type with the worker."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tests.simulation.database_rules import judge_workers
from tests.simulation.history import Note
from tests.simulation.history_state import FINAL, HELD, HistoryState, RunConditions, read
from tests.simulation.producer_events import REMOVED, RENAMED, ProducerEvent
from tests.simulation.removal_rules import judge_removals


class Snapshot(NamedTuple):
    """The subaccounts at the provider, each as (department, auth id, name, enabled, token)."""

    subaccounts: list[tuple[str | None, str, str, bool, str]]


def judge_before_replay(notes: Sequence[Note], conditions: RunConditions) -> list[str]:
    """Before the replay of dead letters: answered events hold, except for undecided creates."""
    state = read(notes, conditions)
    return list(_states_broken(state, _newest_answered(state), but=state.undecided))


def judge_history(notes: Sequence[Note], now: Snapshot, conditions: RunConditions) -> list[str]:
    """After the replay of all dead letters: every promise holds."""
    state = read(notes, conditions)
    late = conditions.deletes_very_late
    return [
        *state.broken,
        *(judge_workers(notes) if conditions.many_workers else ()),
        *(judge_removals(notes, deletes_very_late=late) if conditions.removals else ()),
        *_lost(state),
        *_states_broken(state, _newest(state)),
        *_answers_broken(state),
        *_credentials_broken(state, now),
        *_duplicates_broken(state),
    ]


def judge_replay(notes: Sequence[Note], before: Snapshot, after: Snapshot) -> list[str]:
    """After all events were sent again: no subaccount changes and the provider is not called."""
    calls = [str(note) for note in notes if note.what in {"> create", "> update", "> delete"}]
    changed = [f"G6: a replay changed {before} to {after}"] if before != after else []
    return changed + [f"G6: a replay made the worker call: {call}" for call in calls]


def judge_after_ledger_loss(notes: Sequence[Note], conditions: RunConditions) -> list[str]:
    """After a ledger loss answers may repeat, but each department has one subaccount in its newest state."""
    state = read(notes, conditions)
    duplicates = [one for one in state.broken if one.startswith("G2")]
    return duplicates + list(_states_broken(state, _newest(state)))


def _by_department(state: HistoryState) -> Iterator[tuple[str, list[ProducerEvent]]]:
    by: dict[str, list[ProducerEvent]] = defaultdict(list)
    for events in state.sent.values():
        for event in events:
            if event.department:
                by[event.department].append(event)
    yield from by.items()


def _newest(state: HistoryState) -> dict[str, ProducerEvent | None]:
    """The event that rules each department once every event is answered; None if there is none."""
    if state.conditions.removals_ignored:
        return _newest_answered(state)
    rejected = _rejected(state)
    return {
        department: max(
            (one for one in events if one.id not in rejected), key=ProducerEvent.rank, default=None
        )
        for department, events in _by_department(state)
    }


def _newest_answered(state: HistoryState) -> dict[str, ProducerEvent | None]:
    """The newest answered event of each department. Ignored removals change nothing."""
    counted = {id_ for id_, answer in state.answered.items() if answer.outcome != "superseded"}
    newest: dict[str, ProducerEvent | None] = {}
    for department, events in _by_department(state):
        answered = [event for event in events if event.id in counted]
        if state.conditions.removals_ignored:
            answered = [event for event in answered if event.kind != REMOVED]
        if answered or state.conditions.removals_ignored:
            newest[department] = max(answered, key=ProducerEvent.rank, default=None)
    return newest


def _rejected(state: HistoryState) -> set[str]:
    """Renames of unknown departments, dead-lettered for good if the operator rejects them."""
    return {
        id_
        for id_, events in state.sent.items()
        if events[0].kind == RENAMED
        and state.conditions.unknown_renames_rejected
        and id_ not in state.answered
        and events[0].department not in state.ever_there
        and "invalid" in state.dead[events[0].body]
    }


def _states_broken(
    state: HistoryState, newest: dict[str, ProducerEvent | None], but: Iterable[str] = ()
) -> Iterator[str]:
    """G2 and G3: number and name of the enabled subaccounts follow the newest event."""
    for department, event in newest.items():
        enabled = [one for one in state.subaccounts[department].values() if one["enabled"]]
        if department in but or department in state.meddled:
            continue
        wanted = 0 if event is None or event.kind == REMOVED else 1
        if event and state.conditions.removals and _is_not_removed(state, event):
            wanted = 1
        if event is None and state.conditions.removals_ignored and len(enabled) == 1:
            continue  # a removal was ignored
        if not state.subaccounts[department] and event and event.kind == REMOVED:
            continue  # an earlier deletion without a clear answer was carried out, before the rules changed
        if len(enabled) != wanted:
            ids = [one["auth_id"] for one in enabled]
            newest_event = f"{event.id} ({event.kind})" if event else "no event that creates it"
            yield f"G2: {department} has {ids} enabled, but {newest_event} is the newest"
        elif (
            event and event.kind != REMOVED and not enabled[0]["name"].startswith(f"{_name(state, event)} [")
        ):
            called, said = enabled[0]["name"], _name(state, event)
            yield f"G3: {department} has the name {called!r}, but {event.id} requires {said!r}"


def _is_not_removed(state: HistoryState, event: ProducerEvent) -> bool:
    """Whether a removal waits for a person, was rejected before anything was done, or is ignored."""
    answer = state.answered.get(event.id)
    if event.kind != REMOVED or answer is None or event.id in state.held_disabled:
        return False
    reason = answer.reason or ""
    kept = reason.startswith(("removal rejected by ", "removals are ignored"))
    return answer.outcome == HELD or (answer.outcome == "unchanged" and kept)


def _name(state: HistoryState, event: ProducerEvent) -> str | None:
    """The expected name. If two payloads share an id, the answered one counts."""
    answer = state.answered.get(event.id)
    return answer.name if answer else event.name


def _lost(state: HistoryState) -> Iterator[str]:
    for id_, events in state.sent.items():
        for event in events:
            if not state.dead[event.body] and id_ not in state.answered:
                yield f"G1: {id_} was neither answered nor dead-lettered"


def _answers_broken(state: HistoryState) -> Iterator[str]:
    """G4: each event has one final outcome under one id. `_ack` checks `failed` for dead letters."""
    rejected = _rejected(state)
    for id_, events in state.sent.items():
        if events[0].department is None or id_ in rejected:
            continue
        answer = state.answered.get(id_)
        if answer is None and events[0].department in state.deleted_by_hand:
            continue  # it is dead-lettered until somebody recreates the subaccount
        final = set(state.attempted[id_]) & FINAL
        if not answer or final != answer.outcomes - {HELD}:
            yield f"G4: {id_} has the final outcomes {sorted(final)}"
        if not set(state.results[id_]) & (FINAL | {HELD}):
            yield f"G4: no final outcome of {id_} was confirmed"
        if answer and not state.results[id_][answer.outcome]:
            yield f"G4: {answer.outcome} of {id_} was not confirmed"
        for outcome, ids in state.attempted[id_].items():
            if len(ids) > 1 and outcome != HELD:
                yield f"G4: {id_} was answered {outcome} under {len(ids)} ids"


def _credentials_broken(state: HistoryState, now: Snapshot) -> Iterator[str]:
    for department, messages in state.credentials.items():
        yield from _generations_broken(department, messages)
    for owner, auth_id, _, enabled, token in now.subaccounts:
        if not enabled or owner is None or owner in state.meddled:
            continue
        confirmed = [one["data"] for one in state.credentials[owner] if one["confirmed"]]
        last = confirmed[-1] if confirmed else {}
        if (last.get("auth_id"), last.get("auth_token")) != (auth_id, token):
            yield f"credentials: the last of {owner} are {last}, not those of {auth_id}"


def _generations_broken(department: str, messages: list[dict[str, Any]]) -> Iterator[str]:
    """Each generation has one subaccount and one message id, and generations increase."""
    facts = {(one["data"]["generation"], one["data"]["auth_id"], one["id"]) for one in messages}
    for place in range(3):
        if len({fact[place] for fact in facts}) != len(facts):
            yield f"credentials: generations, ids and subaccounts of {department} disagree: {sorted(facts)}"
            return
    numbers = [one["data"]["generation"] for one in messages]
    if numbers != sorted(numbers) or min(numbers) < 1:
        yield f"credentials: generations of {department} were published in the order {numbers}"


def _duplicates_broken(state: HistoryState) -> Iterator[str]:
    """All duplicates but one subaccount must have been reported."""
    for department, there in state.subaccounts.items():
        unreported = [auth_id for auth_id in there if auth_id not in state.reported]
        if len(unreported) > 1 and department not in state.meddled:
            yield f"G2: {department} has {unreported}, and none was reported as a duplicate"
