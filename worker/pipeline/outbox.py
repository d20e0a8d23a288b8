"""Publishes results, the credentials an entry owes, and enables what waits for these.

A debt is on record before it is delivered. A worker that dies on the way leaves it to the department's next
event, or to the scheduler.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import SecretStr

from contracts.subaccounts import CredentialsMessage
from worker.core import messages
from worker.core.conclude import confirmed, enabled, retarget_debts
from worker.core.decide import Policy
from worker.core.duties import arm_check, put_off_debt
from worker.core.judge import DeadLetter, FaultKind
from worker.core.messages import Outgoing, Subject
from worker.core.model import Entry, Status
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
    """Publishes results, and delivers what an entry owes. Confirmed by the broker when its methods return."""

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
        """As `publish`; a result that no queue is bound for counts as published."""
        try:
            await self.publisher.publish(outgoing)
        except Unroutable:
            self.telemetry.result_unroutable(outgoing.routing_key)

    async def publish_failed(self, subject: Subject, verdict: DeadLetter, now: datetime) -> None:
        """The result beside a dead letter."""
        await self.publish_result(messages.failed(subject, verdict, self.names.owner, now))

    async def deliver_owed(self, entry: Entry, token: SecretStr | None) -> Entry:
        """The entry, still to be recorded, once what it owes is delivered.

        The token is read from the provider where `token` is None. Raises `CallFailed` or `PublishFailed`;
        what was delivered by then is on record.
        """
        entry = retarget_debts(entry, self.policy.recipients)
        if entry.status is Status.ACTIVE and entry.owed_to:
            before, token = entry, token or await self._token_or_written_off(entry)
            entry, failure = await self._issue(entry, token)
            if failure is not None:
                await self.records.delivered(before, entry)
                raise failure
        else:
            self.undelivered.update(entry.department)
        return await self._enable(entry)

    async def retry_owed(self, entry: Entry) -> Entry:
        """As `deliver_owed`, without an event; raises `CallFailed`. What cannot be delivered is put off."""
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
        """It is on record that the entry's credentials are delivered."""
        if not entry.owed_to:
            self.subaccounts.forget_token(entry)

    async def _token_or_written_off(self, entry: Entry) -> SecretStr:
        """Raises `CallFailed`. Where the token is lost the debt is off the record then: it cannot be paid."""
        try:
            return await self.subaccounts.token(entry)
        except CallFailed as failed:
            if failed.fault.kind is FaultKind.TOKEN_LOST:
                await self.records.delivered(entry, self._written_off(entry, failed))
            raise

    def _written_off(self, entry: Entry, lost: CallFailed) -> Entry:
        self.telemetry.credentials_lost(entry, str(lost))
        self.undelivered.update(entry.department)
        return confirmed(entry, entry.owed_to)

    async def deliver(
        self, entry: Entry, recipients: frozenset[str], credentials_for: CredentialsFor
    ) -> tuple[frozenset[str], dict[str, PublishFailed]]:
        """Sends credentials to every recipient that can be served: who was, and why others were not."""
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
        """The entry once its subaccount is enabled, where that is owed and due; raises `CallFailed`."""
        if not _to_be_enabled(entry):
            return entry
        entry, failure = await self._try_to_enable(entry)
        if failure is not None:
            raise failure
        return entry

    async def _try_to_enable(self, entry: Entry) -> tuple[Entry, CallFailed | None]:
        """Records that it will, then does: the entry as it stands, and why it is not enabled."""
        try:
            async with self.subaccounts.permit_to_enable() as call:
                announced = arm_check(entry, self.policy, self.clock.now())
                entry = await self.records.announce(entry, announced)
                await self.subaccounts.enable_made(call, entry)
        except CallFailed as failed:
            return entry, failed
        return enabled(entry), None

    async def _issue(self, entry: Entry, token: SecretStr) -> tuple[Entry, PublishFailed | None]:
        """Sends what is owed; the gate stays shut while some of it cannot be delivered."""

        def credentials_for(recipient: str) -> CredentialsMessage:
            return messages.credentials(entry, recipient, token, self.names.owner, self.clock.now())

        served, failed = await self.deliver(entry, entry.owed_to, credentials_for)
        self.undelivered.update(entry.department, served, failed)
        if served:
            entry = confirmed(entry, served, self.fingerprints.of(entry.existing.auth_id, token))
        return entry, next(iter(failed.values()), None)


def _to_be_enabled(entry: Entry) -> bool:
    debt = entry.debt
    return entry.status is Status.ACTIVE and debt is not None and debt.enable and not debt.holds_back
