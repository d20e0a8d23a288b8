"""The identity of a department."""

from typing import NamedTuple


class Department(NamedTuple):
    """Identifies a department: an id is unique within its tenant only."""

    tenant: str
    id: str


EVERY_DEPARTMENT = Department("", "")
"""Stands for the whole ledger. No event can name it."""
