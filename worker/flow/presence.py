"""Says in the ledger that the worker runs, and sees there who else does: its share of the rate limit."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from worker.core.presence import BEAT_SECONDS, WorkerSeen
from worker.core.share import Share
from worker.flow.gate import Gate
from worker.ports import Clock, LedgerFailed, Presence, RateLimit
from worker.telemetry.events import Telemetry

BLOCKER = "rate share"

Describe = Callable[[], Awaitable[WorkerSeen]]
"""The worker's present description of itself."""


class SharedLimit:
    """A worker's share of a rate limit that it has together with others: a `CallRate`."""

    def __init__(self, limit: RateLimit, worker_id: str, clock: Clock) -> None:
        self.window = limit.window
        self._clock = clock
        self._share = Share(worker_id, limit.calls, limit.window.total_seconds())
        self._has_left = False

    @property
    def calls(self) -> int:
        """See `CallRate.calls`."""
        return 0 if self._has_left else self._share.calls_at(self._clock.monotonic())

    @property
    def looks_back(self) -> timedelta:
        """The age up to which announcements are asked for."""
        return timedelta(seconds=self._share.looks_back_seconds)

    @property
    def workers(self) -> int:
        """The workers that the limit is divided among, this one too."""
        return len(self._share.present) + 1

    @property
    def trouble(self) -> str | None:
        """Why the worker can make no call for as long as the others run; None if it can."""
        if self._share.part:
            return None
        return (
            f"{self.workers} workers run, and PROVISIONER_RATE_LIMIT has only {self._share.limit} calls"
            " for all: stop some"
        )

    def looked(self, begun: float, seen: Sequence[WorkerSeen]) -> None:
        """Takes note of a look that began at `begun`, in monotonic seconds."""
        self._share = self._share.looked(begun, self._clock.monotonic(), seen)

    def leave(self) -> None:
        """Gives the share up for good: no further call begins."""
        self._has_left = True


@dataclass
class Announcer:
    """Announces the worker each `BEAT_SECONDS`, until `is_stopping`: then it has left.

    It waits for nothing but the ledger: neither the duties nor the broker delay it. `share`: None on a ledger
    that no other worker may use. `on_failure` gets each failure of the ledger.
    """

    presence: Presence
    worker_id: str
    describe: Describe
    share: SharedLimit | None
    gate: Gate
    is_stopping: Callable[[], bool]
    clock: Clock
    telemetry: Telemetry
    on_failure: Callable[[LedgerFailed], None]
    _has_left: bool = False

    async def run(self) -> None:
        """Never returns."""
        while True:
            begun = self.clock.monotonic()
            try:
                await self._beat(begun)
            except LedgerFailed as error:
                self.on_failure(error)
            await self.clock.sleep(max(0.0, begun + BEAT_SECONDS - self.clock.monotonic()))

    async def leave(self) -> None:
        """Tells those who look that the worker begins no call any more. Does nothing without the ledger."""
        with suppress(LedgerFailed):
            await self._leave()

    async def _leave(self) -> None:
        """Leaves once: who looks counts a worker from the last time that it has said so."""
        if self._has_left:
            return
        if self.share is not None:
            self.share.leave()
        await self.presence.leave(self.worker_id)
        self._has_left = True

    async def _beat(self, begun: float) -> None:
        if self.is_stopping():
            await self._leave()
            return
        described = await self.describe()
        await self.presence.announce(described)
        if self.share is None:
            self.telemetry.sharing(1, described.rate_share)
            return
        self.share.looked(begun, await self.presence.workers(self.share.looks_back))
        self.telemetry.sharing(self.share.workers, self.share.calls)
        if (trouble := self.share.trouble) is not None:
            self.gate.block(BLOCKER, trouble)
        else:
            self.gate.unblock(BLOCKER)
