"""Asks the running worker for something, and waits for its answers.

Only the worker acts. A person's request is a wish in the ledger, where the worker finds and answers it. The
audit has what was asked for, and by whom.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from worker.core.model.answers import Answer
from worker.core.model.departments import Department
from worker.core.model.wishes import Recreating, Reissuing, Wish, WishFor
from worker.core.naming import NO_EVENT
from worker.core.presence import PRESENT_FOR
from worker.core.wishes import audit_of, reference_of
from worker.operations.departments import UnknownDepartment, pending
from worker.ports import Audit, Clock, Ledger, Presence, UserError

TIMEOUT_SECONDS = 10.0
"""How long a command waits for a running worker to begin with one wish."""

LONGEST_SECONDS = 300.0
"""How long it waits for what has begun; a missing subaccount is asked for a settle window long."""

PATIENCE_SECONDS = 120.0
"""How long it waits for the next answer to several wishes."""

POLL_SECONDS = 0.1

NOT_DONE = (
    f"the running worker has not done it within {TIMEOUT_SECONDS:.0f} s, and it is withdrawn: see its log"
)


class NoWorker(UserError):
    """No worker runs on the ledger."""

    def __init__(self, otherwise: str) -> None:
        super().__init__(
            f"no worker runs on this ledger, and only a running worker can do this; {otherwise}:"
            " start `provisioner run` with the same LEDGER_URL"
        )


class NotCarriedOut(UserError):
    """The running worker did not carry the wish out in time; it is withdrawn."""


class StillUnderWay(UserError):
    """A worker has begun, and goes on after the command."""


async def is_running(presence: Presence) -> bool:
    """Whether a worker runs on the ledger, and has not begun to stop: it says so each second."""
    return any(not worker.left for worker in await presence.workers(PRESENT_FOR))


def ignore(_answered: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A person who leaves wishes. `on_begun` is called once a worker works on a wish that takes longer."""

    ledger: Ledger
    audit: Audit
    clock: Clock
    by: str
    new_id: Callable[[], str]
    on_begun: Callable[[], None] = lambda: None

    def wish(self, which: Department, asks: WishFor) -> Wish:
        """A wish of this person, not left yet."""
        return Wish(self.new_id(), which, self.by, self.clock.now(), asks)

    async def ask_all(
        self,
        wishes: Sequence[Wish],
        selection: str,
        on_answered: Callable[[int], None] = ignore,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Sequence[Answer | None]:
        """Leaves the wishes, all or none, and returns their answers in the same order.

        `selection`: the command's words for the audit. `on_answered` gets the number of answers so far.
        None: the wish is withdrawn, because no answer at all came for `patience_seconds`, or the worker has
        stopped. Raises `NoWorker`, with nothing left, if no worker runs.
        """
        await self.require_worker()
        await self.leave(wishes, selection)
        answers: Mapping[str, Answer] = {}
        try:
            answers = await self.answers(wishes, on_answered, patience_seconds)
        finally:
            await self.withdraw([wish for wish in wishes if wish.id not in answers], selection)
        return [answers.get(wish.id) for wish in wishes]

    async def require_worker(self, otherwise: str = "nothing was asked for") -> None:
        """Returns if a worker runs on the ledger; else raises `NoWorker`, which says what became of it."""
        if not await is_running(self.ledger):
            raise NoWorker(otherwise)

    async def leave(self, wishes: Sequence[Wish], selection: str) -> None:
        """Leaves the wishes, all or none, whether a worker runs or not. The audit has them first."""
        await self._record(wishes, selection, "asked for")
        await self.ledger.wish(*wishes)

    async def answers(
        self,
        wishes: Sequence[Wish],
        on_answered: Callable[[int], None] = ignore,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Mapping[str, Answer]:
        """The answers by the id of the wish, as many as came.

        Waits until each wish is closed, or no answer came for `patience_seconds`, or no worker runs any more.
        """
        waiting, found = {wish.id: wish for wish in wishes}, dict[str, Answer]()
        last = self.clock.monotonic()
        while waiting:
            is_open = {wish.id for wish in await self.ledger.wishes()}
            closed = [wish for wish in waiting.values() if wish.id not in is_open]
            for wish in closed:
                del waiting[wish.id]
                found |= await self._answered(wish)
            if closed:
                last = self.clock.monotonic()
                on_answered(len(wishes) - len(waiting))
                continue
            patient = self.clock.monotonic() - last < patience_seconds
            if not patient or not await is_running(self.ledger):
                break
            await self.clock.sleep(POLL_SECONDS)
        for wish in waiting.values():  # a worker may have died between an answer and the end of its wish
            found |= await self._answered(wish)
        return found

    async def withdraw(
        self, wishes: Sequence[Wish], selection: str, why: str = "no worker has done it"
    ) -> None:
        """Takes back wishes that nobody has granted."""
        for wish in wishes:
            await self.ledger.close_wish(wish.id)
        await self._record(wishes, selection, f"withdrawn, {why}")

    async def reissue(self, which: Department, recipient: str | None) -> Answer:
        """Has credentials issued again; outcome `failed` means that nothing was issued.

        `recipient` None means all recipients. Raises as `_ask`.
        """
        selection = f"--recipient {recipient}" if recipient else "all"
        return await self._ask(self.wish(which, Reissuing(recipient)), selection, may_take_long=False)

    async def recreate(self, which: Department) -> Answer:
        """Has a new subaccount created for one that is gone; outcome `failed` means that there is none.

        Raises as `_ask`.
        """
        return await self._ask(self.wish(which, Recreating()), which.id, may_take_long=True)

    async def _ask(self, wish: Wish, selection: str, *, may_take_long: bool) -> Answer:
        """Leaves the wish and returns its answer.

        Raises `UnknownDepartment`, `NoWorker`, `NotCarriedOut` after `TIMEOUT_SECONDS`, and, if it may take
        long, `StillUnderWay` after `LONGEST_SECONDS`.
        """
        before = (await self.ledger.recall(wish.department, NO_EVENT)).entry.revision
        if not before:
            raise UnknownDepartment(wish.department)
        await self.require_worker()
        await self.leave([wish], selection)
        withdraws = True
        try:
            answer = await self._answer(wish, TIMEOUT_SECONDS)
            if answer is None and may_take_long and await self._has_begun(wish, before):
                withdraws = False
                self.on_begun()
                answer = await self._answer(wish, LONGEST_SECONDS - TIMEOUT_SECONDS)
            withdraws = withdraws or answer is not None
        finally:
            if withdraws:
                await self.ledger.close_wish(wish.id)
        if answer is not None:
            await self._record([wish], selection, answer.reason or answer.outcome)
            return answer
        if not withdraws:
            runs = await is_running(self.ledger)
            who = "the worker has begun, and goes on" if runs else "a worker has begun; the next one goes on"
            raise StillUnderWay(
                f"{who}: `provisioner departments show {wish.department.id}` tells how it ends"
            )
        await self.withdraw([wish], selection)
        await self.require_worker("it is withdrawn")
        raise NotCarriedOut(await self._why_not(wish))

    async def _why_not(self, wish: Wish) -> str:
        """One line; it names what the department waits for, if the ledger knows."""
        waits = pending((await self.ledger.recall(wish.department, NO_EVENT)).entry)
        if not waits:
            return NOT_DONE
        return f"{NOT_DONE}. The department waits for {waits[0].what}"

    async def _answer(self, wish: Wish, seconds: float) -> Answer | None:
        """The answer, if it comes in time and while a worker runs."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    is_over = not await is_running(self.ledger)
                    if answered := await self._answered(wish):
                        return answered[wish.id]
                    if is_over:
                        return None
                    await self.clock.sleep(POLL_SECONDS)
        except TimeoutError:
            return None

    async def _answered(self, wish: Wish) -> Mapping[str, Answer]:
        """The confirmed answer to the wish, by its id; empty if there is none."""
        answer = (await self.ledger.recall(wish.department, reference_of(wish))).answer
        return {wish.id: answer} if answer is not None and answer.confirmed else {}

    async def _has_begun(self, wish: Wish, before: int) -> bool:
        return (await self.ledger.recall(wish.department, NO_EVENT)).entry.revision != before

    async def _record(self, wishes: Sequence[Wish], selection: str, outcome: str) -> None:
        """Appends a line for each wish to the audit."""
        now = self.clock.now()
        await self.audit.append([audit_of(wish, selection, outcome, now) for wish in wishes])
