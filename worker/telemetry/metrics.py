"""Every metric, as data. Names, labels and buckets are an interface for dashboards and alerts.

A label has a closed set of values, or values that the settings name: never a department, a token or a part of
an event. A value outside a closed set is shown as `other`. `deploy/monitoring/README.md` is made from this
module by `python -m worker.telemetry.page`. A process exports its own metrics only: a worker, or an intake.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from itertools import product
from typing import Generic, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import Metric as Exported
from prometheus_client.registry import Collector

from contracts.departments import Kind
from contracts.subaccounts import DeadReason, ResultKind
from worker.core.breaker import State
from worker.core.decide import Superseding
from worker.core.drift import FindingKind
from worker.core.judge import Operation
from worker.core.model.holds import HoldReason

PREFIX = "provisioner_"
OTHER = "other"
"""Stands for a label's value that is not in its closed set."""

NO_RESPONSE = "none"
"""The status of a call without a response."""

Values = tuple[str, ...]
M = TypeVar("M", Counter, Gauge, Histogram)


class Named(StrEnum):
    """Where the values of a label come from that has no closed set. The value says it to readers."""

    RECIPIENTS = "the recipients of the settings"
    DELAYS = "the delays of `PROVISIONER_RETRY_DELAYS`"
    BLOCKERS = "the parts that block the intake, and the recipients of the settings"
    BUILD = "the installed version"
    SENDERS = "the names in `PROVISIONER_INTAKE_TOKENS`, and `/in/` with the name of a profile"
    PLACES = "the places of a sender's secrets, from 1 on"


class Process(StrEnum):
    """The process that exports a metric: `provisioner run`, `provisioner intake`, or each of them."""

    WORKER = "worker"
    INTAKE = "intake"
    EACH = "each"


TYPES: Values = (*Kind, "reissue", "unreadable")
"""The types of messages: a department event by its kind, a request to reissue, or none of them."""

OUTCOMES: Values = tuple(ResultKind)
STATUSES: Values = (NO_RESPONSE, *(str(status.value) for status in HTTPStatus))
LINKS: Values = ("consumer", "publisher")
FINDING_KINDS: Values = tuple(FindingKind)
"""The kinds of findings of a sweep."""

FAILURES: Values = ("transient", "unknown", "missing", "unavailable")
"""The failures after which a step is tried again, as `core.judge` names them."""


class Refusal(StrEnum):
    """The causes for which `provisioner intake` refuses a request."""

    UNKNOWN_PATH = "unknown-path"
    METHOD = "method"
    TOO_LARGE = "too-large"
    CONTENT_TYPE = "content-type"
    UNPROVEN = "unproven"
    RATE = "rate"
    SLOW = "slow"
    UNREADABLE = "unreadable"
    NOT_JSON = "not-json"
    INVALID = "invalid"
    BUSY = "busy"
    UNCONFIRMED = "unconfirmed"
    UNPROVABLE = "unprovable"
    CRASHED = "crashed"


TAKEN: Values = ("accepted", "ignored", "unmapped")
"""The fates of the items of an authentic request."""

NO_SENDER = "none"
"""The sender of a request that was refused before its sender was known."""

CIRCUIT: Mapping[State, int] = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}
"""The values of `circuit_state`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Metric:
    """A counter or a gauge. Counters are exported with `_total` behind their name.

    `help`: its meaning. `action`: what to do when it moves. `labels`: the values of each label. Where all of
    them are closed sets, each series exists from the start, as 0: an increase is seen from the first one on.
    `at_start`: where that would be too many series, the values of a label that exist from the start.
    `of`: the process that exports it.
    """

    name: str
    help: str
    action: str
    labels: Mapping[str, Values | Named] = field(default_factory=dict)
    at_start: Mapping[str, Values] = field(default_factory=dict)
    of: Process = Process.WORKER


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Distribution(Metric):
    """A histogram, with the upper bounds of its buckets."""

    buckets: tuple[float, ...]


N = TypeVar("N", bound=Metric)


COUNTERS = (
    Metric(
        name="events",
        help="Messages that were ended, by what they are and how they were answered. One that comes again is"
        " counted again.",
        action="Many `failed`: see `dead_letters_total`. Many `superseded`: see `events_superseded_total`.",
        labels={"type": TYPES, "outcome": OUTCOMES},
    ),
    Metric(
        name="events_received",
        help="Messages taken from the work queue, redeliveries included.",
        action="None while events come: the producers or the bindings of `departments`.",
        labels={"type": TYPES},
    ),
    Metric(
        name="events_superseded",
        help="Events answered `superseded`, by why a newer one wins.",
        action="`tie`: have the producer send a `sequence`, or finer times. `lower-sequence` or"
        " `no-sequence`: two systems send for one department.",
        labels={"why": tuple(Superseding)},
    ),
    Metric(
        name="dead_letters",
        help="Messages given up, by reason.",
        action="Each one needs a person: `provisioner dead-letters list`.",
        labels={"reason": tuple(DeadReason)},
    ),
    Metric(
        name="credentials_published",
        help="Credentials published, each confirmed by the broker.",
        action="None.",
    ),
    Metric(
        name="waits",
        help="Steps that failed and are tried again, by failure.",
        action="None if it stops. Else `step_waiting` in the log says why.",
        labels={"failure": FAILURES},
    ),
    Metric(
        name="parked",
        help="Messages put into a delay queue, by delay and by whether that counts as an attempt.",
        action="Repair the cause before `PROVISIONER_MAX_ATTEMPTS`: `step_waiting` in the log says it.",
        labels={"delay": Named.DELAYS, "counted": ("true", "false")},
    ),
    Metric(
        name="results_unroutable",
        help="Results for which no queue is bound. They count as answered.",
        action="Bind a queue to `provisioner.results`, if somebody wants the results.",
    ),
    Metric(
        name="doubles_disabled",
        help="Duplicate subaccounts of a department that were disabled.",
        action="Find out who else creates subaccounts with our tag; delete the empty ones at Plivo.",
    ),
    Metric(
        name="removals_held",
        help="Removals that were held for a person, by reason.",
        action="`provisioner holds list`.",
        labels={"reason": tuple(HoldReason)},
    ),
    Metric(
        name="subaccounts_deleted",
        help="Subaccounts that were deleted at Plivo.",
        action="None if departments were removed; `provisioner dead-letters audit` has each.",
    ),
    Metric(
        name="provider_requests",
        help="Requests to Plivo, by operation and HTTP status (`none`: no response).",
        action="Many `429`: who else uses the account's limit. `401`: the token. `5xx`, `none`: Plivo or the"
        " way to it.",
        labels={"operation": get_args(Operation), "status": STATUSES},
        at_start={"status": ("401", "402")},
    ),
    Metric(
        name="circuit_opened",
        help="Outages of Plivo, of the way to it, or of the account: times that the circuit opened.",
        action="`/readyz` and `circuit_opened` in the log say why.",
    ),
    Metric(
        name="broker_reconnects",
        help="Connections to RabbitMQ that replaced a lost one.",
        action="Often: RabbitMQ's log, the network, proxies with an idle limit.",
        of=Process.EACH,
    ),
    Metric(
        name="spans_lost",
        help="Times that spans of traces were lost, or could not be exported.",
        action="`OTEL_EXPORTER_OTLP_ENDPOINT`, and the collector behind it. Events are not affected.",
    ),
    Metric(
        name="broker_disconnections",
        help="Connections to RabbitMQ that were lost, given up or closed, by purpose.",
        action="As `broker_reconnects_total`.",
        labels={"link": LINKS},
        of=Process.EACH,
    ),
    Metric(
        name="intake_events",
        help="Items of authentic requests, by sender: accepted events are confirmed by RabbitMQ.",
        action="Many `unmapped`: `provisioner intake remap` after the profile was corrected. None for long:"
        " the sender has stopped.",
        labels={"sender": Named.SENDERS, "outcome": TAKEN},
        of=Process.INTAKE,
    ),
    Metric(
        name="intake_refused",
        help="Requests that were refused, by sender (`none`: not known yet) and cause.",
        action="`unconfirmed`: RabbitMQ. `busy`: more intakes. `rate`: `PROVISIONER_INTAKE_RATE`. `unproven`:"
        " a wrong secret; `intake_refused` in the log says why. `crashed`: a bug.",
        labels={"sender": Named.SENDERS, "cause": tuple(Refusal)},
        of=Process.INTAKE,
    ),
    Metric(
        name="intake_secret_used",
        help="Requests proven, by sender and by which of its secrets.",
        action="None for the old place: the rotation is over, so remove that line of the file.",
        labels={"sender": Named.SENDERS, "place": Named.PLACES},
        of=Process.INTAKE,
    ),
)

GAUGES = (
    Metric(
        name="build_info",
        help="Always 1; the labels tell what runs.",
        action="More than one `version` for long: a rolling upgrade has stopped.",
        labels={"version": Named.BUILD, "python": Named.BUILD},
    ),
    Metric(
        name="started_timestamp_seconds",
        help="When the process started, in seconds since 1970: its counters began at 0 then.",
        action="Changes often: the process is restarted again and again; its last log lines say why.",
        of=Process.EACH,
    ),
    Metric(
        name="consuming",
        help="1 while a consumer is registered at RabbitMQ.",
        action="0 for long: `/readyz` says why.",
    ),
    Metric(
        name="intake_held",
        help="1 while a part of the worker blocks the intake of messages, by part.",
        action="`/readyz` says why.",
        labels={"holder": Named.BLOCKERS},
    ),
    Metric(
        name="circuit_state",
        help="The circuit around Plivo: 0 closed, 1 half-open (one call decides), 2 open (no call is made).",
        action="2 for long: Plivo, the way to it or the account; `/readyz` says which.",
    ),
    Metric(
        name="rate_limit_used_ratio",
        help="Calls begun in the last window of `PROVISIONER_RATE_LIMIT`, as a part of this worker's share.",
        action="Near 1 for long: calls wait. Raise the limit if Plivo allows it; more workers do not help.",
    ),
    Metric(
        name="rate_share",
        help="Calls per window of the rate limit that this worker may make.",
        action="0 for over a minute: more workers run than the limit has calls.",
    ),
    Metric(
        name="workers_alive",
        help="Workers on this ledger that the rate limit is divided among, this one too.",
        action="Fewer than were deployed: `provisioner status` shows who is missing.",
    ),
    Metric(
        name="clock_skew_seconds",
        help="How far Plivo's clock is ahead of the worker's, by its latest response.",
        action="Beyond 60 s either way nothing is consumed: set the worker's clock.",
    ),
    Metric(
        name="lanes_waiting",
        help="Departments whose events wait in the worker for their next try.",
        action="Grows: `step_waiting` in the log says why.",
    ),
    Metric(
        name="messages_held",
        help="Messages taken from the queue and not ended.",
        action="At `PROVISIONER_PREFETCH` for long: the worker takes no more until some end.",
    ),
    Metric(
        name="messages_waiting",
        help="The messages of `lanes_waiting`.",
        action="As `lanes_waiting`. Beyond half of `PROVISIONER_PREFETCH` the longest waits are parked.",
    ),
    Metric(
        name="messages_ready",
        help="Messages in the work queue that no worker has taken, looked at every 30 seconds.",
        action="Grows while workers consume: more events than the rate limit has calls for.",
    ),
    Metric(
        name="messages_parked",
        help="Messages in the delay queues, looked at every 30 seconds. They come back by themselves.",
        action="Grows: departments fail again and again; `message_parked` in the log names them.",
    ),
    Metric(
        name="dead_letters_waiting",
        help="Messages in the dead-letter queue, looked at every 30 seconds.",
        action="Each one needs a person: `provisioner dead-letters list`.",
    ),
    Metric(
        name="unrouted_messages",
        help="Messages in the unrouted queue, looked at every 30 seconds: no queue takes their routing key.",
        action="`provisioner dead-letters list --unrouted` shows the key; have the producer correct it.",
    ),
    Metric(
        name="unmapped_payloads",
        help="Payloads in the queue of the intake's unmapped ones, looked at every 30 seconds.",
        action="Correct the profile (`provisioner intake check`), then `provisioner intake remap`.",
    ),
    Metric(
        name="creates_unsettled",
        help="Departments whose create began over 30 seconds ago and has no certain outcome.",
        action="Above 0 for longer than `PROVISIONER_SETTLE_WINDOW`: Plivo's list cannot be read.",
    ),
    Metric(
        name="credentials_owed",
        help="Active departments whose credentials RabbitMQ has not confirmed for each recipient.",
        action="Above 0 for minutes: `/readyz`; `provisioner departments list --owed` shows to whom.",
    ),
    Metric(
        name="debts_overdue",
        help="Departments with credentials, enabling or a removal owed for more than 5 minutes.",
        action="`provisioner departments list --owed`, and `duty_failed` in the log.",
    ),
    Metric(
        name="recipient_key_usable",
        help="1 while the recipient has a usable key; at 0 its credentials wait.",
        action="`provisioner keys check`.",
        labels={"recipient": Named.RECIPIENTS},
    ),
    Metric(
        name="holds_waiting",
        help="Removals that wait for a person now, by reason.",
        action="`provisioner holds list`, then `approve` or `reject`.",
        labels={"reason": tuple(HoldReason)},
    ),
    Metric(
        name="sweep_findings",
        help="Findings of the last sweep of this process, by kind.",
        action="`provisioner sweep` shows them.",
        labels={"kind": FINDING_KINDS},
    ),
    Metric(
        name="sweep_finished_timestamp_seconds",
        help="When the last sweep ended, in seconds since 1970; 0 before the first.",
        action="Two days old: `sweep_failed` in the log.",
    ),
    Metric(
        name="broker_connected",
        help="1 while there is a connection to RabbitMQ, by purpose.",
        action="0 for long: `broker_lost` in the log says why.",
        labels={"link": LINKS},
        of=Process.EACH,
    ),
    Metric(
        name="intake_build_info",
        help="Always 1; the labels tell what runs.",
        action="As `build_info`.",
        labels={"version": Named.BUILD, "python": Named.BUILD},
        of=Process.INTAKE,
    ),
    Metric(
        name="intake_ready",
        help="1 while RabbitMQ confirms, looked at every second.",
        action="0 for long: `/readyz` says why; senders get 503 and try again.",
        of=Process.INTAKE,
    ),
    Metric(
        name="intake_requests_in_flight",
        help="Requests that wait for RabbitMQ's confirm, looked at every second.",
        action="Near 500: RabbitMQ confirms slowly; beyond it requests are refused as `busy`.",
        of=Process.INTAKE,
    ),
    Metric(
        name="intake_connections",
        help="Open HTTP connections, looked at every second.",
        action="Near 1,000: a sender, or the proxy in front, opens too many; beyond it they get 503.",
        of=Process.INTAKE,
    ),
    Metric(
        name="intake_last_event_timestamp_seconds",
        help="When a sender's last event was accepted, in seconds since 1970; 0 before the first.",
        action="Older than the sender is ever silent: its side, its secret, `intake_refused_total`.",
        labels={"sender": Named.SENDERS},
        of=Process.INTAKE,
    ),
)

HISTOGRAMS = (
    Distribution(
        name="event_age_seconds",
        help="From an event's `time` to its result: how long a department waits.",
        action="Grows: `messages_ready` (backlog), `lanes_waiting` (failures), or late producers.",
        buckets=(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0),
    ),
    Distribution(
        name="provider_request_seconds",
        help="Duration of requests to Plivo.",
        action="Near `PROVISIONER_API_TIMEOUT`: calls end unknown soon; Plivo's status page, the network.",
        buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0),
    ),
    Distribution(
        name="ledger_commit_seconds",
        help="Duration of the ledger's commits.",
        action="Above 0.1 s: the disk, or the network to PostgreSQL.",
        buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    ),
    Distribution(
        name="ledger_batch_size",
        help="Writes per commit of the ledger. They gather while one is under way.",
        action="None; a slow disk makes them larger.",
        buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
    ),
    Distribution(
        name="intake_confirm_seconds",
        help="From publishing the events of a request to RabbitMQ's confirm of the last one.",
        action="Near 2 s: requests are about to be refused; RabbitMQ's disk, its memory alarm, the network.",
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0),
        of=Process.INTAKE,
    ),
)


def exported_name(metric: Metric) -> str:
    """The name under which a metric is exported; that of a histogram has `_bucket` and so on behind it."""
    return f"{PREFIX}{metric.name}{'_total' if metric in COUNTERS else ''}"


class Metrics(Collector):
    """The metrics in one registry, by their names without the prefix: `count("waits", "transient")`.

    An unknown name is a `KeyError`, a wrong number of labels a `ValueError`. Series are kept, so that an
    event costs no look-up in the client library. A metric is made when it is first used or exported: most
    commands use few of them.
    """

    def __init__(self, registry: CollectorRegistry, process: Process = Process.WORKER) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # nobody reads the `_created` series
        self._counters = _Family(_exported(COUNTERS, process), _counter)
        self._gauges = _Family(_exported(GAUGES, process), _gauge)
        self._histograms = _Family(_exported(HISTOGRAMS, process), _histogram)
        registry.register(self)

    def collect(self) -> Iterator[Exported]:
        """See `Collector.collect`: all metrics, with the series that exist from the start."""
        for family in (self._counters, self._gauges, self._histograms):
            yield from family.collect()

    def count(self, *series: str, by: int = 1) -> None:
        """Adds to a counter: its name, and the values of its labels."""
        self._counters.of(series).inc(by)

    def set(self, value: float, *series: str) -> None:
        """Sets a gauge: its name, and the values of its labels."""
        self._gauges.of(series).set(value)

    def observe(self, value: float, *series: str) -> None:
        """Adds a value to a histogram: its name, and the values of its labels."""
        self._histograms.of(series).observe(value)


def _counter(one: Metric) -> Counter:
    return Counter(PREFIX + one.name, one.help, [*one.labels], registry=None)


def _gauge(one: Metric) -> Gauge:
    return Gauge(PREFIX + one.name, one.help, [*one.labels], registry=None)


def _histogram(one: Distribution) -> Histogram:
    return Histogram(PREFIX + one.name, one.help, [*one.labels], registry=None, buckets=one.buckets)


def _exported(metrics: Iterable[N], process: Process) -> Iterator[N]:
    return (one for one in metrics if one.of in {process, Process.EACH})


def _known_series(metric: Metric) -> Iterator[Values]:
    """The series that exist from the start."""
    labels = {**metric.labels, **metric.at_start}
    sets = [known for known in labels.values() if not isinstance(known, Named)]
    if len(sets) == len(labels):
        for values in product(*sets):
            yield (metric.name, *values)


class _Family(Generic[N, M]):
    """The metrics of one type, with their series by name and values of the labels."""

    def __init__(self, declared: Iterable[N], make: Callable[[N], M]) -> None:
        self._declared = {one.name: one for one in declared}
        self._make: Callable[[N], M] = make
        self._made: dict[str, M] = {}
        self._series: dict[Values, M] = {}

    def of(self, series: Values) -> M:
        """The series of a name and values; those outside their closed sets become `OTHER`."""
        return self._series.get(series) or self._kept(series)

    def collect(self) -> Iterator[Exported]:
        """All metrics of the type, as they are exported."""
        for name, declared in self._declared.items():
            for series in _known_series(declared):
                self.of(series)
            yield from self._metric(name).collect()

    def _kept(self, series: Values) -> M:
        name, *values = series
        declared = self._declared[name]
        if len(values) != len(declared.labels):
            raise ValueError(f"{name} has the labels {', '.join(declared.labels) or 'none'}")
        bounded: list[str] = [
            value if isinstance(known, Named) or value in known else OTHER
            for value, known in zip(values, declared.labels.values(), strict=True)
        ]
        made = self._metric(name)
        return self._series.setdefault((name, *bounded), made.labels(*bounded) if bounded else made)

    def _metric(self, name: str) -> M:
        if name not in self._made:
            self._made[name] = self._make(self._declared[name])
        return self._made[name]
