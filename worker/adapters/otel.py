"""The `Spans` port with OpenTelemetry: `pip install 'subaccount-provisioner[otel]'`.

It exports where `OTEL_EXPORTER_OTLP_ENDPOINT` says, over HTTP. The other variables of OpenTelemetry hold
too, such as `OTEL_TRACES_SAMPLER` and `OTEL_SERVICE_NAME`:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/

No instrumentation package is used: those record URLs with the account's id. Exceptions are not recorded
either, since their texts may hold anything.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from threading import Thread

from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker.core.model.causes import Trace
from worker.telemetry.spans import NO_HEADERS, Attributes, Headers

FLUSH_SECONDS = 3.0
"""The longest wait at the end for an exporter that does not answer."""

_LOGGER = logging.getLogger("opentelemetry")
_PROPAGATOR = TraceContextTextMapPropagator()
_EVENT: ContextVar[Span | None] = ContextVar("event span", default=None)


class OtelSpans:
    """Makes spans with a tracer, for events whose trace is sampled. Work without an event has none."""

    def __init__(self, provider: TracerProvider, version: str) -> None:
        self._tracer = provider.get_tracer("subaccount-provisioner", version)

    def event(self, name: str, trace: Trace, attributes: Attributes) -> AbstractContextManager[Headers]:
        """See `Spans.event`."""
        given = {"traceparent": trace.traceparent, "tracestate": trace.tracestate}
        parent = _PROPAGATOR.extract({header: value for header, value in given.items() if value}, Context())
        return _Block(
            self._tracer.start_span(name, parent, SpanKind.CONSUMER, _known(attributes)), kept_in=_EVENT
        )

    def stage(self, name: str) -> AbstractContextManager[Headers]:
        """See `Spans.stage`."""
        return self._part(name, SpanKind.INTERNAL, {})

    def call(self, operation: str) -> AbstractContextManager[Headers]:
        """See `Spans.call`."""
        return self._part(f"plivo {operation}", SpanKind.CLIENT, {"provisioner.operation": operation})

    def publish(self, exchange: str) -> AbstractContextManager[Headers]:
        """See `Spans.publish`."""
        facts = {"messaging.system": "rabbitmq", "messaging.destination.name": exchange}
        return self._part(f"publish {exchange}", SpanKind.PRODUCER, facts)

    def note_event(self, attributes: Attributes) -> None:
        """See `Spans.note_event`."""
        if (span := _EVENT.get()) is not None:
            span.set_attributes(_known(attributes))

    def note_status(self, status: int | None) -> None:
        """See `Spans.note_status`."""
        if status is not None:
            get_current_span().set_attribute("http.response.status_code", status)

    def _part(self, name: str, kind: SpanKind, attributes: Attributes) -> AbstractContextManager[Headers]:
        sends = kind is not SpanKind.INTERNAL
        if not get_current_span().is_recording():
            return nullcontext(_headers() if sends else NO_HEADERS)
        return _Block(self._tracer.start_span(name, None, kind, attributes), sends=sends)


class _Block:
    """A span that is current in the block, and ends with it; with an error status if that raises.

    Yields the headers that carry it, if it `sends` something. `kept_in`: a variable that holds it too.
    """

    __slots__ = ("_kept", "_kept_in", "_sends", "_span", "_token")

    def __init__(
        self, span: Span, *, sends: bool = False, kept_in: ContextVar[Span | None] | None = None
    ) -> None:
        self._span = span
        self._sends = sends
        self._kept_in = kept_in

    def __enter__(self) -> Headers:
        self._token = attach(set_span_in_context(self._span))
        if self._kept_in is not None:
            self._kept = self._kept_in.set(self._span)
        return _headers() if self._sends else NO_HEADERS

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._kept_in is not None:
            self._kept_in.reset(self._kept)
        detach(self._token)
        if kind is not None:
            self._span.set_status(Status(StatusCode.ERROR))
            self._span.set_attribute("error.type", kind.__name__)
        self._span.end()


@contextmanager
def exported_spans(version: str, environ: Mapping[str, str]) -> Iterator[OtelSpans]:
    """Spans that are exported in the background during the block; at its end those that are left."""
    _LOGGER.addHandler(logging.NullHandler())
    _LOGGER.propagate = False  # its lines are in no format of ours
    names = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": "subaccount-provisioner"}
    resource = Resource.create({**names, "service.version": version})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield OtelSpans(provider, version)
    finally:
        ending = Thread(target=provider.shutdown, daemon=True)  # it may wait long for its exporter
        ending.start()
        ending.join(FLUSH_SECONDS)


@contextmanager
def complaints(on_loss: Callable[[], None]) -> Iterator[None]:
    """Calls `on_loss`, in any thread, each time that spans are lost or cannot be exported."""
    handler = _Complaints(on_loss)
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)


class _Complaints(logging.Handler):
    def __init__(self, on_loss: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_loss = on_loss

    def emit(self, _record: logging.LogRecord) -> None:
        self._on_loss()


def _headers() -> Headers:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier


def _known(attributes: Attributes) -> dict[str, str | int | bool]:
    return {name: value for name, value in attributes.items() if value is not None}
