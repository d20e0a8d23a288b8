"""Metrics: the names and labels that dashboards rely on, and label values that stay few."""

from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.monitoring.exported import METRICS
from tests.support.builders import NOW, Attributes, department_created, department_removed
from tests.support.world import World
from worker.core.breaker import State
from worker.telemetry.events import Telemetry
from worker.telemetry.metrics import OTHER, Metrics, Named, Process

PROMISED = {
    "events_total": {"type", "outcome"},
    "event_age_seconds": set[str](),
    "provider_requests_total": {"operation", "status"},
    "provider_request_seconds": set[str](),
    "rate_limit_used_ratio": set[str](),
    "circuit_state": set[str](),
    "lanes_waiting": set[str](),
    "messages_parked": set[str](),
    "dead_letters_total": {"reason"},
    "holds_waiting": {"reason"},
    "creates_unsettled": set[str](),
    "credentials_owed": set[str](),
    "ledger_commit_seconds": set[str](),
    "ledger_batch_size": set[str](),
    "broker_reconnects_total": set[str](),
    "consuming": set[str](),
    "workers_alive": set[str](),
    "build_info": {"version", "python"},
}
"""The metrics that the specification names, with their labels."""

OF_INTAKE = ("provisioner_intake_", "provisioner_broker_", "provisioner_started_")


def samples(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """Each series as its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(("name", "labels"), PROMISED.items())
def test_promised_metrics_have_their_labels(name: str, labels: set[str]):
    assert set(METRICS[f"provisioner_{name}"].labels) == labels


def test_every_metric_is_exported_under_its_name():
    exported = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for process in (Process.WORKER, Process.INTAKE)
        for metric in Telemetry(process=process).registry.collect()
    }
    assert exported == METRICS.keys()


def test_an_intake_exports_nothing_of_a_worker():
    """Else an alert on a worker's gauge, such as `consuming`, would fire for an intake, or be silenced."""
    exported = {metric.name for metric in Telemetry(process=Process.INTAKE).registry.collect()}
    assert all(name.startswith(OF_INTAKE) for name in exported)


def test_series_with_closed_sets_exist_from_the_start_and_none_says_when_it_was_made():
    text = generate_latest(Telemetry().registry).decode()
    assert 'provisioner_dead_letters_total{reason="delivery-limit"} 0.0' in text
    assert 'provisioner_events_total{outcome="failed",type="unreadable"} 0.0' in text
    for status in ("401", "402"):
        assert f'provisioner_provider_requests_total{{operation="list",status="{status}"}} 0.0' in text
    assert "_created" not in text


async def test_no_label_comes_from_a_department_or_a_token(world: World):
    """Any value of any label is in its closed set, after events of all kinds under telling names."""
    whose = Attributes(department_id="d-canary", tenant="t-canary", source="/s-canary", sequence=None)
    created = department_created("Canary name", **whose)
    removed = department_removed(**whose)  # at the same time, but a removal is newer
    async with world.working() as running:
        for event in (created, created, removed):
            await world.send(event)
            await world.run_until_done()
        await world.send_raw(b'{"specversion": "1.0", "type": "canary.v1", "id": "e-canary", "source": "/s"}')
        await world.run_until_done()
        registry = running.telemetry.registry
    found = samples(registry)
    assert found["provisioner_events_total", "created", "created"] == 2
    assert found["provisioner_events_total", "unreadable", "failed"] == 1
    assert "canary" not in generate_latest(registry).decode().lower()
    for metric in registry.collect():
        declared = METRICS[f"{metric.name}_total" if metric.type == "counter" else metric.name]
        for sample in metric.samples:
            for label, value in sample.labels.items():
                allowed = declared.labels.get(label)
                assert label == "le" or isinstance(allowed, Named) or value in (allowed or ()), sample


def test_values_outside_a_closed_set_become_one():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    before = len(samples(registry))
    for number in range(1000):
        metrics.count("provider_requests", f"call-{number}", str(1000 + number))
        metrics.count("events", f"com.acme.type-{number}", "created")
    found = samples(registry)
    assert found["provisioner_provider_requests_total", OTHER, OTHER] == 1000
    assert found["provisioner_events_total", OTHER, "created"] == 1000
    assert len(found) == before + 2
    assert len(metrics._counters._series) < 200


@pytest.mark.parametrize(
    ("series", "error"),
    [
        (("nothing",), KeyError),
        (("events", "created"), ValueError),
        (("credentials_published", "crm"), ValueError),
    ],
)
def test_an_unknown_name_and_a_wrong_number_of_labels_are_errors(series, error):
    with pytest.raises(error):
        Metrics(CollectorRegistry()).count(*series)


async def test_the_age_of_an_event_is_counted_once_and_its_answer_each_time(world: World):
    event = department_created(time=NOW - timedelta(seconds=40))
    async with world.working() as running:
        for _ in range(2):
            await world.send(event)
            await world.run_until_done()
        found = samples(running.telemetry.registry)
    assert found["provisioner_event_age_seconds_count",] == 1
    assert 40 <= found["provisioner_event_age_seconds_sum",] < 60
    assert found["provisioner_events_total", "created", "created"] == 2


def test_the_circuit_is_a_number():
    telemetry = Telemetry()
    shown = []
    for state in (State.CLOSED, State.HALF_OPEN, State.OPEN):
        telemetry.circuit(state)
        shown.append(samples(telemetry.registry)["provisioner_circuit_state",])
    assert shown == [0, 1, 2]


def test_a_call_without_a_response_has_a_status_of_its_own():
    telemetry = Telemetry()
    telemetry.called("create", None, 20.0)
    telemetry.called("create", 201, 0.2)
    telemetry.called("create", 799, 0.2)
    found = samples(telemetry.registry)
    statuses = {
        series[2]: count for series, count in found.items() if series[0].endswith("requests_total") and count
    }
    assert statuses == {"none": 1, "201": 1, OTHER: 1}
    assert found["provisioner_provider_request_seconds_count",] == 3
