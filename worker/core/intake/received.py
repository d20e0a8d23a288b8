"""A request as it arrived."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Received:
    """The body as received, the headers under names in lower case, and the time of arrival with its zone.

    `repr` shows neither body nor headers: they may hold secrets.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    at: datetime
