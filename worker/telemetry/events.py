"""Every log event, by topic. No other module logs. Log events are named in the past tense.

A method of `Telemetry` reports one thing: a line in the log, a metric, or both. Names of log events are an
interface: alerts and dashboards read them. Metrics are declared in `telemetry/metrics.py`.
"""

import platform
import traceback
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry

from contracts.departments import Kind
from contracts.envelope import rfc3339
from contracts.subaccounts import ResultKind
from contracts.topology import delay_label
from worker.core.breaker import State
from worker.core.decide import Step, Superseding
from worker.core.inventory import Counts
from worker.core.judge import CallFault, DeadLetter, Failure, Operation, Park, Pause, Wait
from worker.core.messages import Subject
from worker.core.model.answers import Answer
from worker.core.model.causes import NO_TRACE, Event, LateRemoval, Recreation, Reference, Reissue
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.holds import Hold, HoldReason, HoldState
from worker.telemetry.logs import LINES
from worker.telemetry.metrics import (
    CIRCUIT,
    FINDING_KINDS,
    NO_RESPONSE,
    NO_SENDER,
    TAKEN,
    Metrics,
    Process,
    Refusal,
)
from worker.telemetry.spans import NO_SPANS, Headers, Spans

REPEAT_SECONDS = 60.0
"""A wait is a warning once per period and department, or once for a failure that affects every message."""

REMEMBERED = 10_000
"""How many departments and failures of the last period are remembered; beyond, the oldest is forgotten."""

MessageType = Kind | Literal["reissue", "unreadable"]
"""The type of a message: a department event by its kind, a request to reissue, or none of them."""

_MESSAGING = {"messaging.system": "rabbitmq", "messaging.operation.type": "process"}

OnAnswered = Callable[[Event, Answer], None]


class _Reports:
    """The log, the metrics and the spans that all topics share."""

    _spans: Spans = NO_SPANS

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        on_answered: OnAnswered | None = None,
        spans: Spans = NO_SPANS,
        process: Process = Process.WORKER,
    ) -> None:
        self._spans = spans
        self.registry = registry or CollectorRegistry()
        self._metrics = Metrics(self.registry, process)
        self._log = structlog.get_logger().bind()  # once, not for every line
        self._on_answered = on_answered
        self._warned_of: set[str] = set()
        self._reported_at: dict[Hashable, float] = {}

    def _reported_lately(self, about: Hashable, now_seconds: float) -> bool:
        """Whether it was reported in the last period; remembers it. The oldest is first, for time rises."""
        reported = self._reported_at
        while reported and (
            reported[oldest := next(iter(reported))] <= now_seconds - REPEAT_SECONDS
            or len(reported) > REMEMBERED
        ):
            del reported[oldest]
        lately = about in reported
        reported.setdefault(about, now_seconds)
        return lately


class _ProcessEvents(_Reports):
    """The process: start and end, settings and keys."""

    def started(self, version: str, at: datetime, settings: dict[str, Any]) -> None:
        self._metrics.set(1, "build_info", version, platform.python_version())
        self._metrics.set(at.timestamp(), "started_timestamp_seconds")
        self._log.info("worker_started", version=version, **settings)

    def settings_unused(self, names: list[str], detail: str) -> None:
        self._log.warning("settings_unused", names=names, detail=detail)

    def settings_unsafe(self, details: list[str]) -> None:
        self._log.warning("settings_unsafe", details=details)

    def setting_read_again(self, name: str, why_kept: str | None) -> None:
        """A refused setting was read again from its file; None: there is a new value."""
        if why_kept is None:
            self._log.info("setting_read_again", name=name)
        else:
            self._log.warning(
                "setting_not_read_again", name=name, detail=f"the old value is kept: {why_kept}"
            )

    def recipient_key(self, recipient: str, kid: str | None, why: str) -> None:
        """The key in use for a recipient, at the start and at each change; None: no key is usable."""
        name = recipient or "nobody in particular"
        self._metrics.set(0 if kid is None else 1, "recipient_key_usable", name)
        if kid is None:
            self._log.error("recipient_key_missing", recipient=name, detail=why)
        else:
            self._log.info("recipient_key_in_use", recipient=name, kid=kid)

    def stopping(self, waiting: int) -> None:
        self._log.info("worker_stopping", in_flight=waiting)

    def stopped(self, left: int) -> None:
        self._log.info("worker_stopped", left_for_redelivery=left)

    def cut_off(self) -> None:
        """Called just before the process exits at once, so it flushes the log."""
        self._log.warning("worker_cut_off", detail="second stop signal, or the drain took too long")
        LINES.flush_all()

    def step_crashed(self, error: Exception) -> None:
        """An unexpected exception. Logs frames only: its text may hold anything, even a token."""
        frames = [
            f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-5:]
        ]
        self._log.error("step_crashed", error=type(error).__name__, frames=frames)


class _SpanEvents(_Reports):
    """The spans of a trace; each lasts as long as its block."""

    def handling(self, kind: MessageType, cause: Event | Reissue | None) -> AbstractContextManager[Any]:
        """A message is worked on, from its lane to its end. `cause`: None if it cannot be read."""
        if self._spans is NO_SPANS:
            return NO_SPANS.stage("")  # the facts are not even gathered
        if cause is None:
            return self._spans.event(f"process {kind}", NO_TRACE, _MESSAGING)
        facts = {
            **_MESSAGING,
            "messaging.message.id": cause.reference.id,
            "provisioner.source": cause.reference.source,
            "provisioner.tenant": cause.department.tenant,
            "provisioner.department_id": cause.department.id,
        }
        return self._spans.event(f"process {kind}", cause.trace, facts)

    def stage(self, name: Literal["recall", "claim", "record"]) -> AbstractContextManager[Any]:
        """A stage of the line."""
        return self._spans.stage(name)

    def calling(self, operation: Operation) -> AbstractContextManager[Headers]:
        """A request to the provider, with the headers to send along."""
        return self._spans.call(operation)

    def publishing(self, exchange: str) -> AbstractContextManager[Headers]:
        """A message is published and confirmed; with the headers to send along."""
        return self._spans.publish(exchange)

    def tracing_impossible(self, detail: str) -> None:
        """At the start: traces were asked for, and cannot be made."""
        self._log.warning("tracing_impossible", detail=detail)

    def spans_lost(self) -> None:
        """Some spans were not exported. Called in any thread."""
        self._metrics.count("spans_lost")
        if "spans" not in self._warned_of:
            self._warned_of.add("spans")
            self._log.warning(
                "spans_lost", detail="see OTEL_EXPORTER_OTLP_ENDPOINT; logged once, counted each time"
            )


class _MessageEvents(_Reports):
    """Messages on their way through the worker."""

    def received(self, kind: MessageType) -> None:
        self._metrics.count("events_received", kind)

    def stepped(self, event: Event | LateRemoval | Recreation, step: Step, entry: Entry) -> None:
        self._log.debug(
            "step_recorded",
            step=type(step).__name__.lower(),
            status=entry.status,
            auth_id=entry.auth_id,
            **_about(event),
        )

    def answered(self, event: Event, answer: Answer, now: datetime) -> None:
        """An event is finished: answered now or, if `answer.confirmed`, before."""
        self._metrics.count("events", event.kind, answer.outcome)
        self._spans.note_event({"provisioner.outcome": answer.outcome})
        if not answer.confirmed:
            self._aged(event, now)
        self._log.info(
            "department_event_answered",
            kind=event.kind,
            outcome=answer.outcome,
            auth_id=answer.auth_id,
            again=answer.confirmed,
            **_about(event),
        )
        if self._on_answered is not None:
            self._on_answered(event, answer)

    def superseded(
        self, event: Event, newest: Reference | None, why: Superseding, now_seconds: float
    ) -> None:
        """An event is answered `superseded`, for the first time. `newest` is the one that applies.

        Each tie is a warning. A whole source that another one supersedes is a warning per `REPEAT_SECONDS`.
        """
        self._metrics.count("events_superseded", why)
        if why is Superseding.OLDER:
            return
        sources = f"{why} {event.reference.source} {newest.source if newest else None}"
        repeated = why is not Superseding.TIE and self._reported_lately(sources, now_seconds)
        log = self._log.info if repeated else self._log.warning
        log(
            "department_event_superseded",
            why=why,
            source=event.reference.source,
            newest=newest.id if newest else None,
            newest_source=newest.source if newest else None,
            **_about(event),
        )

    def reissue_answered(self, answer: Answer, asked_by: str | None = None) -> None:
        """`asked_by` is the operator of the command; None for a message."""
        self._metrics.count("events", "reissue", answer.outcome)
        self._log.info(
            "reissue_answered",
            event_id=answer.event.id,
            outcome=answer.outcome,
            reason=answer.reason,
            asked_by=asked_by,
            **_of(answer.department),
        )

    def recreation_answered(self, answer: Answer, asked_by: str) -> None:
        """`asked_by` is the operator of the command."""
        self._log.info(
            "recreation_answered",
            event_id=answer.event.id,
            outcome=answer.outcome,
            code=answer.code,
            reason=answer.reason,
            auth_id=answer.auth_id,
            asked_by=asked_by,
            **_of(answer.department),
        )

    def dead_lettered(self, kind: MessageType, verdict: DeadLetter, subject: Subject | None) -> None:
        self._metrics.count("events", kind, ResultKind.FAILED)
        self._metrics.count("dead_letters", verdict.reason)
        self._spans.note_event(
            {"provisioner.outcome": ResultKind.FAILED, "provisioner.reason": verdict.reason}
        )
        about = _about_subject(subject)
        self._log.warning("message_dead_lettered", reason=verdict.reason, detail=verdict.detail, **about)

    def parked(self, verdict: Park, subject: Subject | None, *, counted: bool) -> None:
        """`counted`: the parking counts as one of the message's attempts."""
        self._metrics.count("parked", delay_label(verdict.delay), str(counted).lower())
        self._log.info(
            "message_parked",
            delay=delay_label(verdict.delay),
            attempts=verdict.attempts,
            counted=counted,
            **_about_subject(subject),
        )

    def waiting(
        self, failure: Failure, verdict: Wait | Pause, tries: int, subject: Subject | None, now_seconds: float
    ) -> None:
        """A step failed and is tried again: a warning once per `REPEAT_SECONDS`, else for debugging only."""
        kind = type(failure).__name__.lower()
        self._metrics.count("waits", kind)
        about = failure.detail if isinstance(verdict, Pause) else _department_in(subject)
        repeated = self._reported_lately(about, now_seconds)
        log = self._log.debug if repeated else self._log.warning
        log(
            "step_waiting",
            failure=kind,
            detail=failure.detail,
            seconds=round(verdict.seconds, 2),
            tries=tries,
            **_api_id_of(failure),
            **_about_subject(subject),
        )

    def _aged(self, event: Event, now: datetime) -> None:
        self._metrics.observe(max(0.0, (now - event.version.time).total_seconds()), "event_age_seconds")

    def result_unroutable(self, routing_key: str) -> None:
        """Counted each time, logged once."""
        self._metrics.count("results_unroutable")
        if "result" not in self._warned_of:
            self._warned_of.add("result")
            self._log.warning(
                "result_unroutable",
                routing_key=routing_key,
                detail="no queue is bound for it on provisioner.results; logged once, counted each time",
            )


class _DepartmentEvents(_Reports):
    """Credentials, duties, and unexpected subaccounts."""

    def credentials_published(self, entry: Entry, event_id: str, recipient: str) -> None:
        """`event_id`: the event or request that caused them. `recipient` is empty if none is configured."""
        self._metrics.count("credentials_published")
        self._log.info(
            "credentials_published",
            event_id=event_id,
            recipient=recipient or None,
            tenant=entry.department.tenant,
            department_id=entry.department.id,
            auth_id=entry.auth_id,
            generation=entry.generation,
        )

    def doubles_disabled(self, entry: Entry, auth_ids: tuple[str, ...]) -> None:
        self._metrics.count("doubles_disabled", by=len(auth_ids))
        self._log.error("doubles_disabled", kept=entry.auth_id, disabled=auth_ids, **_of(entry.department))

    def drift_mended(self, entry: Entry) -> None:
        self._log.warning("drift_mended", auth_id=entry.auth_id, **_of(entry.department))

    def subaccount_missing(self, entry: Entry) -> None:
        self._log.error("subaccount_missing", auth_id=entry.auth_id, **_of(entry.department))

    def credentials_lost(self, entry: Entry, detail: str) -> None:
        """The credentials cannot be published any more: the provider shows a token only once."""
        about = _of(entry.department)
        self._log.error("credentials_lost", auth_id=entry.auth_id, detail=detail, **about)

    def duty_failed(self, department: Department | None, detail: str) -> None:
        about = _of(department) if department else {}
        self._log.warning("duty_failed", detail=detail, **about)

    def departments_counted(self, *, unsettled: int, owing: int, overdue: int) -> None:
        """The departments on record whose create has no outcome, and those that owe; for all workers."""
        self._metrics.set(unsettled, "creates_unsettled")
        self._metrics.set(owing, "credentials_owed")
        self._metrics.set(overdue, "debts_overdue")


class _RemovalEvents(_Reports):
    """Removals that wait for a person, and those that end without their message."""

    def removal_held(self, hold: Hold) -> None:
        """A removal now waits for a person. Called once for each hold."""
        self._metrics.count("removals_held", hold.reason)
        self._log.warning("removal_held", **_about_hold(hold))

    def holds_waiting(self, waiting: Mapping[HoldReason, int]) -> None:
        """The number of waiting holds by reason; a reason that is not given has none."""
        for reason in HoldReason:
            self._metrics.set(waiting.get(reason, 0), "holds_waiting", reason)

    def hold_ruled(self, hold: Hold, by: str) -> None:
        """A person has approved or rejected a hold; `hold.state` says which."""
        name = "hold_approved" if hold.state is HoldState.APPROVED else "hold_rejected"
        cascade = hold.ruling.cascade if hold.ruling else None
        self._log.info(name, by=by, cascade=cascade, **_about_hold(hold))

    def hold_void(self, hold: Hold, newer: Reference | None) -> None:
        """A newer event of the department has ended a hold."""
        self._log.info("hold_void", newer=newer.id if newer else None, **_about_hold(hold))

    def hold_lapsed(self, hold: Hold) -> None:
        """An approval was not acted on in time: the hold waits again."""
        self._log.warning("hold_lapsed", **_about_hold(hold))

    def removal_failed(self, department: Department, detail: str, tries: int, next_at: datetime) -> None:
        """A removal that no message repeats has failed; it is tried again at `next_at`."""
        about = _of(department)
        self._log.warning("removal_failed", detail=detail, tries=tries, next_at=rfc3339(next_at), **about)

    def subaccount_deleted(self, entry: Entry, auth_id: str, counts: Counts, cascade: int | None) -> None:
        """`counts`: the resources that hung on it. `cascade`: how many were destroyed with it; None: none."""
        self._metrics.count("subaccounts_deleted")
        self._log.info(
            "subaccount_deleted",
            auth_id=auth_id,
            incarnation=entry.incarnation,
            resources=asdict(counts),
            cascade=cascade,
            **_of(entry.department),
        )


class _SweepEvents(_Reports):
    """Sweeps, the corrections of their findings, and adoptions by a person."""

    def sweep_finished(
        self, findings: Mapping[str, int], *, subaccounts: int, seconds: float, finished_at: datetime
    ) -> None:
        """A sweep over so many subaccounts has ended. `findings`: their number by kind (`FINDING_KINDS`)."""
        for kind in FINDING_KINDS:
            self._metrics.set(findings.get(kind, 0), "sweep_findings", kind)
        self.sweep_on_record(finished_at)
        found = {kind: number for kind, number in findings.items() if number}
        log = self._log.warning if found else self._log.info
        log("sweep_finished", findings=found, subaccounts=subaccounts, seconds=round(seconds, 2))

    def sweep_on_record(self, finished_at: datetime) -> None:
        """When the last sweep ended; at the start, by the ledger."""
        self._metrics.set(finished_at.timestamp(), "sweep_finished_timestamp_seconds")

    def sweep_failed(self, detail: str) -> None:
        """A sweep was not finished; nothing of it is reported."""
        self._log.warning("sweep_failed", detail=detail)

    def purged(self, removed: int, seconds: float) -> None:
        """Old answers were forgotten: so many."""
        log = self._log.info if removed else self._log.debug
        log("ledger_purged", answers=removed, seconds=round(seconds, 2))

    def purge_failed(self, detail: str) -> None:
        """A purge was not finished; the next day's does the rest."""
        self._log.warning("ledger_purge_failed", detail=detail)

    def ledger_away(self, detail: str) -> None:
        """At the start: its server cannot be reached yet."""
        self._log.warning("ledger_away", detail=detail)

    def finding_corrected(self, kind: str, department: Department, auth_id: str, by: str) -> None:
        """`by`: the operator of the command, or the setting that asks for it."""
        self._log.warning("finding_corrected", kind=kind, auth_id=auth_id, by=by, **_of(department))

    def department_adopted(self, department: Department, auth_id: str, by: str) -> None:
        """An existing subaccount is now on record for a department. `by`: the operator of the command."""
        self._log.info("department_adopted", auth_id=auth_id, by=by, **_of(department))


class _ProviderEvents(_Reports):
    """Calls to the provider, and the circuit around it."""

    def called(self, operation: Operation, status: int | None, seconds: float) -> None:
        """`status` is the HTTP status; None: no response."""
        self._metrics.count("provider_requests", operation, str(status or NO_RESPONSE))
        self._metrics.observe(seconds, "provider_request_seconds")
        self._spans.note_status(status)

    def sharing(self, workers: int, calls: int) -> None:
        """The workers that run on this ledger, and the calls per window that this one may send."""
        self._metrics.set(workers, "workers_alive")
        self._metrics.set(calls, "rate_share")

    def clock_skew(self, seconds: float) -> None:
        """How far the provider's clock is ahead of the worker's."""
        self._metrics.set(seconds, "clock_skew_seconds")

    def call_failed(self, fault: CallFault) -> None:
        """Each failed call, with the provider's own id of it, if there is one."""
        self._log.info("call_failed", operation=fault.operation, detail=fault.detail, **_api_id_of(fault))

    def circuit(self, state: State) -> None:
        self._metrics.set(CIRCUIT[state], "circuit_state")

    def circuit_opened(self, operation: Operation, detail: str, *, again: bool) -> None:
        """One alert until a call of that kind succeeds, however often the circuit reopens before."""
        if again:
            self._log.warning("circuit_reopened", operation=operation, detail=detail)
            return
        self._metrics.count("circuit_opened")
        self._log.error("circuit_opened", operation=operation, detail=detail)

    def circuit_closed(self) -> None:
        self._log.info("circuit_closed")


class _FlowEvents(_Reports):
    """The intake of messages, and the number that the worker has taken."""

    def intake_held(self, holder: str, why: str) -> None:
        self._metrics.set(1, "intake_held", holder)
        self._log.warning("intake_held", holder=holder, detail=why)

    def intake_lifted(self, holder: str) -> None:
        self._metrics.set(0, "intake_held", holder)
        self._log.info("intake_lifted", holder=holder)

    def load(self, *, held: int, lanes_waiting: int, messages_waiting: int, rate_used: float) -> None:
        """The load of this second.

        `held`: messages that were taken and have not ended. The waiting ones wait for their next try, in so
        many lanes. `rate_used`: the calls of the last window, as a part of the share of the rate limit.
        """
        self._metrics.set(held, "messages_held")
        self._metrics.set(lanes_waiting, "lanes_waiting")
        self._metrics.set(messages_waiting, "messages_waiting")
        self._metrics.set(rate_used, "rate_limit_used_ratio")

    def committed(self, operations: int, seconds: float) -> None:
        """A commit of the ledger, with its number of operations and how long it took."""
        self._metrics.observe(operations, "ledger_batch_size")
        self._metrics.observe(seconds, "ledger_commit_seconds")


class _BrokerEvents(_Reports):
    """Connections to the broker; `link` is the purpose of a connection."""

    _unrouted = 0

    def broker_connected(self, link: str, host: str, version: str, *, again: bool) -> None:
        """`again`: the connection replaces one that was lost."""
        if again:
            self._metrics.count("broker_reconnects")
        self._metrics.set(1, "broker_connected", link)
        self._log.info("broker_connected", link=link, host=host, version=version)

    def broker_disconnected(self, link: str) -> None:
        self._metrics.count("broker_disconnections", link)
        self._metrics.set(0, "broker_connected", link)

    def broker_lost(self, link: str, detail: str) -> None:
        self._log.warning("broker_lost", link=link, detail=detail)

    def topology_unseen(self, details: list[str]) -> None:
        """At the start: what the connection's rights do not show, and what differs without harm."""
        self._log.warning("topology_unseen", details=details)

    def unrouted(self, messages: int) -> None:
        """The number of messages in the unrouted queue. A warning when there are more than before."""
        self._metrics.set(messages, "unrouted_messages")
        if messages > self._unrouted:
            self._log.warning(
                "messages_unrouted",
                messages=messages,
                detail="no queue takes their routing key: `provisioner dead-letters list --unrouted`",
            )
        self._unrouted = messages

    def queued(
        self, *, ready: int | None, parked: int | None, dead_letters: int | None, unmapped: int | None
    ) -> None:
        """The messages in the work queue, the delay queues and those of a person's work; None: not seen."""
        seen = {
            "messages_ready": ready,
            "messages_parked": parked,
            "dead_letters_waiting": dead_letters,
            "unmapped_payloads": unmapped,
        }
        for name, messages in seen.items():
            if messages is not None:
                self._metrics.set(messages, name)

    def topology_refused(self, detail: str) -> None:
        self._log.warning("topology_refused", detail=detail)

    def consuming(self, queue: str, prefetch: int) -> None:
        self._metrics.set(1, "consuming")
        self._log.info("consuming", queue=queue, prefetch=prefetch)

    def consuming_ended(self) -> None:
        self._metrics.set(0, "consuming")


class _IntakeEvents(_Reports):
    """`provisioner intake`: requests by sender. No line has a secret, a name or a part of a body."""

    def intake_started(
        self, version: str, at: datetime, facts: Mapping[str, Any], senders: Iterable[str]
    ) -> None:
        self._metrics.set(1, "intake_build_info", version, platform.python_version())
        self._metrics.set(at.timestamp(), "started_timestamp_seconds")
        for sender in senders:
            self.sender_known(sender)
        self._log.info("intake_started", version=version, **facts)

    def sender_known(self, sender: str) -> None:
        """Its series exist from now on, as 0: an increase is seen from the first one on."""
        for outcome in TAKEN:
            self._metrics.count("intake_events", sender, outcome, by=0)
        for cause in Refusal:
            self._metrics.count("intake_refused", sender, cause, by=0)
        self._metrics.set(0, "intake_last_event_timestamp_seconds", sender)

    def secret_used(self, sender: str, place: int) -> None:
        """A request is authentic by the secret at this place among the sender's, from 1 on."""
        self._metrics.count("intake_secret_used", sender, str(place))

    def intake_taken(
        self,
        sender: str,
        event_ids: Sequence[str],
        *,
        ignored: int,
        unmapped: Sequence[str],
        now: datetime,
        confirm_seconds: float,
    ) -> None:
        """A request was taken: RabbitMQ has confirmed its events, and its body if it could not be mapped.

        `unmapped`: the reasons, which name keys of the profile.
        """
        counts = zip(TAKEN, (len(event_ids), ignored, len(unmapped)), strict=True)
        for outcome, number in counts:
            if number:
                self._metrics.count("intake_events", sender, outcome, by=number)
        if event_ids:
            self._metrics.set(now.timestamp(), "intake_last_event_timestamp_seconds", sender)
            told = {"event_id": event_ids[0]} if len(event_ids) == 1 else {"event_ids": list(event_ids)}
            self._log.info("intake_accepted", sender=sender, events=len(event_ids), **told)
        if ignored:
            self._log.info("intake_ignored", sender=sender, items=ignored)
        if unmapped:
            detail = "; ".join(unmapped[:3])
            self._log.warning("intake_unmapped", sender=sender, items=len(unmapped), detail=detail)
        if event_ids or unmapped:
            self._metrics.observe(confirm_seconds, "intake_confirm_seconds")

    def intake_refused(
        self, cause: Refusal, detail: str, now_seconds: float, sender: str = NO_SENDER, **facts: Any
    ) -> None:
        """A request was refused. A warning, once per period for each sender, cause and detail."""
        self._metrics.count("intake_refused", sender, cause)
        if not self._reported_lately(("refused", sender, cause, detail), now_seconds):
            self._log.warning("intake_refused", cause=cause, sender=sender, detail=detail, **facts)

    def intake_load(self, *, ready: bool, in_flight: int, connections: int) -> None:
        """The load of this second."""
        self._metrics.set(int(ready), "intake_ready")
        self._metrics.set(in_flight, "intake_requests_in_flight")
        self._metrics.set(connections, "intake_connections")

    def intake_stopping(self, in_flight: int) -> None:
        self._log.info("intake_stopping", in_flight=in_flight)

    def intake_stopped(self, left: int) -> None:
        self._log.info("intake_stopped", left_without_response=left)


class Telemetry(
    _ProcessEvents,
    _SpanEvents,
    _MessageEvents,
    _DepartmentEvents,
    _RemovalEvents,
    _SweepEvents,
    _ProviderEvents,
    _FlowEvents,
    _BrokerEvents,
    _IntakeEvents,
):
    """All topics in one object. `on_answered` is called with every finished event."""


def _about(event: Event | LateRemoval | Recreation) -> dict[str, Any]:
    return {"event_id": event.reference.id} | _of(event.department)


def _api_id_of(failed: CallFault | Failure) -> dict[str, str]:
    return {"api_id": failed.api_id} if failed.api_id else {}


def _about_hold(hold: Hold) -> dict[str, Any]:
    return {
        "event_id": hold.cause.reference.id,
        "hold_id": hold.id,
        "reason": hold.reason,
        "detail": hold.detail,
        "auth_id": hold.auth_id,
        "resources": asdict(hold.resources) if hold.resources else None,
        **_of(hold.department),
    }


def _about_subject(subject: Subject | None) -> dict[str, Any]:
    if subject is None:
        return {}
    return {
        "event_id": subject.reference.id,
        "tenant": subject.tenant,
        "department_id": subject.department_id,
    }


def _department_in(subject: Subject | None) -> tuple[str | None, str | None]:
    return (subject.tenant, subject.department_id) if subject else (None, None)


def _of(department: Department) -> dict[str, str]:
    return {"tenant": department.tenant, "department_id": department.id}
