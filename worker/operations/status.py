"""The state of a whole deployment: its workers, departments and queues, and what needs a person."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from worker.core.breaker import State
from worker.core.duties import OVERDUE
from worker.core.model.entry import Status
from worker.core.presence import PRESENT_FOR, WorkerSeen
from worker.ports import Clock, Ledger

_WORST_FIRST = (State.OPEN, State.HALF_OPEN, State.CLOSED)


@dataclass(frozen=True, slots=True)
class InLedger:
    """The part of the status that comes from the ledger."""

    workers: Sequence[WorkerSeen]
    departments: Mapping[Status, int]
    holds: int
    debts_overdue: int


@dataclass(frozen=True, slots=True)
class InQueues:
    """The broker's part of the status: messages ready in its queues; None if one is away or not shown.

    `unacked`: messages of the work queue that workers hold; only the management API tells.
    """

    ready: int | None = None
    parked: int | None = None
    dead_letters: int | None = None
    unrouted: int | None = None
    unacked: int | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole state. `unseen`: a line for each place that could not be read."""

    ledger: InLedger | None
    queues: InQueues
    unseen: Sequence[str] = field(default=())

    @property
    def workers(self) -> Sequence[WorkerSeen]:
        """The workers that run."""
        return self.ledger.workers if self.ledger else ()

    @property
    def circuit(self) -> State | None:
        """The worst state of the workers' circuits; None without a worker."""
        states = {worker.circuit for worker in self.workers}
        return next((state for state in _WORST_FIRST if state in states), None)

    @property
    def needs(self) -> Sequence[str]:
        """One line for each thing that needs a person. Empty: all is well."""
        return [*self.unseen, *self._about_workers(), *self._about_work()]

    def _about_workers(self) -> Iterator[str]:
        if self.ledger is not None and not self.workers:
            yield "no worker runs on this ledger: start `provisioner run`"
        for worker in self.workers:
            if not worker.consuming:
                why = "; ".join(worker.problems) or "its log tells more"
                yield f"the worker {worker.host} {worker.pid} does not consume: {why}"
        if self.circuit is State.OPEN and all(worker.consuming for worker in self.workers):
            yield "the circuit is open: Plivo, or the way to it, is unusable for all; see the worker's log"

    def _about_work(self) -> Iterator[str]:
        if self.ledger is not None:
            yield from _waiting(self.ledger.holds, "held removals", "holds list")
            owing = "departments whose credentials, enabling or removal is owed for more than 5 minutes"
            yield from _waiting(self.ledger.debts_overdue, owing, "departments list --owed")
        yield from _waiting(self.queues.dead_letters, "dead letters", "dead-letters list")
        unrouted = "messages with a routing key that no queue takes"
        yield from _waiting(self.queues.unrouted, unrouted, "dead-letters list --unrouted")


def _waiting(number: int | None, what: str, command: str) -> Iterator[str]:
    """One line, unless there are none: `dead letters: 2; see ...`."""
    if number:
        yield f"{what}: {number:,}; see `provisioner {command}`"


async def in_ledger(ledger: Ledger, clock: Clock) -> InLedger:
    """The ledger's part of the status now. Raises `LedgerFailed`."""
    workers = await ledger.workers(PRESENT_FOR)
    return InLedger(
        workers=[worker for worker in workers if not worker.left],
        departments=await ledger.count_by_status(),
        holds=sum((await ledger.waiting_holds()).values()),
        debts_overdue=await ledger.overdue(clock.now() - OVERDUE),
    )
