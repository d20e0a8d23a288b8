"""All that exists in the sandbox at one moment, and the only way to change it."""

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
    Endpoint,
    Message,
    Number,
    Replay,
    Subaccount,
)


@dataclass(frozen=True, slots=True)
class Change:
    """One record put (or, with None, removed) since the last commit."""

    kind: str
    key: str
    sequence: int
    record: Any


class State:
    def __init__(self, clock: Clock, assumptions: Assumptions, identifiers: Identifiers) -> None:
        self.clock = clock
        self.assumptions = assumptions
        self.identifiers = identifiers
        self.accounts = Collection[Account](lambda r: r.auth_id)
        self.subaccounts = Collection[Subaccount](lambda r: r.auth_id)
        self.applications = Collection[Application](lambda r: r.app_id, lambda r: r.sub_account)
        self.endpoints = Collection[Endpoint](lambda r: r.endpoint_id, lambda r: r.sub_account)
        self.numbers = Collection[Number](lambda r: r.number, lambda r: r.sub_account)
        self.messages = Collection[Message](lambda r: r.message_uuid, lambda r: r.sub_account)
        self.charges = Collection[Charge](lambda r: r.key)
        self.replays = Collection[Replay](lambda r: r.key)
        self._collections: dict[type, Collection[Any]] = {
            Account: self.accounts,
            Subaccount: self.subaccounts,
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
        """The main account, the only one there is; StopIteration before the state has begun."""
        return next(iter(self.accounts))

    def put(self, record: Any) -> None:
        collection = self._collections[type(record)]
        collection.put(record)
        key = collection.key(record)
        self._changes.append(Change(type(record).__name__, key, collection.sequence(key), record))

    def remove(self, record: Any) -> None:
        collection = self._collections[type(record)]
        key = collection.key(record)
        self._changes.append(Change(type(record).__name__, key, collection.sequence(key), None))
        collection.remove(key)

    def restore(self, record: Any, sequence: int) -> None:
        """Put back what a store has kept, where it stood."""
        self._collections[type(record)].put(record, sequence)

    def begin_anew(self, account: Account) -> None:
        """Forget all but the account given, as if just started."""
        for collection in self._collections.values():
            for record in list(collection):
                self.remove(record)
        self.identifiers.restart()
        self.put(account)

    def take_changes(self) -> list[Change]:
        changes, self._changes = self._changes, []
        return changes


def account_uri(auth_id: str) -> str:
    return f"/v1/Account/{auth_id}/"


def today(state: State) -> str:
    """Return YYYY-MM-DD in the zone whose dates the answers give."""
    return state.clock.today(ZoneInfo(state.assumptions.time_zone))
