"""Spans: one trace from the event through its calls to the results, without names and tokens."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from contracts.departments import Kind
from contracts.envelope import Message
from tests.support.builders import department_created, department_removed
from tests.support.world import RESULTS_QUEUE, World
from worker.adapters.otel import OtelSpans
from worker.core.model.causes import NO_TRACE
from worker.telemetry.events import Telemetry
from worker.telemetry.spans import NO_SPANS

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


@dataclass
class Traced:
    """Spans that are kept in memory, with a provider of their own."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    provider: TracerProvider = field(default_factory=lambda: TracerProvider(shutdown_on_exit=False))

    def __post_init__(self) -> None:
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.spans = OtelSpans(self.provider, "1")

    @property
    def finished(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (span,) = (span for span in self.finished if span.name == name)
        return span


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    yield traced
    traced.provider.shutdown()


async def answered(world: World, traced: Traced, *events, raw: bytes | None = None, **headers) -> None:
    async with world.working(traced.spans) as running:
        del running
        for event in events:
            await world.send(event)
            await world.run_until_done()
        if raw is not None:
            await world.send_raw(raw, **headers)
            await world.run_until_done()


def ids(span: ReadableSpan) -> tuple[str, str, str | None]:
    """Its trace, its id and that of its parent, as in `traceparent`."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", parent and f"{parent.span_id:016x}"


async def test_the_trace_of_an_event_goes_on_to_its_stages_and_messages(world, traced):
    event = department_created(traceparent=TRACEPARENT, tracestate="vendor=1")
    await answered(world, traced, event)
    root = traced.named("process created")
    trace_id, root_id, parent = ids(root)
    assert (trace_id, parent, root.kind) == (TRACE_ID, PARENT_ID, SpanKind.CONSUMER)
    assert root.attributes is not None
    assert root.attributes["provisioner.outcome"] == "created"
    assert root.attributes["messaging.message.id"] == event.id
    names = [span.name for span in traced.finished]
    assert names == [
        *("recall", "claim", "record"),
        *("publish provisioner.secrets", "publish provisioner.results", "process created"),
    ]
    assert {ids(span)[0] for span in traced.finished} == {TRACE_ID}
    assert {ids(span)[2] for span in traced.finished[:-1]} == {root_id}


async def test_a_result_has_the_trace_of_its_event_and_in_a_header_that_of_its_transport(world, traced):
    await answered(world, traced, department_created(traceparent=TRACEPARENT, tracestate="vendor=1"))
    (result,) = world.events_in(RESULTS_QUEUE)
    assert (result.traceparent, result.tracestate) == (TRACEPARENT, "vendor=1")
    (message,) = world.broker.ready(RESULTS_QUEUE)
    span = traced.named("publish provisioner.results")
    assert message.message.headers["traceparent"] == f"00-{TRACE_ID}-{ids(span)[1]}-01"
    assert message.message.headers["tracestate"] == "vendor=1"


async def test_a_trace_in_a_plain_header_of_the_message_goes_on_too_with_tracing_or_without(world, traced):
    """As the instrumentations of OpenTelemetry for producers send it."""
    for spans in (traced.spans, NO_SPANS):
        event = department_created(id=f"e-{type(spans).__name__}")
        async with world.working(spans):
            body = Message.structured(event).body
            await world.send_raw(body, traceparent=TRACEPARENT, tracestate="vendor=1")
            await world.run_until_done()
        (result,) = world.results(event)
        assert (result.traceparent, result.tracestate) == (TRACEPARENT, "vendor=1")
    assert ids(traced.named("process created"))[::2] == (TRACE_ID, PARENT_ID)


async def test_an_event_without_a_trace_begins_one(world, traced):
    await answered(world, traced, department_created())
    assert ids(traced.named("process created"))[2] is None


async def test_a_trace_that_was_not_sampled_is_not_recorded(world, traced):
    await answered(world, traced, department_created(traceparent=TRACEPARENT[:-1] + "0"))
    assert traced.finished == []
    (message,) = world.broker.ready(RESULTS_QUEUE)
    assert message.message.headers["traceparent"].startswith(f"00-{TRACE_ID}-")


async def test_a_dead_letter_ends_a_span_and_its_bytes_stay(world, traced):
    await answered(world, traced, raw=b"{", custom="kept")
    assert traced.named("process unreadable").attributes["provisioner.reason"] == "malformed"
    letter = world.dead_lettered("malformed")
    assert "traceparent" not in letter.message.headers


async def test_spans_hold_no_token_and_no_name(world, traced):
    events = department_created("Canary name"), department_removed()
    await answered(world, traced, *events)
    (subaccount,) = world.subaccounts(await world.entry())
    text = " ".join(span.to_json() for span in traced.finished)
    assert "process removed" in text
    assert "Canary" not in text
    assert subaccount.auth_token.get_secret_value() not in text


def test_a_span_that_fails_says_only_what_kind_of_error(traced):
    def fail() -> None:
        with traced.spans.event("process created", NO_TRACE, {}), traced.spans.call("create"):
            raise ValueError("token 123")

    with pytest.raises(ValueError, match="token"):
        fail()
    span = traced.named("plivo create")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes == {"provisioner.operation": "create", "error.type": "ValueError"}
    assert "token" not in traced.named("process created").to_json() + span.to_json()


def test_a_call_has_its_status_and_sends_its_trace(traced):
    telemetry = Telemetry(spans=traced.spans)
    with traced.spans.event("process created", NO_TRACE, {}), telemetry.calling("create") as headers:
        telemetry.called("create", 201, 0.1)
    span = traced.named("plivo create")
    assert span.attributes["http.response.status_code"] == 201
    assert headers["traceparent"].split("-")[1:3] == [*ids(span)[:2]]


def test_work_without_an_event_has_no_span(traced):
    with traced.spans.stage("recall"), traced.spans.call("list") as headers:
        traced.spans.note_event({"provisioner.outcome": "created"})
    assert (headers, traced.finished) == ({}, [])


def test_without_tracing_nothing_is_made():
    telemetry = Telemetry()
    with (
        telemetry.handling(Kind.CREATED, None),
        telemetry.stage("recall"),
        telemetry.calling("get") as headers,
    ):
        assert headers == {}
