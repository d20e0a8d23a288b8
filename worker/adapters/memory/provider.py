"""A provider in memory: for tests, simulation and the demo. It passes the provider's conformance suite."""

import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date

from pydantic import SecretStr

from worker.core.judge import CallFault, Operation
from worker.ports import (
    CallFailed,
    NewSubaccount,
    ProvidedSubaccount,
)

PAGE = 20


@dataclass
class Held:
    """A subaccount of the memory provider."""

    auth_id: str
    auth_token: SecretStr
    name: str
    enabled: bool
    created: date


class MemoryProvider:
    """Subaccounts in a list, newest first. `calls`: operation, auth_id and idempotency key, in order."""

    def __init__(self) -> None:
        self.subaccounts: list[Held] = []
        self.calls: list[tuple[Operation, str | None, str | None]] = []
        self.today = date(2026, 11, 21)
        self._made = 0

    @asynccontextmanager
    async def permit(self, _operation: Operation) -> AsyncIterator[None]:
        yield

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        self.calls.append(("create", None, idempotency_key))
        self._made += 1
        token = SecretStr(f"memory-token-{self._made}")
        made = Held(f"SA{self._made:018d}", token, name, enabled=enabled, created=self.today)
        self.subaccounts.insert(0, made)
        return NewSubaccount(made.auth_id, made.auth_token)

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> None:
        self.calls.append(("update", auth_id, idempotency_key))
        held = self._held(auth_id, "update")
        held.name = held.name if name is None else name
        held.enabled = held.enabled if enabled is None else enabled

    async def delete(self, auth_id: str, idempotency_key: str) -> None:
        self.calls.append(("delete", auth_id, idempotency_key))
        self.subaccounts.remove(self._held(auth_id, "delete"))

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        self.calls.append(("get", auth_id, None))
        return _shown(self._held(auth_id, "get"))

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        self.calls.append(("list", None, None))
        return [
            dataclasses.replace(_shown(held), auth_token=None)
            for held in self.subaccounts[offset : offset + PAGE]
        ]

    async def probe(self) -> None:
        """It is always there."""

    def _held(self, auth_id: str, operation: Operation) -> Held:
        for held in self.subaccounts:
            if held.auth_id == auth_id:
                return held
        raise CallFailed(CallFault(operation, f"the provider answered 404 to {operation}", status=404))


def _shown(held: Held) -> ProvidedSubaccount:
    return ProvidedSubaccount(held.auth_id, held.name, held.enabled, held.created, held.auth_token)
