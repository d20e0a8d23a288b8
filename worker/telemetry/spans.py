"""Spans: how long each part of an event's way took, as a tracing system sees it.

`worker/adapters/otel.py` makes them with OpenTelemetry, if it is installed and an exporter is configured.
The default makes none, at the cost of a call. A span has ids, kinds and statuses: never a name, a token, the
text of an error or a URL.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from worker.core.model.causes import Trace

Attributes = Mapping[str, str | int | bool | None]
"""Facts about a span; None is left out."""

Headers = Mapping[str, str]
"""W3C trace context as headers: https://www.w3.org/TR/trace-context/."""

NO_HEADERS: Headers = {}


class Spans(Protocol):
    """Makes spans. Each is the parent of those made in its block, in the same task."""

    def event(self, name: str, trace: Trace, attributes: Attributes) -> AbstractContextManager[Any]:
        """The span of a message, from its lane to its ack; `trace` is that of the event."""

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """The span of a stage of the line."""

    def call(self, operation: str) -> AbstractContextManager[Headers]:
        """The span of a request to the provider, with the headers to send along."""

    def publish(self, exchange: str) -> AbstractContextManager[Headers]:
        """The span of a message that is published and confirmed, with the headers to send along."""

    def note_event(self, attributes: Attributes) -> None:
        """Adds facts to the span of the event that is being worked on, if there is one."""

    def note_status(self, status: int | None) -> None:
        """Adds the HTTP status to the span of the request; None: no response."""


class NoSpans:
    """The `Spans` port without tracing."""

    def event(self, _name: str, _trace: Trace, _attributes: Attributes) -> AbstractContextManager[Any]:
        """See `Spans.event`."""
        return _NOTHING

    def stage(self, _name: str) -> AbstractContextManager[Any]:
        """See `Spans.stage`."""
        return _NOTHING

    def call(self, _operation: str) -> AbstractContextManager[Headers]:
        """See `Spans.call`."""
        return _NOTHING

    def publish(self, _exchange: str) -> AbstractContextManager[Headers]:
        """See `Spans.publish`."""
        return _NOTHING

    def note_event(self, attributes: Attributes) -> None:
        """See `Spans.note_event`."""

    def note_status(self, status: int | None) -> None:
        """See `Spans.note_status`."""


_NOTHING = nullcontext(NO_HEADERS)
NO_SPANS = NoSpans()
