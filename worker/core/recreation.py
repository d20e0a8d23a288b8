"""Recreations: a person asks for a new subaccount of a department whose own is gone.

The recreation looks once more itself, so it also serves a department whose loss nobody has noticed. Once the
loss is certain, the entry is vacated, and the next incarnation is created like any other: claimed, settled,
adopted.
"""

from datetime import datetime, timedelta

from contracts.subaccounts import DeadReason, ResultCode, ResultKind
from worker.core.adoption import MAX_UNKNOWN_CREATES
from worker.core.decide import Adopt, Create, Look, Refuse, Republish, Skip, answered_before
from worker.core.model.answers import Answer
from worker.core.model.causes import Recreation, Reference
from worker.core.model.entry import Entry, Status
from worker.core.model.recollection import Recollection
from worker.core.model.wishes import Wish
from worker.core.reissue import WISHES

RECREATE = "department.recreate.v1"
"""The type of the reference to a recreation."""

RECREATION_VALID_FOR = timedelta(hours=1)
"""A recreation that was asked for longer ago, and has not begun, is refused."""


def decide_recreation(
    asked: Recreation, known: Recollection, now: datetime
) -> Look | Create | Adopt | Skip | Republish | Refuse:
    """Decides a recreation on the entry of its department and an earlier answer, at `now`."""
    entry = known.entry
    if known.answer is not None:
        return answered_before(asked.payload_digest, known.answer)
    if _has_begun(asked, entry):
        return _continued(asked, entry)
    if now - asked.asked_at > RECREATION_VALID_FOR:
        return _refused("nobody has done it within an hour")
    match entry.status:
        case Status.ACTIVE | Status.DISABLED:
            return Look(entry.existing.auth_id)
        case Status.REMOVED if entry.gone_at is not None and entry.claim is None and entry.name is not None:
            return Create(entry.name)
        case Status.CLAIMED:
            return _refused("a create of this department is under way")
        case _:
            return _refused(f"there is no subaccount that is gone: the department is {entry.status}")


def recreation_of(wish: Wish) -> Recreation:
    """A wish as a cause; its reference identifies its answer in the ledger."""
    return Recreation(
        department=wish.department,
        reference=Reference(WISHES, wish.id, RECREATE),
        payload_digest=wish.id,
        asked_at=wish.asked_at,
    )


def not_recreated(asked: Recreation, entry: Entry, code: ResultCode, reason: str, now: datetime) -> Answer:
    """The answer to a recreation that was not carried out."""
    return Answer(
        department=asked.department,
        event=asked.reference,
        payload_digest=asked.payload_digest,
        outcome=ResultKind.FAILED,
        code=code,
        answered_at=now,
        name=entry.name,
        auth_id=entry.auth_id,
        reason=reason,
        confirmed=True,
    )


def _has_begun(asked: Recreation, entry: Entry) -> bool:
    claimed_for = entry.claim.event if entry.claim else None
    made_for = entry.issued.cause if entry.issued and entry.auth_id else None
    return asked.reference in {claimed_for, made_for}


def _continued(asked: Recreation, entry: Entry) -> Create | Adopt | Skip:
    if entry.auth_id is not None:  # an event of the department has adopted it meanwhile
        return Skip(ResultKind.CREATED)
    name = entry.name or ""
    enough = entry.unknown_creates(asked.reference) >= MAX_UNKNOWN_CREATES
    return Adopt(name) if enough or entry.status is Status.CLAIMED else Create(name)


def _refused(why: str) -> Refuse:
    return Refuse(DeadReason.INVALID, why, ResultCode.NOT_ALLOWED)
