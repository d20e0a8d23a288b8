"""Whether the ledger takes writes. While it does not, no messages are taken and no step begins.

What a step did could not be noted: it would be done, and published, again with each try.
"""

import asyncio
from collections.abc import Awaitable, Callable

from worker.flow.gate import Intake
from worker.ports import Clock, LedgerFailed, LedgerForeign

HOLDER = "ledger"
AGAIN_SECONDS = 1.0


class LedgerWatch:
    """`write` is a trial: what failed once may have been one department's trouble, a damaged row say."""

    def __init__(self, write: Callable[[], Awaitable[None]], intake: Intake, clock: Clock) -> None:
        self._write = write
        self._intake = intake
        self._clock = clock
        self._watching: asyncio.Task[None] | None = None
        self.trouble: str | None = None
        """Why it takes no writes now."""

    def check(self) -> None:
        """Raises `LedgerFailed` while it is known to take no writes."""
        if self.trouble is not None:
            raise LedgerFailed(self.trouble)

    def failed(self) -> None:
        """Something could not be read or written: finds out whether it is so for all."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def _watch(self) -> None:
        while await self._tried() is not None:
            await self._clock.sleep(AGAIN_SECONDS)

    async def _tried(self) -> str | None:
        try:
            await self._write()
        except (LedgerFailed, LedgerForeign) as error:
            self._hold(str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not hold the intake for good
            self._hold(f"the ledger cannot be written: unexpected {type(error).__name__}")
        else:
            self.trouble = None
            self._intake.lift(HOLDER)
        return self.trouble

    def _hold(self, trouble: str) -> None:
        self.trouble = trouble
        self._intake.hold(HOLDER, trouble)
