"""Blocks the gate while credentials cannot be delivered to a recipient.

Each further create would only add credentials that wait.
"""

from collections.abc import Iterable, Mapping

from worker.core.model import Department
from worker.flow.gate import Gate


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


def _blocker(recipient: str) -> str:
    return f"credentials of {recipient}" if recipient else "credentials"
