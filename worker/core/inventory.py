"""Inventory: the resources of a subaccount, which are its numbers, applications and endpoints.

It is read before a deletion, which moves or destroys them. The provider's filter is not relied on: a resource
counts only if its owner is this subaccount. Without a readable owner the reading fails, as it does with a
failed call. Neither is ever taken for an empty inventory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from worker.core.listed import ListedSubaccount


class ResourceKind(StrEnum):
    """The kinds of resources that a subaccount may have."""

    NUMBERS = "numbers"
    APPLICATIONS = "applications"
    ENDPOINTS = "endpoints"


@dataclass(frozen=True, slots=True)
class ProvidedResource:
    """A resource in a list of the provider. `sub_account`: its owner; None is the main account.

    `id`: the number itself, or the provider's id of the application or endpoint.
    """

    id: str
    sub_account: str | None


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of resources of each kind."""

    numbers: int = 0
    applications: int = 0
    endpoints: int = 0

    @property
    def total(self) -> int:
        """The sum of all kinds."""
        return self.numbers + self.applications + self.endpoints

    def __str__(self) -> str:
        """In words: `2 numbers, 1 application, 0 endpoints`."""
        named = {"number": self.numbers, "application": self.applications, "endpoint": self.endpoints}
        return ", ".join(f"{many} {name}{'' if many == 1 else 's'}" for name, many in named.items())


@dataclass(frozen=True, slots=True)
class Inventory:
    """The ids of a subaccount's resources, each once, in the order of the lists."""

    numbers: tuple[str, ...] = ()
    applications: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()

    @property
    def counts(self) -> Counts:
        """The number of each kind."""
        return Counts(len(self.numbers), len(self.applications), len(self.endpoints))


NOTHING = Inventory()
"""The inventory of a subaccount without resources, or of one that is gone."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A subaccount as the provider has just shown it, before it is deleted.

    `found`: None if it is not there, and then nothing hangs on it. `tagged`: its name bears the tag of its
    department. `begun`: monotonic seconds, before the first call.
    """

    found: ListedSubaccount | None
    tagged: bool
    inventory: Inventory
    begun: float


def owned_by(auth_id: str, resources: Iterable[ProvidedResource]) -> list[str]:
    """The ids of those resources that belong to this subaccount."""
    return [one.id for one in resources if one.sub_account == auth_id]
