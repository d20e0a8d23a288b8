"""Act: turns a step into provider calls, and their results into an outcome.

For an adoption, `core/adoption.py` decides which subaccount to keep, update or disable.
"""

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from contracts.subaccounts import ResultKind
from worker.core.adoption import choose, duplicates_of, plan_adoption
from worker.core.decide import (
    Adopt,
    CallStep,
    Create,
    Delete,
    Disable,
    Enable,
    HoldBack,
    Inspect,
    Look,
    Reconsider,
    Rename,
    Restore,
    Skip,
    Step,
    VoidHold,
)
from worker.core.judge import CallFault, FaultKind, Unavailable, classify
from worker.core.model.entry import Entry, Status
from worker.core.model.replace import replace
from worker.core.naming import Names
from worker.core.outcomes import (
    Changed,
    Deleted,
    Failed,
    Found,
    Inspected,
    Made,
    NothingDone,
    NothingSeen,
    Outcome,
    Seen,
)
from worker.ports import Call, CallFailed, Clock, Confirmed, Provider
from worker.provider.scan import Orphans, Scanner, listed
from worker.provider.subaccounts import Subaccounts

INSPECTION_VALID_SECONDS = 60.0
"""A deletion rests on an inspection that is no older."""

CLAIM_VALID_SECONDS = 2.0
"""The settle window counts from the claim, so the call must begin right after it."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Carries out the steps of an event."""

    provider: Provider
    subaccounts: Subaccounts
    scanner: Scanner
    orphans: Orphans
    names: Names
    clock: Clock
    enable: Enable = Enable.CREATED

    def permit(self, step: Step) -> AbstractAsyncContextManager[Call | None]:
        """The permit for the step's own call. It comes before the claim: a claimed call must not wait.

        It yields None for a step without a call, and for an adoption and an inspection, whose calls have
        their own permits.
        """
        match step:
            case Create():
                return self.provider.permit("create")
            case Rename() | Restore() | Disable():
                return self.provider.permit("update")
            case Delete():
                return self.provider.permit("delete")
            case Look() | Reconsider():
                return self.provider.permit("get")
            case Adopt() | Inspect() | HoldBack() | VoidHold() | Skip():
                return nullcontext()

    async def foresee(self, step: Step, entry: Entry) -> Step:
        """Returns the step, or an adoption if the provider lists a subaccount that the ledger does not know.

        Raises `CallFailed`.
        """
        match step:
            case Create(name):
                adoption = Adopt(name)
            case Skip(ResultKind.UNCHANGED) if entry.status in {Status.ABSENT, Status.REMOVED}:
                adoption = Adopt(None)
            case _:
                return step
        unknown = await self.orphans.tags()
        return adoption if unknown and unknown & self.subaccounts.tags(entry).keys() else step

    async def act(self, step: Step, entry: Entry, key: str, claimed_at: float, call: Call | None) -> Outcome:
        """Carries the step out. A failed call is an outcome, not an exception.

        `key`: the step's idempotency key; `claimed_at`: when the claim began, in monotonic seconds; `call`:
        the value of the step's permit.
        """
        try:
            match step:
                case Skip() | HoldBack() | VoidHold():
                    return NothingDone()
                case Inspect():
                    return Inspected(await self.subaccounts.inspect(entry))
                case Adopt(name):
                    return await self._adopt(name, entry, key)
                case _ if call is not None:
                    return await self._call(step, entry, key, claimed_at, call)
                case _:
                    raise ValueError(f"no permit for a {type(step).__name__}")
        except CallFailed as failed:
            return Failed(classify(failed.fault))

    async def _call(
        self,
        step: CallStep,
        entry: Entry,
        key: str,
        claimed_at: float,
        call: Call,
    ) -> Outcome:
        sent = self.names.sent
        match step:
            case Create(name):
                return await self._create(sent(name, entry), key, claimed_at, call)
            case Rename(auth_id, name):
                return await self._changed(call.update(auth_id, key, name=sent(name, entry)))
            case Restore(auth_id, name):
                renames = name is not None and self.provider.capabilities.can_rename
                new_name = sent(name, entry) if name is not None and renames else None
                enabled = not entry.held_back
                return await self._changed(call.update(auth_id, key, name=new_name, enabled=enabled))
            case Disable(auth_id):
                return await self._changed(call.update(auth_id, key, enabled=False))
            case Delete():
                return await self._delete(step, key, call)
            case Look(auth_id) | Reconsider(auth_id):
                await call.get(auth_id)
                return Seen()

    async def _create(self, name: str, key: str, claimed_at: float, call: Call) -> Outcome:
        if self.clock.monotonic() - claimed_at > CLAIM_VALID_SECONDS:
            return Failed(Unavailable("the claim took too long to become durable; nothing was sent"))
        enabled = self.enable is Enable.CREATED
        made = await call.create(name, key, enabled=enabled)
        self.subaccounts.keep_token(made)
        return Made(made.auth_id, made.auth_token, enabled=enabled, api_id=made.api_id, status=made.status)

    async def _changed(self, call: Awaitable[Confirmed]) -> Outcome:
        confirmed = await call
        return Changed(confirmed.api_id, confirmed.status)

    async def _delete(self, step: Delete, key: str, call: Call) -> Outcome:
        begun = step.inspection.begun if step.inspection else 0.0
        if self.clock.monotonic() - begun > INSPECTION_VALID_SECONDS:
            return Failed(Unavailable("the subaccount was inspected too long ago; nothing was sent"))
        try:
            confirmed = await call.delete(step.auth_id, key, cascade=step.cascade)
        except CallFailed as failed:
            if failed.fault.kind is not FaultKind.NOT_FOUND:
                raise
            return Deleted(failed.fault.api_id, failed.fault.status)
        return Deleted(confirmed.api_id, confirmed.status)

    async def _adopt(self, name: str | None, entry: Entry, key: str) -> Outcome:
        claim = entry.claim if entry.status is Status.CLAIMED else None
        result = await self.scanner.scan(claim.started_at if claim else None)
        tags = self.subaccounts.tags(entry)
        matches = await self.subaccounts.matches(result, entry, tags)
        if not matches:
            self.orphans.strike_off(tags)
            return NothingSeen(result.begun)
        kept, others = choose(matches, entry.auth_id, claimed=claim is not None)
        found = await self.subaccounts.get_if_there(kept.subaccount.auth_id)
        if found is None:  # deleted, but still listed: the next scan decides
            detail = "the list shows a subaccount of the department that is not there"
            raise CallFailed(CallFault("list", FaultKind.UNEXPECTED, detail))
        adopted = replace(entry, incarnation=kept.incarnation)
        duplicates = duplicates_of(others, kept=found.auth_id)
        plan = plan_adoption(
            listed(found),
            duplicates,
            self.names.sent(name, adopted) if name is not None else None,
            self.provider.capabilities,
            enables_at_once=self.enable is Enable.CREATED,
        )
        await self.subaccounts.disable(plan.disable, entry)
        if plan.update:
            await self.subaccounts.update(found.auth_id, key, plan.update)
        shown = Found(kept.incarnation, self.names.template.name_in(found.name))
        return Made(
            auth_id=found.auth_id,
            auth_token=found.auth_token,
            duplicates=plan.report,
            found=shown,
            enabled=plan.enabled,
        )
