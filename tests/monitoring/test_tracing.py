"""Whether traces are made and exported: by OpenTelemetry's own variables, and only if it is installed."""

import asyncio
import sys
import time

import pytest
from structlog.testing import capture_logs

from tests.support.collector import collector
from worker.adapters import otel
from worker.core.model.causes import NO_TRACE
from worker.service.consume import telemetry_for, traces_wanted
from worker.telemetry.events import Telemetry
from worker.telemetry.logs import configure_logging

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, True),
        ({ENDPOINT: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "True"}, False),
        ({ENDPOINT: "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_SERVICE_NAME": "provisioner"}, False),
    ],
)
def test_an_endpoint_turns_tracing_on(environ: dict[str, str], *, wanted: bool):
    assert traces_wanted(environ) is wanted


def test_without_the_extra_the_worker_says_so_and_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "worker.adapters.otel", None)
    configure_logging("json", "info")
    with (
        capture_logs() as logs,
        telemetry_for({ENDPOINT: "http://127.0.0.1:1"}) as telemetry,
        telemetry.publishing("provisioner.results") as headers,
    ):
        assert headers == {}
    (line,) = logs
    assert line["event"] == "tracing_impossible"
    assert "pip install 'subaccount-provisioner[otel]'" in line["detail"]


async def test_spans_reach_the_collector_before_the_worker_ends(monkeypatch: pytest.MonkeyPatch):
    received = bytearray()
    async with collector(received) as endpoint:
        monkeypatch.setenv(ENDPOINT, endpoint)

        def work() -> None:
            with telemetry_for({ENDPOINT: endpoint}) as telemetry, telemetry.handling("unreadable", None):
                telemetry.called("list", 200, 0.1)

        await asyncio.to_thread(work)
    assert b"process unreadable" in received
    assert b"subaccount-provisioner" in received


def test_a_collector_that_is_away_is_told_once_the_exporter_gives_up(monkeypatch: pytest.MonkeyPatch):
    configure_logging("json", "info")
    with capture_logs() as logs:
        telemetry = Telemetry()
        with otel.complaints(telemetry.spans_lost):
            _one_span(monkeypatch, exporter_seconds="0.2")
    assert [line["event"] for line in logs] == ["spans_lost"]
    assert telemetry.registry.get_sample_value("provisioner_spans_lost_total") == 1


def test_the_end_does_not_wait_long_for_a_collector_that_is_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(otel, "FLUSH_SECONDS", 0.5)
    begun = time.monotonic()
    _one_span(monkeypatch, exporter_seconds="60")
    assert time.monotonic() - begun < 5


def _one_span(monkeypatch: pytest.MonkeyPatch, exporter_seconds: str) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", exporter_seconds)
    with otel.exported_spans("1", {}) as spans, spans.event("process created", NO_TRACE, {}):
        pass
