"""Carries operations out: each atomically, and saved before its response is sent; at once or delayed."""

import asyncio
import hashlib
import json
from dataclasses import dataclass, replace
from datetime import timedelta

from worker.sandbox.billing import charge_rent
from worker.sandbox.departures import settle
from worker.sandbox.operations import Operation
from worker.sandbox.records import Account, Replay
from worker.sandbox.requests import Call, Refusal, Response
from worker.sandbox.state import State, today
from worker.sandbox.store import Store


@dataclass(frozen=True, slots=True)
class Invocation:
    """An operation to carry out, with its parameters and its idempotency key."""

    operation: Operation
    call: Call
    key: str | None


class Service:
    """Applies operations to the state and saves it."""

    def __init__(self, state: State, store: Store) -> None:
        self.state = state
        self._store = store
        self._late: dict[object, tuple[asyncio.TimerHandle, Invocation]] = {}

    def perform(self, invocation: Invocation) -> Response:
        """Carry the operation out without interruption and save the state before returning."""
        self._pass_time()
        try:
            response = self._perform_once(invocation)
        except Refusal as refusal:
            response = error_response(refusal)
        self.save()
        return response

    def pass_time(self) -> None:
        """Do what time has made due: charge rent, and complete earlier deletions."""
        self._pass_time()
        self.save()

    def _pass_time(self) -> None:
        charge_rent(self.state)
        settle(self.state)

    def reset(self, account: Account) -> None:
        """Restore a state with only this account."""
        self.cancel_late()
        self.state.reset(replace(account, month=today(self.state)[:7]))
        self.save()

    def advance(self, by: timedelta) -> None:
        """Move simulated time forward; raises ValueError for a step back."""
        self.state.clock.advance(by)
        self._store.save_ahead(self.state.clock.ahead)
        self.pass_time()

    def save(self) -> None:
        """Save all changes since the last save."""
        self._store.save(self.state.take_changes())

    def perform_later(self, invocation: Invocation, delay_seconds: float) -> None:
        """Carry the operation out after the delay; its response is dropped."""
        ticket = object()

        def perform() -> None:
            del self._late[ticket]
            self.perform(invocation)

        handle = asyncio.get_running_loop().call_later(delay_seconds, perform)
        self._late[ticket] = (handle, invocation)

    def perform_late_now(self) -> int:
        """Carry out the delayed operations at once; returns their number."""
        waiting = self.cancel_late()
        for invocation in waiting:
            self.perform(invocation)
        return len(waiting)

    def cancel_late(self) -> list[Invocation]:
        """Cancel the delayed operations and return them."""
        waiting = list(self._late.values())
        self._late.clear()
        for handle, _demand in waiting:
            handle.cancel()
        return [invocation for _handle, invocation in waiting]

    def _perform_once(self, invocation: Invocation) -> Response:
        """Carry the operation out once for each idempotency key, if the assumptions honour keys."""
        honoured = self.state.assumptions.idempotency_keys == "honoured"
        if not honoured or not invocation.key or invocation.operation.method == "GET":
            return _carry_out(self.state, invocation)
        if not invocation.key.isascii():
            raise Refusal(400, "Idempotency-Key is invalid: ASCII is expected")
        fingerprint = _fingerprint(invocation)
        earlier = self.state.replays.get(invocation.key)
        if earlier is None:
            response = _carry_out(self.state, invocation)
            self.state.put(Replay(invocation.key, fingerprint, response.status, json.dumps(response.body)))
            return response
        if earlier.fingerprint != fingerprint:
            raise Refusal(422, "this Idempotency-Key was used for another request")
        return Response(earlier.status, json.loads(earlier.body))


def error_response(refusal: Refusal) -> Response:
    """Return the response to a refused request."""
    return Response(refusal.status, {"error": refusal.text})


def _carry_out(state: State, invocation: Invocation) -> Response:
    return invocation.operation.handler(state, invocation.call)


def _fingerprint(invocation: Invocation) -> str:
    call = invocation.call
    meant = [invocation.operation.name, call.sub_account, call.identifier, dict(call.query), dict(call.body)]
    return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()
