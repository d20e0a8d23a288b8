"""The log of requests, which tests inspect and wait for."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_KEPT = 50_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. `headers` lack Authorization; `status` is None if no response was sent.

    `operation` is None for a path that does not exist. `fault` is the name of the fault that it met.
    `abandoned`: its client had gone by the time of the response. `at`: the time of the response, by the loop.
    """

    method: str
    path: str
    query: str
    operation: str | None
    status: int | None
    fault: str | None
    headers: Mapping[str, str]
    body: Any
    abandoned: bool = False
    at: float = 0.0


@dataclass
class Journal:
    """Keeps at least the latest 50,000 requests. `answered` counts all requests, by operation."""

    entries: list[Entry] = field(default_factory=list)
    answered: Counter[str | None] = field(default_factory=Counter)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, entry: Entry) -> None:
        """Log a request and wake those who wait for it."""
        if len(self.entries) >= 2 * _KEPT:
            del self.entries[:_KEPT]
        self.entries.append(entry)
        self.answered[entry.operation] += 1
        self._arrived.set()

    async def wait_for(self, operation: str, times: int) -> None:
        """Wait until the operation was requested `times` times since the start or the last `clear`."""
        while self.answered[operation] < times:
            self._arrived.clear()
            await self._arrived.wait()

    def clear(self) -> None:
        """Forget all requests and counts."""
        self.entries.clear()
        self.answered.clear()
