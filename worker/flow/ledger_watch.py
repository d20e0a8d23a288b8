"""Watches whether the ledger accepts writes. While it does not, the gate is blocked and no step begins.

Without the ledger no outcome can be recorded: each retry would repeat the call and publish again.
"""

import asyncio
from collections.abc import Awaitable, Callable

from worker.flow.gate import Gate
from worker.ports import UNBROKEN, AuthIdTaken, Clock, Fence, LedgerFailed, LedgerForeign

BLOCKER = "ledger"
RETRY_SECONDS = 1.0


class LedgerWatch:
    """Makes a trial write after a failure, and one each second until one succeeds.

    The trial write distinguishes an outage from a fault of one department, such as a damaged row.
    """

    def __init__(
        self, write: Callable[[], Awaitable[None]], gate: Gate, clock: Clock, fence: Fence = UNBROKEN
    ) -> None:
        self._write = write
        self._fence = fence
        self._gate = gate
        self._clock = clock
        self._watching: asyncio.Task[None] | None = None
        self.trouble: str | None = None
        """Why the ledger accepts no writes now; `None` while it does."""

    def check(self) -> None:
        """Raises `LedgerFailed` while the ledger is known to accept no writes."""
        if self.trouble is not None:
            raise LedgerFailed(self.trouble)

    async def watch_fence(self) -> None:
        """Returns all messages to the queue whenever the locks are lost. Never returns.

        Other workers may have the departments now, and need their messages.
        """
        while True:
            self._block(await self._fence.until_lost())
            self._gate.return_messages()
            self._try_again()

    def failed(self, error: LedgerFailed) -> None:
        """Reports a failed read or write. Starts the trial writes unless they already run.

        An auth id that is on record for another department concerns everybody, so it blocks the gate at once.
        """
        if isinstance(error, AuthIdTaken):
            self._block(str(error))
        self._try_again()

    async def close(self) -> None:
        """Cancels the trial writes."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    def _try_again(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while not await self._writable():
            await self._clock.sleep(RETRY_SECONDS)

    async def _writable(self) -> bool:
        try:
            await self._write()
        except (LedgerFailed, LedgerForeign) as error:
            self._block(str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not block the gate for good
            self._block(f"the ledger cannot be written: unexpected {type(error).__name__}")
        else:
            self.trouble = None
            self._gate.unblock(BLOCKER)
        return self.trouble is None

    def _block(self, trouble: str) -> None:
        self.trouble = trouble
        self._gate.block(BLOCKER, trouble)
