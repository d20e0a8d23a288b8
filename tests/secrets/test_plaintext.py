"""Once a ledger has issued sealed credentials, none go out in the clear by mistake."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.topology import SECRETS_QUEUE, WORK_QUEUE, BrokerVersion, secrets_queue, topology
from tests.pipeline.outages import pass_seconds
from tests.support.builders import department_created, reissue_requested
from tests.support.secrets_keys import KeyReports, fresh_sealing_key, signing_key, write_keys
from tests.support.world import World
from worker.adapters.jose.seal import JoseSealer, RecipientKeys, Unsealed
from worker.adapters.memory.broker import MemoryBroker
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.bootstrap.running import RunningWorker, running_worker
from worker.core.decide import Policy
from worker.core.model.credentials import ANY_RECIPIENT
from worker.flow.plaintext import SEALED_BEFORE
from worker.ports import Broker
from worker.settings.load import SettingsError, load
from worker.settings.model import WorkerSettings
from worker.telemetry.events import Telemetry

CREATED = department_created("Sales", sequence=1)
OTHER = department_created("Other", sequence=1, id="other", department_id="other")
SEALING = Policy(recipients=frozenset({"crm"}))
IN_THE_CLEAR = Policy(recipients=frozenset({ANY_RECIPIENT}))
LOOPBACK = "amqp://guest:guest@127.0.0.1:5672/"


@pytest.fixture
def world(tmp_path):
    """Has issued sealed credentials of one department."""
    file = write_keys(tmp_path / "keys.json", fresh_sealing_key("crm"))
    world = World(SEALING, sealer=JoseSealer(RecipientKeys(file, ("crm",), KeyReports()), signing_key()))
    world.broker.declare(topology(BrokerVersion(4, 1)))
    world.broker.unbind("provisioner.secrets", SECRETS_QUEUE, "#")
    return world


def without_recipients(world, **policy):
    world.broker.bind("provisioner.secrets", SECRETS_QUEUE, "#")
    world.sealer, world.policy = Unsealed(), replace(IN_THE_CLEAR, **policy)


def in_the_clear(world):
    return world.broker.ready(SECRETS_QUEUE)


async def test_sealing_is_on_record_before_the_first_message(world):
    await world.handle(CREATED, OTHER)
    journal = world.witness.journal
    assert journal.count("note sealed") == 1
    assert journal.index("note sealed") < journal.index("publish secrets subaccount.credentials.issued.crm")
    assert len(world.broker.ready(secrets_queue("crm"))) == 2


async def test_sealing_is_noted_again_if_that_failed(world):
    world.witness.fail("note sealed", OSError("made up"))
    await world.handle(CREATED)
    assert world.witness.journal.count("note sealed") == 1
    assert await world.ledger.sealed_for() == {"crm"}


async def test_a_worker_without_recipients_publishes_nothing(world):
    await world.handle(CREATED)
    without_recipients(world)
    async with world.working() as running:
        await world.send(OTHER)
        await pass_seconds(world, 60)
        assert running.blocks() == [f"credentials cannot be delivered: {SEALED_BEFORE}"]
    assert in_the_clear(world) == []


async def test_this_holds_for_a_worker_that_runs_when_another_one_seals_first(world):
    without_recipients(world)
    async with world.working() as running:
        await world.send(CREATED)
        await world.run_until_done()
        assert len(in_the_clear(world)) == 1
        await world.ledger.note_sealed("crm")  # by another worker, which has recipients
        await world.send(OTHER)
        await pass_seconds(world, 60)
        assert running.blocks() == [f"credentials cannot be delivered: {SEALED_BEFORE}"]
    assert len(in_the_clear(world)) == 1


async def test_this_holds_for_a_request_to_reissue(world):
    await world.handle(CREATED)
    without_recipients(world)
    async with world.working():
        await world.send(reissue_requested())
        await pass_seconds(world, 60)
    assert in_the_clear(world) == []
    assert world.results(reissue_requested()) == []


async def test_an_operator_may_accept_tokens_in_the_clear(world):
    await world.handle(CREATED)
    without_recipients(world, plaintext=True)
    await world.handle(OTHER)
    assert len(in_the_clear(world)) == 1


async def test_removing_one_of_the_recipients_keeps_the_others_sealed(world, tmp_path):
    await world.handle(CREATED)
    file = write_keys(tmp_path / "keys.json")  # all are withdrawn while it runs
    async with world.working() as running:
        await world.send(OTHER)
        await pass_seconds(world, 60)
        (blocked,) = running.blocks()
        assert str(file) in blocked
    assert len(world.broker.ready(secrets_queue("crm"))) == 1


# The start


@pytest.fixture
def environ(tmp_path):
    return {
        "PLIVO_AUTH_ID": "MA1",
        "PLIVO_AUTH_TOKEN": "not-used",
        "LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        "AMQP_URL": LOOPBACK,
    }


@asynccontextmanager
async def in_memory(*_: object) -> AsyncIterator[Broker]:
    broker = MemoryBroker()
    broker.declare(topology(BrokerVersion(4, 1)))
    yield Broker(broker, lambda receive: broker.consumer(WORK_QUEUE, 10, receive))


@asynccontextmanager
async def started(environ: dict[str, str]) -> AsyncIterator[RunningWorker]:
    async with running_worker(load(WorkerSettings, environ), Telemetry(), in_memory) as running:
        yield running


async def seal_once(folder: Path) -> None:
    async with sqlite_ledger(folder / "ledger.db") as ledger:
        await ledger.bind("default", "MA1")
        await ledger.note_sealed("crm")


@pytest.mark.parametrize("recipients", [None, ""], ids=["missing", "empty"])
async def test_a_start_without_recipients_is_refused(tmp_path, environ, recipients):
    await seal_once(tmp_path)
    environ |= {} if recipients is None else {"PROVISIONER_RECIPIENTS": recipients}
    with pytest.raises(SettingsError) as refusal:
        async with started(environ):
            pytest.fail("it started")
    assert str(refusal.value) == SEALED_BEFORE
    assert "\n" not in SEALED_BEFORE
    assert refusal.value.exit_code == 2


async def test_it_is_refused_while_another_worker_runs(environ, postgres_database):
    shared = environ | {"LEDGER_URL": postgres_database}
    async with started(shared | {"PROVISIONER_PLAINTEXT_SECRETS": "true"}) as running:
        await running.ledger.note_sealed("crm")
        with pytest.raises(SettingsError, match="sealed"):
            async with started(shared):
                pytest.fail("it started")


async def test_a_start_with_recipients_or_leave_is_not_refused(tmp_path, environ):
    await seal_once(tmp_path)
    keys = write_keys(tmp_path / "keys.json", fresh_sealing_key("crm"))
    for more in ({"PROVISIONER_RECIPIENTS": str(keys)}, {"PROVISIONER_PLAINTEXT_SECRETS": "true"}):
        async with started(environ | more):
            pass


async def test_a_ledger_that_has_sealed_nothing_needs_no_recipients(environ):
    for _ in range(2):
        async with started(environ):
            pass
