"""Outages of provider and broker: work pauses, messages stay queued, no attempt is parked_or_dead."""

from collections import Counter
from typing import Any

import pytest

from contracts.topology import SECRETS, SECRETS_QUEUE, WORK_QUEUE
from tests.pipeline.outages import Refusing, a_fault, pass_seconds, working_with_duties
from tests.support.builders import SALES, department_created, department_renamed
from tests.support.entries import entries_of
from tests.support.settling_loop import settled
from tests.support.world import World
from worker.bootstrap.running import RunningWorker
from worker.core.model.departments import Department

CREATED = department_created("Sales", sequence=1)
LONG = 12 * 60.0
"""In seconds; longer than messages stay unacked."""


def create(number: int) -> Any:
    return department_created("New", id=f"c{number}", department_id=f"d{number}", sequence=1)


def rename(number: int) -> Any:
    return department_renamed("Newer", id=f"r{number}", department_id=f"d{number}", sequence=2)


@pytest.fixture
def world() -> World:
    return World(provider=Refusing())


def takes_messages(running: RunningWorker) -> bool:
    return running.consumer.consuming


def parked_or_dead(world: World) -> list[str]:
    """The journal of parked and dead-lettered messages."""
    return [call for call in world.witness.journal if "publish retry" in call or "dead-letters" in call]


@pytest.mark.parametrize(
    "refusal",
    [
        *({"status": status} for status in (400, 401, 402, 503)),
        *({"status": status, "own": False} for status in (400, 407)),
        {},
        {"sent": False},
    ],
    ids=str,
)
async def test_an_outage_under_load_only_delays_messages(world, refusal):
    """Twelve minutes of outage, in which messages wait, are requeued and keep arriving."""
    async with world.working() as running:
        await world.send(*map(create, range(10)))
        await settled()
        world.provider.refuse_all(**refusal)
        for number in range(10, 40):
            await world.send(create(number))
            await pass_seconds(world, LONG / 30)
        assert not running.consumer.consuming
        assert running.blocks()
        await world.send(*map(rename, range(40)))
        world.provider.refuses.clear()
        await world.run_until_done()
        assert running.consumer.consuming
        assert not running.blocks()
    for number in range(40):
        await world.has_one_live_subaccount("Newer", Department(SALES.tenant, f"d{number}"))
        assert len(world.results(create(number))) == len(world.results(rename(number))) == 1
    assert len(world.provider.subaccounts) == 40
    assert parked_or_dead(world) == []
    world.has_dead_lettered_nothing()
    world.has_nothing_to_do()


async def test_messages_stay_queued_and_unacked_ones_are_requeued(world):
    world.provider.refuse_all(401)
    async with world.working():
        await world.send(CREATED)
        await pass_seconds(world, 60)
        await world.send(create(1))
        await pass_seconds(world, 60)
        assert len(world.broker.ready(WORK_QUEUE)) == 1  # the other one is unacked
        await pass_seconds(world, 500)
        assert len(world.broker.ready(WORK_QUEUE)) == 2
        world.provider.refuses.clear()
        await world.run_until_done()
    await world.has_one_live_subaccount("Sales")
    assert parked_or_dead(world) == []


@pytest.mark.parametrize("departments", [1, pytest.param(25, marks=pytest.mark.no_cover)])
@pytest.mark.parametrize("refusal", [{"status": 402}, {"status": 401}, {"status": 403}, {}], ids=str)
async def test_no_message_is_unacked_until_the_consumer_timeout(world, departments, refusal):
    """The probe passes, so every trial unblocks the gate briefly, while the messages stay unacked."""
    world.provider.refuses["create"] = a_fault("create", **refusal)
    taken: dict[Any, float] = {}
    async with world.working() as running:
        await world.send(*map(create, range(departments)))
        for _ in range(90):
            await pass_seconds(world, 60)
            held = list(running.consumer._unacked)
            taken = {one: taken.get(one, world.clock.monotonic()) for one in held}
            assert all(world.clock.monotonic() - since < 20 * 60 for since in taken.values())


@pytest.mark.parametrize("departments", [1, pytest.param(19, marks=pytest.mark.no_cover)])
@pytest.mark.parametrize("status", [401, 402])
async def test_creates_refused_for_login_or_credit_are_not_given_up(world, departments, status):
    """The creates are too few to open the circuit, and the probe passes."""
    world.provider.refuses["create"] = a_fault("create", status)
    async with world.working():
        await world.send(*map(create, range(departments)))
        await pass_seconds(world, 3 * 3600)
        world.provider.refuses.clear()
        await world.run_until_done()
    for number in range(departments):
        await world.has_one_live_subaccount("New", Department(SALES.tenant, f"d{number}"))
    world.has_dead_lettered_nothing()


async def test_few_calls_are_sent_during_an_outage(world):
    world.provider.refuse_all(401)
    async with world.working():
        await world.send(*map(create, range(30)))
        await pass_seconds(world, LONG)
        assert 0 < len(world.provider.calls) <= 30
        assert world.provider.probes <= 2 + LONG / 7


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "refusal", [{"status": 503}, {}, {"status": 403}, {"status": 400, "own": False}], ids=str
)
async def test_failing_creates_with_working_reads_are_not_given_up(world, refusal):
    """The probe and every scan pass. Otherwise three unknown creates of one event would be given up."""
    world.provider.refuses["create"] = a_fault("create", **refusal)
    async with world.working():
        await world.send(*map(create, range(40)))
        await pass_seconds(world, 30 * 60)
        entries = await entries_of(world.ledger)
        assert all(entry.claim.attempt <= 1 for entry in entries if entry.claim)
        world.provider.refuses.clear()
        await world.run_until_done()
    sent = Counter(key for operation, _, key in world.provider.calls if operation == "create")
    assert max(sent.values()) > 3 or len(sent) > 3 * 40
    for number in range(40):
        await world.has_one_live_subaccount("New", Department(SALES.tenant, f"d{number}"))
    world.has_dead_lettered_nothing()


async def test_a_worker_that_stops_during_an_outage_keeps_the_messages(world):
    world.provider.refuse_all(503)
    async with world.working() as running:
        await world.send(*map(create, range(5)))
        await pass_seconds(world, 30)
        assert await running.drain()
    assert len(world.broker.ready(WORK_QUEUE)) == 5
    world.provider.refuses.clear()
    await world.handle()
    assert all(world.results(create(number)) for number in range(5))


@pytest.mark.parametrize("status", [404, 451])
@pytest.mark.parametrize(("operation", "reason"), [("create", "create-unknown"), ("update", "exhausted")])
async def test_a_department_that_a_gateway_refuses_fails_alone(world, operation, reason, status):
    """The probe passes: it waits, is parked, and is given up at last; the others go on."""
    await world.handle(create(0))
    world.provider.refuses[operation] = a_fault(operation, status, own=False)
    refused = create(1) if operation == "create" else rename(0)
    async with world.working() as running:
        await world.send(refused)
        await pass_seconds(world, 60)
        world.has_dead_lettered_nothing()
        assert running.blocks() == []
        await pass_seconds(world, 24 * 3600)
        assert running.blocks() == []
    world.answered(refused, "failed")
    assert world.dead_lettered(reason)


@pytest.mark.parametrize("operation", ["create", "update"])
async def test_many_requests_that_plivo_itself_refuses_are_rejected(world, operation):
    """25 wrong names in a row are no outage while the probe passes."""
    everyone = range(25)
    await world.handle_all(*map(create, everyone))
    world.provider.refuses[operation] = a_fault(operation, 400)
    refused = [create(100 + n) if operation == "create" else rename(n) for n in everyone]
    async with world.working() as running:
        await world.send(*refused)
        await world.run_until_done()
        assert running.blocks() == []
    assert {one.message.headers["x-dead-reason"] for one in world.dead_letters()} == {"rejected"}
    assert len(world.dead_letters()) == len(refused)


# Credentials that cannot be routed


@pytest.mark.parametrize("minutes", [2, 15, 60])
async def test_unroutable_credentials_pause_consuming_until_bound_again(world, minutes):
    world.broker.unbind(SECRETS, SECRETS_QUEUE, "#")
    async with working_with_duties(world) as running:
        await world.send(CREATED)
        await pass_seconds(world, 5)
        assert not takes_messages(running)
        assert "credentials cannot be delivered" in running.blocks()[0]
        await world.send(*map(create, range(5)))
        await pass_seconds(world, 60 * minutes)
        assert len(world.provider.subaccounts) == 1
        world.broker.bind(SECRETS, SECRETS_QUEUE, "#")
        await pass_seconds(world, 120)
        assert takes_messages(running)
        assert not running.blocks()
    await world.has_issued_credentials()
    for number in range(5):
        await world.has_issued_credentials(Department(SALES.tenant, f"d{number}"))
    world.answered(CREATED, "created")
    assert parked_or_dead(world) == []
    world.has_dead_lettered_nothing()
    world.has_nothing_to_do()


async def test_undelivered_credentials_are_delivered_by_the_next_worker(world):
    world.broker.unbind(SECRETS, SECRETS_QUEUE, "#")
    async with world.working() as running:
        await world.send(CREATED)
        await pass_seconds(world, 5)
        assert await running.drain()
    world.broker.bind(SECRETS, SECRETS_QUEUE, "#")
    await world.handle()
    await world.has_issued_credentials()
    assert len(world.credentials()) == 1


@pytest.mark.parametrize("refusal", [{"status": 403}, {"status": 500}, {}], ids=str)
async def test_one_always_refused_department_does_not_keep_it_open(world, refusal):
    """After an outage this department may be chosen for every trial."""
    await world.handle(*map(create, range(3)))
    async with world.working() as running:
        world.provider.refuse_all(401)
        await world.send(create(99))
        await pass_seconds(world, 60)
        world.provider.refuses = {"create": a_fault("create", **refusal)}
        await world.send(*map(rename, range(3)))
        await pass_seconds(world, 60)
        assert running.consumer.consuming
        assert all(world.results(rename(number)) for number in range(3))
        await pass_seconds(world, 24 * 3600)
    world.answered(create(99), "failed")


async def test_refused_renames_do_not_stop_creates(monkeypatch):
    """Creates behind more renames than the prefetch are carried out too."""
    monkeypatch.setattr("tests.support.world.PREFETCH", 40)
    provider = Refusing()
    world = World(provider=provider)
    everyone = range(60)
    await world.handle_all(*map(create, everyone))
    provider.refuses["update"] = a_fault("update", 503)
    newcomers = range(100, 150)
    async with world.working():
        await world.send(*map(rename, everyone), *map(create, newcomers))
        await pass_seconds(world, 300)
        assert [number for number in newcomers if not world.results(create(number))] == []
        assert [number for number in everyone if world.results(rename(number))] == []
        provider.refuses.clear()
        await pass_seconds(world, 300)
    assert [number for number in everyone if not world.results(rename(number))] == []
    world.has_dead_lettered_nothing()
