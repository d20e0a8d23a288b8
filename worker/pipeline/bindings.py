"""Adopts existing subaccounts, as an operator's wishes in the ledger ask: `core/binding.py` decides.

    look       recall the entry, GET the subaccount, ask the ledger who has it on record
    record     the department has this subaccount, with a check: from here on every worker knows it
    change     rename it to carry the tag, enable it: one call, under the permit that the record waited for
    issue      publish the credentials, if the wish asks for them
    answer     the answer and the audit, in one transaction; then the wish is closed

A worker that dies in between leaves the open wish: the next one finds the department bound by it and goes on.
Without a wish (it was withdrawn), the check makes the change, and the scheduler pays the debt.
"""

import asyncio
from dataclasses import dataclass, field

from pydantic import SecretStr

from contracts.subaccounts import ResultKind
from worker.core.binding import (
    Already,
    Bind,
    Known,
    Refused,
    answer_to,
    decide_binding,
    unbound,
)
from worker.core.decide import Policy
from worker.core.duties import clear_check
from worker.core.judge import Missing, Permanent, classify, told
from worker.core.model.calls import CallNote
from worker.core.model.entry import Entry
from worker.core.model.wishes import Binding, Wish
from worker.core.naming import Names
from worker.core.wishes import audit_of, reference_of
from worker.pipeline.failures import failure_of
from worker.pipeline.outbox import Outbox
from worker.pipeline.records import Records
from worker.pipeline.traces import update_note
from worker.pipeline.tries import Tries
from worker.ports import (
    AuthIdTaken,
    Beside,
    CallFailed,
    Clock,
    ProvidedSubaccount,
    Provider,
    PublishFailed,
    Register,
    Wishes,
)
from worker.provider.scan import Orphans, listed
from worker.provider.subaccounts import Subaccounts
from worker.telemetry.events import Telemetry

AT_ONCE = 30
"""The adoptions that are carried out at the same time: an event waits for the calls of these, not of all."""


@dataclass(frozen=True, slots=True)
class Bindings:
    """Grants the wishes to adopt a subaccount."""

    records: Records
    register: Register
    wishes: Wishes
    provider: Provider
    subaccounts: Subaccounts
    orphans: Orphans
    outbox: Outbox
    tries: Tries
    names: Names
    clock: Clock
    policy: Policy
    telemetry: Telemetry
    _few_at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    def is_due(self, wish: Wish) -> bool:
        """Whether the next try is due; the first one is at once."""
        return self.tries.is_due(wish.id)

    async def grant(self, wish: Wish, asked: Binding) -> None:
        """Makes one try. Records the answer if it ends the wish. Raises the exceptions of the ports."""
        try:
            async with self._few_at_once:
                if not await self.wishes.is_open(wish.id):
                    return  # it was withdrawn meanwhile
                known = await self.records.recall(wish.department, reference_of(wish))
                if known.answer is None:
                    await self._carry_out(wish, asked, known.entry)
        except Exception as error:
            self.tries.put_off(wish.id, failure_of(error))
            if _is_told_elsewhere(error):
                return
            raise
        await self.wishes.close_wish(wish.id)
        self.tries.end(wish.id)

    async def _carry_out(self, wish: Wish, asked: Binding, entry: Entry) -> None:
        shown = await self.subaccounts.get_if_there(asked.auth_id)
        known = await self._known(asked, entry, shown)
        match decide_binding(wish, asked, known, self.names, self.policy, self.clock.now()):
            case Bind(bound, update):
                token = shown.auth_token if shown else None
                await self._bind(wish, asked, entry, Bind(bound, update), token)
            case Already():
                answer = answer_to(wish, entry, ResultKind.UNCHANGED, None, self.clock.now())
                await self.records.answered(answer)
            case Refused(reason, left):
                await self._refuse(wish, reason, entry, left)

    async def _known(self, asked: Binding, entry: Entry, shown: ProvidedSubaccount | None) -> Known:
        holder = (await self.register.holders([asked.auth_id])).get(asked.auth_id)
        if shown is None:
            return Known(entry, None, holder)
        unknown = await self.orphans.tags() & self.subaccounts.tags(entry).keys()
        its_own = self.names.template.tag_in(shown.name)
        return Known(entry, listed(shown), holder, has_other=bool(unknown - {its_own}))

    async def _bind(
        self, wish: Wish, asked: Binding, before: Entry, bind: Bind, token: SecretStr | None
    ) -> None:
        recorded, entry = before, bind.entry
        calls: tuple[CallNote, ...] = ()
        if bind.update:
            async with self.provider.permit("update") as call:
                recorded = await self.records.announce(before, bind.entry)
                key = self.names.duty_key("adopt", recorded, asked.auth_id)
                try:
                    confirmed = await call.update(
                        asked.auth_id, key, name=bind.update.name, enabled=bind.update.enabled
                    )
                except CallFailed as failed:
                    note = update_note(key, asked.auth_id, failed, self.clock.now())
                    self.records.keep(wish.department, note)
                    await self._not_changed(wish, recorded, failed)
                    return
            entry = clear_check(recorded)
            calls = (update_note(key, asked.auth_id, confirmed, self.clock.now()),)
        if entry.owed_to:
            entry = await self._issued(await self.records.announce(recorded, entry), token)
        now, outcome = self.clock.now(), f"adopted {asked.auth_id}"
        answer = answer_to(wish, entry, ResultKind.CREATED, outcome, now)
        line = audit_of(wish, asked.auth_id, outcome, now)
        await self.records.granted(entry, answer, Beside(audit=(line,), calls=calls))
        self.telemetry.department_adopted(wish.department, asked.auth_id, wish.asked_by)

    async def _issued(self, entry: Entry, token: SecretStr | None) -> Entry:
        """Publishes the credentials owed. The scheduler pays a debt that is left."""
        try:
            return await self.outbox.deliver_owed(entry, token)
        except (CallFailed, PublishFailed) as failed:
            self.telemetry.duty_failed(entry.department, str(failed))
            return (await self.records.recall(entry.department)).entry

    async def _not_changed(self, wish: Wish, recorded: Entry, failed: CallFailed) -> None:
        """Undoes the binding if another try gets the same response; else raises, and the check stays."""
        failure = classify(failed.fault)
        if not isinstance(failure, Permanent | Missing):
            raise failed
        reason = f"Plivo refused to rename or enable it: {told(failure)}"
        await self._refuse(wish, reason, recorded, unbound(recorded))

    async def _refuse(self, wish: Wish, reason: str, entry: Entry, left: Entry | None) -> None:
        """Records that nothing was done. `left`: the entry without the binding, if there was one."""
        answer = answer_to(wish, left or entry, ResultKind.FAILED, reason, self.clock.now())
        await self.records.answered(answer, left)


def _is_told_elsewhere(error: Exception) -> bool:
    """Whether the circuit has reported the error, or the next try answers it: somebody was quicker."""
    return isinstance(error, AuthIdTaken) or (isinstance(error, CallFailed) and error.fault.outage)
