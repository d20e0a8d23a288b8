"""A department's subaccounts at the provider: finds them by their tags, and reads and changes them."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from pydantic import SecretStr

from worker.core.adoption import (
    Match,
    Update,
    duplicates_of,
    in_question,
    plan_repair,
    to_disable,
)
from worker.core.inventory import NOTHING, Inspection
from worker.core.judge import CallFault, FaultKind
from worker.core.model.entry import Entry, Status
from worker.core.naming import Names
from worker.ports import (
    AuthIdTaken,
    Call,
    CallFailed,
    Clock,
    NewSubaccount,
    ProvidedSubaccount,
    Provider,
    Register,
)
from worker.provider.foreign import ForeignIds
from worker.provider.inventories import Inventories
from worker.provider.scan import Scanner, ScanResult, listed
from worker.provider.tokens import KeptTokens


@dataclass(frozen=True, slots=True)
class Subaccounts:
    """The calls other than a step's own, each with its own permit. All raise `CallFailed`."""

    provider: Provider
    register: Register
    names: Names
    scanner: Scanner
    foreign: ForeignIds
    inventories: Inventories
    clock: Clock
    kept_tokens: KeptTokens = field(default_factory=KeptTokens)

    async def token(self, entry: Entry) -> SecretStr:
        """The auth token of an active entry: read, or kept since the create if it is shown only once."""
        auth_id = entry.existing.auth_id
        if not self.provider.capabilities.can_read_token:
            return self.kept_tokens.of(auth_id)
        token = (await self._get(auth_id)).auth_token
        if token is None:
            raise ValueError("the provider shows no token")
        return token

    def keep_token(self, made: NewSubaccount) -> None:
        """Keeps the token until its credentials are published, if the provider does not show it again."""
        if not self.provider.capabilities.can_read_token:
            self.kept_tokens.keep(made)

    def forget_token(self, entry: Entry) -> None:
        """Drops a kept token: its credentials are published."""
        if entry.auth_id is not None:
            self.kept_tokens.drop(entry.auth_id)

    async def difference(self, entry: Entry) -> Update:
        """The update that makes the subaccount match its entry, empty if it does."""
        if entry.auth_id is None or entry.name is None:
            return Update()
        return plan_repair(
            listed(await self._get(entry.auth_id)),
            self.names.on_record(entry),
            self.provider.capabilities,
            wanted_enabled=entry.status is Status.ACTIVE and not entry.held_back,
        )

    async def repair(self, call: Call, entry: Entry, update: Update) -> None:
        """Makes the subaccount match its entry."""
        auth_id = entry.existing.auth_id
        key = self.names.duty_key(f"mend {entry.repairs}", entry, auth_id)
        await call.update(auth_id, key, name=update.name, enabled=update.enabled)

    async def inspect(self, entry: Entry) -> Inspection:
        """Reads the entry's subaccount and its inventory. Raises `ValueError` for an entry without one.

        A 404 alone does not show that it is gone: one that has resources is there. `CallFailed` says so.
        """
        if entry.auth_id is None:
            raise ValueError(f"there is no subaccount to inspect: the department is {entry.status}")
        begun = self.clock.monotonic()
        shown = await self.get_if_there(entry.auth_id)
        inventory = await self.inventories.of(entry.auth_id)
        if shown is not None:
            tagged = self.names.template.bears(shown.name, self.names.tag(entry))
            return Inspection(listed(shown), tagged, inventory, begun)
        if inventory != NOTHING:
            detail = f"Plivo does not find the subaccount (404), and {inventory.counts} hang on it"
            raise CallFailed(CallFault("get", FaultKind.UNEXPECTED, detail))
        return Inspection(found=None, tagged=False, inventory=NOTHING, begun=begun)

    def permit_to_update(self) -> AbstractAsyncContextManager[Call]:
        """The permit for `enable_made` and `repair`, acquired before the record that announces the call."""
        return self.provider.permit("update")

    async def enable_made(self, call: Call, entry: Entry) -> None:
        """Enables a subaccount that was created disabled."""
        auth_id, _, issued = entry.existing
        key = self.names.enabling_key(entry, auth_id, issued.cause)
        await call.update(auth_id, key, enabled=True)

    async def disable_duplicates(self, entry: Entry) -> tuple[str, ...]:
        """Disables all subaccounts with a tag of this department that are not on record. Returns their ids.

        It covers all incarnations: a create taken for lost may be carried out after its successor was
        deleted.
        """
        result = await self.scanner.scan(entry.created_at)
        tags = self.names.tags(entry.department, range(1, entry.incarnation + 1))
        duplicates = duplicates_of(await self.matches(result, entry, tags), kept=entry.auth_id)
        await self.disable(to_disable(duplicates), entry)
        return tuple(one.auth_id for one in duplicates)

    async def disable(self, auth_ids: Iterable[str], entry: Entry) -> None:
        """Disables the department's duplicates. One that was deleted meanwhile is skipped."""
        for auth_id in auth_ids:
            try:
                await self.disable_made(entry, auth_id)
            except CallFailed as failed:
                if failed.fault.kind is not FaultKind.NOT_FOUND:
                    raise

    async def disable_made(self, entry: Entry, auth_id: str) -> None:
        """Disables a subaccount that a create made while another is on record."""
        await self.update(auth_id, self.names.duty_key("disable", entry, auth_id), Update(enabled=False))

    async def update(self, auth_id: str, key: str, update: Update) -> None:
        """Sends the update under this idempotency key."""
        async with self.provider.permit("update") as call:
            await call.update(auth_id, key, name=update.name, enabled=update.enabled)

    async def get_if_there(self, auth_id: str) -> ProvidedSubaccount | None:
        """The subaccount as it is now; None if it is gone."""
        try:
            return await self._get(auth_id)
        except CallFailed as failed:
            if failed.fault.kind is FaultKind.NOT_FOUND:
                return None
            raise

    def tags(self, entry: Entry) -> Mapping[str, int]:
        """The tags to look for when the department is adopted, each with its incarnation."""
        return self.names.tags(entry.department, in_question(entry))

    async def matches(self, result: ScanResult, entry: Entry, tags: Mapping[str, int]) -> list[Match]:
        """The subaccounts with one of these tags, without those on record for another department.

        Raises `AuthIdTaken` if one of those shows that this is another account than the ledger's.
        """
        seen = [Match(number, one) for tag, number in tags.items() for one in result.seen.get(tag, ())]
        holders = await self.register.holders([one.subaccount.auth_id for one in seen]) if seen else {}
        ours = entry.department
        for auth_id, holder in holders.items():
            if holder != ours and entry.auth_id is None and await self.foreign.is_another_account(holder):
                self.foreign.met(taken := AuthIdTaken(auth_id, holder))
                raise taken
        return [one for one in seen if holders.get(one.subaccount.auth_id, ours) == ours]

    async def _get(self, auth_id: str) -> ProvidedSubaccount:
        async with self.provider.permit("get") as call:
            return await call.get(auth_id)
