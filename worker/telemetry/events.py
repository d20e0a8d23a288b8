"""Every log event and every metric, by name. Nothing else in the project logs.

No label ever holds a department or a token: labels are closed sets.
"""

import asyncio
import atexit
import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import SecretStr
from pydantic_core import to_json

from contracts.departments import Kind
from contracts.topology import delay_label
from worker.core.decide import Step
from worker.core.judge import DeadLetter, Failure, Operation, Park, Pause, Wait
from worker.core.messages import Subject
from worker.core.model import Answer, Department, Entry, Event

LogFormat = Literal["json", "console"]

REPEAT_SECONDS = 60.0
"""What keeps everybody waiting is told again after so long."""

# They log message bodies and headers, in which tokens travel: an uncorrelated return at ERROR, frames at
# DEBUG. What matters of them reaches the log through the adapters.
LEAKY_LOGGERS = ("aiormq", "aio_pika")
# For a child of theirs whose level somebody raises: what finds no handler, Python prints to stderr.
_SILENCE = logging.NullHandler()


def configure_logging(log_format: LogFormat, level: str) -> None:
    """Logs go to stderr, one event a line; stdout is for what a command was asked for."""
    for name in LEAKY_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
        logger.addHandler(_SILENCE)
    renderer: Any = structlog.processors.JSONRenderer(_json)
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, LINES)),
        cache_logger_on_first_use=False,
    )


class GatheredLines:
    """What is logged in one turn of the event loop is written together: each write is a system call."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        atexit.register(self.flush_all)

    def write(self, line: str) -> None:
        self._lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # in another thread, or before and after the loop
            self.flush_all()
            return
        if len(self._lines) == 1:
            loop.call_soon(self.flush_all)

    def flush(self) -> None:
        """The logger asks for it after each line; it is done soon."""

    def flush_all(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            with suppress(OSError, ValueError):  # nobody reads it any more
                sys.stderr.write("".join(lines))
                sys.stderr.flush()


LINES = GatheredLines()


def _json(event: MutableMapping[str, Any], **_options: Any) -> str:
    return to_json(event, fallback=repr).decode()


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, SecretStr):
            event[name] = "***"
    return event


class Telemetry:
    """One method per thing worth telling. Log events are named in the past tense."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._log = structlog.get_logger().bind()  # once, not for every line
        self._warned_of: set[str] = set()
        self._told_at: dict[str, float] = {}
        self._received = Counter(
            "provisioner_events_received",
            "Messages taken from the work queue.",
            ["kind"],
            registry=self.registry,
        )
        self._answered = Counter(
            "provisioner_events_answered",
            "Events answered, by outcome.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self._dead = Counter(
            "provisioner_dead_letters",
            "Messages dead-lettered, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._issued = Counter(
            "provisioner_credentials_published",
            "Credentials the broker has confirmed.",
            registry=self.registry,
        )
        self._keys = Gauge(
            "provisioner_recipient_key_usable",
            "1 while there is a usable key to seal for the recipient; at 0 its credentials wait.",
            ["recipient"],
            registry=self.registry,
        )
        self._waits = Counter(
            "provisioner_waits", "Steps that failed and are tried again.", ["failure"], registry=self.registry
        )
        self._unroutable = Counter(
            "provisioner_results_unroutable", "Results that nobody is bound for.", registry=self.registry
        )
        self._doubles = Counter(
            "provisioner_doubles_disabled",
            "Second subaccounts of a department that were disabled.",
            registry=self.registry,
        )
        self._overdue = Gauge(
            "provisioner_debts_overdue",
            "Departments whose credentials, or whose enabling, have been owed for more than 5 minutes.",
            registry=self.registry,
        )
        self._calls = Histogram(
            "provisioner_call_seconds",
            "Provider calls, by operation and status (0: no answer).",
            ["operation", "status"],
            registry=self.registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0),
        )
        self._connections = Counter(
            "provisioner_broker_connections",
            "Connections made to the broker.",
            ["link"],
            registry=self.registry,
        )
        self._disconnections = Counter(
            "provisioner_broker_disconnections",
            "Connections to the broker that were lost, given up or closed.",
            ["link"],
            registry=self.registry,
        )
        self._connected = Gauge(
            "provisioner_broker_connected",
            "1 while the link has a connection to the broker.",
            ["link"],
            registry=self.registry,
        )
        self._commits = Histogram(
            "provisioner_ledger_batch_size",
            "Ledger operations per commit.",
            registry=self.registry,
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
        )
        self._parked = Counter(
            "provisioner_parked",
            "Messages put back for a while, by delay; counted as an attempt or not.",
            ["delay", "counted"],
            registry=self.registry,
        )
        self._circuit = Gauge(
            "provisioner_circuit_state",
            "1 for the state the circuit around the provider is in.",
            ["state"],
            registry=self.registry,
        )
        self._circuit_opened = Counter(
            "provisioner_circuit_opened",
            "How often the circuit around the provider opened.",
            registry=self.registry,
        )
        self._held = Gauge(
            "provisioner_intake_held",
            "1 while no messages are taken, by who holds.",
            ["holder"],
            registry=self.registry,
        )
        self._consuming = Gauge(
            "provisioner_consuming", "1 while a consumer is registered at the broker.", registry=self.registry
        )

    def started(self, version: str, settings: dict[str, Any]) -> None:
        self._log.info("worker_started", version=version, **settings)

    def settings_unused(self, names: list[str]) -> None:
        self._log.warning("settings_unused", names=names, detail="this version does not know these settings")

    def settings_unsafe(self, details: list[str]) -> None:
        self._log.warning("settings_unsafe", details=details)

    def stopping(self, waiting: int) -> None:
        self._log.info("worker_stopping", in_flight=waiting)

    def stopped(self, left: int) -> None:
        self._log.info("worker_stopped", left_for_redelivery=left)

    def cut_off(self) -> None:
        self._log.warning("worker_cut_off", detail="told to stop again, or the drain took too long")
        LINES.flush_all()  # there will be no other turn

    def received(self, kind: Kind | Literal["reissue", "unreadable"]) -> None:
        self._received.labels(kind).inc()

    def stepped(self, event: Event, step: Step, entry: Entry) -> None:
        self._log.debug(
            "step_recorded",
            step=type(step).__name__.lower(),
            status=entry.status,
            auth_id=entry.auth_id,
            **_about(event),
        )

    def credentials_published(self, entry: Entry) -> None:
        self._issued.inc()
        self._log.info(
            "credentials_published",
            tenant=entry.department.tenant,
            department_id=entry.department.id,
            auth_id=entry.auth_id,
            generation=entry.generation,
        )

    def credentials_lost(self, entry: Entry, detail: str) -> None:
        """Nobody can publish them any more: the provider showed the token once."""
        about = _of(entry.department)
        self._log.error("credentials_lost", auth_id=entry.auth_id, detail=detail, **about)

    def recipient_key(self, recipient: str, kid: str | None, why: str) -> None:
        """Told at the start, and at each change."""
        name = recipient or "nobody in particular"
        self._keys.labels(name).set(0 if kid is None else 1)
        if kid is None:
            self._log.error("recipient_key_missing", recipient=name, detail=why)
        else:
            self._log.info("recipient_key_in_use", recipient=name, kid=kid)

    def answered(self, event: Event, answer: Answer) -> None:
        self._answered.labels(event.kind, answer.outcome).inc()
        self._log.info(
            "department_event_answered",
            kind=event.kind,
            outcome=answer.outcome,
            auth_id=answer.auth_id,
            again=answer.confirmed,
            **_about(event),
        )

    def reissue_answered(self, answer: Answer, asked_by: str | None = None) -> None:
        """`asked_by` is the person who wished for it; a message has none."""
        self._answered.labels("reissue", answer.outcome).inc()
        self._log.info(
            "reissue_answered",
            event_id=answer.event.id,
            outcome=answer.outcome,
            reason=answer.reason,
            asked_by=asked_by,
            **_of(answer.department),
        )

    def dead_lettered(self, verdict: DeadLetter, subject: Subject | None) -> None:
        self._dead.labels(verdict.reason).inc()
        about = _about_subject(subject)
        self._log.warning("message_dead_lettered", reason=verdict.reason, detail=verdict.detail, **about)

    def doubles_disabled(self, entry: Entry, auth_ids: tuple[str, ...]) -> None:
        self._doubles.inc(len(auth_ids))
        self._log.error("doubles_disabled", kept=entry.auth_id, disabled=auth_ids, **_of(entry.department))

    def drift_mended(self, entry: Entry) -> None:
        self._log.warning("drift_mended", auth_id=entry.auth_id, **_of(entry.department))

    def subaccount_missing(self, entry: Entry) -> None:
        self._log.error("subaccount_missing", auth_id=entry.auth_id, **_of(entry.department))

    def duty_failed(self, department: Department | None, detail: str) -> None:
        about = _of(department) if department else {}
        self._log.warning("duty_failed", detail=detail, **about)

    def debts_overdue(self, departments: int) -> None:
        self._overdue.set(departments)

    def waiting(
        self, failure: Failure, verdict: Wait | Pause, tries: int, subject: Subject | None, now_seconds: float
    ) -> None:
        """What keeps everybody waiting is a warning once a minute, not for each message that meets it."""
        kind = type(failure).__name__.lower()
        self._waits.labels(kind).inc()
        repeated = isinstance(verdict, Pause) and self._told_lately(failure.detail, now_seconds)
        log = self._log.debug if repeated else self._log.warning
        log(
            "step_waiting",
            failure=kind,
            detail=failure.detail,
            seconds=round(verdict.seconds, 2),
            tries=tries,
            **_about_subject(subject),
        )

    def _told_lately(self, detail: str, now_seconds: float) -> bool:
        since = now_seconds - REPEAT_SECONDS
        self._told_at = {told: at for told, at in self._told_at.items() if at > since}
        lately = detail in self._told_at
        self._told_at.setdefault(detail, now_seconds)
        return lately

    def parked(self, verdict: Park, subject: Subject | None, *, counted: bool) -> None:
        self._parked.labels(delay_label(verdict.delay), str(counted).lower()).inc()
        self._log.info(
            "message_parked",
            delay=delay_label(verdict.delay),
            attempts=verdict.attempts,
            counted=counted,
            **_about_subject(subject),
        )

    def circuit(self, state: str) -> None:
        for one in ("closed", "half-open", "open"):
            self._circuit.labels(one).set(one == state)

    def circuit_opened(self, operation: Operation, detail: str, *, again: bool) -> None:
        """One alert until a call of that kind goes well, however often it turns by then."""
        if again:
            self._log.warning("circuit_reopened", operation=operation, detail=detail)
            return
        self._circuit_opened.inc()
        self._log.error("circuit_opened", operation=operation, detail=detail)

    def circuit_closed(self) -> None:
        self._log.info("circuit_closed")

    def intake_held(self, holder: str, why: str) -> None:
        self._held.labels(holder).set(1)
        self._log.warning("intake_held", holder=holder, detail=why)

    def intake_lifted(self, holder: str) -> None:
        self._held.labels(holder).set(0)
        self._log.info("intake_lifted", holder=holder)

    def gauge_waiting(self, lanes: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Read whenever somebody asks for the metrics."""
        registry = self.registry
        held = Gauge("provisioner_messages_held", "Messages taken and not ended.", registry=registry)
        held.set_function(lanes)
        waits = Gauge("provisioner_messages_waiting", "Messages that wait for a next try.", registry=registry)
        waits.set_function(waiting)

    def step_crashed(self, error: Exception) -> None:
        # Frames only: the text of an exception we did not expect may hold anything.
        frames = [
            f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-5:]
        ]
        self._log.error("step_crashed", error=type(error).__name__, frames=frames)

    def result_unroutable(self, routing_key: str) -> None:
        self._unroutable.inc()
        if "result" not in self._warned_of:
            self._warned_of.add("result")
            self._log.warning(
                "result_unroutable",
                routing_key=routing_key,
                detail="no queue is bound for it on provisioner.results; said once, metered each time",
            )

    def called(self, operation: Operation, status: int | None, seconds: float) -> None:
        self._calls.labels(operation, str(status or 0)).observe(seconds)

    def broker_connected(self, link: str, host: str, version: str) -> None:
        self._connections.labels(link).inc()
        self._connected.labels(link).set(1)
        self._log.info("broker_connected", link=link, host=host, version=version)

    def broker_disconnected(self, link: str) -> None:
        self._disconnections.labels(link).inc()
        self._connected.labels(link).set(0)

    def broker_lost(self, link: str, detail: str) -> None:
        self._log.warning("broker_lost", link=link, detail=detail)

    def topology_refused(self, detail: str) -> None:
        self._log.warning("topology_refused", detail=detail)

    def consuming(self, queue: str, prefetch: int) -> None:
        self._consuming.set(1)
        self._log.info("consuming", queue=queue, prefetch=prefetch)

    def consuming_ended(self) -> None:
        self._consuming.set(0)

    def committed(self, operations: int) -> None:
        self._commits.observe(operations)


def _about(event: Event) -> dict[str, Any]:
    return {"event_id": event.reference.id} | _of(event.department)


def _about_subject(subject: Subject | None) -> dict[str, Any]:
    if subject is None:
        return {}
    return {
        "event_id": subject.reference.id,
        "tenant": subject.tenant,
        "department_id": subject.department_id,
    }


def _of(department: Department) -> dict[str, str]:
    return {"tenant": department.tenant, "department_id": department.id}
