"""A decided step becomes provider calls. With `scan.py`, the only place that makes them on the line."""

from collections.abc import Awaitable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace

from pydantic import SecretStr

from contracts.subaccounts import ResultKind
from worker.core.adoption import Match, choose, in_question
from worker.core.conclude import Changed, Deleted, Failed, Found, Made, NothingDone, NothingSeen, Outcome
from worker.core.decide import Adopt, Create, Delete, Disable, Enable, Rename, Restore, Skip, Step
from worker.core.judge import CallFault, Unavailable, classify
from worker.core.model import Department, Entry, Event, Reference, Status
from worker.core.naming import NameTemplate, department_tag, idempotency_key
from worker.ports import CallFailed, Clock, Ledger, ProvidedSubaccount, Provider
from worker.provider.scan import Look, Scanner, Strays

NOT_FOUND = 404
NO_EVENT = Reference("", "", "")
CLAIM_GOOD_FOR_SECONDS = 2.0
"""The settle window counts from the claim, so the call must begin right after it."""


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

    def tags(self, department: Department, incarnations: range) -> Mapping[str, int]:
        """The incarnation by its tag."""
        return {department_tag(self.owner, department, number): number for number in incarnations}

    def key(self, step: Step, entry: Entry, event: Event) -> str:
        return self._key(type(step).__name__.lower(), entry, entry.auth_id, event.reference)

    def enabling_key(self, entry: Entry, auth_id: str, cause: Reference) -> str:
        return self._key("enable", entry, auth_id, cause)

    def duty_key(self, duty: str, entry: Entry, auth_id: str) -> str:
        """For a call no event asks for, however often it is tried: its cause is the event it serves."""
        claiming = entry.claim.event if entry.claim else None
        return self._key(duty, entry, auth_id, claiming or entry.newest or NO_EVENT)

    def _key(self, operation: str, entry: Entry, auth_id: str | None, cause: Reference) -> str:
        return idempotency_key(self.owner, entry.department, entry.incarnation, operation, auth_id, cause)


@dataclass(frozen=True, slots=True)
class Actor:
    provider: Provider
    ledger: Ledger
    names: Names
    clock: Clock
    scanner: Scanner
    strays: Strays
    enable: Enable = Enable.CREATED

    def permit(self, step: Step) -> AbstractAsyncContextManager[None]:
        """Held from before the claim until the answer: what is claimed need not wait.

        A step that only skips needs none, and an adoption gets one for each of its calls.
        """
        match step:
            case Create():
                return self.provider.permit("create")
            case Rename() | Restore() | Disable():
                return self.provider.permit("update")
            case Delete():
                return self.provider.permit("delete")
            case Adopt() | Skip():
                return nullcontext()

    async def foresee(self, step: Step, entry: Entry) -> Step:
        """A ledger that is behind: what is absent there, and at the provider all the same, is adopted first.

        Raises `CallFailed`.
        """
        match step:
            case Create(name):
                adoption = Adopt(name)
            case Skip(ResultKind.UNCHANGED) if entry.status in {Status.ABSENT, Status.REMOVED}:
                adoption = Adopt(None)
            case _:
                return step
        unknown = await self.strays.tags()
        return adoption if unknown and unknown & self._tags(entry).keys() else step

    async def act(self, step: Step, entry: Entry, key: str, claimed_at: float) -> Outcome:
        """Carries the step out; whatever the provider says comes back as a value.

        `key` is the step's idempotency key, `claimed_at` the monotonic time at which the claim was begun.
        """
        try:
            return await self._act(step, entry, key, claimed_at)
        except CallFailed as failed:
            return Failed(classify(failed.fault))

    async def token(self, entry: Entry) -> SecretStr:
        """The auth token of an active entry; raises `CallFailed`."""
        if entry.auth_id is None:
            raise ValueError(f"there is no token: the entry is {entry.status}")
        token = (await self.provider.get(entry.auth_id)).auth_token
        if token is None:
            raise ValueError("the provider shows no token")
        return token

    async def mend(self, entry: Entry) -> bool:
        """Compares name and `enabled` with the entry and sets them right; True if they differed.

        Raises `CallFailed`.
        """
        if entry.auth_id is None or entry.name is None:
            return False
        found = await self.provider.get(entry.auth_id)
        name = self.names.sent(entry.name, entry)
        enabled = entry.status is Status.ACTIVE and not entry.held_back
        if (found.name, found.enabled) == (name, enabled):
            return False
        key = self.names.duty_key(f"mend {entry.mends}", entry, entry.auth_id)
        await self._update(entry.auth_id, key, name=name, enabled=enabled)
        return True

    def permit_to_enable(self) -> AbstractAsyncContextManager[None]:
        """Held from before the record that announces it, as `permit` is for a step."""
        return self.provider.permit("update")

    async def enable_made(self, entry: Entry) -> None:
        """Enables what was made disabled; raises `CallFailed`."""
        if entry.auth_id is None or entry.issued_for is None:
            raise ValueError(f"there is nothing to enable: the entry is {entry.status}")
        key = self.names.enabling_key(entry, entry.auth_id, entry.issued_for)
        await self.provider.update(entry.auth_id, key, enabled=True)

    async def disable_doubles(self, entry: Entry) -> tuple[str, ...]:
        """Disables whatever bears a tag of this department and is not on record; raises `CallFailed`.

        Of all its incarnations: a create taken for lost may be carried out after its successor was deleted.
        """
        look = await self.scanner.look(entry.created_at)
        tags = self.names.tags(entry.department, range(1, entry.incarnation + 1))
        matches = await self._matches(look, entry, tags)
        return await self._disable((one for one in matches if one.sighting.auth_id != entry.auth_id), entry)

    async def disable_made(self, entry: Entry, auth_id: str) -> None:
        """Disables what a create made although another one is on record; raises `CallFailed`."""
        await self._update(auth_id, self.names.duty_key("disable", entry, auth_id), enabled=False)

    async def _update(self, auth_id: str, key: str, *, name: str | None = None, enabled: bool | None) -> None:
        """An update beside a step's own call, which had its permit before."""
        async with self.provider.permit("update"):
            await self.provider.update(auth_id, key, name=name, enabled=enabled)

    async def _act(self, step: Step, entry: Entry, key: str, claimed_at: float) -> Outcome:
        match step:
            case Create(name):
                return await self._create(self.names.sent(name, entry), key, claimed_at)
            case Adopt(name):
                return await self._adopt(name, entry, key)
            case Rename(auth_id, name):
                return await self._changed(
                    self.provider.update(auth_id, key, name=self.names.sent(name, entry))
                )
            case Restore(auth_id, name):
                sent = self.names.sent(name, entry) if name else None
                enabled = not entry.held_back
                return await self._changed(self.provider.update(auth_id, key, name=sent, enabled=enabled))
            case Disable(auth_id):
                return await self._changed(self.provider.update(auth_id, key, enabled=False))
            case Delete(auth_id):
                return await self._delete(auth_id, key)
            case Skip():
                return NothingDone()

    async def _create(self, name: str, key: str, claimed_at: float) -> Outcome:
        if self.clock.monotonic() - claimed_at > CLAIM_GOOD_FOR_SECONDS:
            return Failed(Unavailable("the claim took too long to become durable; nothing was sent"))
        enabled = self.enable is Enable.CREATED
        made = await self.provider.create(name, key, enabled=enabled)
        return Made(made.auth_id, made.auth_token, enabled=enabled)

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
        claim = entry.claim if entry.status is Status.CLAIMED else None
        look = await self.scanner.look(claim.started_at if claim else None)
        tags = self._tags(entry)
        matches = await self._matches(look, entry, tags)
        if not matches:
            self.strays.strike_off(tags)
            return NothingSeen(look.begun)
        kept, others = choose(matches, entry.auth_id, claimed=claim is not None)
        found = await self._get_if_there(kept.sighting.auth_id)
        if found is None:  # deleted while the list still shows it: the next look is to tell
            fault = CallFault("list", "the list shows a subaccount of the department that is not there")
            raise CallFailed(fault)
        doubles = await self._disable(others, entry)
        wanted = self.names.sent(name, replace(entry, incarnation=kept.incarnation)) if name else found.name
        new_name = wanted if wanted != found.name else None
        at_once = self.enable is Enable.CREATED
        enabling = True if name is not None and at_once and not found.enabled else None
        if new_name or enabling:
            await self._update(found.auth_id, key, name=new_name, enabled=enabling)
        shown = Found(kept.incarnation, self.names.template.name_in(found.name))
        enabled = bool(found.enabled or enabling or (name is None and at_once))
        return Made(found.auth_id, found.auth_token, doubles, shown, enabled)

    def _tags(self, entry: Entry) -> Mapping[str, int]:
        return self.names.tags(entry.department, in_question(entry))

    async def _matches(self, look: Look, entry: Entry, tags: Mapping[str, int]) -> list[Match]:
        """Those of these tags; never one on record for another department, whatever its name says."""
        seen = [Match(number, one) for tag, number in tags.items() for one in look.seen.get(tag, ())]
        holders = await self.ledger.holders([one.sighting.auth_id for one in seen]) if seen else {}
        return [
            one for one in seen if holders.get(one.sighting.auth_id, entry.department) == entry.department
        ]

    async def _disable(self, doubles: Iterable[Match], entry: Entry) -> tuple[str, ...]:
        """Those found disabled are told of too: they may be so by a step that died before it could tell."""
        found = [double.sighting for double in doubles]
        for double in found:
            if double.enabled:
                await self._disable_if_there(entry, double.auth_id)
        return tuple(double.auth_id for double in found)

    async def _disable_if_there(self, entry: Entry, auth_id: str) -> None:
        try:
            await self.disable_made(entry, auth_id)
        except CallFailed as failed:
            if failed.fault.status != NOT_FOUND:
                raise

    async def _get_if_there(self, auth_id: str) -> ProvidedSubaccount | None:
        try:
            return await self.provider.get(auth_id)
        except CallFailed as failed:
            if failed.fault.status == NOT_FOUND:
                return None
            raise
