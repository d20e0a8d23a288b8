"""Gathers what many tasks ask of one connection: what arrives during a batch is the next batch."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from worker.ports import LedgerFailed

CALL_SECONDS = 4.5
"""No caller waits longer, whatever happens."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Asked(Generic[Item, Result]):
    """One item, and the future of its result. A caller that was cancelled has cancelled it."""

    __slots__ = ("done", "item", "until")

    def __init__(self, item: Item) -> None:
        loop = asyncio.get_running_loop()
        self.item = item
        self.until = loop.time() + CALL_SECONDS
        self.done: asyncio.Future[Result] = loop.create_future()

    def resolve(self, result: Result) -> None:
        """Gives the caller its result, if it still waits."""
        if not self.done.done():
            self.done.set_result(result)

    def fail(self, error: Exception) -> None:
        """Raises the error to the caller, if it still waits."""
        if not self.done.done():
            self.done.set_exception(error)


class Gathering(Generic[Item, Result]):
    """Passes items to `work` in batches, one batch at a time. `work` resolves each of its items.

    `work` runs in a task of its own, which no caller can cancel.
    """

    def __init__(self, work: Callable[[Sequence[Asked[Item, Result]]], Awaitable[None]], most: int) -> None:
        self._work = work
        self._most = most
        self._waiting: deque[Asked[Item, Result]] = deque()
        self._unanswered: deque[Asked[Item, Result]] = deque()
        self._working: asyncio.Task[None] | None = None
        self._overdue: asyncio.TimerHandle | None = None

    async def ask(self, item: Item) -> Result:
        """The result of the item. Raises `LedgerFailed` without one in time."""
        return await self.file(item).done

    def file(self, item: Item) -> Asked[Item, Result]:
        """Files the item for the next batch, without waiting."""
        asked: Asked[Item, Result] = Asked(item)
        while self._unanswered and self._unanswered[0].done.done():
            self._unanswered.popleft()
        self._waiting.append(asked)
        self._unanswered.append(asked)
        if self._working is None:
            self._working = asyncio.create_task(self._work_all())
        if self._overdue is None:
            self._overdue = asyncio.get_running_loop().call_at(asked.until, self._give_up)
        return asked

    def tell(self, item: Item) -> None:
        """Files an item whose result does not matter."""
        self.file(item).done.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def close(self) -> None:
        """Returns once all items are done with."""
        if self._working is not None:
            await asyncio.wait([self._working])
        if self._overdue is not None:
            self._overdue.cancel()

    async def _work_all(self) -> None:
        try:
            while batch := self._next_batch():
                try:
                    await self._work(batch)
                except Exception as error:  # noqa: BLE001 - each caller gets it
                    for asked in batch:
                        asked.fail(error)
        finally:
            self._working = None

    def _next_batch(self) -> list[Asked[Item, Result]]:
        batch: list[Asked[Item, Result]] = []
        while self._waiting and len(batch) < self._most:
            asked = self._waiting.popleft()
            if not asked.done.done():
                batch.append(asked)
        return batch

    def _give_up(self) -> None:
        """Ends the waits that have lasted too long."""
        loop = asyncio.get_running_loop()
        self._overdue = None
        while self._unanswered and (
            self._unanswered[0].done.done() or self._unanswered[0].until <= loop.time()
        ):
            self._unanswered.popleft().fail(
                LedgerFailed(f"PostgreSQL has not answered within {CALL_SECONDS:g} s")
            )
        if self._unanswered:
            self._overdue = loop.call_at(self._unanswered[0].until, self._give_up)
