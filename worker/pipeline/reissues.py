"""The way of a request for credentials once more: from a message, or as a person's wish in the ledger.

It changes nothing of the department's state. Credentials go out before anything is recorded, under ids that
are the same each time: a crash in between publishes them once more.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from contracts.subaccounts import CredentialsMessage, ResultKind
from worker.core import messages
from worker.core.decide import Refuse, Republish, Skip
from worker.core.judge import Failure, Permanent, Transient
from worker.core.model import Answer, Entry, Reissue, Wish
from worker.core.reissue import Issue, answer_to, decide_reissue, reissued_to, request_of, with_token
from worker.pipeline.outbox import Outbox
from worker.ports import NoRecipientKey, NotTaken, Unroutable


@dataclass(frozen=True, slots=True)
class Reissues:
    outbox: Outbox

    async def answer(self, request: Reissue) -> Failure | None:
        """The way of a message, but for its ack. What fails is returned, or raised by the ports."""
        outbox = self.outbox
        known = await outbox.ledger.recall(request.department, request.reference)
        match decision := decide_reissue(request, known, outbox.policy, self._now()):
            case Refuse(reason, detail):
                return Permanent(reason, detail)
            case Republish(answer):
                entry = known.entry
            case _:
                try:
                    entry, answer = await self._carry_out(request, known.entry, decision)
                except (NoRecipientKey, NotTaken, Unroutable) as error:
                    # Nobody is to wait for a request: it is parked, and given up in the end.
                    return Transient(str(error))
                entry = await outbox.ledger.record(entry, answer)
        if not answer.confirmed:
            await outbox.publish_result(messages.result(answer, outbox.actor.names.owner, self._now()))
            await outbox.ledger.record(entry, replace(answer, confirmed=True))
        outbox.telemetry.reissue_answered(answer)
        return None

    async def grant(self, wish: Wish) -> None:
        """The answer is read in the ledger: `failed` where nothing was issued. Raises what ports raise."""
        outbox, request = self.outbox, request_of(wish)
        known = await outbox.ledger.recall(request.department, request.reference)
        match decision := decide_reissue(request, known, outbox.policy, self._now()):
            case Refuse(_, why) | Skip(_, why):
                entry, answer = (
                    known.entry,
                    answer_to(request, known.entry, ResultKind.FAILED, why, self._now()),
                )
            case Issue():
                entry, answer = await self._carry_out(request, known.entry, decision)
            case Republish():
                await outbox.ledger.close_wish(wish.id)
                return
        await outbox.ledger.record(entry, replace(answer, confirmed=True))
        outbox.telemetry.reissue_answered(answer, wish.asked_by)
        await outbox.ledger.close_wish(wish.id)

    async def _carry_out(
        self, request: Reissue, entry: Entry, decision: Issue | Skip
    ) -> tuple[Entry, Answer]:
        """Entry and answer, still to be recorded."""
        if isinstance(decision, Skip):
            return entry, answer_to(request, entry, ResultKind.UNCHANGED, decision.reason, self._now())
        entry = await self.outbox.settle(entry, None)
        entry = await self._issue_again(request, entry, decision.recipients)
        reason = reissued_to(decision.recipients)
        return entry, answer_to(request, entry, ResultKind.UNCHANGED, reason, self._now())

    async def _issue_again(self, request: Reissue, entry: Entry, recipients: frozenset[str]) -> Entry:
        outbox = self.outbox
        token = await outbox.actor.token(entry)
        entry = with_token(entry, outbox.fingerprints.of(entry.auth_id or "", token))

        def letter(recipient: str) -> CredentialsMessage:
            return messages.credentials_again(
                request, entry, recipient, token, outbox.actor.names.owner, self._now()
            )

        _, failed = await outbox.deliver(entry, recipients, letter)
        for failure in failed.values():
            raise failure
        return replace(entry, reissued_at=self._now())

    def _now(self) -> datetime:
        return self.outbox.clock.now()
