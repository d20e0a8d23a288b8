"""Effects at the provider that could not be recorded.

The ledger failed after the call, or another worker wrote the entry meanwhile. The provider may then differ
from the record. So a subaccount that we made is disabled, and a check is armed that compares the provider
with the entry.
"""

from dataclasses import dataclass, field

from worker.core.decide import Policy
from worker.core.duties import arm_late_check
from worker.core.judge import Unknown
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.outcomes import Changed, Failed, Made, Outcome
from worker.pipeline.records import Records
from worker.ports import Clock, LedgerConflict
from worker.provider.subaccounts import Subaccounts
from worker.telemetry.events import Telemetry


@dataclass
class Reconciler:
    """Remembers the departments whose last effect is not on record, and arms their checks."""

    records: Records
    subaccounts: Subaccounts
    clock: Clock
    policy: Policy
    telemetry: Telemetry
    _unrecorded: set[Department] = field(default_factory=set)

    async def not_recorded(self, entry: Entry, outcome: Outcome, error: Exception) -> None:
        """Handles an outcome that could not be recorded because of `error`. Raises the ports' exceptions."""
        if _may_have_changed(outcome):
            self._unrecorded.add(entry.department)
        if isinstance(error, LedgerConflict):
            await self._yield_to_other_worker(entry, outcome)

    async def arm_pending_check(self, department: Department) -> None:
        """Arms the check of a department whose last effect is not on record. Called before its next step."""
        if department in self._unrecorded:
            await self.arm_late_check(department)
            self._unrecorded.discard(department)

    async def arm_late_check(self, department: Department) -> None:
        """Arms a check: an effect of ours may have overwritten the state on record."""
        on_record = (await self.records.recall(department)).entry
        if on_record.auth_id is not None:
            await self.records.recheck(arm_late_check(on_record, self.policy, self.clock.now()))

    async def _yield_to_other_worker(self, entry: Entry, outcome: Outcome) -> None:
        on_record = (await self.records.recall(entry.department)).entry
        if isinstance(outcome, Made) and outcome.auth_id != on_record.auth_id:
            await self.subaccounts.disable_made(on_record, outcome.auth_id)
            self.telemetry.doubles_disabled(on_record, (outcome.auth_id,))
        await self.arm_pending_check(entry.department)


def _may_have_changed(outcome: Outcome) -> bool:
    unknown = isinstance(outcome, Failed) and isinstance(outcome.failure, Unknown)
    return unknown or isinstance(outcome, Made | Changed)
