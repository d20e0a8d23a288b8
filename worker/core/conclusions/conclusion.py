"""A conclusion, and the answer in it, which makes its cause the newest event of the department."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from contracts.departments import Kind
from contracts.subaccounts import ResultCode, ResultKind
from worker.core.duties import DEBT_PAUSE
from worker.core.holds import owing_result
from worker.core.inventory import Inspection
from worker.core.judge import Failure
from worker.core.model.answers import Answer
from worker.core.model.causes import Cause, LateRemoval, Reference
from worker.core.model.entry import Begun, Entry, NewerEvent, Status
from worker.core.model.holds import Hold
from worker.core.model.replace import replace

Unanswered = TypeVar("Unanswered", Begun, NewerEvent)


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The next entry. Without an answer or a failure, the event is decided again on it.

    `holds`: made or changed. `answers`: to other events, whose removals were held. `inspection`: for the next
    decision; it is not recorded.
    """

    entry: Entry
    answer: Answer | None = None
    failure: Failure | None = None
    holds: tuple[Hold, ...] = ()
    answers: tuple[Answer, ...] = ()
    inspection: Inspection | None = None


def answered(
    entry: Entry,
    cause: Cause | None,
    outcome: ResultKind,
    now: datetime,
    reason: str | None = None,
    auth_id: str | None = None,
    code: ResultCode | None = None,
) -> Conclusion:
    """The event, or the late removal, is answered. Without a cause there is only the entry."""
    if cause is None:
        return Conclusion(entry)
    superseded = outcome is ResultKind.SUPERSEDED
    answer = Answer(
        department=entry.department,
        event=cause.reference,
        payload_digest=cause.payload_digest,
        outcome=outcome,
        code=code or ResultCode(outcome),
        answered_at=now,
        name=cause.name or entry.name,
        auth_id=auth_id or entry.auth_id,
        reason=reason,
        superseded_by=_superseding(entry, cause) if superseded else None,
        trace=cause.trace,
        version=cause.version,
    )
    match cause:
        case LateRemoval():
            return Conclusion(owing_result(replace(entry, hold=None, retry=None), answer, now), answer)
        case _ if superseded or cause.version is None:
            return Conclusion(entry, answer)
        case _:
            return Conclusion(owing(_as_newest(entry, cause, outcome), answer, now), answer)


def owing(entry: Entry, answer: Answer, now: datetime) -> Entry:
    """The entry that owes the answer until it is published, if another may take its place before that.

    Its message publishes it at once. The scheduler does if the message comes back too late.
    """
    return owing_result(entry, answer, now + DEBT_PAUSE) if answer.is_provisional else entry


def is_removal(cause: Cause | None) -> bool:
    """Whether the step is for the removal of the department."""
    return cause is not None and cause.version is not None and cause.version.kind is Kind.REMOVED


def required(cause: Cause | None) -> Cause:
    """The cause; raises `ValueError` if there is none."""
    if cause is None:
        raise ValueError("a create, an adoption or a removal needs a cause")
    return cause


def wanted(entry: Entry, cause: Cause | None) -> Entry:
    """The entry that knows of an event which says that the department exists, before its step acts."""
    if cause is None or cause.version is None or cause.version.kind is Kind.REMOVED:
        return entry
    if entry.wanted_by is not None and not cause.version.newer_than(entry.wanted_by.version):
        return entry
    return replace(entry, wanted_by=NewerEvent(cause.version, cause.reference))


def begun(entry: Entry, cause: Cause | None, now: datetime) -> Entry:
    """The entry that knows of an event whose change is sent next, unless a newer one is known."""
    if cause is None or cause.version is None or entry.newer_event(cause.version) is not None:
        return entry
    if entry.begun is not None and entry.begun.version.newer_than(cause.version):
        return entry
    return replace(entry, begun=Begun(cause.version, cause.reference, now))


def versioned(entry: Entry, cause: Cause) -> Entry:
    """The entry once `cause` is the newest event that was answered."""
    return replace(
        entry,
        version=cause.version,
        version_type=cause.reference.type,
        wanted_by=_if_newer(entry.wanted_by, cause),
        begun=_if_newer(entry.begun, cause),
    )


def _if_newer(unanswered: Unanswered | None, cause: Cause) -> Unanswered | None:
    if unanswered is None or cause.version is None or unanswered.version.newer_than(cause.version):
        return unanswered
    return None


def _superseding(entry: Entry, cause: Cause) -> Reference | None:
    newer = entry.newer_event(cause.version) if cause.version else None
    return newer.reference if newer else None


def _as_newest(entry: Entry, cause: Cause, outcome: ResultKind) -> Entry:
    """The entry once `cause` is its newest event.

    A removal on its way does not count any more if the event is none. A newer removal takes up a deletion
    that was cancelled, as its own if it is answered `disabled`.
    """
    newest = versioned(entry, cause)
    if not is_removal(cause):
        return replace(newest, removing=None) if newest.removing else newest
    removal = newest.removal
    if newest.status is not Status.DISABLED or removal is None or not removal.cancelled:
        return newest
    taken_up_by = cause.bare if outcome is ResultKind.DISABLED else removal.cause
    return replace(newest, removal=replace(removal, cause=taken_up_by, cancelled=False))
