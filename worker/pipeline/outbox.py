"""Outbox: publishes results and owed credentials, and enables the subaccounts that wait for them.

There is no outbox table. The entry says what it owes, and that is on record before anything is sent. A worker
that dies in between leaves the debt to the department's next event or to the scheduler. The ledger holds no
token; a missing one is read with GET. So there is no secret at rest to guard.

- Credentials are owed by the department, not by an event. Each recipient has its own message, sealed and
  confirmed separately, and is struck off the debt alone. If one cannot be served, the others still are.
- Credentials that cannot be delivered (no queue, no key, a full queue) block the gate: the credentials of new
  subaccounts would only wait too. Nothing is parked or counted for it.
- Enabling (`PROVISIONER_ENABLE=published`) comes last, after the broker has confirmed every recipient's
  credentials. It is a change like any other: its check is on record before the call.
- A result that no queue is bound for counts as answered: one warning, metered. Results hold no secret, and a
  producer that does not listen must not stop the others.
- Ids of outbound messages are derived, so a message that is published twice has the same id. The id of
  credentials includes the generation, because one event may cause two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import SecretStr

from contracts.subaccounts import CredentialsMessage
from worker.core import messages
from worker.core.conclude import confirmed, enabled, retarget_debts, written_off
from worker.core.decide import Policy
from worker.core.duties import arm_check, put_off_debt
from worker.core.judge import DeadLetter, FaultKind
from worker.core.messages import Outgoing, Subject
from worker.core.model import Entry
from worker.core.naming import Names
from worker.flow.undelivered import UndeliveredCredentials
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
    names: Names
    clock: Clock
    policy: Policy
    telemetry: Telemetry

    async def publish(self, outgoing: Outgoing) -> None:
        """Returns once the broker has confirmed; raises `PublishFailed`."""
        await self.publisher.publish(outgoing)

    async def publish_result(self, outgoing: Outgoing) -> None:
        """Publishes a result; one that no queue is bound for counts as published. Raises `PublishFailed`."""
        try:
            await self.publisher.publish(outgoing)
        except Unroutable:
            self.telemetry.result_unroutable(outgoing.routing_key)

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

    async def deliver_owed(self, entry: Entry, token: SecretStr | None) -> Entry:
        """Delivers the debt, and returns the entry to record.

        Without `token` it is read from the provider. Raises `CallFailed` or `PublishFailed`; credentials
        confirmed before that are on record.
        """
        entry = retarget_debts(entry, self.policy.recipients)
        if entry.is_live and entry.owed_to:
            if token is None:
                token = await self._token_or_written_off(entry)
            issued, failure = await self._issue(entry, token)
            if failure is not None:
                await self.records.delivered(entry, issued)
                raise failure
            entry = issued
        else:
            self.undelivered.update(entry.department)
        return await self._enable(entry)

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
    ) -> tuple[frozenset[str], dict[str, PublishFailed]]:
        """Sends credentials to each recipient. Returns those served, and the error of each other one."""
        failed: dict[str, PublishFailed] = {}
        for recipient in sorted(recipients):
            clear = credentials_for(recipient)
            try:
                message = self.sealer.seal(clear, recipient)
                await self.publisher.publish(messages.addressed(clear, recipient, message))
            except (NoRecipientKey, NotTaken, Unroutable) as error:
                failed[recipient] = error
            else:
                self.telemetry.credentials_published(entry)
        return recipients - failed.keys(), failed

    async def _enable(self, entry: Entry) -> Entry:
        """Enables the subaccount if that is due, and returns the entry; raises `CallFailed`."""
        if not _to_be_enabled(entry):
            return entry
        entry, failure = await self._try_to_enable(entry)
        if failure is not None:
            raise failure
        return entry

    async def _try_to_enable(self, entry: Entry) -> tuple[Entry, CallFailed | None]:
        """Records the intent, then enables. Returns the entry, and the error if it is not enabled."""
        try:
            async with self.subaccounts.permit_to_enable() as call:
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

        served, failed = await self.deliver(entry, entry.owed_to, credentials_for)
        self.undelivered.update(entry.department, served, failed)
        if served:
            entry = confirmed(entry, served, self.fingerprints.of(entry.existing.auth_id, token))
        return entry, next(iter(failed.values()), None)


def _to_be_enabled(entry: Entry) -> bool:
    debt = entry.debt
    return entry.is_live and debt is not None and debt.enable and not debt.holds_back
