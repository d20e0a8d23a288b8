"""A wish: what a person asks the running worker for."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from worker.core.model.departments import Department


@dataclass(frozen=True, slots=True)
class Reissuing:
    """Issue a department's credentials again; to all recipients if `recipient` is None."""

    recipient: str | None = None
    kind: Literal["reissue"] = "reissue"


@dataclass(frozen=True, slots=True)
class Recreating:
    """Create a subaccount for a department whose own is gone."""

    kind: Literal["recreate"] = "recreate"


@dataclass(frozen=True, slots=True)
class Approving:
    """Carry out a held removal. `cascade`: the resources, by number, that are destroyed with it."""

    hold_id: str
    cascade: int | None = None
    kind: Literal["approve"] = "approve"


@dataclass(frozen=True, slots=True)
class Rejecting:
    """Do not carry out a held removal."""

    hold_id: str
    kind: Literal["reject"] = "reject"


@dataclass(frozen=True, slots=True)
class Correcting:
    """Correct one finding of a sweep, if it still holds. `finding`: its kind; `auth_id`: the subaccount."""

    finding: str
    auth_id: str
    kind: Literal["correct"] = "correct"


@dataclass(frozen=True, slots=True)
class Binding:
    """Put an existing subaccount on record for a department.

    `name`: the department's; None: as at the provider. `keeps_name`: the subaccount is not renamed.
    `issues`: its credentials are published. `enables`: it is enabled if it is disabled.
    """

    auth_id: str
    name: str | None = None
    keeps_name: bool = False
    issues: bool = False
    enables: bool = False
    kind: Literal["adopt"] = "adopt"


@dataclass(frozen=True, slots=True)
class Sweeping:
    """Compare the provider's list with the ledger. `fixes`: correct the findings that can be corrected."""

    fixes: bool = False
    kind: Literal["sweep"] = "sweep"


WishFor = Reissuing | Recreating | Approving | Rejecting | Correcting | Binding | Sweeping
"""The things that a person can ask the running worker for."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A person's request to the running worker. A sweep is for `EVERY_DEPARTMENT`."""

    id: str
    department: Department
    asked_by: str
    asked_at: datetime
    asks: WishFor
