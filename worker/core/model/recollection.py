"""A recollection: all that is known when a step is decided."""

from dataclasses import dataclass

from worker.core.inventory import Inspection
from worker.core.limits import TenantCounts
from worker.core.model.answers import Answer
from worker.core.model.entry import Entry


@dataclass(frozen=True, slots=True)
class Recollection:
    """The knowledge when a step begins: the department, and the answer to this event, if any.

    `counts`: those of its tenant, once the ledger did not admit a removal. `inspection`: the subaccount as
    the provider has just shown it.
    """

    entry: Entry
    answer: Answer | None = None
    counts: TenantCounts | None = None
    inspection: Inspection | None = None
