"""Corrections: grants the wishes to correct findings of a sweep.

A correction takes the department's lane, as an event does. It is decided again on a fresh entry and a fresh
look at the provider, and its change is durable as a check before it is sent. The open wish brings it back
after a crash, until its answer is on record.
"""

from dataclasses import dataclass

from pydantic import SecretStr

from contracts.subaccounts import ResultCode, ResultKind
from worker.core.correction import (
    AsWanted,
    Change,
    Decline,
    IssueNext,
    Look,
    audit_of_correction,
    corrected,
    decide_correction,
    next_generation,
)
from worker.core.decide import Policy
from worker.core.drift import FindingKind, is_under_way
from worker.core.duties import arm_check, clear_check
from worker.core.gone import found
from worker.core.judge import Missing, Permanent, classify, told
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.entry import Entry
from worker.core.model.wishes import Correcting, Wish
from worker.core.naming import Names
from worker.core.outcomes import Changed
from worker.core.wishes import has_begun, reference_of
from worker.pipeline.disappearances import Disappearances
from worker.pipeline.failures import failure_of
from worker.pipeline.outbox import Outbox
from worker.pipeline.reconcile import Reconciler
from worker.pipeline.records import Records
from worker.pipeline.traces import update_note
from worker.pipeline.tries import Tries
from worker.ports import (
    Beside,
    CallFailed,
    Clock,
    LedgerConflict,
    LedgerFailed,
    ProvidedSubaccount,
    Provider,
    Register,
    Wishes,
)
from worker.provider.listing import Listing
from worker.provider.pace import Pace
from worker.provider.subaccounts import Subaccounts
from worker.telemetry.events import Telemetry

CALLS_OF_ONE = 2
"""The calls of a correction: a GET, and most often one change."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """The fresh state, and the token that came with it."""

    look: Look
    token: SecretStr | None


@dataclass(frozen=True, slots=True)
class Corrections:
    """Grants the wishes to correct findings."""

    records: Records
    register: Register
    wishes: Wishes
    provider: Provider
    subaccounts: Subaccounts
    listing: Listing
    pace: Pace
    reconciler: Reconciler
    disappearances: Disappearances
    outbox: Outbox
    tries: Tries
    names: Names
    clock: Clock
    policy: Policy
    telemetry: Telemetry

    def is_due(self, wish: Wish) -> bool:
        """Whether the next try is due, and the pace of sweeps allows it."""
        return self.tries.is_due(wish.id) and self.pace.take(CALLS_OF_ONE)

    async def grant(self, wish: Wish, asked: Correcting) -> None:
        """Makes one try. Records an answer if it ends the wish. Raises the exceptions of the ports."""
        try:
            await self._grant(wish, asked)
        except Exception as error:
            self.tries.put_off(wish.id, failure_of(error))
            raise

    async def _grant(self, wish: Wish, asked: Correcting) -> None:
        await self.reconciler.arm_pending_check(wish.department)
        known = await self.records.recall(wish.department, reference_of(wish))
        entry = known.entry
        if known.answer is not None:  # a worker died before it closed the wish
            await self._close(wish)
            return
        if has_begun(wish, entry):
            await self._deliver(wish, asked, entry, None)
            return
        looked = await self._look(asked, entry)
        match decide_correction(asked, entry, looked.look, self.names, self.policy):
            case Change() as change:
                await self._change(wish, asked, entry, change)
            case IssueNext(token):
                now = self.clock.now()
                owing = next_generation(entry, token, reference_of(wish), self.policy, now)
                recorded = await self.records.announce(entry, owing)
                await self._deliver(wish, asked, recorded, looked.token)
            case AsWanted(why):
                await self._end(wish, asked, entry, ResultKind.UNCHANGED, why)
            case Decline(why, code):
                if code is ResultCode.GONE_AT_PROVIDER:
                    entry = await self.disappearances.note(wish.department)
                await self._end(wish, asked, entry, ResultKind.FAILED, why, code)

    async def _look(self, asked: Correcting, entry: Entry) -> _Looked:
        """The fresh state at the provider; no call is made while a step of the department is under way."""
        if is_under_way(entry):
            return _Looked(Look(None, None, own_is_there=False), None)
        shown = await self.subaccounts.get_if_there(asked.auth_id)
        own_is_there = True
        if asked.finding == FindingKind.DOUBLE and entry.auth_id is not None:
            own_is_there = await self.subaccounts.get_if_there(entry.auth_id) is not None
        holder = (await self.register.holders([asked.auth_id])).get(asked.auth_id)
        seen = self.listing.seen(shown) if shown else None
        return _Looked(Look(seen, holder, own_is_there), _token_of(shown))

    async def _change(self, wish: Wish, asked: Correcting, entry: Entry, change: Change) -> None:
        key = self.names.correction_key(asked.finding, entry, asked.auth_id, reference_of(wish))
        is_own = entry.auth_id == asked.auth_id
        async with self.provider.permit("update") as call:
            if is_own:  # a double is compared with nothing later
                armed = arm_check(entry, self.policy, self.clock.now())
                entry = await self.records.announce(entry, armed)
            try:
                update = change.update
                confirmed = await call.update(asked.auth_id, key, name=update.name, enabled=update.enabled)
            except CallFailed as failed:
                note = update_note(key, asked.auth_id, failed, self.clock.now())
                self.records.keep(wish.department, note)
                await self._failed(wish, asked, entry, failed)
                return
        done = found(clear_check(entry), self.policy, self.clock.now()) if is_own else entry
        note = update_note(key, asked.auth_id, confirmed, self.clock.now())
        try:
            await self._end(wish, asked, done, change.outcome, calls=(note,))
        except (LedgerConflict, LedgerFailed) as error:
            if is_own:
                await self.reconciler.not_recorded(entry, Changed(confirmed.api_id), error)
            raise

    async def _failed(self, wish: Wish, asked: Correcting, entry: Entry, failed: CallFailed) -> None:
        """Ends the wish if another try gets the same response; else raises. The check stays armed."""
        match classify(failed.fault):
            case Permanent() as refused:
                entry = clear_check(entry)
                code = refused.code or ResultCode(refused.reason)
                await self._end(wish, asked, entry, ResultKind.FAILED, told(refused), code)
            case Missing() if entry.auth_id != asked.auth_id:
                await self._end(wish, asked, entry, ResultKind.UNCHANGED, "it is not at Plivo any more")
            case Missing() as missing:
                code = ResultCode.GONE_AT_PROVIDER
                await self._end(wish, asked, entry, ResultKind.FAILED, told(missing), code)
            case _:
                raise failed

    async def _deliver(self, wish: Wish, asked: Correcting, entry: Entry, token: SecretStr | None) -> None:
        """Publishes the credentials owed for this correction, unless a duty has done so already."""
        if entry.is_live:
            entry = await self.outbox.deliver_owed(entry, token)
        if entry.owed_to:
            why = "the department was removed before its credentials were issued"
            await self._end(wish, asked, entry, ResultKind.FAILED, why, ResultCode.NOT_ACTIVE)
            return
        why = f"credentials of generation {entry.generation} are issued"
        await self._end(wish, asked, entry, ResultKind.REISSUED, why)
        self.outbox.forget_token(entry)

    async def _end(
        self,
        wish: Wish,
        asked: Correcting,
        entry: Entry,
        outcome: ResultKind,
        why: str | None = None,
        code: ResultCode | None = None,
        calls: tuple[CallNote, ...] = (),
    ) -> None:
        answer = corrected(wish, entry, outcome, self.clock.now(), why, code)
        line = audit_of_correction(wish, answer, asked.finding)
        if entry.revision:
            await self.records.granted(entry, answer, Beside(audit=(line,), calls=calls))
        else:  # a department that the ledger does not know gets no entry by this
            await self.records.answered(answer)
        self._tell(wish, asked, answer)
        await self._close(wish)

    def _tell(self, wish: Wish, asked: Correcting, answer: Answer) -> None:
        if answer.outcome not in {ResultKind.FAILED, ResultKind.UNCHANGED}:
            self.telemetry.finding_corrected(asked.finding, wish.department, asked.auth_id, wish.asked_by)
        elif answer.outcome is ResultKind.FAILED:
            self.telemetry.duty_failed(wish.department, f"{asked.finding} not corrected: {answer.reason}")

    async def _close(self, wish: Wish) -> None:
        await self.wishes.close_wish(wish.id)
        self.tries.end(wish.id)


def _token_of(shown: ProvidedSubaccount | None) -> SecretStr | None:
    return shown.auth_token if shown else None
