"""Carrying operations out: each at once and as a whole, saved before it is answered, now or later."""

import asyncio
import hashlib
import json
from dataclasses import dataclass, replace
from datetime import timedelta

from worker.sandbox.billing import settle_months
from worker.sandbox.operations import Operation
from worker.sandbox.records import Account, Replay
from worker.sandbox.requests import Answer, Call, Refusal
from worker.sandbox.state import State, today
from worker.sandbox.store import Store


@dataclass(frozen=True, slots=True)
class Demand:
    """A request understood: what to do, with what, under which idempotency key."""

    operation: Operation
    call: Call
    key: str | None


class Service:
    def __init__(self, state: State, store: Store) -> None:
        self.state = state
        self._store = store
        self._late: dict[object, tuple[asyncio.TimerHandle, Demand]] = {}

    def perform(self, demand: Demand) -> Answer:
        """Do it; nothing else can happen in between, and what was answered has been saved."""
        settle_months(self.state)
        try:
            answer = self._once(demand)
        except Refusal as refusal:
            answer = refused(refusal)
        self.save()
        return answer

    def settle(self) -> None:
        """Charge the months that have passed."""
        settle_months(self.state)
        self.save()

    def reset(self, account: Account) -> None:
        """Go back to a state with nothing but the account given."""
        self.drop_late()
        self.state.begin_anew(replace(account, month=today(self.state)[:7]))
        self.save()

    def advance(self, by: timedelta) -> None:
        """Move simulated time forward; raises ValueError for a step back."""
        self.state.clock.advance(by)
        self._store.save_ahead(self.state.clock.ahead)
        self.settle()

    def save(self) -> None:
        self._store.save(self.state.take_changes())

    def perform_later(self, demand: Demand, delay_seconds: float) -> None:
        ticket = object()

        def perform() -> None:
            del self._late[ticket]
            self.perform(demand)

        handle = asyncio.get_running_loop().call_later(delay_seconds, perform)
        self._late[ticket] = (handle, demand)

    def perform_late_now(self) -> int:
        """Carry out at once what was put off; returns how many calls that were."""
        waiting = self.drop_late()
        for demand in waiting:
            self.perform(demand)
        return len(waiting)

    def drop_late(self) -> list[Demand]:
        waiting = list(self._late.values())
        self._late.clear()
        for handle, _demand in waiting:
            handle.cancel()
        return [demand for _handle, demand in waiting]

    def _once(self, demand: Demand) -> Answer:
        """Honour the idempotency key, if the sandbox is to."""
        honoured = self.state.assumptions.idempotency_keys == "honoured"
        if not honoured or not demand.key or demand.operation.method == "GET":
            return _carry_out(self.state, demand)
        if not demand.key.isascii():
            raise Refusal(400, "Idempotency-Key is invalid: ASCII is expected")
        fingerprint = _fingerprint(demand)
        earlier = self.state.replays.get(demand.key)
        if earlier is None:
            answer = _carry_out(self.state, demand)
            self.state.put(Replay(demand.key, fingerprint, answer.status, json.dumps(answer.body)))
            return answer
        if earlier.fingerprint != fingerprint:
            raise Refusal(422, "this Idempotency-Key was used for another request")
        return Answer(earlier.status, json.loads(earlier.body))


def refused(refusal: Refusal) -> Answer:
    return Answer(refusal.status, {"error": refusal.text})


def _carry_out(state: State, demand: Demand) -> Answer:
    return demand.operation.handler(state, demand.call)


def _fingerprint(demand: Demand) -> str:
    call = demand.call
    meant = [demand.operation.name, call.sub_account, call.identifier, dict(call.query), dict(call.body)]
    return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()
