"""The facts of a removal: under way, done, a deletion, the tries of a late one."""

from dataclasses import dataclass
from datetime import datetime

from worker.core.model.causes import Cause, Reference


@dataclass(frozen=True)
class Removing:
    """A removal under way, which counts against the limit already. It ends with its outcome.

    `event`: the removal event. `counted_at`: when it was counted; None if it does not count, because a
    person has approved it, or there is no limit.
    """

    event: Reference
    counted_at: datetime | None = None


@dataclass(frozen=True)
class Removed:
    """The removal of a department. `removed_at`: when the provider confirmed the disable or the delete.

    `cause`: the removal event; None if a person asked for it. `counted_at`: as in `Removing`. `auth_id`: the
    subaccount that was deleted. `cancelled`: it stays disabled, because a person has rejected the deletion,
    or something newer says that the department exists, or a newer removal has voided its hold. A removal
    that is newer still takes the deletion up, as its own.
    """

    removed_at: datetime
    cause: Cause | None = None
    counted_at: datetime | None = None
    auth_id: str | None = None
    cancelled: bool = False


@dataclass(frozen=True)
class Deletion:
    """A deletion that is durable before it is sent, since `begun_at`. `cascade`: with its resources.

    `in_doubt`: an earlier call for it may have been sent, and its outcome is not known. `check_at`: when the
    check of an earlier change was due, which the deletion has ended.
    """

    begun_at: datetime
    cascade: bool = False
    in_doubt: bool = False
    check_at: datetime | None = None


@dataclass(frozen=True)
class Retry:
    """The tries of a late removal, which no message repeats: since when it fails, why, when it goes on."""

    failing_since: datetime
    at: datetime
    tries: int
    detail: str
