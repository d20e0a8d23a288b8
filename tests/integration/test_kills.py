"""A worker is killed at each stage of the pipeline, and the next one completes its work."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from contracts import topology as names
from tests.soak.drains import Drains
from tests.soak.kills import soak
from tests.soak.lives import SoakPlan, sped_up
from tests.soak.statements import Statement
from tests.soak.verdict import judge
from tests.soak.worker_process import WORKER, WorkerProcess, worker_process
from tests.support.real import Listener, RealSystem
from worker.sandbox import PROFILES, Effect, Fault, Rule, Sight, fault

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

BEFORE = (
    Statement("renamed", "created", 1, "renamed north"),
    Statement("removed", "created", 1, "removed north"),
    Statement("back", "created", 1, "back north"),
    Statement("back", "removed", 2),
)
MOVES = (
    Statement("new", "created", 3, "new north"),
    Statement("renamed", "renamed", 3, "renamed south"),
    Statement("removed", "removed", 3),
    Statement("back", "created", 3, "back south"),
)
OUTCOMES = {
    "disable": {"new-3": "created", "renamed-3": "renamed", "removed-3": "disabled", "back-3": "restored"},
    "delete": {"new-3": "created", "renamed-3": "renamed", "removed-3": "removed", "back-3": "created"},
}
CALLS = {
    "disable": {"create_subaccount": 1, "update_subaccount": 3},
    "delete": {"create_subaccount": 2, "update_subaccount": 1, "delete_subaccount": 1},
}
LEFT = {"disable": ["back", "new", "removed", "renamed"], "delete": ["back", "new", "renamed"]}
CARRIED_OUT_LATE = Fault("late and silent", Effect.LATER, Sight.SILENCE, delay_seconds=600)


@dataclass(frozen=True)
class Takeover:
    system: RealSystem
    environ: dict[str, str]
    results: Listener
    secrets: Listener

    async def send(self, *statements: Statement) -> None:
        for one in statements:
            await self.system.send(one.body, one.routing_key)

    async def set_up(self, worker: WorkerProcess) -> None:
        for number, one in enumerate(BEFORE, start=1):
            await self.send(one)
            await worker.logged("department_event_answered", number)

    async def take_over(self, events: int = len(MOVES)) -> None:
        """Another worker handles the waiting events and stops."""
        async with worker_process(self.environ) as worker:
            await worker.logged("department_event_answered", events)
            assert await worker.stop() == 0
            assert worker.count("step_crashed") == 0

    async def published(self, exchange: str) -> list[dict[str, Any]]:
        """All messages published so far. Waits for a marker, which arrives after all of them."""
        listener = self.results if exchange == names.RESULTS else self.secrets
        target = await self.system.channel.get_exchange(exchange, ensure=False)
        await target.publish(aio_pika.Message(b'{"last": "word"}'), "last.word")
        await listener.until(lambda all_: any("last" in one for one in all_.documents))
        return [one for one in listener.documents if "last" not in one]

    async def published_moves(self) -> list[tuple[str, str]]:
        """Event id and outcome of each published answer, including copies."""
        told = [one["data"] for one in await self.published(names.RESULTS)]
        moves = {one.id for one in MOVES}
        return [(one["event"]["id"], one["outcome"]) for one in told if one["event"]["id"] in moves]

    async def broken(self, *sent: Statement) -> list[Any]:
        results, credentials = await self.published(names.RESULTS), await self.published(names.SECRETS)
        return judge(sent, results, credentials, self.system.sandbox.subaccounts())


@asynccontextmanager
async def takeover(
    system: RealSystem, removal: str = "disable", module: Sequence[str] = WORKER, settle_window: str = "2s"
) -> AsyncIterator[tuple[Takeover, WorkerProcess]]:
    """Yields the scenario and the first worker, which the test kills."""
    environ = system.environ | {
        "PROVISIONER_SETTLE_WINDOW": settle_window,
        "PROVISIONER_API_TIMEOUT": "1s",
        "PROVISIONER_REMOVAL": removal,
        "PROVISIONER_REMOVAL_LIMIT": "off",
    }
    async with worker_process(environ, module) as worker:
        yield (
            Takeover(system, environ, await system.listen(names.RESULTS), await system.listen(names.SECRETS)),
            worker,
        )


@pytest.mark.parametrize(
    ("stage", "removal", "results", "credentials"),
    [
        ("received", "disable", 1, 1),
        ("claimed", "disable", 1, 1),
        ("claimed", "delete", 1, 1),
        ("done", "disable", 1, 1),
        ("done", "delete", 1, 1),
        ("recorded", "disable", 1, 1),
        ("credentials published", "disable", 1, 2),
        ("published", "disable", 2, 2),
        ("noted", "disable", 1, 1),
    ],
)
async def test_the_next_worker_completes_what_a_killed_worker_began(
    system: RealSystem, tmp_path: Path, stage: str, removal: str, results: int, credentials: int
):
    armed = tmp_path / "armed"
    halting = ("tests.soak.halting_worker", stage, str(armed))
    async with takeover(system, removal, halting) as (there, worker):
        await there.set_up(worker)
        armed.touch()
        await there.send(*MOVES)
        await worker.logged("halted", len(MOVES))
        await worker.kill()
    await there.take_over()
    await assert_final_state(there, removal)
    assert Counter(await there.published_moves()) == dict.fromkeys(OUTCOMES[removal].items(), results)
    issued = [one["data"]["department_id"] for one in await there.published(names.SECRETS)]
    assert issued.count("new") == credentials


@pytest.mark.parametrize("removal", ["disable", "delete"])
async def test_a_worker_killed_while_confirms_are_withheld_loses_nothing(system: RealSystem, removal: str):
    async with takeover(system, removal) as (there, worker):
        await there.set_up(worker)
        before, silent = dict(system.sandbox.journal.answered), fault("no-answer")
        system.sandbox.set_rules(*(Rule(call, silent, times) for call, times in CALLS[removal].items()))
        await there.send(*MOVES)
        for call, times in CALLS[removal].items():
            await system.sandbox.called(call, before.get(call, 0) + times)
        await worker.kill()
    await there.take_over()
    await assert_final_state(there, removal)
    creates = before["create_subaccount"] + CALLS[removal]["create_subaccount"]
    assert system.sandbox.journal.answered["create_subaccount"] == creates


async def test_a_create_carried_out_after_the_kill_is_adopted(system: RealSystem):
    created = Statement("new", "created", 1, "new north")
    async with takeover(system) as (there, worker):
        system.sandbox.set_rules(Rule("create_subaccount", CARRIED_OUT_LATE))
        await there.send(created)
        await system.sandbox.called("create_subaccount")
        await worker.kill()
    looked = system.sandbox.journal.answered["list_subaccounts"] + 2  # the probe at the start, then a scan
    late = asyncio.ensure_future(system.sandbox.called("list_subaccounts", looked))
    late.add_done_callback(lambda _: system.sandbox.commit_late_calls())
    await there.take_over(events=1)
    assert await there.broken(created) == []
    assert len(system.sandbox.subaccounts()) == system.sandbox.journal.answered["create_subaccount"] == 1


async def test_a_change_carried_out_after_the_kill_does_not_override_a_newer_one(system: RealSystem):
    told = [
        Statement("sales", kind, number, f"sales {number}")
        for number, kind in enumerate(("created", "renamed", "renamed"), start=1)
    ]
    # The next worker must start and be overtaken within this time.
    async with takeover(system, settle_window="10s") as (there, worker):
        await there.send(told[0])
        await worker.logged("department_event_answered")
        system.sandbox.set_rules(Rule("update_subaccount", CARRIED_OUT_LATE, times=1))
        await there.send(told[1])
        await system.sandbox.called("update_subaccount")
        await worker.kill()
    async with worker_process(there.environ) as worker:
        await worker.logged("department_event_answered")
        await there.send(told[2])
        await worker.logged("department_event_answered", 2)
        assert system.sandbox.commit_late_calls() == 1
        assert await there.broken(*told) != []
        await worker.logged("drift_mended")
    assert await there.broken(*told) == []


async def assert_final_state(there: Takeover, removal: str) -> None:
    """One live subaccount, one answer under one id and valid credentials each; all queues are empty."""
    system = there.system
    assert await there.broken(*BEFORE, *MOVES) == []
    assert sorted(one.name.split()[0] for one in system.sandbox.subaccounts()) == LEFT[removal]
    assert dict(await there.published_moves()) == OUTCOMES[removal]
    assert await system.depth(names.WORK_QUEUE) == 0
    assert await system.depth(names.DEAD_LETTER_QUEUE) == 0


async def test_a_short_soak_of_kills_keeps_all_rules(clean_broker: str, tmp_path: Path):
    """Forty departments and five kills, with a fifth of the delays of the full soak."""
    seed = random.getrandbits(32)  # derived from --randomly-seed of pytest
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    second = timedelta(seconds=1)
    plan = SoakPlan(
        40, 5, seed, settle_window=second, api_timeout=second, faults=sped_up(PROFILES["harsh"], 0.2)
    )
    report = await soak(clean_broker, plan, tmp_path)
    assert report.broken == []


async def test_a_short_soak_of_drains_keeps_all_rules(clean_broker: str, tmp_path: Path):
    seed = random.getrandbits(32)  # derived from --randomly-seed of pytest
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    second = timedelta(seconds=1)
    plan = SoakPlan(40, 4, seed, second, second, faults=sped_up(PROFILES["mild"], 0.2))
    report = await soak(clean_broker, plan, tmp_path, kind=Drains)
    assert report.broken == []
