"""The value that travels with one delivery, from its lane to its ack."""

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime

from contracts.departments import Kind
from worker.core import messages
from worker.core.decide import UnknownRename
from worker.core.judge import Pause, RetryState, Wait
from worker.core.messages import Outgoing, Subject
from worker.core.model.causes import Reissue
from worker.core.model.replace import replace
from worker.flow.lanes import FIRST, LAST, Rank
from worker.pipeline.reading import Reading, Unreadable, reading_of, subject_of
from worker.ports import Delivery


@dataclass(frozen=True)
class Work:
    """One delivery and the facts about it.

    `original`: the message as its producer sent it, without the headers that parking added.
    `lane`: its key among the lanes; `rank`: its priority there.
    `leave_at`: monotonic seconds; from then on it is parked instead of waiting any longer.
    `state`: its tries since it was delivered, the present one too.
    """

    delivery: Delivery
    reading: Reading
    original: Outgoing
    lane: Hashable
    rank: Rank
    received_at: datetime
    leave_at: float
    state: RetryState

    @classmethod
    def of(
        cls, delivery: Delivery, unknown_rename: UnknownRename, received_at: datetime, leave_at: float
    ) -> "Work":
        """Reads the message. An unreadable one gets a lane for itself."""
        reading = reading_of(delivery.original)
        return cls(
            delivery=delivery,
            reading=reading,
            original=messages.unparked(delivery.original),
            lane=object() if isinstance(reading, Unreadable) else reading.department,
            rank=rank_of(reading, unknown_rename),
            received_at=received_at,
            leave_at=leave_at,
            state=RetryState(messages.attempts_of(delivery.original), tries=1),
        )

    @property
    def subject(self) -> Subject | None:
        """The facts about the event, for results and logs."""
        return subject_of(self.reading)

    def again(self, verdict: Wait | Pause) -> "Work":
        """The work at its next try. A pause does not count the last one; a wait costs retry budget."""
        match verdict:
            case Pause():
                return replace(self, state=self.state.paused().tried())
            case Wait(_, cost_seconds):
                return replace(self, state=self.state.spent(cost_seconds).tried())


def rank_of(reading: Reading, unknown_rename: UnknownRename) -> Rank:
    """The newest event has the highest rank; unreadable messages go first, requests to reissue last.

    If a rename must not create (`UnknownRename.REJECT`), a waiting create goes before it.
    """
    if isinstance(reading, Unreadable):
        return FIRST
    if isinstance(reading, Reissue):
        return LAST
    creates_first = unknown_rename is UnknownRename.REJECT
    return (creates_first and reading.kind is Kind.CREATED, *reading.version.rank())
