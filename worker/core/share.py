"""A worker's share of the rate limit, from the other workers that it sees in the ledger.

Each worker announces itself in the ledger and then looks who is there, about once a second. The limit is
divided among those seen. The views of two workers differ for a moment when one comes or goes, and yet the sum
of what they send stays within the limit in every window, by three rules:

- A worker sends only on looks that began at most `FRESH_SECONDS` ago, on the one that gives it most.
- A worker counts for `seen_for_seconds` after its last announcement, longer than any window that may hold one
  of its calls. Nobody needs to know whether it ended, froze or lost the ledger. One that has said that it
  leaves, after which it begins no call, counts only until its calls have left the window.
- A newcomer that sees others, or traces of them, sends nothing for as long: until all have seen it, and their
  calls under larger shares have left the window. One that sees nobody begins at once.

So of two workers that send within one window, each counts the other. A share is never larger for a view with
more workers in it, so the shares of those that send sum up to at most the limit.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from worker.core.presence import WorkerSeen

FRESH_SECONDS = 2.0
"""A worker that has not looked since begins no call: others may have come, or its ledger may be gone."""

LATEST_ARRIVAL = 0.03
"""The part of the window after which a sent call has surely arrived at the provider and counts there."""

CLOCK_JUMP_SECONDS = 30.0
"""How far the clock of a ledger may jump when another server takes over, without harm."""

MARGIN_SECONDS = 0.5
"""For clocks that run at different speeds, and ledgers that count in coarse steps."""

LEFT_MARGIN_SECONDS = 0.1
"""Likewise for a worker that has left: no other clock counts there."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last announcement of another worker: by the ledger's clock, and when we noticed it.

    `left`: it was the last one of all.
    """

    seen_at: datetime
    noticed_at: float
    left: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's knowledge of the others. All times but `seen_at` are its own monotonic seconds.

    `limit` is in calls per window, for all workers together. `looked_at`: when its newest look began;
    `joins_at`: from when on it may send. `parts`: what each look of late gave it, by the look's beginning.
    """

    worker_id: str
    limit: int
    window_seconds: float
    looked_at: float | None = None
    joins_at: float = 0.0
    others: Mapping[str, Sighting] = field(default_factory=dict)
    parts: tuple[tuple[float, int], ...] = ()

    @property
    def seen_for_seconds(self) -> float:
        """How long a worker counts after its last announcement."""
        return self.window_seconds * (1 + LATEST_ARRIVAL) + FRESH_SECONDS + MARGIN_SECONDS

    @property
    def left_for_seconds(self) -> float:
        """How long a worker counts after it has left."""
        return self.window_seconds * (1 + LATEST_ARRIVAL) + LEFT_MARGIN_SECONDS

    @property
    def looks_back_seconds(self) -> float:
        """The age, by the ledger's clock, up to which announcements are asked for."""
        return self.seen_for_seconds + CLOCK_JUMP_SECONDS

    def looked(self, began: float, ended: float, seen: Iterable[WorkerSeen]) -> "Share":
        """The share after a look: an announcement, and then all workers that the ledger shows.

        `seen`: as far as `looks_back_seconds`. A new announcement counts from the moment that it is noticed.
        So the ledger's clock may jump, as when another server takes over.
        """
        others = {one.id: self._sighting(one, ended) for one in seen if one.id != self.worker_id}
        recent = ended - self.seen_for_seconds
        others |= {
            id_: one for id_, one in self.others.items() if id_ not in others and one.noticed_at >= recent
        }
        was_seen = self.looked_at is not None and self.looked_at >= recent
        joins_at = self.joins_at if was_seen else ended + self.seen_for_seconds
        looked = replace(self, looked_at=began, joins_at=joins_at, others=others)
        fresh = tuple(one for one in self.parts if ended - one[0] <= FRESH_SECONDS)
        looked = replace(looked, parts=(*fresh, (began, looked.part)))
        return looked if looked.present else replace(looked, joins_at=min(joins_at, ended))

    def _sighting(self, worker: WorkerSeen, now: float) -> Sighting:
        before = self.others.get(worker.id)
        known = before is not None and before.seen_at == worker.seen_at
        return before if before is not None and known else Sighting(worker.seen_at, now, worker.left)

    @property
    def present(self) -> Collection[str]:
        """The other workers that count."""
        looked_at = self.looked_at or 0.0
        return [
            id_
            for id_, one in self.others.items()
            if looked_at - one.noticed_at <= (self.left_for_seconds if one.left else self.seen_for_seconds)
        ]

    @property
    def part(self) -> int:
        """The calls per window for this worker among those present; they sum up to the limit over all.

        With more workers than calls, some have none.
        """
        before = sum(id_ < self.worker_id for id_ in self.present)
        return max(0, -((before - self.limit) // (len(self.present) + 1)))

    def calls_at(self, now: float) -> int:
        """The calls that it may send in a window that ends now."""
        if now < self.joins_at:
            return 0
        return max((part for began, part in self.parts if now - began <= FRESH_SECONDS), default=0)
