"""The state of the sandbox. All changes go through `State.put` and `State.remove`."""

from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from worker.sandbox.assumptions import Assumptions
from worker.sandbox.clock import Clock
from worker.sandbox.collection import Collection
from worker.sandbox.identifiers import Identifiers
from worker.sandbox.records import (
    Account,
    Application,
    Charge,
    Departure,
    Endpoint,
    Message,
    Number,
    Replay,
    Subaccount,
)


@dataclass(frozen=True, slots=True)
class Change:
    """A record put, or removed (None), since the last save."""

    kind: str
    key: str
    sequence: int
    record: Any


class State:
    """The records, with the clock, assumptions and identifiers that operations use."""

    def __init__(self, clock: Clock, assumptions: Assumptions, identifiers: Identifiers) -> None:
        self.clock = clock
        self.assumptions = assumptions
        self.identifiers = identifiers
        self.accounts = Collection[Account](lambda r: r.auth_id)
        self.subaccounts = Collection[Subaccount](lambda r: r.auth_id)
        self.departures = Collection[Departure](lambda r: r.subaccount.auth_id)
        self.applications = Collection[Application](lambda r: r.app_id, lambda r: r.sub_account)
        self.endpoints = Collection[Endpoint](lambda r: r.endpoint_id, lambda r: r.sub_account)
        self.numbers = Collection[Number](lambda r: r.number, lambda r: r.sub_account)
        self.messages = Collection[Message](lambda r: r.message_uuid, lambda r: r.sub_account)
        self.charges = Collection[Charge](lambda r: r.key)
        self.replays = Collection[Replay](lambda r: r.key)
        self._collections: dict[type, Collection[Any]] = {
            Account: self.accounts,
            Subaccount: self.subaccounts,
            Departure: self.departures,
            Application: self.applications,
            Endpoint: self.endpoints,
            Number: self.numbers,
            Message: self.messages,
            Charge: self.charges,
            Replay: self.replays,
        }
        self._changes: list[Change] = []

    @property
    def account(self) -> Account:
        """The main account; raises StopIteration before there is one."""
        return next(iter(self.accounts))

    def put(self, record: Any) -> None:
        """Add or replace a record."""
        collection = self._collections[type(record)]
        collection.put(record)
        key = collection.key(record)
        self._changes.append(Change(type(record).__name__, key, collection.sequence(key), record))

    def remove(self, record: Any) -> None:
        """Remove a record."""
        collection = self._collections[type(record)]
        key = collection.key(record)
        self._changes.append(Change(type(record).__name__, key, collection.sequence(key), None))
        collection.remove(key)

    def restore(self, record: Any, sequence: int) -> None:
        """Restore a record from a store, in its place in the order of creation."""
        self._collections[type(record)].put(record, sequence)

    def reset(self, account: Account) -> None:
        """Remove everything and begin again with this account. No identifier is given a second time."""
        for collection in self._collections.values():
            for record in list(collection):
                self.remove(record)
        self.put(account)

    def take_changes(self) -> list[Change]:
        """Return the changes since the last call."""
        changes, self._changes = self._changes, []
        return changes


def account_uri(auth_id: str) -> str:
    """Return the path of an account."""
    return f"/v1/Account/{auth_id}/"


def today(state: State) -> str:
    """Return the simulated date (YYYY-MM-DD) in the time zone of the responses."""
    return state.clock.today(ZoneInfo(state.assumptions.time_zone))
