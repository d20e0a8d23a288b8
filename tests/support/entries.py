"""All entries of a small ledger, and a large ledger that is never whole."""

import weakref
from collections.abc import Mapping, Sequence
from itertools import count, islice, takewhile

from tests.support.builders import an_entry
from worker.adapters.memory.ledger import MemoryLedger
from worker.core.model.causes import Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.recollection import Recollection
from worker.core.model.replace import replace
from worker.ports import Reports, every_entry

ENTRY = an_entry()


async def entries_of(ledger: Reports, tenant: str | None = None) -> list[Entry]:
    return [entry async for entry in every_entry(ledger, tenant)]


class EndlessLedger(MemoryLedger):
    """Makes the entries of many active departments when they are read, and counts those still alive."""

    def __init__(self, departments: int) -> None:
        super().__init__()
        self.departments = departments
        self.alive = self.most_alive = self.made = 0

    @staticmethod
    def auth_id(number: int) -> str:
        return f"SA{number:018}"

    def entry(self, number: int) -> Entry:
        entry = replace(ENTRY, department=_department(number), auth_id=self.auth_id(number))
        weakref.finalize(entry, self._forget)
        self.made += 1
        self.alive += 1
        self.most_alive = max(self.alive, self.most_alive)
        return entry

    def _forget(self) -> None:
        self.alive -= 1

    async def entries_after(
        self, last: Department | None, limit: int, _tenant: str | None = None
    ) -> Sequence[Entry]:
        first = 0 if last is None else _number(last) + 1
        numbers = takewhile(lambda number: number < self.departments, count(first))
        return [self.entry(number) for number in islice(numbers, limit)]

    async def recall(self, department: Department, _event: Reference) -> Recollection:
        return Recollection(self.entry(_number(department)), None)

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        numbers = {auth_id: int(auth_id.removeprefix("SA")) for auth_id in auth_ids}
        return {
            auth_id: _department(number) for auth_id, number in numbers.items() if number < self.departments
        }


def _department(number: int) -> Department:
    return Department("default", f"d-{number:08}")


def _number(department: Department) -> int:
    return int(department.id.removeprefix("d-"))
