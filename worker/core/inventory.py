"""Inventory: the numbers, applications and endpoints that hang on a subaccount."""

from dataclasses import dataclass
from enum import StrEnum

from worker.core.listed import ListedSubaccount


class ResourceKind(StrEnum):
    """The kinds of resources that a subaccount may have."""

    NUMBERS = "numbers"
    APPLICATIONS = "applications"
    ENDPOINTS = "endpoints"


@dataclass(frozen=True, slots=True)
class Counts:
    """How many resources of each kind there are."""

    numbers: int = 0
    applications: int = 0
    endpoints: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.numbers + self.applications + self.endpoints


@dataclass(frozen=True, slots=True)
class Inventory:
    """The ids of the resources that hang on a subaccount."""

    numbers: tuple[str, ...] = ()
    applications: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()

    @property
    def counts(self) -> Counts:
        """How many there are."""
        return Counts(len(self.numbers), len(self.applications), len(self.endpoints))


@dataclass(frozen=True, slots=True)
class Inspection:
    """A subaccount as the provider has just shown it, before it is deleted.

    `found`: None if it is not there. `tagged`: its name bears the tag of its department. `begun`: in
    monotonic seconds.
    """

    found: ListedSubaccount | None
    tagged: bool
    inventory: Inventory
    begun: float
