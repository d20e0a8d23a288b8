"""Outcomes: what became of a step at the provider."""

from dataclasses import dataclass, field
from datetime import datetime

from pydantic import SecretStr

from worker.core.inventory import Inspection
from worker.core.judge import Failure


@dataclass(frozen=True, slots=True)
class Found:
    """An adopted subaccount as the provider shows it. A ledger that is behind knows neither field."""

    incarnation: int
    name: str


@dataclass(frozen=True, slots=True)
class Made:
    """The subaccount exists, is ours and is as wanted: just created, or found by its tag.

    `duplicates` are others with its tag; they have been disabled. If it is not `enabled`, it must be enabled
    later. `api_id` and `status`: those of its create, as in `Changed` and `Deleted` of theirs.
    """

    auth_id: str
    auth_token: SecretStr | None = field(repr=False)
    duplicates: tuple[str, ...] = ()
    found: Found | None = None
    enabled: bool = True
    api_id: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class NothingSeen:
    """A complete scan found no subaccount with the department's tag; it began at `begun`."""

    begun: datetime


@dataclass(frozen=True, slots=True)
class Changed:
    """The provider confirmed the new state: renamed, disabled, restored."""

    api_id: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """The subaccount is gone: deleted now, or found gone."""

    api_id: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """The subaccount is there."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """The provider has shown the subaccount, and what hangs on it."""

    inspection: Inspection


@dataclass(frozen=True, slots=True)
class NothingDone:
    """No call was due."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The call did not succeed; `failure` says whether it may have had an effect."""

    failure: Failure


Outcome = Made | NothingSeen | Changed | Deleted | Seen | Inspected | NothingDone | Failed
