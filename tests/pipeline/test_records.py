"""The pipeline reads and writes entries through one gateway, `worker/pipeline/records.py`."""

import ast
from pathlib import Path

import worker

PACKAGE = Path(worker.__file__).parent
GATEWAY = PACKAGE / "pipeline" / "records.py"
WRITERS = {
    "announce": {"bindings", "corrections", "disappearances", "line", "outbox"},
    "conclude": {"line"},
    "answered": {"bindings", "corrections", "recreations", "reissues", "removals", "scheduler"},
    "granted": {"bindings", "corrections", "scheduler"},
    "confirm": {"line"},
    "delivered": {"line", "outbox", "reissues"},
    "attended": {"scheduler"},
    "ruled": {"removals"},
    "retried": {"removals"},
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
