"""The responses of the intake, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from contracts.departments import DepartmentEvent
from contracts.envelope import JSON, Mistake
from worker.telemetry.metrics import NO_SENDER, Refusal

RETRY_SECONDS = 2
"""After how long a sender should try again when the fault is ours."""
UNPROVEN = "not authorized"
"""The one text for every cause: it tells nobody what was wrong."""

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """A response; without a content type it has no body."""

    status: int
    body: bytes = b""
    content_type: str | None = JSON
    headers: Headers = field(default_factory=dict)


class Refused(Exception):
    """A request is refused. `detail`, for the log, has no part of the request and no secret."""

    def __init__(self, reply: Reply, cause: Refusal, detail: str, sender: str = NO_SENDER) -> None:
        super().__init__(detail)
        self.reply = reply
        self.cause = cause
        self.detail = detail
        self.sender = sender


def refused(
    status: int,
    cause: Refusal,
    text: str,
    *,
    detail: str = "",
    sender: str = NO_SENDER,
    headers: Headers | None = None,
) -> Refused:
    """A refusal with one text for the sender, and perhaps another for the log."""
    reply = Reply(status, to_json({"error": text}), headers=headers or {})
    return Refused(reply, cause, detail or text, sender)


def try_again(
    status: int, cause: Refusal, text: str, *, seconds: float = RETRY_SECONDS, sender: str = NO_SENDER
) -> Refused:
    """A refusal that a later try may not meet."""
    return refused(status, cause, text, sender=sender, headers={"Retry-After": str(max(1, -int(-seconds)))})


def unproven(cause: str, sender: str = NO_SENDER) -> Refused:
    """The refusal of a request that is not authentic."""
    headers = {"WWW-Authenticate": "Bearer"}
    return refused(401, Refusal.UNPROVEN, UNPROVEN, detail=cause, sender=sender, headers=headers)


def mistaken(
    status: int, cause: Refusal, mistakes: Sequence[tuple[int, Mistake]], sender: str, detail: str
) -> Refused:
    """The refusal of events with mistakes, each with the place of its event."""
    errors = [{"index": index, "field": field_, "error": error} for index, (field_, error) in mistakes]
    return Refused(Reply(status, to_json({"errors": errors})), cause, detail, sender)


def accepted(status: int, events: Sequence[DepartmentEvent], *, ignored: int = 0, unmapped: int = 0) -> Reply:
    """The response to a request of which RabbitMQ has confirmed everything."""
    if status == 204:  # noqa: PLR2004 - it has no body
        return Reply(status, content_type=None)
    told: dict[str, Any] = {
        "accepted": [
            {"id": event.id, "type": event.type, "department_id": event.data.department_id}
            for event in events
        ],
        "ignored": ignored,
        "unmapped": unmapped,
    }
    return Reply(status, to_json(told))
