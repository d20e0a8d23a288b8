"""Authentic payloads that no profile could map, as they wait in their queue."""

from collections.abc import Sequence
from datetime import datetime

from contracts import topology
from contracts.envelope import Message, rfc3339
from contracts.times import instant
from worker.core.intake.mapping import visible_headers
from worker.core.intake.profile import Profile
from worker.core.intake.received import Received
from worker.core.messages import Outgoing, text_of

PROFILE = "x-profile"
REASON = "x-unmapped-reason"
RECEIVED_AT = "x-received-at"
KEPT_PREFIX = "x-header-"
"""Begins the name of a header of the request that the mapping may need again."""

_SHOWN_REASONS = 3
_LONGEST_REASON = 500
_ANY_TYPE = "application/octet-stream"


def unmapped(profile: Profile, received: Received, reasons: Sequence[str]) -> Outgoing:
    """The message that keeps a payload byte for byte, with the reasons and the time of its arrival.

    Of the headers it keeps those that the profile reads: others may hold secrets.
    """
    kept = {
        f"{KEPT_PREFIX}{name}": value
        for name, value in visible_headers(profile, received).items()
        if name in profile.headers_read
    }
    ours = {PROFILE: profile.name, REASON: shown(reasons), RECEIVED_AT: rfc3339(received.at)}
    content_type = received.headers.get("content-type", _ANY_TYPE)
    return Outgoing(topology.UNMAPPED, profile.name, Message(received.body, content_type, kept | ours))


def shown(reasons: Sequence[str]) -> str:
    """The reasons as one line: the first few, and the number of the others."""
    text = "; ".join(reasons[:_SHOWN_REASONS])[:_LONGEST_REASON]
    more = len(reasons) - _SHOWN_REASONS
    return f"{text}; and {more} more" if more > 0 else text


def profile_of(original: Outgoing) -> str:
    """The name of the profile that could not map the payload."""
    return text_of(original.message.headers.get(PROFILE)) or ""


def received_of(original: Outgoing, otherwise_at: datetime) -> Received:
    """The request as it arrived; at `otherwise_at` if its time of arrival cannot be read."""
    headers = {
        name.removeprefix(KEPT_PREFIX): text_of(value) or ""
        for name, value in original.message.headers.items()
        if name.startswith(KEPT_PREFIX)
    }
    try:
        at = instant(text_of(original.message.headers.get(RECEIVED_AT)))
    except ValueError:
        at = otherwise_at
    return Received(original.message.body, headers, at)
