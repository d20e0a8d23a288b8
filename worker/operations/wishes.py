"""Asks the running worker for something, and waits for its answer.

Only the worker acts. A person's request is a wish in the ledger, where the worker finds and answers it. What
was asked, and the outcome, are in the audit.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from worker.core.dead_letters import AuditLine
from worker.core.model import Answer, Department, Recreating, Reference, Reissuing, Wish
from worker.core.recreation import recreation_of
from worker.core.reissue import request_of
from worker.operations.departments import UnknownDepartment, pending
from worker.ports import Audit, Clock, Ledger, UserError

TIMEOUT_SECONDS = 10.0
"""How long a command waits for a worker to begin."""

LONGEST_SECONDS = 300.0
"""How long it waits for what has begun; a missing subaccount is asked for a settle window long."""

POLL_SECONDS = 0.1

NO_WORKER = (
    f"no worker has done it within {TIMEOUT_SECONDS:.0f} s, and it is withdrawn:"
    " is `provisioner run` running on this ledger? If so, see its log"
)


class NotCarriedOut(UserError):
    """No worker carried the wish out in time; it is withdrawn."""


class StillUnderWay(UserError):
    """A worker has begun, and goes on after the command."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A person who leaves wishes. `on_begun` is called once a worker works on a wish that takes longer."""

    ledger: Ledger
    audit: Audit
    clock: Clock
    by: str
    new_id: Callable[[], str]
    on_begun: Callable[[], None] = lambda: None

    async def reissue(self, which: Department, recipient: str | None) -> Answer:
        """Has credentials issued again; outcome `failed` means that nothing was issued.

        `recipient` None means all recipients. Raises as `_ask`.
        """
        wish = Wish(self.new_id(), which, self.by, self.clock.now(), Reissuing(recipient))
        selection = f"--recipient {recipient}" if recipient else "all"
        return await self._ask(wish, request_of(wish).reference, selection, may_take_long=False)

    async def recreate(self, which: Department) -> Answer:
        """Has a new subaccount created for one that is gone; outcome `failed` means that there is none.

        Raises as `_ask`.
        """
        wish = Wish(self.new_id(), which, self.by, self.clock.now(), Recreating())
        return await self._ask(wish, recreation_of(wish).reference, which.id, may_take_long=True)

    async def _ask(self, wish: Wish, reference: Reference, selection: str, *, may_take_long: bool) -> Answer:
        """Leaves the wish and returns its answer, which is on record under `reference`.

        Raises `UnknownDepartment`, `NotCarriedOut` after `TIMEOUT_SECONDS`, and, if it may take long,
        `StillUnderWay` after `LONGEST_SECONDS`.
        """
        before = (await self.ledger.recall(wish.department, reference)).entry.revision
        if not before:
            raise UnknownDepartment(wish.department)
        await self._record(wish, reference, selection, "asked for")
        await self.ledger.wish(wish)
        withdraws = True
        try:
            answer = await self._answer(wish, reference, TIMEOUT_SECONDS)
            if answer is None and may_take_long and await self._has_begun(wish, reference, before):
                withdraws = False
                self.on_begun()
                answer = await self._answer(wish, reference, LONGEST_SECONDS - TIMEOUT_SECONDS)
            withdraws = withdraws or answer is not None
        finally:
            if withdraws:
                await self.ledger.close_wish(wish.id)
        if answer is not None:
            await self._record(wish, reference, selection, answer.reason or answer.outcome)
            return answer
        if not withdraws:
            raise StillUnderWay(
                "the worker has begun, and goes on:"
                f" `provisioner departments show {wish.department.id}` tells how it ends"
            )
        await self._record(wish, reference, selection, "withdrawn, no worker has done it")
        raise NotCarriedOut(await self._why_not(wish, reference))

    async def _why_not(self, wish: Wish, reference: Reference) -> str:
        """One line: what the department waits for, if the ledger knows, else that there may be no worker."""
        waits = pending((await self.ledger.recall(wish.department, reference)).entry)
        if not waits:
            return NO_WORKER
        return f"{NO_WORKER}. The department waits for {waits[0].what}"

    async def _answer(self, wish: Wish, reference: Reference, seconds: float) -> Answer | None:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    known = await self.ledger.recall(wish.department, reference)
                    if known.answer is not None and known.answer.confirmed:
                        return known.answer
                    await self.clock.sleep(POLL_SECONDS)
        except TimeoutError:
            return None

    async def _has_begun(self, wish: Wish, reference: Reference, before: int) -> bool:
        return (await self.ledger.recall(wish.department, reference)).entry.revision != before

    async def _record(self, wish: Wish, reference: Reference, selection: str, outcome: str) -> None:
        line = AuditLine(
            at=self.clock.now(),
            by=wish.asked_by,
            action=wish.asks.kind,
            run=wish.id,
            selection=selection,
            event_id=wish.id,
            source=reference.source,
            tenant=wish.department.tenant,
            department_id=wish.department.id,
            reason="",
            outcome=outcome,
        )
        await self.audit.append([line])
