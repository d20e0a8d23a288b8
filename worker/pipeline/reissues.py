"""Issues credentials again: for a request (a message), or for a wish (left in the ledger by an operator).

The department's state does not change. Credentials are published before anything is recorded. A crash in
between publishes them once more, under the same ids. If only some recipients can be served, that is recorded,
and the next try serves the others.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from contracts.subaccounts import CredentialsMessage, ResultCode
from worker.core import messages
from worker.core.decide import Policy, Refuse, Republish, Skip
from worker.core.gone import found
from worker.core.judge import Done, Failure, Permanent, Transient
from worker.core.model.answers import Answer
from worker.core.model.causes import Reissue
from worker.core.model.entry import Entry
from worker.core.model.wishes import Wish
from worker.core.naming import Names
from worker.core.reissue import (
    Issue,
    answer_to,
    decide_reissue,
    gone,
    partly_reissued,
    reissued,
    reissued_to,
    request_of,
    served_by,
    with_token,
)
from worker.pipeline.disappearances import Disappearances, is_missing
from worker.pipeline.outbox import Outbox
from worker.pipeline.records import Records
from worker.ports import CallFailed, Clock, Fingerprints, NoRecipientKey, NotTaken, Unroutable, Wishes
from worker.provider.subaccounts import Subaccounts
from worker.telemetry.events import Telemetry


@dataclass(frozen=True, slots=True)
class Reissues:
    """Answers requests and grants wishes."""

    records: Records
    wishes: Wishes
    outbox: Outbox
    disappearances: Disappearances
    subaccounts: Subaccounts
    fingerprints: Fingerprints
    names: Names
    clock: Clock
    policy: Policy
    telemetry: Telemetry

    async def answer(self, request: Reissue) -> Done | Failure:
        """Takes a request up to its published answer. Raises the exceptions of the ports."""
        known = await self.records.recall(request.department, request.reference)
        match decide_reissue(request, known, self.policy, self._now()):
            case Refuse(reason, detail, code):
                return Permanent(reason, detail, code)
            case Republish(answer):
                pass
            case Skip(_, why, _, code):
                answer = self._declined(request, known.entry, code, why)
                await self.records.answered(answer)
            case Issue(recipients):
                try:
                    entry, answer = await self._carry_out(request, known.entry, recipients)
                    await self.records.answered(answer, entry)
                except (NoRecipientKey, NotTaken, Unroutable) as error:
                    # A request must not delay the others: it is parked, and given up in the end.
                    return Transient(str(error))
                except CallFailed as failed:
                    if not is_missing(failed.fault) or not await self._is_gone(request):
                        raise
                    answer = self._gone(request, known.entry)
                    await self.records.answered(answer)
        if not answer.confirmed:
            await self.outbox.publish_result(messages.result(answer, self.names.owner, self._now()))
            await self.records.answered(replace(answer, confirmed=True))
        self.telemetry.reissue_answered(answer)
        return Done()

    async def grant(self, wish: Wish) -> None:
        """Records the answer to a wish: `failed` if nothing was issued. Raises the ports' exceptions."""
        request = request_of(wish)
        known = await self.records.recall(request.department, request.reference)
        match decide_reissue(request, known, self.policy, self._now()):
            case Republish():
                await self.wishes.close_wish(wish.id)
                return
            case Refuse(_, why, code) | Skip(_, why, _, code):
                entry, answer = None, self._declined(request, known.entry, code, why)
            case Issue(recipients):
                try:
                    entry, answer = await self._carry_out(request, known.entry, recipients)
                except CallFailed as failed:
                    if not is_missing(failed.fault):
                        raise
                    await self._is_gone(request)  # a person waits: the answer is what is known now
                    entry, answer = None, self._gone(request, known.entry)
        await self.records.answered(replace(answer, confirmed=True), entry)
        self.telemetry.reissue_answered(answer, wish.asked_by)
        await self.wishes.close_wish(wish.id)

    async def _is_gone(self, request: Reissue) -> bool:
        return (await self.disappearances.note(request.department)).gone_at is not None

    def _gone(self, request: Reissue, entry: Entry) -> Answer:
        skipped = gone(entry)
        return self._declined(request, entry, skipped.code, skipped.reason)

    def _declined(self, request: Reissue, entry: Entry, code: ResultCode | None, why: str | None) -> Answer:
        return answer_to(request, entry, code or ResultCode.NOT_ALLOWED, why, self._now())

    async def _carry_out(
        self, request: Reissue, entry: Entry, recipients: frozenset[str]
    ) -> tuple[Entry, Answer]:
        """The entry and the answer, not recorded yet."""
        entry = await self.records.delivered(entry, await self.outbox.deliver_owed(entry, None))
        entry = await self._issue_again(request, entry, recipients)
        reason = reissued_to(recipients)
        return entry, answer_to(request, entry, ResultCode.REISSUED, reason, self._now(), recipients)

    async def _issue_again(self, request: Reissue, before: Entry, recipients: frozenset[str]) -> Entry:
        """Publishes to the recipients that no earlier try has served; returns the entry, not recorded yet."""
        token = await self.subaccounts.token(before)
        entry = with_token(
            found(before, self.policy, self._now()), self.fingerprints.of(before.existing.auth_id, token)
        )

        def credentials_for(recipient: str) -> CredentialsMessage:
            return messages.credentials_again(request, entry, recipient, token, self.names.owner, self._now())

        remaining = recipients - served_by(request, before)
        delivery = await self.outbox.deliver(entry, remaining, credentials_for)
        if delivery.failure is not None:
            if delivery.served:
                await self.records.delivered(before, partly_reissued(request, entry, delivery.served))
            raise delivery.failure
        return reissued(request, entry, self._now())

    def _now(self) -> datetime:
        return self.clock.now()
