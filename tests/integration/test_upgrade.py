"""A rolling upgrade: a worker of the previous commit beside one of this commit, on one PostgreSQL ledger."""

import io
import json
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from contracts import topology as names
from tests.soak.worker_process import WorkerEnded, worker_process
from tests.support.real import EVENT, RealSystem

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
MIGRATIONS = "worker/adapters/postgres/migrations"
DEPARTMENTS = 12


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The code of the previous commit."""
    packed = subprocess.run(
        ["git", "-C", ROOT, "archive", "HEAD^", "worker", "contracts"], capture_output=True, check=False
    )
    if packed.returncode:
        pytest.skip("there is no previous commit here: the clone is shallow, or no repository")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(tmp_path / "previous")  # noqa: S202 - our own
    return tmp_path / "previous"


async def test_old_and_new_work_side_by_side_or_the_new_one_refuses(
    system: RealSystem, postgres_database: str, previous: Path
):
    shared = replace(system, environ=system.environ | {"LEDGER_URL": postgres_database})
    older = shared.environ | {"PYTHONPATH": str(previous), "PYTHONSAFEPATH": "1"}
    async with worker_process(older) as old:
        results = await shared.listen(names.RESULTS)
        if migrations(previous) != migrations(ROOT):
            with pytest.raises(WorkerEnded, match=r"older version|not of this version"):
                async with worker_process(shared.environ):
                    pass
            return
        async with worker_process(shared.environ) as new:
            await send(shared, range(DEPARTMENTS))
            await results.count(DEPARTMENTS)
            assert await old.stop() == 0
            await send(shared, range(DEPARTMENTS, 2 * DEPARTMENTS))
            await results.count(2 * DEPARTMENTS)
            assert await new.stop() == 0
    assert {one["type"] for one in results.documents} == {"subaccount.created.v1"}
    assert len({one["causationid"] for one in results.documents}) == 2 * DEPARTMENTS
    assert len(shared.sandbox.subaccounts()) == 2 * DEPARTMENTS
    assert await shared.depth(names.DEAD_LETTER_QUEUE) == 0
    async with worker_process(older) as old:  # and back
        await send(shared, [2 * DEPARTMENTS])
        await results.count(2 * DEPARTMENTS + 1)
        assert await old.stop() == 0


def migrations(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (root / MIGRATIONS).glob("*.sql")}


async def send(system: RealSystem, numbers: range | list[int]) -> None:
    for number in numbers:
        data = {"department_id": f"d{number}", "name": f"Department {number}"}
        await system.send(json.dumps(EVENT | {"id": f"event-{number}", "data": data}).encode())
