"""Deleted subaccounts: for a while they may still be read, and their resources may still be theirs."""

from dataclasses import replace

from worker.sandbox.records import Departure, Subaccount
from worker.sandbox.state import State


def depart(state: State, subaccount: Subaccount, *, cascade: bool) -> None:
    """Delete a subaccount. With `cascade` its resources are deleted too, else the main account gets them."""
    now, assumptions = state.clock.seconds(), state.assumptions
    place = state.subaccounts.sequence(subaccount.auth_id)
    state.remove(subaccount)
    state.put(
        Departure(
            subaccount=subaccount,
            place=place,
            cascade=cascade,
            read_until=now + assumptions.deleted_lag_seconds,
            resources_at=now + assumptions.resources_lag_seconds,
        )
    )
    settle(state)


def settle(state: State) -> None:
    """Carry out the parts of earlier deletions that are due."""
    now = state.clock.seconds()
    for departure in list(state.departures):
        if departure.resources_at is not None and departure.resources_at <= now:
            _give_up_resources(state, departure)
            departure = replace(departure, resources_at=None)  # noqa: PLW2901 - the same one, a step on
            state.put(departure)
        if departure.resources_at is None and departure.read_until <= now:
            state.remove(departure)


def shown_subaccount(state: State, auth_id: str) -> Subaccount | None:
    """Return a subaccount that can be read: a live one, or one deleted a short time ago."""
    departure = state.departures.get(auth_id)
    if departure is not None and departure.read_until > state.clock.seconds():
        return departure.subaccount
    return state.subaccounts.get(auth_id)


def count_shown(state: State) -> int:
    """Return the number of subaccounts that a list shows."""
    return len(state.subaccounts) + len(_still_shown(state))


def shown_newest_first(state: State, offset: int, limit: int) -> list[Subaccount]:
    """Return a page of the subaccounts that a list shows."""
    gone = _still_shown(state)
    if not gone:
        return state.subaccounts.newest_first(offset, limit)
    placed = [(state.subaccounts.sequence(each.auth_id), each) for each in state.subaccounts]
    placed += [(departure.place, departure.subaccount) for departure in gone]
    newest_first = sorted(placed, key=lambda each: -each[0])
    return [subaccount for _place, subaccount in newest_first[offset : offset + limit]]


def _still_shown(state: State) -> list[Departure]:
    now = state.clock.seconds()
    return [departure for departure in state.departures if departure.read_until > now]


def _give_up_resources(state: State, departure: Departure) -> None:
    for collection in (state.applications, state.endpoints, state.numbers):
        for record in collection.of_group(departure.subaccount.auth_id):
            if departure.cascade:
                state.remove(record)
            else:
                state.put(replace(record, sub_account=None))
