"""The way of a request for credentials once more: from a message, or as a person's wish in the ledger.

It changes nothing of the department's state. Credentials go out before anything is recorded, under ids that
are the same each time: a crash in between publishes them once more.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from pydantic import SecretStr

from contracts.subaccounts import CredentialsMessage, ResultKind
from worker.act import Actor
from worker.core import messages
from worker.core.decide import Policy, Refuse, Republish, Skip
from worker.core.judge import Failure, Permanent, Transient
from worker.core.messages import Outgoing
from worker.core.model import Answer, Entry, Reissue, Wish
from worker.core.reissue import Issue, answer_to, decide_reissue, reissued_to, request_of, with_token
from worker.ports import Clock, Fingerprints, Ledger, NoRecipientKey, PublishFailed, Unroutable
from worker.telemetry import Telemetry

Letter = Callable[[str], CredentialsMessage]
"""Credentials for a recipient."""


class Desk(Protocol):
    """What the line lends."""

    ledger: Ledger
    actor: Actor
    clock: Clock
    policy: Policy
    fingerprints: Fingerprints
    telemetry: Telemetry

    async def settle(self, entry: Entry, token: SecretStr | None) -> Entry:
        """The entry, still to be recorded, once what it owes is done; raises where that fails."""

    async def deliver(
        self, entry: Entry, recipients: frozenset[str], letter: Letter
    ) -> tuple[frozenset[str], dict[str, PublishFailed]]:
        """Sends credentials to every recipient that can be served: who was, and why others were not."""

    async def publish_result(self, outgoing: Outgoing) -> None:
        """Sends a result."""


@dataclass(frozen=True, slots=True)
class Reissues:
    desk: Desk

    async def answer(self, request: Reissue) -> Failure | None:
        """The way of a message, but for its ack. What fails is returned, or raised by the ports."""
        desk = self.desk
        known = await desk.ledger.recall(request.department, request.reference)
        match decision := decide_reissue(request, known, desk.policy, self._now()):
            case Refuse(reason, detail):
                return Permanent(reason, detail)
            case Republish(answer):
                entry = known.entry
            case _:
                try:
                    entry, answer = await self._carry_out(request, known.entry, decision)
                except (NoRecipientKey, Unroutable) as error:
                    # Nobody is to wait for a request: it is parked, and given up in the end.
                    return Transient(str(error))
                entry = await desk.ledger.record(entry, answer)
        if not answer.confirmed:
            await desk.publish_result(messages.result(answer, desk.actor.names.owner, self._now()))
            await desk.ledger.record(entry, replace(answer, confirmed=True))
        desk.telemetry.reissue_answered(answer)
        return None

    async def grant(self, wish: Wish) -> None:
        """The answer is read in the ledger: `failed` where nothing was issued. Raises what ports raise."""
        desk, request = self.desk, request_of(wish)
        known = await desk.ledger.recall(request.department, request.reference)
        match decision := decide_reissue(request, known, desk.policy, self._now()):
            case Refuse(_, why) | Skip(_, why):
                entry, answer = (
                    known.entry,
                    answer_to(request, known.entry, ResultKind.FAILED, why, self._now()),
                )
            case Issue():
                entry, answer = await self._carry_out(request, known.entry, decision)
            case Republish():
                await desk.ledger.close_wish(wish.id)
                return
        await desk.ledger.record(entry, replace(answer, confirmed=True))
        desk.telemetry.reissue_answered(answer, wish.asked_by)
        await desk.ledger.close_wish(wish.id)

    async def _carry_out(
        self, request: Reissue, entry: Entry, decision: Issue | Skip
    ) -> tuple[Entry, Answer]:
        """Entry and answer, still to be recorded."""
        if isinstance(decision, Skip):
            return entry, answer_to(request, entry, ResultKind.UNCHANGED, decision.reason, self._now())
        entry = await self.desk.settle(entry, None)
        entry = await self._issue_again(request, entry, decision.recipients)
        reason = reissued_to(decision.recipients)
        return entry, answer_to(request, entry, ResultKind.UNCHANGED, reason, self._now())

    async def _issue_again(self, request: Reissue, entry: Entry, recipients: frozenset[str]) -> Entry:
        desk = self.desk
        token = await desk.actor.token(entry)
        entry = with_token(entry, desk.fingerprints.of(entry.auth_id or "", token))

        def letter(recipient: str) -> CredentialsMessage:
            return messages.credentials_again(
                request, entry, recipient, token, desk.actor.names.owner, self._now()
            )

        _, failed = await desk.deliver(entry, recipients, letter)
        for failure in failed.values():
            raise failure
        return replace(entry, reissued_at=self._now())

    def _now(self) -> datetime:
        return self.desk.clock.now()
