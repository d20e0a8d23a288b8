"""A subaccount as the provider's list shows it."""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class ListedSubaccount:
    """A subaccount as the list shows it, without its token.

    `created` is `date.max` if the list gives no date. Such a subaccount is never too old, and of several the
    smallest auth_id is kept.
    """

    auth_id: str
    name: str
    enabled: bool
    created: date
