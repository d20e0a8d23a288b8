"""Records that the provider does not find a subaccount on record, for calls beside a step's own.

A step's own call ends in its conclusion. The calls that read a token, or enable a subaccount, raise instead.
"""

from dataclasses import dataclass

from worker.core.decide import Policy
from worker.core.gone import looked_for
from worker.core.judge import CallFault, FaultKind
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.flow.undelivered import UndeliveredCredentials
from worker.pipeline.records import Records
from worker.ports import Clock
from worker.telemetry.events import Telemetry


@dataclass(frozen=True, slots=True)
class Disappearances:
    """Marks subaccounts that are missing, and that are gone."""

    records: Records
    undelivered: UndeliveredCredentials
    clock: Clock
    policy: Policy
    telemetry: Telemetry

    async def note(self, department: Department) -> Entry:
        """The recorded entry, after a 404 for the department's subaccount. Raises the ports' exceptions."""
        entry = (await self.records.recall(department)).entry
        missing = looked_for(entry, self.policy, self.clock.now())
        recorded = await self.records.announce(entry, missing)
        self.tell(entry, recorded)
        return recorded

    def tell(self, before: Entry, entry: Entry) -> None:
        """Reports once that the subaccount is gone. Its credentials are not waited for any longer."""
        if entry.gone_at is not None and before.gone_at is None:
            self.telemetry.subaccount_missing(entry)
            self.undelivered.update(entry.department)


def is_missing(fault: CallFault) -> bool:
    """Whether the provider did not find the subaccount that the call was for."""
    return fault.kind is FaultKind.NOT_FOUND and fault.operation in {"get", "update"}
