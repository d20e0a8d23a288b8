"""`provisioner snapshot`: lists become events, and a killed command goes on where it was."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from contracts import topology as names
from tests.support.commands import CommandOutput, in_process, provisioner, started
from tests.support.real import Listener, RealSystem
from worker.adapters.ledgers import open_ledger
from worker.settings.ledger_url import parse_ledger_url

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

MANY = 1200


def a_list(folder: Path, *ids: str, name: str = "Department") -> str:
    path = folder / "list.csv"
    path.write_text("department_id,name\n" + "".join(f"{id_},{name} {id_}\n" for id_ in ids))
    return str(path)


async def planned(system: RealSystem, list_: str, day: int) -> tuple[str, dict[str, Any]]:
    plan = str(Path(list_).with_suffix(".plan"))
    as_of = f"2026-11-{day:02}T08:00:00Z"
    done = await in_process(
        system.environ,
        "snapshot",
        "plan",
        list_,
        "--source",
        "hr",
        "--as-of",
        as_of,
        "--plan",
        plan,
        "--json",
    )
    assert done.code == 0, done.err
    assert json.loads(Path(plan).read_text()) == done.json  # noqa: ASYNC240 - a small file
    return plan, done.json


async def applied(system: RealSystem, plan: str, *options: str) -> CommandOutput:
    done = await in_process(system.environ, "snapshot", "apply", plan, "--yes", "--json", *options)
    assert done.code == 0, done.err
    return done


async def test_the_running_worker_follows_the_lists_of_a_source_and_holds_too_many_removals(
    system: RealSystem, tmp_path: Path
):
    ids = [str(number) for number in range(6)]
    async with system.worker():
        heard = await system.listen(names.RESULTS)
        plan, first = await planned(system, a_list(tmp_path, *ids), 1)
        assert len(first["created"]) == 6
        assert (await applied(system, plan)).json["sent"] == 6
        await heard.count(6)

        plan, second = await planned(system, a_list(tmp_path, "0"), 2)
        assert [one["since"] for one in second["missing"]] == [None] * 5
        done = await applied(system, plan, "--missing=remove")
        assert (done.json["sent"], len(done.json["left"])) == (0, 5)

        plan, _ = await planned(system, a_list(tmp_path, "0", name="New"), 3)
        done = await applied(system, plan, "--missing=remove")
        assert (done.json["sent"], done.json["removed"]) == (6, 5)
        await heard.count(12)
        again = await applied(system, plan, "--missing=remove")
        assert again.json["sent"] == 6
    outcomes = {one["id"]: one["data"]["outcome"] for one in heard.documents}
    assert sorted(outcomes.values()) == [*["created"] * 6, *["disabled"] * 3, *["held"] * 2, "renamed"]
    held = await in_process(system.environ, "holds", "list", "--json")
    assert [one["reason"] for one in held.json] == ["limit"] * 2
    audit = await in_process(system.environ, "dead-letters", "audit", "--json")
    assert [one["outcome"] for one in audit.json if one["action"] == "snapshot"][-1] == "events sent: 6"


async def test_a_killed_command_goes_on_where_it_was_and_every_event_is_sent_under_one_id(
    system: RealSystem, tmp_path: Path
):
    await in_process(system.environ, "topology", "apply")
    async with open_ledger(parse_ledger_url(system.environ["LEDGER_URL"])):
        pass
    plan, _ = await planned(system, a_list(tmp_path, *map(str, range(MANY))), 1)
    process = await started(system.environ, "snapshot", "apply", plan)
    async with asyncio.timeout(60):
        while await system.depth(names.WORK_QUEUE) < MANY // 10:
            assert process.returncode is None, "it was killed while it sends"
            await asyncio.sleep(0.005)
    process.kill()
    await process.communicate()
    sent = await system.depth(names.WORK_QUEUE)
    assert sent < MANY

    done = await provisioner(system.environ, "snapshot", "apply", plan, "--json")
    assert done.code == 0, done.err
    skipped = done.json["skipped"]
    assert skipped > 0
    assert skipped + done.json["sent"] >= MANY
    waiting = await system.depth(names.WORK_QUEUE)
    arrived = Listener()
    queue = await system.channel.get_queue(names.WORK_QUEUE, ensure=False)
    await queue.consume(arrived.hear, no_ack=True)
    await arrived.count(waiting)
    ids: dict[str, str] = {}
    for event in arrived.documents:
        assert ids.setdefault(event["subject"], event["id"]) == event["id"]
    assert len(ids) == MANY
    _, after = await planned(system, a_list(tmp_path, *map(str, range(MANY))), 2)
    assert (after["same"], after["created"]) == (MANY, [])
