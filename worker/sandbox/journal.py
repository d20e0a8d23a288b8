"""What was asked, in order: for tests to look at and to wait for."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_KEPT = 50_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. `status` is None where no answer was sent; `headers` come without Authorization.

    `operation` is None for a path that does not exist, `fault` the name of the fault that was met.
    """

    method: str
    path: str
    query: str
    operation: str | None
    status: int | None
    fault: str | None
    headers: Mapping[str, str]
    body: Any


@dataclass
class Journal:
    """The latest 50,000 requests or more; counts go on for ever."""

    entries: list[Entry] = field(default_factory=list)
    answered: Counter[str | None] = field(default_factory=Counter)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, entry: Entry) -> None:
        if len(self.entries) >= 2 * _KEPT:
            del self.entries[:_KEPT]
        self.entries.append(entry)
        self.answered[entry.operation] += 1
        self._arrived.set()

    async def wait_for(self, operation: str, times: int) -> None:
        """Return once the operation has been asked so often since the start (or `clear`)."""
        while self.answered[operation] < times:
            self._arrived.clear()
            await self._arrived.wait()

    def clear(self) -> None:
        self.entries.clear()
        self.answered.clear()
