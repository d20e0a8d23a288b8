"""The pipeline reads and writes entries through one gateway, `worker/pipeline/records.py`."""

import ast
from pathlib import Path

import pytest

import worker
from tests.support.builders import NOW, SALES, an_entry
from worker.adapters.memory.ledger import MemoryLedger
from worker.core.conclusions.conclusion import Conclusion
from worker.core.model.calls import CallNote
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.replace import replace
from worker.pipeline.records import CALLS_KEPT, DEPARTMENTS_KEPT, Records
from worker.ports import LedgerConflict

PACKAGE = Path(worker.__file__).parent
GATEWAY = PACKAGE / "pipeline" / "records.py"
WRITERS = {
    "announce": {"bindings", "corrections", "disappearances", "line", "outbox", "scheduler"},
    "conclude": {"line"},
    "answered": {"bindings", "corrections", "recreations", "reissues", "removals", "scheduler"},
    "granted": {"bindings", "corrections", "scheduler"},
    "confirm": {"line"},
    "delivered": {"line", "outbox", "reissues"},
    "attended": {"scheduler"},
    "ruled": {"removals"},
    "retried": {"removals"},
    "keep": {"bindings", "corrections"},
    "published": {"owed_results"},
    "recheck": {"reconcile"},
}


def calls(path: Path) -> list[str]:
    """The dotted names of all calls in the module, such as `self.records.confirm`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_only_the_gateway_records_entries():
    others = [path for path in PACKAGE.rglob("*.py") if path != GATEWAY]
    writes = (".entries.record", ".ledger.record")

    recording = {path.name for path in others for call in calls(path) if call.endswith(writes)}

    assert recording == set()
    assert "self.entries.record" in calls(GATEWAY)


def test_each_kind_of_write_has_the_listed_callers():
    found: dict[str, set[str]] = {}
    for path in (PACKAGE / "pipeline").glob("*.py"):
        for call in calls(path):
            if call.startswith("self.records.") and not call.endswith((".recall", ".tenant_counts")):
                found.setdefault(call.rpartition(".")[2], set()).add(path.stem)

    assert found == WRITERS


def a_call(number: int = 1) -> CallNote:
    return CallNote(NOW, "delete", f"key-{number}", "SA1", error="no response")


class TestCallsThatChangeNothing:
    @pytest.fixture
    def ledger(self) -> MemoryLedger:
        return MemoryLedger()

    @pytest.fixture
    def records(self, ledger: MemoryLedger) -> Records:
        return Records(ledger, ledger)

    @pytest.fixture
    async def entry(self, ledger: MemoryLedger) -> Entry:
        return await ledger.record(an_entry(revision=0))

    async def test_they_cost_no_write_and_the_next_one_has_them(self, ledger, records, entry):
        for number in range(2):
            assert await records.conclude(entry, Conclusion(entry), (a_call(number),)) == entry
        assert (await records.recall(SALES)).entry.revision == entry.revision
        assert await ledger.calls(SALES) == []

        await records.retried(entry)

        assert await ledger.calls(SALES) == [a_call(0), a_call(1)]
        await records.retried((await records.recall(SALES)).entry)
        assert len(await ledger.calls(SALES)) == 2

    async def test_a_conflict_loses_none(self, ledger, records, entry):
        records.keep(SALES, a_call(0))
        newer = await ledger.record(entry)
        with pytest.raises(LedgerConflict):
            await records.conclude(entry, Conclusion(an_entry(name="Other")), (a_call(1),))

        await records.retried(newer)

        assert await ledger.calls(SALES) == [a_call(0), a_call(1)]

    async def test_those_of_many_departments_without_a_next_write_are_forgotten(self, ledger, records, entry):
        records.keep(SALES, a_call(0))
        others = [Department("acme", str(number)) for number in range(DEPARTMENTS_KEPT)]
        for other in others:
            records.keep(other, a_call(1))

        await records.retried(entry)
        await records.retried(replace(entry, department=others[-1], auth_id="SA-other", revision=0))

        assert await ledger.calls(SALES) == []
        assert await ledger.calls(others[-1]) == [a_call(1)]

    async def test_only_the_newest_are_kept(self, ledger, records, entry):
        records.keep(SALES, *map(a_call, range(CALLS_KEPT + 1)))

        await records.retried(entry)

        assert await ledger.calls(SALES) == [a_call(number) for number in range(1, CALLS_KEPT + 1)]
