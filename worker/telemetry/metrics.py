"""Every metric, as data. Names, labels and buckets are an interface for dashboards and alerts.

Labels have closed sets of values: never a department or a token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

M = TypeVar("M", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class Metric:
    """A counter or a gauge."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram, with the upper bounds of its buckets."""

    name: str
    help: str
    buckets: tuple[float, ...]
    labels: tuple[str, ...] = ()


COUNTERS = (
    Metric("provisioner_events_received", "Messages taken from the work queue.", ("kind",)),
    Metric("provisioner_events_answered", "Events answered, by outcome.", ("kind", "outcome")),
    Metric(
        "provisioner_events_superseded",
        "Events answered superseded, by why: older, tie, lower-sequence, no-sequence.",
        ("why",),
    ),
    Metric("provisioner_dead_letters", "Messages dead-lettered, by reason.", ("reason",)),
    Metric("provisioner_credentials_published", "Credentials published and confirmed by the broker."),
    Metric("provisioner_waits", "Steps that failed and are tried again.", ("failure",)),
    Metric("provisioner_results_unroutable", "Results published without a bound queue."),
    Metric("provisioner_doubles_disabled", "Duplicate subaccounts of a department that were disabled."),
    Metric("provisioner_removals_held", "Removals held for a person, by reason.", ("reason",)),
    Metric("provisioner_broker_connections", "Connections made to the broker.", ("link",)),
    Metric(
        "provisioner_broker_disconnections",
        "Connections to the broker that were lost, given up or closed.",
        ("link",),
    ),
    Metric(
        "provisioner_parked",
        "Messages parked in a delay queue, by delay and by whether that counts as an attempt.",
        ("delay", "counted"),
    ),
    Metric("provisioner_circuit_opened", "Times that the circuit around the provider opened."),
)

GAUGES = (
    Metric(
        "provisioner_recipient_key_usable",
        "1 while the recipient has a usable key; at 0 its credentials wait.",
        ("recipient",),
    ),
    Metric(
        "provisioner_debts_overdue",
        "Departments with credentials, enabling or a removal owed for more than 5 minutes.",
    ),
    Metric("provisioner_holds_waiting", "Removals that wait for a person now, by reason.", ("reason",)),
    Metric("provisioner_sweep_findings", "Findings of the last sweep of this process, by kind.", ("kind",)),
    Metric(
        "provisioner_sweep_finished_timestamp_seconds",
        "When the last sweep ended, in seconds since 1970; 0 before the first.",
    ),
    Metric("provisioner_broker_connected", "1 while the link has a connection to the broker.", ("link",)),
    Metric(
        "provisioner_circuit_state", "1 for the current state of the circuit around the provider.", ("state",)
    ),
    Metric("provisioner_intake_held", "1 while the intake of messages is blocked, by blocker.", ("holder",)),
    Metric(
        "provisioner_clock_skew_seconds",
        "How far the provider's clock is ahead of the worker's, by its latest response.",
    ),
    Metric(
        "provisioner_unrouted_messages",
        "Messages in the unrouted queue, looked at every 30 seconds: no queue takes their routing key.",
    ),
    Metric(
        "provisioner_workers_alive",
        "Workers on this ledger that the rate limit is divided among, this one too.",
    ),
    Metric("provisioner_rate_share", "Calls per window of the rate limit that this worker may send."),
    Metric("provisioner_consuming", "1 while a consumer is registered at the broker."),
)

READ_GAUGES = (
    Metric("provisioner_messages_held", "Messages taken and not finished."),
    Metric("provisioner_messages_waiting", "Messages that wait for a next try."),
)
"""Read at each scrape; they exist from `Metrics.read` on."""

HISTOGRAMS = (
    Distribution(
        "provisioner_call_seconds",
        "Duration of provider calls, by operation and HTTP status (0: no response).",
        (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0),
        ("operation", "status"),
    ),
    Distribution(
        "provisioner_ledger_batch_size",
        "Ledger operations per commit.",
        (1, 2, 5, 10, 20, 50, 100, 200, 500),
    ),
)


class Metrics:
    """The metrics in one registry, named without their prefix: `count("waits", "transient")`.

    An unknown name is a `KeyError`, a wrong number of labels a `ValueError`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._counters = {
            _short(one.name): Counter(one.name, one.help, one.labels, registry=registry) for one in COUNTERS
        }
        self._gauges = {
            _short(one.name): Gauge(one.name, one.help, one.labels, registry=registry) for one in GAUGES
        }
        self._histograms = {
            _short(one.name): Histogram(
                one.name, one.help, one.labels, registry=registry, buckets=one.buckets
            )
            for one in HISTOGRAMS
        }

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Adds to a counter."""
        _labelled(self._counters, name, labels).inc(by)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Sets a gauge."""
        _labelled(self._gauges, name, labels).set(value)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Adds a value to a histogram."""
        _labelled(self._histograms, name, labels).observe(value)

    def read(self, **readers: Callable[[], float]) -> None:
        """Registers `READ_GAUGES` with their readers, by name: `read(messages_held=lanes.__len__)`."""
        for gauge in READ_GAUGES:
            made = Gauge(gauge.name, gauge.help, registry=self.registry)
            made.set_function(readers[_short(gauge.name)])


def _labelled(metrics: Mapping[str, M], name: str, labels: tuple[str, ...]) -> M:
    return metrics[name].labels(*labels) if labels else metrics[name]


def _short(name: str) -> str:
    return name.removeprefix("provisioner_")
