"""A decided step becomes provider calls. The only place that makes them on the line."""

from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import SecretStr

from worker.core.conclude import Changed, Deleted, Failed, Made, NothingDone, NothingMade, Outcome
from worker.core.decide import Adopt, Create, Delete, Disable, Rename, Restore, Skip, Step
from worker.core.judge import CallFault, Unknown, classify
from worker.core.model import Entry, Event
from worker.core.naming import NameTemplate, department_tag, idempotency_key
from worker.ports import CallFailed, Clock, ProvidedSubaccount, Provider

NOT_FOUND = 404
SETTLE_MARGIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Names:
    """What names, tags and keys are derived from."""

    owner: str
    template: NameTemplate

    def sent(self, name: str, entry: Entry) -> str:
        """The department's name as the provider is to show it."""
        return self.template.render(name, self.tag(entry))

    def tag(self, entry: Entry) -> str:
        return department_tag(self.owner, entry.department, entry.incarnation)

    def key(self, step: Step, entry: Entry, event: Event) -> str:
        operation = type(step).__name__.lower()
        return idempotency_key(
            self.owner, entry.department, entry.incarnation, operation, entry.auth_id, event.reference
        )


@dataclass(frozen=True, slots=True)
class Actor:
    provider: Provider
    names: Names
    settle_window: timedelta
    clock: Clock

    async def act(self, step: Step, entry: Entry, event: Event) -> Outcome:
        """Carries the step out; whatever the provider says comes back as a value."""
        try:
            return await self._act(step, entry, self.names.key(step, entry, event))
        except CallFailed as failed:
            return Failed(classify(failed.fault))

    async def token(self, entry: Entry) -> SecretStr:
        """The auth token of an active entry; raises `CallFailed`."""
        if entry.auth_id is None:
            raise ValueError(f"a {entry.status} entry has no token")
        return (await self.provider.get(entry.auth_id)).auth_token

    async def _act(self, step: Step, entry: Entry, key: str) -> Outcome:
        match step:
            case Create(name):
                made = await self.provider.create(self.names.sent(name, entry), key)
                return Made(made.auth_id, made.auth_token)
            case Adopt(name):
                return await self._adopt(name, entry, key)
            case Rename(auth_id, name):
                return await self._changed(
                    self.provider.update(auth_id, key, name=self.names.sent(name, entry))
                )
            case Restore(auth_id, name):
                sent = self.names.sent(name, entry) if name else None
                return await self._changed(self.provider.update(auth_id, key, name=sent, enabled=True))
            case Disable(auth_id):
                return await self._changed(self.provider.update(auth_id, key, enabled=False))
            case Delete(auth_id):
                return await self._delete(auth_id, key)
            case Skip():
                return NothingDone()

    async def _changed(self, call: Awaitable[None]) -> Outcome:
        await call
        return Changed()

    async def _delete(self, auth_id: str, key: str) -> Outcome:
        try:
            await self.provider.delete(auth_id, key)
        except CallFailed as failed:
            if failed.fault.status != NOT_FOUND:
                raise
        return Deleted()

    async def _adopt(self, name: str | None, entry: Entry, key: str) -> Outcome:
        begun = self.clock.now()
        found = await self._find(entry)
        if found is None:
            return self._nothing_found(entry, begun)
        wanted = self.names.sent(name, entry) if name else found.name
        if wanted != found.name or not found.enabled:
            changed_name = wanted if wanted != found.name else None
            await self.provider.update(found.auth_id, key, name=changed_name, enabled=True)
        return Made(found.auth_id, found.auth_token)

    def _nothing_found(self, entry: Entry, begun: datetime) -> Outcome:
        """A scan proves nothing while the call it looks for may still be carried out."""
        if entry.claim is None:
            return NothingMade()
        settled_in = (entry.claim.started_at + self.settle_window - begun).total_seconds()
        if settled_in < 0:
            return NothingMade()
        return Failed(Unknown("the outcome of a create is not known yet", settled_in + SETTLE_MARGIN_SECONDS))

    async def _find(self, entry: Entry) -> ProvidedSubaccount | None:
        """The oldest subaccount that bears the department's tag; the list shows the newest first."""
        tag, found = self.names.tag(entry), None
        async for subaccount in self._scan():
            if self.names.template.bears(subaccount.name, tag):
                found = subaccount
        return found

    async def _scan(self) -> AsyncIterator[ProvidedSubaccount]:
        """The whole list, in pages that overlap by one item.

        Where they do not, something was deleted meanwhile, and an item may have slipped through between them.
        """
        offset, last = 0, None
        while page := await self.provider.page(offset):
            if last is not None and page[0].auth_id != last:
                raise CallFailed(CallFault("list", "the list of subaccounts changed while it was read"))
            for subaccount in page[1:] if last else page:
                yield subaccount
            if page[-1].auth_id == last:
                return
            offset, last = offset + len(page) - 1, page[-1].auth_id
