"""The course of one event, from what the ledger, the audit, the dead letters and unrouted messages tell."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from worker.core.dead_letters import AuditLine, Letter
from worker.core.model.answers import Answer
from worker.core.model.departments import Department
from worker.core.model.entry import Claim, Entry
from worker.operations.dead_letters.session import Session
from worker.operations.departments import credentials_state
from worker.ports import Audit, Ledger, UserError


class UnknownEvent(UserError):
    """No event of that id was found; the text says where it may be."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of a course; `at` is None if the time is not on record."""

    at: datetime | None
    what: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Course:
    """The known steps of one event, oldest first. Of an unreadable message only the dead letter is known."""

    source: str | None
    id: str
    type: str | None
    tenant: str | None
    department_id: str | None
    moments: Sequence[Moment]


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, with its department's entry as it is now."""

    answer: Answer
    entry: Entry


@dataclass
class Evidence:
    """The findings about the events of one id."""

    answered: Sequence[Answered] = ()
    claimed: Sequence[tuple[Department, Claim]] = ()
    audited: Sequence[AuditLine] = ()
    letters: Sequence[Letter] = ()
    unrouted: Sequence[Letter] = ()


async def look_in_ledger(found: Evidence, event_id: str, ledger: Ledger, audit: Audit) -> None:
    """Adds answers, open creates and the audit. Raises `LedgerFailed`."""
    answers = await ledger.answers_to(event_id)
    found.answered = [
        Answered(answer, (await ledger.recall(answer.department, answer.event)).entry) for answer in answers
    ]
    found.claimed = [
        (entry.department, entry.claim)
        for entry in await ledger.claimed()
        if entry.claim and entry.claim.event.id == event_id
    ]
    found.audited = await audit.lines(id_=event_id)


async def letters_of(session: Session) -> list[Letter]:
    """The messages that the session selects. Raises a `UserError` if its queue cannot be read."""
    async with session.browsing() as browse:
        return [one.letter async for batch in browse.batches() for one in batch]


def courses(event_id: str, found: Evidence, source: str | None = None) -> list[Course]:
    """The course of each event of this id, by source; with `source` only of that one."""
    sources = {
        *(one.answer.event.source for one in found.answered),
        *(claim.event.source for _, claim in found.claimed),
        *(line.source for line in found.audited),
        *(letter.source for letter in (*found.letters, *found.unrouted)),
    }
    chosen = sources if source is None else sources & {source}
    return [_course(event_id, one, found) for one in sorted(chosen, key=lambda one: one or "")]


def _course(event_id: str, source: str | None, found: Evidence) -> Course:
    answered = [one for one in found.answered if one.answer.event.source == source]
    claimed = [one for one in found.claimed if one[1].event.source == source]
    audited = [line for line in found.audited if line.source == source]
    letters = [letter for letter in found.letters if letter.source == source]
    unrouted = [letter for letter in found.unrouted if letter.source == source]
    moments = [
        *_of_answers(answered),
        *(_of_claim(claim) for _, claim in claimed),
        *(Moment(line.at, f"{line.action} by {line.by}", line.outcome) for line in audited),
        *(_of_letter(letter) for letter in letters),
        *(Moment(None, "unrouted", f"no queue takes the key {one.routing_key}") for one in unrouted),
    ]
    departments = [
        *(one.answer.department for one in answered),
        *(department for department, _ in claimed),
        *((letter.tenant, letter.department_id) for letter in (*letters, *unrouted)),
        *((line.tenant, line.department_id) for line in audited),
    ]
    types = [
        *(one.answer.event.type for one in answered),
        *(claim.event.type for _, claim in claimed),
        *(letter.type for letter in (*letters, *unrouted)),
    ]
    tenant, department_id = departments[0]
    return Course(source, event_id, next(iter(types), None), tenant, department_id, _in_order(moments))


def _in_order(moments: Iterable[Moment]) -> list[Moment]:
    """Oldest first; those without a time at the end."""
    undated = [moment for moment in moments if moment.at is None]
    dated = [(moment.at, moment) for moment in moments if moment.at is not None]
    return [moment for _, moment in sorted(dated, key=lambda one: one[0])] + undated


def _of_answers(answered: Iterable[Answered]) -> Iterable[Moment]:
    for one in answered:
        answer, entry = one.answer, one.entry
        if (version := entry.version) and (version.source, version.id) == answer.event[:2]:
            yield Moment(version.time, "time of the event", "the newest event of its department")
        yield Moment(answer.answered_at, f"answered {answer.outcome}", _answer_detail(answer))
        if entry.issued and entry.issued.cause[:2] == answer.event[:2]:
            yield Moment(answer.answered_at, "credentials", credentials_state(entry) or "")


def _answer_detail(answer: Answer) -> str:
    newer = answer.superseded_by
    parts = [
        answer.auth_id,
        answer.reason,
        f"superseded by {newer.id} of {newer.source}" if newer else None,
        "result published" if answer.confirmed else "result not yet confirmed by the broker",
    ]
    return "; ".join(part for part in parts if part)


def _of_claim(claim: Claim) -> Moment:
    scans = f"complete scans that found nothing: {claim.clean_scans}"
    return Moment(claim.started_at, "create begun", f"outcome unknown; attempt {claim.attempt}, {scans}")


def _of_letter(letter: Letter) -> Moment:
    attempts = f"; {letter.attempts} attempt{'s' * (letter.attempts != 1)}" if letter.attempts else ""
    return Moment(letter.dead_at, f"dead letter, {letter.reason}", f"{letter.detail}{attempts}; still there")
