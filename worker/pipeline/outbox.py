"""Outbox: publishes results and owed credentials, and enables the subaccounts that wait for them.

There is no outbox table. The entry says what it owes, and that is on record before anything is sent. A worker
that dies in between leaves the debt to the department's next event or to the scheduler. The ledger holds no
token; a missing one is read with GET. So there is no secret at rest to guard.

- Credentials are owed by the department, not by an event. Each recipient has its own message, sealed and
  confirmed separately, and is struck off the debt alone. If one cannot be served, the others still are.
- Nothing that was confirmed is published again because something else failed. The confirm is recorded before
  the next try; until that record succeeds, the worker remembers the message's id.
- Credentials that cannot be delivered (no queue, no key, a full queue) block the gate: the credentials of new
  subaccounts would only wait too. Nothing is parked or counted for it.
- Enabling (`PROVISIONER_ENABLE=published`) comes last, after the broker has confirmed every recipient's
  credentials. It is a change like any other: its check is on record before the call.
- A result that no queue is bound for counts as answered: one warning, metered. Results hold no secret, and a
  producer that does not listen must not stop the others.
- A result that a queue refuses blocks the gate, as credentials do. The scheduler tries one of its kind again.
- Ids of outbound messages are derived, so a message that is published twice has the same id. The id of
  credentials includes the generation, because one event may cause two.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pydantic import SecretStr

from contracts.subaccounts import CredentialsMessage
from worker.core import messages
from worker.core.debts import confirmed, enabled, retarget_debts, written_off
from worker.core.decide import Policy
from worker.core.duties import arm_check, put_off_debt
from worker.core.judge import DeadLetter, FaultKind
from worker.core.messages import Outgoing, Subject
from worker.core.model.entry import Entry
from worker.core.naming import Names
from worker.flow.plaintext import PlaintextGuard
from worker.flow.undelivered import ConfirmedMessages, RefusedResults, UndeliveredCredentials
from worker.pipeline.records import Records
from worker.ports import (
    CallFailed,
    Clock,
    Fingerprints,
    NoRecipientKey,
    NotTaken,
    Publisher,
    PublishFailed,
    Sealer,
    Unroutable,
)
from worker.provider.subaccounts import Subaccounts
from worker.telemetry.events import Telemetry


@dataclass(frozen=True, slots=True)
class Delivery:
    """Credentials sent to several recipients.

    `served`: the recipients whose messages the broker has confirmed. `refused`: the error of each recipient
    that cannot be served now. `lost`: the error that ended the delivery before the others were tried.
    """

    served: frozenset[str]
    refused: Mapping[str, PublishFailed]
    lost: PublishFailed | None = None

    @property
    def failure(self) -> PublishFailed | None:
        """The error to raise if anyone was not served."""
        return self.lost or next(iter(self.refused.values()), None)


CredentialsFor = Callable[[str], CredentialsMessage]
"""The credentials message for a recipient."""


@dataclass(frozen=True, slots=True)
class Outbox:
    """Publishes results and delivers debts. The broker has confirmed each message when a method returns."""

    records: Records
    subaccounts: Subaccounts
    publisher: Publisher
    sealer: Sealer
    fingerprints: Fingerprints
    undelivered: UndeliveredCredentials
    plaintext_guard: PlaintextGuard
    refused: RefusedResults
    confirmed: ConfirmedMessages
    names: Names
    clock: Clock
    policy: Policy
    telemetry: Telemetry

    async def publish(self, outgoing: Outgoing) -> None:
        """Returns once the broker has confirmed; raises `PublishFailed`."""
        await self.publisher.publish(outgoing)

    async def publish_result(self, outgoing: Outgoing) -> None:
        """Publishes a result; one that no queue is bound for counts as published. Raises `PublishFailed`.

        While results of its kind are refused, it raises `NotTaken` without a try.
        """
        if outgoing.id in self.confirmed:
            return
        self.refused.check(outgoing)
        await self._publish_result(outgoing)

    async def retry_refused(self) -> None:
        """Publishes one refused result of each kind again, once that is due."""
        for outgoing in self.refused.due():
            with suppress(PublishFailed):
                await self._publish_result(outgoing)

    async def _publish_result(self, outgoing: Outgoing) -> None:
        try:
            with self.telemetry.publishing(outgoing.exchange) as headers:
                await self.publisher.publish(messages.traced(outgoing, headers))
        except Unroutable:
            self.telemetry.result_unroutable(outgoing.routing_key)
        except NotTaken as error:
            self.refused.add(outgoing, error)
            raise
        self.confirmed.add(outgoing.id)
        self.refused.taken(outgoing)

    async def dead_letter(
        self, original: Outgoing, verdict: DeadLetter, subject: Subject | None, attempts: int, now: datetime
    ) -> None:
        """Publishes a dead letter, and the result that accompanies it before; raises `PublishFailed`."""
        letter = messages.dead_letter(original, verdict, subject, attempts, now)
        if subject is not None:
            failed = messages.failed(subject, verdict, self.names.owner, now)
        else:
            failed = messages.failed_unattributed(letter, original, verdict, self.names.owner, now)
        # The result goes first. If the dead letter fails, the next try may end otherwise.
        await self.publish_result(failed)
        await self.publish(letter)
        self.confirmed.forget(failed.id)  # a replay that fails has a result again

    async def deliver_owed(self, entry: Entry, token: SecretStr | None) -> Entry:
        """Delivers the debt, and returns the entry to record.

        Without `token` it is read from the provider. Raises `CallFailed` or `PublishFailed`; credentials
        confirmed before that are on record.
        """
        before = entry = retarget_debts(entry, self.policy.recipients)
        failure: PublishFailed | CallFailed | None = None
        if entry.is_live and entry.owed_to:
            if token is None:
                token = await self._token_or_written_off(entry)
            entry, failure = await self._issue(entry, token)
        else:
            self.undelivered.update(entry.department)
        if failure is None and _to_be_enabled(entry):
            entry, failure = await self._try_to_enable(entry)
        if failure is None:
            return entry
        if entry.revision == before.revision:
            await self.records.delivered(before, entry)
        raise failure

    async def retry_owed(self, entry: Entry) -> Entry:
        """Delivers the debt without an event, and puts off the rest. Raises `CallFailed`."""
        entry = retarget_debts(entry, self.policy.recipients)
        failure: PublishFailed | CallFailed | None = None
        if entry.owed_to:
            try:
                token = await self.subaccounts.token(entry)
            except CallFailed as failed:
                if failed.fault.kind is not FaultKind.TOKEN_LOST:
                    raise
                return self._written_off(entry, failed)
            entry, failure = await self._issue(entry, token)
        if _to_be_enabled(entry):
            entry, failure = await self._try_to_enable(entry)
        if failure is not None:
            self.telemetry.duty_failed(entry.department, str(failure))
        return put_off_debt(entry, self.clock.now())

    def forget_token(self, entry: Entry) -> None:
        """Drops a kept token once the record says that the credentials are delivered."""
        if not entry.owed_to:
            self.subaccounts.forget_token(entry)

    async def _token_or_written_off(self, entry: Entry) -> SecretStr:
        """Reads the token; raises `CallFailed`. If it is lost, the debt cannot be paid and is written off."""
        try:
            return await self.subaccounts.token(entry)
        except CallFailed as failed:
            if failed.fault.kind is FaultKind.TOKEN_LOST:
                await self.records.delivered(entry, self._written_off(entry, failed))
            raise

    def _written_off(self, entry: Entry, lost: CallFailed) -> Entry:
        self.telemetry.credentials_lost(entry, str(lost))
        self.undelivered.update(entry.department)
        return written_off(entry)

    async def deliver(
        self, entry: Entry, recipients: frozenset[str], credentials_for: CredentialsFor
    ) -> Delivery:
        """Sends credentials to each recipient, but not again what the broker has confirmed."""
        served: set[str] = set()
        refused: dict[str, PublishFailed] = {}
        for recipient in sorted(recipients):
            clear = credentials_for(recipient)
            try:
                if clear.id not in self.confirmed:
                    await self._send(entry, clear, recipient)
            except (NoRecipientKey, NotTaken, Unroutable) as error:
                refused[recipient] = error
            except PublishFailed as error:  # the others would meet the same
                return Delivery(frozenset(served), refused, error)
            else:
                served.add(recipient)
        return Delivery(frozenset(served), refused)

    async def _send(self, entry: Entry, clear: CredentialsMessage, recipient: str) -> None:
        await self.plaintext_guard.check(recipient)
        message = self.sealer.seal(clear, recipient)
        outgoing = messages.addressed(clear, recipient, message)
        with self.telemetry.publishing(outgoing.exchange) as headers:
            await self.publisher.publish(messages.traced(outgoing, headers))
        self.confirmed.add(clear.id)
        self.telemetry.credentials_published(entry, clear.causationid, recipient)

    async def _try_to_enable(self, entry: Entry) -> tuple[Entry, CallFailed | None]:
        """Records the intent, then enables. Returns the entry, and the error if it is not enabled."""
        try:
            async with self.subaccounts.permit_to_update() as call:
                announced = arm_check(entry, self.policy, self.clock.now())
                entry = await self.records.announce(entry, announced)
                await self.subaccounts.enable_made(call, entry)
        except CallFailed as failed:
            return entry, failed
        return enabled(entry), None

    async def _issue(self, entry: Entry, token: SecretStr) -> tuple[Entry, PublishFailed | None]:
        """Sends the owed credentials. The gate is blocked while some cannot be delivered."""

        def credentials_for(recipient: str) -> CredentialsMessage:
            return messages.credentials(entry, recipient, token, self.names.owner, self.clock.now())

        delivery = await self.deliver(entry, entry.owed_to, credentials_for)
        if delivery.lost is None:
            self.undelivered.update(entry.department, delivery.served, delivery.refused)
        if delivery.served:
            token_seen = self.fingerprints.of(entry.existing.auth_id, token)
            entry = confirmed(entry, delivery.served, token_seen)
        return entry, delivery.failure


def _to_be_enabled(entry: Entry) -> bool:
    debt = entry.debt
    return entry.is_live and debt is not None and debt.enable and not debt.holds_back
