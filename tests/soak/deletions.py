"""Workers killed around deletions: `python -m tests.soak.deletions --departments 200 --kills 500 --seed 7`.

Departments are removed under a grace of seconds. Some have an application by then, and some are created again
about when the grace ends. The workers get SIGKILL near the calls of a deletion, at a faulty sandbox. No
subaccount may be deleted that has an application or whose department exists, and none without a look before.
If a rule is broken, the exit code is 1.
"""

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar

from tests.soak.command import parser
from tests.soak.kills import run_soak
from tests.soak.lives import Soak, SoakPlan
from tests.soak.statements import WORDS, Statement
from tests.soak.verdict import Document, Violation
from tests.support.entries import entries_of
from worker.cli.open_ports import ledger_to_read
from worker.core.model.holds import HoldState
from worker.settings.load import load
from worker.settings.model import LedgerSettings

GRACE = "2s"
LOOKS = frozenset({"get_subaccount", "list_numbers", "list_applications", "list_endpoints"})
WITH_RESOURCES = 0.3
RESTORED = 0.5


@dataclass
class Deletions(Soak):
    """A soak around the end of the grace. `applications`: those given, by the auth id of their owner."""

    moment_weights: ClassVar[Sequence[int]] = (1, 8, 1)
    calls: ClassVar[Sequence[str]] = (
        "delete_subaccount",
        "list_numbers",
        "list_endpoints",
        "update_subaccount",
    )
    settings: ClassVar[Mapping[str, str]] = {
        "PROVISIONER_REMOVAL_GRACE": GRACE,
        "PROVISIONER_REMOVAL_LIMIT": "off",
    }
    applications: dict[str, str] = field(default_factory=dict)
    held: int = 0

    def __post_init__(self) -> None:
        self.statements = draw_removals(self.plan.departments, random.Random(self.plan.seed))

    async def _send(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            if statement.kind == "removed" and random.Random(statement.id).random() < WITH_RESOURCES:
                self._give_application(statement.department)
            await super()._send([statement])

    def _give_application(self, department: str) -> None:
        """Makes an application of the department's subaccount, if it is there by now."""
        owners = [one for one in self.sandbox.subaccounts() if one.name.startswith(f"{department} ")]
        if len(owners) == 1:
            auth_id = owners[0].auth_id
            (self.applications[auth_id],) = self.sandbox.seed_resources(auth_id, applications=1).applications

    async def _owed(self) -> bool:
        """Whether anything is due now or when a grace ends."""
        async with ledger_to_read(load(LedgerSettings, self.environ)) as (ledger, _):
            entries = await entries_of(ledger)
            holds = await ledger.holds()
        self.held = sum(one.state is HoldState.WAITING for one in holds)
        due = any(entry.due_at or entry.deletable_since for entry in entries)
        return due or await self.result_log.waiting() > 0

    def more_figures(self) -> list[tuple[str, str]]:
        outcomes = [one["data"]["outcome"] for one in _first_of_each(self.result_log.results)]
        deletions = [one for one in self.sandbox.requests if one.operation == "delete_subaccount"]
        return [
            ("applications given before a removal", str(len(self.applications))),
            ("calls to delete", str(len(deletions))),
            ("removed at the end of the grace", str(outcomes.count("removed"))),
            ("restored in time", str(outcomes.count("restored"))),
            ("held for resources at the end", str(self.held)),
            ("wrong deletes", str(len(list(self._wrong_deletes())))),
        ]

    def _verdict(self, code: int | None, waiting: int) -> list[Violation]:
        return [*super()._verdict(code, waiting), *self._wrong_deletes()]

    def _wrong_deletes(self) -> Iterator[Violation]:
        there = {one.auth_id for one in self.sandbox.subaccounts()}
        for auth_id, application in self.applications.items():
            if auth_id not in there:
                yield Violation(auth_id, f"was deleted, and had application {application}")
        looked: dict[str, set[str]] = {}
        for request in self.sandbox.requests:
            auth_id = _subject_of(request.path, request.query)
            if request.operation in LOOKS:
                looked.setdefault(auth_id, set()).add(request.operation or "")
            elif request.operation == "delete_subaccount":
                if "cascade" in request.query or "cascade" in str(request.body):
                    yield Violation(auth_id, "was deleted with cascade")
                seen = looked.pop(auth_id, set())
                if "get_subaccount" not in seen:
                    yield Violation(auth_id, "was deleted without a look before")
        yield from self._deleted_after_restore(there)

    def _deleted_after_restore(self, there: set[str]) -> Iterator[Violation]:
        newest = {one.department: one for one in sorted(self.statements, key=lambda one: one.sequence)}
        for result in _first_of_each(self.result_log.results):
            data = result["data"]
            statement = newest.get(data["department_id"])
            is_newest = statement is not None and statement.id == data["event"]["id"]
            if data["outcome"] == "restored" and is_newest and data["auth_id"] not in there:
                yield Violation(data["department_id"], f"{data['auth_id']} was deleted after its restore")


def _first_of_each(results: Sequence[Document]) -> list[Document]:
    return list({one["id"]: one for one in results}.values())


def _subject_of(path: str, query: str) -> str:
    """The auth id that a request is about: in the path, or in the filter of a list."""
    if "subaccount=" in query:
        return query.partition("subaccount=")[2].partition("&")[0]
    return path.rstrip("/").rpartition("/")[2]


def draw_removals(departments: int, rng: random.Random) -> list[Statement]:
    """Each department is created and removed; half of them are created again soon after."""
    timed = []
    for number in range(departments):
        department = f"d{number:04}"
        begins = rng.random()
        moments = [begins, begins + rng.uniform(0.1, 0.3)]
        kinds = ["created", "removed"]
        if rng.random() < RESTORED:
            moments.append(moments[-1] + rng.uniform(0.0, 0.15))
            kinds.append("created")
        for sequence, (moment, kind) in enumerate(zip(moments, kinds, strict=True), start=1):
            name = None if kind == "removed" else f"{department} {rng.choice(WORDS)}"
            timed.append((moment, Statement(department, kind, sequence, name)))
    return [statement for _, statement in sorted(timed, key=lambda pair: pair[0])]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("deletions", __doc__)
    options.add_argument("--kills", type=int, default=50)
    asked = options.parse_args(arguments)
    plan = SoakPlan(asked.departments, asked.kills, asked.seed, longest_life=timedelta(seconds=4))
    return run_soak(plan, Deletions)


if __name__ == "__main__":
    sys.exit(main())
