"""The faults of the simulated provider around a deletion. Its port is tested in `tests/conformance`."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from tests.simulation.chance import LATEST_SECONDS, Chance, Profile
from tests.simulation.history import History
from tests.simulation.process import Process
from tests.simulation.provider import ProviderServer, SimulatedProvider
from tests.simulation.virtual_time import VirtualLoop
from tests.support import one_call
from tests.support.builders import NOW
from worker.core.inventory import ResourceKind
from worker.core.judge import FaultKind
from worker.ports import CallFailed

NUMBERS, APPLICATIONS, ENDPOINTS = ResourceKind
SEEDS = range(12)

Story = Callable[[ProviderServer, SimulatedProvider], Coroutine[Any, Any, None]]


def told(story: Story, *faults: str, seed: int = 0, **profile: Any) -> History:
    """Runs a story with these faults at every opportunity, in virtual time; each must have struck."""
    loop = VirtualLoop()
    rates = dict.fromkeys(faults, 1.0)
    chance = Chance(Profile("test", rates, always=frozenset(faults), **profile), seed)
    history = History(loop.time)

    async def run() -> None:
        server = ProviderServer(loop, chance, history, lambda: NOW + timedelta(seconds=loop.time()))
        await story(server, SimulatedProvider(server, Process(loop)))

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    assert set(chance.struck) == set(faults), f"seed {seed}"
    return history


def made(server: ProviderServer) -> str:
    return server.create("sales [0123456789]", listed_by=0.0).auth_id


def fates(history: History) -> list[dict[str, Any]]:
    keys = ("cascade", "moved", "destroyed")
    return [
        {key: note.detail[key] for key in keys if key in note.detail}
        for note in history.notes
        if note.what == "gone"
    ]


@pytest.mark.parametrize("cascade", [False, True])
def test_the_history_tells_what_a_deletion_did_to_the_resources(cascade):
    async def story(server: ProviderServer, provider: SimulatedProvider) -> None:
        auth_id = made(server)
        server.give(auth_id, NUMBERS)
        kept = server.give(None, ENDPOINTS)
        server.move(server.give(None, APPLICATIONS), auth_id)
        server.drop(server.give(auth_id, ENDPOINTS))
        await one_call.delete(provider, auth_id, "key", cascade=cascade)
        assert server.owned_by(auth_id) == []
        assert (server.owned_by(None) == [kept]) is cascade

    (fate,) = fates(told(story))
    gone = ["applications 000003", "numbers 000001"]
    assert fate == {"cascade": cascade, ("destroyed" if cascade else "moved"): gone}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_deletion_may_be_carried_out_very_late(seed):
    latest = 8 * LATEST_SECONDS

    async def story(server: ProviderServer, provider: SimulatedProvider) -> None:
        auth_id = made(server)
        with pytest.raises(CallFailed) as failure:
            await one_call.delete(provider, auth_id, "key")
        assert failure.value.fault.kind in {FaultKind.NO_ANSWER, FaultKind.SERVER_ERROR}
        await asyncio.sleep(latest)
        assert auth_id not in [one.auth_id for one in server.subaccounts]

    history = told(story, "carried out late", seed=seed, latest_delete_seconds=latest)
    assert len(fates(history)) == 1


def test_some_seeds_are_later_than_any_other_call():
    async def story(server: ProviderServer, provider: SimulatedProvider) -> None:
        with pytest.raises(CallFailed):
            await one_call.delete(provider, made(server), "key")
        await asyncio.sleep(8 * LATEST_SECONDS)

    ends = [
        told(story, "carried out late", seed=seed, latest_delete_seconds=8 * LATEST_SECONDS).notes[-1].at
        for seed in SEEDS
    ]
    assert max(ends) > LATEST_SECONDS


@pytest.mark.parametrize("fault", ["request lost", "server error", "unreadable answer", "not connected"])
def test_a_count_may_fail(fault):
    async def story(server: ProviderServer, provider: SimulatedProvider) -> None:
        with pytest.raises(CallFailed) as failure:
            await one_call.resources(provider, NUMBERS, made(server))
        assert failure.value.fault.operation == "count"

    told(story, fault)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_list_of_resources_shifts_while_it_is_read(seed):
    async def story(server: ProviderServer, provider: SimulatedProvider) -> None:
        for kind in ResourceKind:
            server.give(None, kind)
        before = list(server.resources)
        await one_call.resources(provider, NUMBERS, made(server))
        await asyncio.sleep(1)
        assert server.resources != before

    told(story, "list shifts while read", seed=seed)


def test_a_deleted_subaccount_may_be_read_for_a_while():
    async def story(server: ProviderServer, provider: SimulatedProvider) -> None:
        server.subaccounts.clear()
        ids = [made(server) for _ in range(3)]
        await one_call.delete(provider, ids[1], "key")
        assert (await one_call.get(provider, ids[1])).auth_id == ids[1]
        listed = [one.auth_id for one in await one_call.page(provider, 0)]
        assert listed == [*reversed(ids)]
        with pytest.raises(CallFailed):
            await one_call.update(provider, ids[1], "key", enabled=True)
        await asyncio.sleep(60)
        with pytest.raises(CallFailed):
            await one_call.get(provider, ids[1])
        assert len(await one_call.page(provider, 0)) == 2

    told(story, "deleted but read")


def test_filters_work_in_some_runs_and_are_ignored_in_others():
    seen = set()

    async def story(server: ProviderServer, provider: SimulatedProvider) -> None:
        auth_id = made(server)
        server.give(auth_id, NUMBERS)
        server.give(None, NUMBERS)
        seen.add(len(await one_call.resources(provider, NUMBERS, auth_id)))

    for seed in SEEDS:
        told(story, seed=seed)
    assert seen == {1, 2}
