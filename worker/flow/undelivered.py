"""Tracks confirmed and refused messages: credentials and results that are refused block the gate.

Each further event would only add a message that waits.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from worker.core.judge import LONGEST_WAIT_SECONDS
from worker.core.messages import Outgoing
from worker.core.model.departments import Department
from worker.flow.gate import Gate
from worker.ports import Clock, NotTaken

CONFIRMED_KEPT = 10_000
FIRST_RETRY_SECONDS = 1.0


class ConfirmedMessages:
    """The ids of messages that the broker has confirmed, the newest `CONFIRMED_KEPT`.

    A try that fails after a confirm, at the ledger for example, is repeated, and must not publish again what
    was confirmed. All messages under one id say the same.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, id_: object) -> bool:
        return id_ in self._ids

    def add(self, id_: str | None) -> None:
        """Remembers a message; None stands for one without an id, which is not remembered."""
        if id_ is None:
            return
        self._ids[id_] = None
        if len(self._ids) > CONFIRMED_KEPT:
            self._ids.popitem(last=False)

    def forget(self, id_: str | None) -> None:
        """Forgets a message that may be published again under its id."""
        if id_ is not None:
            self._ids.pop(id_, None)


@dataclass(slots=True)
class _Refused:
    """A result that a queue has refused `tries` times. `retry_at`: monotonic seconds."""

    outgoing: Outgoing
    reason: str
    tries: int
    retry_at: float


@dataclass
class RefusedResults:
    """Blocks the gate while a queue refuses results of a kind, which is their routing key.

    Of each kind only one result is tried again, at growing intervals; the others wait for it.
    """

    gate: Gate
    clock: Clock
    _refused: dict[str, _Refused] = field(default_factory=dict)

    def check(self, outgoing: Outgoing) -> None:
        """Raises `NotTaken` while results of this kind are refused."""
        refused = self._refused.get(outgoing.routing_key)
        if refused is not None:
            raise NotTaken(refused.reason)

    def add(self, outgoing: Outgoing, error: NotTaken) -> None:
        """Notes that a queue has refused a result. The next try is later each time."""
        key = outgoing.routing_key
        tries = self._refused[key].tries + 1 if key in self._refused else 1
        wait = min(LONGEST_WAIT_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(tries - 1, 10))
        self._refused[key] = _Refused(outgoing, str(error), tries, self.clock.monotonic() + wait)
        self.gate.block(_results(key), f"results cannot be delivered: {error}")

    def taken(self, outgoing: Outgoing) -> None:
        """Notes that a result of this kind was taken."""
        if self._refused.pop(outgoing.routing_key, None) is not None:
            self.gate.unblock(_results(outgoing.routing_key))

    def due(self) -> list[Outgoing]:
        """The results to try again now."""
        now = self.clock.monotonic()
        return [one.outgoing for one in self._refused.values() if one.retry_at <= now]


def _results(routing_key: str) -> str:
    return f"results {routing_key}"


class UndeliveredCredentials:
    """The departments whose credentials could not be delivered, by recipient."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._departments: dict[str, set[Department]] = {}

    def update(
        self,
        department: Department,
        served: Iterable[str] = (),
        failed: Mapping[str, Exception] | None = None,
    ) -> None:
        """Updates a department's state of delivery, and blocks or unblocks the gate for each recipient.

        `served`: the recipients that got their credentials; `failed`: the error of each that did not. The
        department owes nothing to any other recipient.
        """
        failed = failed or {}
        for recipient in served:  # a recipient that gets one department's credentials can get all
            self._departments.get(recipient, set()).clear()
        for recipient, departments in list(self._departments.items()):
            if recipient not in failed:
                departments.discard(department)
            if not departments:
                del self._departments[recipient]
                self._gate.unblock(_blocker(recipient))
        for recipient, error in failed.items():
            self._departments.setdefault(recipient, set()).add(department)
            self._gate.block(_blocker(recipient), f"credentials cannot be delivered: {error}")

    @property
    def examples(self) -> Mapping[str, Department]:
        """For each recipient that blocks the gate, one of the departments whose credentials it lacks."""
        return {recipient: next(iter(owing)) for recipient, owing in self._departments.items()}

    def delivered(self, recipient: str) -> None:
        """Unblocks the gate for a recipient: another worker has delivered to it."""
        if self._departments.pop(recipient, None) is not None:
            self._gate.unblock(_blocker(recipient))


def _blocker(recipient: str) -> str:
    return f"credentials of {recipient}" if recipient else "credentials"
