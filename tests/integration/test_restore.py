"""A ledger that was restored from a backup: nothing is created a second time, and no department is lost."""

import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from contracts import topology as names
from tests.integration.test_sweep import post
from tests.support.commands import in_process
from tests.support.estate import Estate
from tests.support.real import Listener, RealSystem

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

BEFORE = [f"before{number}" for number in range(25)]
AFTER = [f"after{number}" for number in range(25)]
"""More than a page of Plivo's list each."""

DAY = timedelta(days=1)


async def handle(
    system: RealSystem,
    estate: Estate,
    events: Sequence[dict[str, Any]],
    answered: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Sends the events, and returns the newest result of each by the event's id.

    `answered`: events that are sent before them, and have an answer on record: no further one comes.
    """
    heard = await system.listen(names.RESULTS)
    for event in (*answered, *events):
        await estate.send(event)
    wanted = {event["id"] for event in events}

    def results(listener: Listener) -> dict[str, Any]:
        return {one["data"]["event"]["id"]: one["data"] for one in listener.documents}

    await heard.until(lambda listener: wanted <= results(listener).keys())
    return results(heard)


async def restored_by_copy(system: RealSystem, backup: Path) -> None:
    """The way of the runbook: the old files away, the backup copied to their place."""
    for file in system.ledger.parent.glob(f"{system.ledger.name}*"):
        if file.suffix != ".json":  # the signing key
            file.unlink()
    copied = await in_process(
        system.environ,
        "ledger",
        "copy",
        "--from",
        f"sqlite:///{backup}",
        "--to",
        system.environ["LEDGER_URL"],
    )
    assert copied.code == 0, copied.err


async def put_in_place(system: RealSystem, backup: Path) -> None:
    """By hand: the file over the ledger."""
    for file in system.ledger.parent.glob(f"{system.ledger.name}-*"):
        file.unlink()
    shutil.copy(backup, system.ledger)


async def put_in_place_as_it_was(system: RealSystem, backup: Path) -> None:
    """The file of another tool, a day old: `ledger backup` did not mark it."""
    await put_in_place(system, backup)
    yesterday = (datetime.now(UTC) - DAY).timestamp()
    with closing(apsw.Connection(str(system.ledger))) as connection:
        connection.execute("UPDATE ledger SET caught_up_at = ?", (int(yesterday * 1_000_000),))


@pytest.mark.parametrize("restore", [restored_by_copy, put_in_place, put_in_place_as_it_was])
async def test_a_day_old_backup_makes_no_second_subaccount_and_loses_no_department(
    system: RealSystem, tmp_path: Path, restore: Callable[[RealSystem, Path], Awaitable[None]]
):
    estate, backup = Estate(system), tmp_path / "backup.db"
    first = [estate.event("created", one) for one in BEFORE]
    later = [
        *(estate.event("created", one) for one in AFTER),
        estate.event("removed", "before0"),
        estate.event("renamed", "before1", name="Renamed since"),
        estate.event("removed", "after0"),
    ]
    async with system.worker():
        await handle(system, estate, first)
        made = await in_process(system.environ, "ledger", "backup", str(backup))
        assert made.code == 0, made.err
        once = await handle(system, estate, later)
    for number in range(25):  # others fill the newest page meanwhile
        await post(system, "Subaccount/", name=f"By hand {number}", enabled=True)
    there = {one.auth_id: one for one in system.sandbox.subaccounts()}
    assert len(there) == 75

    await restore(system, backup)
    async with system.worker():
        again = await handle(system, estate, later, first)
        checked = await in_process(system.environ, "ledger", "check", "--json")

    now = {one.auth_id: one for one in system.sandbox.subaccounts()}
    assert now.keys() == there.keys(), "nothing was created, and nothing deleted"
    assert {id_: one.enabled for id_, one in now.items()} == {id_: one.enabled for id_, one in there.items()}
    assert {id_: one.name for id_, one in now.items()} == {id_: one.name for id_, one in there.items()}
    assert checked.json["counts"]["departments"] == len(BEFORE) + len(AFTER)
    assert checked.json["troubles"] == []
    assert {id_: again[id_]["auth_id"] for id_ in once} == {id_: one["auth_id"] for id_, one in once.items()}
    assert not again.keys() & {event["id"] for event in first}
    outcomes = Counter(again[event["id"]]["outcome"] for event in later[1:])
    assert outcomes == Counter(created=len(AFTER) - 1, disabled=2, renamed=1)
    assert again[later[0]["id"]]["outcome"] in {"created", "superseded"}, "its removal may overtake it"
