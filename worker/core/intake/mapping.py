"""Maps a foreign payload to department events."""

from dataclasses import dataclass
from typing import Any

from contracts.departments import DepartmentEvent
from worker.core.intake.profile import Profile
from worker.core.intake.received import Received


class Unmappable(ValueError):
    """The payload cannot be mapped. The text names keys of the profile, never values of the payload."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """The outcome of one payload: its events in order, the items ignored, a reason for each not mapped."""

    events: tuple[DepartmentEvent, ...] = ()
    ignored: int = 0
    unmappable: tuple[str, ...] = ()


def map_received(profile: Profile, received: Received) -> Mapped:
    """Maps an authentic request. It never raises: a body that is no JSON is unmappable too."""
    raise NotImplementedError


def map_item(
    profile: Profile, item: Any, received: Received, *, body: Any = None, index: int = 0
) -> DepartmentEvent | None:
    """Maps one item, for example a row of a snapshot; None if it is ignored. Raises `Unmappable`.

    `body` is the document that the item was taken from, `index` its place there.
    """
    raise NotImplementedError
