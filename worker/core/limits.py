"""Limits of removals: how many departments of a tenant may be removed within rolling windows.

A wiped org chart must not disable everybody. The counts come from the ledger, in the transaction that records
the removal, so they hold for any number of workers. Everything here is pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

AT_LEAST = 3
"""A percentage never allows fewer removals than this."""


@dataclass(frozen=True, slots=True)
class Window:
    """The removals that one rolling window allows: a percentage of the departments, or a plain count."""

    most: Fraction | int
    length: timedelta
    is_percentage: bool

    def __str__(self) -> str:
        """As in the settings: `10%/24h`, `20/30d`."""
        most = f"{float(self.most):g}%" if self.is_percentage else str(self.most)
        seconds = int(self.length.total_seconds())
        units = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
        size, unit = next(one for one in units if seconds % one[0] == 0)
        return f"{most}/24h" if seconds == units[0][0] else f"{most}/{seconds // size}{unit}"

    def allowed(self, departments: int) -> int:
        """The removals allowed among so many departments."""
        if not self.is_percentage:
            return int(self.most)
        return max(AT_LEAST, int(self.most * departments / 100))


RemovalLimit = tuple[Window, ...]
"""All windows must allow a removal. Without one there is no limit."""


DEFAULT_LIMIT: RemovalLimit = (
    Window(Fraction(10), timedelta(hours=24), is_percentage=True),
    Window(20, timedelta(days=30), is_percentage=False),
)


@dataclass(frozen=True, slots=True)
class WindowCount:
    """The counted removals within a window, and the departments removed in it that are not active now.

    Those that a person has approved are among the departments, and not among the removals.
    """

    removals: int
    departments: int


@dataclass(frozen=True, slots=True)
class TenantCounts:
    """The departments of a tenant at one moment. `windows`: in the order of the limit's windows."""

    active: int
    windows: tuple[WindowCount, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """The question whether one more department of a tenant may be removed at `at`."""

    limit: RemovalLimit
    at: datetime

    @property
    def since(self) -> Sequence[datetime]:
        """When each window begins: later removals count."""
        return [self.at - window.length for window in self.limit]

    def is_last_active(self, counts: TenantCounts) -> bool:
        """Whether the tenant has no other active department. Without a limit it does not matter."""
        return bool(self.limit) and counts.active <= 1

    def used_up(self, counts: TenantCounts) -> Window | None:
        """The first window that allows no further removal; None if all allow it."""
        for window, count in zip(self.limit, counts.windows, strict=True):
            if count.removals >= window.allowed(counts.active + count.departments):
                return window
        return None

    def allows(self, counts: TenantCounts) -> bool:
        """Whether the removal may be carried out."""
        return not self.is_last_active(counts) and self.used_up(counts) is None
