"""The `Spans` port with OpenTelemetry: `pip install 'subaccount-provisioner[otel]'`.

It exports where `OTEL_EXPORTER_OTLP_ENDPOINT` says, over HTTP. The other variables of OpenTelemetry hold
too, such as `OTEL_TRACES_SAMPLER` and `OTEL_SERVICE_NAME`:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/

No instrumentation package is used: those record URLs with the account's id. Exceptions are not recorded
either, since their texts may hold anything.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Thread

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker.core.model.causes import Trace
from worker.telemetry.spans import Attributes, Headers

FLUSH_SECONDS = 3.0
"""The longest wait at the end for an exporter that does not answer."""

_LOGGER = logging.getLogger("opentelemetry")
_PROPAGATOR = TraceContextTextMapPropagator()
_EVENT: ContextVar[Span | None] = ContextVar("event span", default=None)


class OtelSpans:
    """Makes spans with a tracer. Each ends with its block, with an error status if that raises."""

    def __init__(self, provider: TracerProvider, version: str) -> None:
        self._tracer = provider.get_tracer("subaccount-provisioner", version)

    @contextmanager
    def event(self, name: str, trace: Trace, attributes: Attributes) -> Iterator[None]:
        """See `Spans.event`."""
        given = {"traceparent": trace.traceparent, "tracestate": trace.tracestate}
        carrier = {header: value for header, value in given.items() if value}
        parent = _PROPAGATOR.extract(carrier, Context())
        with self._span(name, SpanKind.CONSUMER, attributes, parent) as span:
            token = _EVENT.set(span)
            try:
                yield
            finally:
                _EVENT.reset(token)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See `Spans.stage`."""
        with self._span(name, SpanKind.INTERNAL, {}):
            yield

    @contextmanager
    def call(self, operation: str) -> Iterator[Headers]:
        """See `Spans.call`."""
        with self._span(f"plivo {operation}", SpanKind.CLIENT, {"provisioner.operation": operation}):
            yield _headers()

    @contextmanager
    def publish(self, exchange: str) -> Iterator[Headers]:
        """See `Spans.publish`."""
        facts = {"messaging.system": "rabbitmq", "messaging.destination.name": exchange}
        with self._span(f"publish {exchange}", SpanKind.PRODUCER, facts):
            yield _headers()

    def note_event(self, attributes: Attributes) -> None:
        """See `Spans.note_event`."""
        if (span := _EVENT.get()) is not None:
            span.set_attributes(_known(attributes))

    def note_status(self, status: int | None) -> None:
        """See `Spans.note_status`."""
        if status is not None:
            get_current_span().set_attribute("http.response.status_code", status)

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, attributes: Attributes, parent: Context | None = None
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name,
            parent,
            kind,
            _known(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR))
                span.set_attribute("error.type", type(error).__name__)
                raise


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
