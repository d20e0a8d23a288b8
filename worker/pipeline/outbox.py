"""What goes out: results, credentials an entry owes, and the enabling that waits for these.

What is owed is on record before, so whoever dies on the way leaves it to the next event, or to the scheduler.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import SecretStr

from contracts.subaccounts import CredentialsMessage
from worker.core import messages
from worker.core.conclude import confirmed, enabled, put_off_owed, readdressed, to_enable
from worker.core.decide import Policy
from worker.core.messages import Outgoing
from worker.core.model import Entry, Status
from worker.flow.undelivered import UndeliveredCredentials
from worker.ports import (
    CallFailed,
    Clock,
    Fingerprints,
    Ledger,
    NoRecipientKey,
    NotTaken,
    Publisher,
    PublishFailed,
    Sealer,
    Unroutable,
)
from worker.provider.act import Actor
from worker.telemetry.events import Telemetry

Letter = Callable[[str], CredentialsMessage]
"""Credentials for a recipient."""


@dataclass(frozen=True, slots=True)
class Outbox:
    ledger: Ledger
    actor: Actor
    publisher: Publisher
    sealer: Sealer
    fingerprints: Fingerprints
    clock: Clock
    policy: Policy
    telemetry: Telemetry
    undelivered: UndeliveredCredentials

    async def publish_result(self, outgoing: Outgoing) -> None:
        """A result that nobody is bound for counts as answered."""
        try:
            await self.publisher.publish(outgoing)
        except Unroutable:
            self.telemetry.result_unroutable(outgoing.routing_key)

    async def settle(self, entry: Entry, token: SecretStr | None) -> Entry:
        """The entry, still to be recorded, once what it owes is done.

        Raises `CallFailed` or `PublishFailed`; what was done by then is on record.
        """
        entry = readdressed(entry, self.policy.recipients)
        if entry.status is Status.ACTIVE and entry.owed_to:
            before, token = entry, token or await self.actor.token(entry)
            entry, failure = await self._issue(entry, token)
            if failure is not None:
                await self._note_served(before, entry)
                raise failure
        else:
            self.undelivered.update(entry.department)
        return await self._enable(entry)

    async def _note_served(self, before: Entry, entry: Entry) -> None:
        if entry != before:
            await self.ledger.record(entry)

    async def deliver_owed(self, entry: Entry) -> Entry:
        """Sends what an active entry owes, without an event; raises `CallFailed`. What is left is put off."""
        entry = readdressed(entry, self.policy.recipients)
        failure: PublishFailed | CallFailed | None = None
        if entry.owed_to:
            token = await self.actor.token(entry)
            entry, failure = await self._issue(entry, token)
        if _to_be_enabled(entry):
            entry, failure = await self._try_to_enable(entry)
        if failure is not None:
            self.telemetry.duty_failed(entry.department, str(failure))
        return put_off_owed(entry, self.clock.now())

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
            async with self.actor.permit_to_enable():
                entry = await self.ledger.record(to_enable(entry, self.policy, self.clock.now()))
                await self.actor.enable_made(entry)
        except CallFailed as failed:
            return entry, failed
        return enabled(entry), None

    async def _issue(self, entry: Entry, token: SecretStr) -> tuple[Entry, PublishFailed | None]:
        """Sends what is owed; nothing new is taken while some of it cannot be delivered."""

        def letter(recipient: str) -> CredentialsMessage:
            return messages.credentials(entry, recipient, token, self.actor.names.owner, self.clock.now())

        served, failed = await self.deliver(entry, entry.owed_to, letter)
        self.undelivered.update(entry.department, served, failed)
        if served:
            entry = confirmed(entry, served, self.fingerprints.of(entry.auth_id or "", token))
        return entry, next(iter(failed.values()), None)

    async def deliver(
        self, entry: Entry, recipients: frozenset[str], letter: Letter
    ) -> tuple[frozenset[str], dict[str, PublishFailed]]:
        """Sends credentials to every recipient that can be served: who was, and why others were not."""
        failed: dict[str, PublishFailed] = {}
        for recipient in sorted(recipients):
            clear = letter(recipient)
            try:
                message = self.sealer.seal(clear, recipient)
                await self.publisher.publish(messages.addressed(clear, recipient, message))
            except (NoRecipientKey, NotTaken, Unroutable) as error:
                failed[recipient] = error
            else:
                self.telemetry.credentials_published(entry)
        return recipients - failed.keys(), failed


def _to_be_enabled(entry: Entry) -> bool:
    return entry.status is Status.ACTIVE and entry.enable_owed and not entry.owed_to
