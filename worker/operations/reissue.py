"""Asks the running worker to issue a department's credentials again.

Only the worker acts. A person's request is a wish in the ledger, where the worker finds and answers it.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime

from worker.core.dead_letters import AuditLine
from worker.core.model import Answer, Department, Wish
from worker.core.reissue import WISHES, request_of
from worker.operations.departments import UnknownDepartment
from worker.ports import Audit, Clock, Ledger, UserError

TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.1


class NotCarriedOut(UserError):
    """No worker carried the wish out in time; it is withdrawn."""


async def reissue(
    which: Department,
    recipient: str | None,
    asked_by: str,
    *,
    ledger: Ledger,
    audit: Audit,
    clock: Clock,
    new_id: Callable[[], str],
) -> Answer:
    """Records a wish and waits for its answer; outcome `failed` means that nothing was issued.

    `recipient` None means all recipients. Raises `UnknownDepartment`, or `NotCarriedOut` after
    `TIMEOUT_SECONDS`.
    """
    wish = Wish(new_id(), which, recipient, asked_by, clock.now())
    if not (await ledger.recall(which, request_of(wish).reference)).entry.revision:
        raise UnknownDepartment(which)
    await audit.append([_audited(wish, "asked for", clock.now())])
    await ledger.wish(wish)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            answer = await _answer_to(wish, ledger, clock)
        await audit.append([_audited(wish, answer.reason or "", clock.now())])
    except TimeoutError:
        await audit.append([_audited(wish, "withdrawn, no worker has done it", clock.now())])
        raise NotCarriedOut(
            f"no worker has done it within {TIMEOUT_SECONDS:.0f} s, and it is withdrawn:"
            " is `provisioner run` running on this ledger? If so, see its log"
        ) from None
    else:
        return answer
    finally:
        await ledger.close_wish(wish.id)


def _audited(wish: Wish, outcome: str, at: datetime) -> AuditLine:
    return AuditLine(
        at=at,
        by=wish.asked_by,
        action="reissue",
        run=wish.id,
        selection=f"--recipient {wish.recipient}" if wish.recipient else "all",
        event_id=wish.id,
        source=WISHES,
        tenant=wish.department.tenant,
        department_id=wish.department.id,
        reason="",
        outcome=outcome,
    )


async def _answer_to(wish: Wish, ledger: Ledger, clock: Clock) -> Answer:
    request = request_of(wish)
    while True:
        known = await ledger.recall(request.department, request.reference)
        if known.answer is not None:
            return known.answer
        await clock.sleep(POLL_SECONDS)
