"""Clock skew: how far the worker's clock is from the provider's, by the `Date` of its responses.

An event that is invalid only because its time is ahead of the worker's clock is refused only if that clock is
known to be right: compared since the event came, and not off by more than a minute.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

TOLERATED = timedelta(minutes=1)
DATE_PRECISION = timedelta(seconds=1)
"""A `Date` header has whole seconds: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison, made `at` this monotonic time.

    `skew`: how far the provider's clock is ahead of ours; None if it sends no date, and ours is not doubted.
    """

    skew: timedelta | None
    at: float

    @property
    def off(self) -> bool:
        """Whether our clock is wrong."""
        return self.skew is not None and abs(self.skew) > TOLERATED


def skew_of(date: datetime, sent_at: datetime, received_at: datetime) -> timedelta:
    """The least skew that explains a response of that date. `sent_at` and `received_at` are by our clock."""
    least, most = date - received_at, date + DATE_PRECISION - sent_at
    return max(least, min(most, timedelta(0)))


def trustworthy(latest: Comparison | None, since: float) -> bool:
    """Whether our clock may decide that an event is invalid that it has doubted `since` (monotonic seconds).

    An older comparison proves nothing: the clock may have been set, or the machine have slept.
    """
    return latest is not None and not latest.off and latest.at > since


def in_words(skew: timedelta, whose: str = "Plivo") -> str:
    """How far our clock is off another one, with what to do about it."""
    seconds = round(abs(skew).total_seconds())
    direction = "behind" if skew > timedelta(0) else "ahead of"
    return (
        f"the worker's clock is {seconds} s {direction} {whose}'s; set it right (is time synchronised here?)"
    )
