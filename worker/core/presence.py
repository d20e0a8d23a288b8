"""Which workers run on a ledger, as they say themselves each second."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from worker.core.breaker import State

BEAT_SECONDS = 1.0
"""How often a worker says that it runs."""

PRESENT_FOR = timedelta(seconds=5)
"""A worker that has not said so for longer does not run, as far as commands can tell."""


@dataclass(frozen=True)
class WorkerSeen:
    """A worker's description of itself. Times are UTC.

    `id`: fresh for each process. `seen_at`: when it has last said so, by the ledger's own clock.
    `rate_share`: the calls that it may send in each window of the rate limit. `problems`: one line for each
    reason why it is not ready. `left`: it begins no further work, because it stops.
    """

    id: str
    host: str
    pid: int
    version: str
    started_at: datetime
    seen_at: datetime
    consuming: bool
    rate_share: int
    problems: tuple[str, ...] = ()
    circuit: State = State.CLOSED
    left: bool = False
