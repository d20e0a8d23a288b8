"""Whose credentials cannot be delivered to whom: while there are any, no messages are taken."""

from collections.abc import Iterable, Mapping

from worker.core.model import Department
from worker.flow.gate import Intake


class Undelivered:
    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._departments: dict[str, set[Department]] = {}

    def note(
        self,
        department: Department,
        served: Iterable[str] = (),
        failed: Mapping[str, Exception] | None = None,
    ) -> None:
        """What has become of a department's debts, by recipient; what is not named it owes no more."""
        failed = failed or {}
        for recipient in served:  # what goes for one department goes for all
            self._departments.get(recipient, set()).clear()
        for recipient, departments in list(self._departments.items()):
            if recipient not in failed:
                departments.discard(department)
            if not departments:
                del self._departments[recipient]
                self._intake.lift(_holder(recipient))
        for recipient, error in failed.items():
            self._departments.setdefault(recipient, set()).add(department)
            self._intake.hold(_holder(recipient), f"credentials cannot be delivered: {error}")


def _holder(recipient: str) -> str:
    return f"credentials of {recipient}" if recipient else "credentials"
