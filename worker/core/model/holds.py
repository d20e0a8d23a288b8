"""A hold: a removal that waits for a person, why, and what the person ruled."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from worker.core.inventory import Counts
from worker.core.model.causes import Cause
from worker.core.model.departments import Department


class HoldReason(StrEnum):
    """Why a removal is held for a person, in the order in which the reasons are looked at."""

    PROTECTED = "protected"
    """The department is named in the settings."""
    MERGED = "merged"
    """The event says that another department takes over."""
    LAST_ACTIVE = "last-active"
    """It is its tenant's last active department."""
    LIMIT = "limit"
    """The tenant's removals of a rolling window are used up."""
    DRIFT = "drift"
    """The subaccount is not as the ledger has it."""
    RESOURCES = "resources"
    """Numbers, applications or endpoints hang on the subaccount."""


class HoldState(StrEnum):
    """The state of a hold. WAITING and APPROVED are open, the others final."""

    WAITING = "waiting"
    APPROVED = "approved"
    """A person has approved it, and the worker has not carried it out yet."""
    REJECTED = "rejected"
    VOID = "void"
    """A newer event of the department has arrived."""
    DONE = "done"


@dataclass(frozen=True)
class Ruling:
    """A person's ruling on a hold. `cascade`: the number of resources to be destroyed with the subaccount."""

    by: str
    at: datetime
    cascade: int | None = None


@dataclass(frozen=True)
class Hold:
    """A removal that waits for a person.

    `cause`: the removal event. `auth_id`, `name`: those of the subaccount when it was held. `resources`: the
    counts when they were last looked at. `disabled`: it was met at the deletion, after the event was
    answered `disabled`; otherwise the event has no final answer yet. `accepted`: the reasons, and the drift,
    that approvals of earlier holds of this removal have accepted.
    """

    id: str
    department: Department
    reason: HoldReason
    detail: str
    cause: Cause
    auth_id: str
    name: str
    held_at: datetime
    state: HoldState = HoldState.WAITING
    ruling: Ruling | None = None
    resources: Counts | None = None
    disabled: bool = False
    accepted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        ruled = self.state in {HoldState.APPROVED, HoldState.REJECTED}
        if ruled and self.ruling is None:
            raise ValueError("an approved or rejected hold has a ruling")

    @property
    def is_open(self) -> bool:
        """Whether it may still be carried out."""
        return self.state in {HoldState.WAITING, HoldState.APPROVED}
