"""Credentials for recipients: each gets its own, sealed; who has no key waits, and the others do not."""

from dataclasses import dataclass, field, replace

import pytest

from contracts.topology import SECRETS_QUEUE, WORK_QUEUE, secrets_queue
from tests.support.builders import department_created, department_renamed
from tests.support.secrets_keys import Told, fresh_sealing_key, signing_key, write_keys
from tests.support.world import World
from worker.adapters.jose.open import open_message
from worker.adapters.jose.seal import JoseSealer, RecipientKeys
from worker.core.decide import Policy
from worker.core.keyring import public_part
from worker.core.model import EVERYBODY

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
WORKER = signing_key()
CRM, BILLING = fresh_sealing_key("crm.1"), fresh_sealing_key("billing.1")


@dataclass
class SealingWorld(World):
    policy: Policy = field(default_factory=lambda: Policy(recipients=frozenset({"crm", "billing"})))

    def opened(self, recipient, key):
        """What that recipient reads in its own queue."""
        waiting = self.broker.ready(secrets_queue(recipient))
        opened = [open_message(one.message.body, [key], [public_part(WORKER)]) for one in waiting]
        assert {one.routing_key for one in waiting} <= {f"subaccount.credentials.issued.{recipient}"}
        return [(one.content.auth_id, one.content.auth_token.get_secret_value()) for one in opened]


@pytest.fixture
def file(tmp_path):
    return write_keys(tmp_path / "recipients.json", CRM, BILLING)


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def world(file, told):
    return SealingWorld(sealer=JoseSealer(RecipientKeys(file, ("crm", "billing"), told), WORKER))


def the_subaccount(world):
    (held,) = world.provider.subaccounts
    return [(held.auth_id, held.auth_token.get_secret_value())]


async def test_each_recipient_gets_its_own_and_nobody_else_any(world):
    await world.handle(CREATED)
    assert world.opened("crm", CRM) == world.opened("billing", BILLING) == the_subaccount(world)
    assert SECRETS_QUEUE not in world.broker._queues
    ids = [one.message.body.split(b'"id":"')[1][:36] for one in _all_secrets(world)]
    assert len(set(ids)) == 2
    assert (await world.entry()).owed_to == frozenset()


async def test_who_has_no_key_waits_and_the_others_do_not(world, file, told):
    write_keys(file, CRM)
    async with world.working():
        await world.send(CREATED)
        for _ in range(4):
            await world.clock.asleep(2)  # it, and whoever would give it back after ten minutes
            assert (await world.entry()).owed_to == {"billing"}
            assert world.broker.ready(secrets_queue("billing")) == []
            assert world.opened("crm", CRM) == the_subaccount(world), "sent once, although tried again"
            world.clock.advance(world.clock.seconds_to_next())
        write_keys(file, CRM, BILLING)
        await world.run_until_done()
    assert world.opened("crm", CRM) == world.opened("billing", BILLING) == the_subaccount(world)
    world.answered(CREATED, "created")
    world.has_dead_lettered_nothing()
    assert [line[:2] for line in told.lines if line[0] == "billing"] == [
        ("billing", None),
        ("billing", "billing.1"),
    ]


async def test_a_worker_that_dies_between_two_recipients_leaves_the_second_to_the_next(world):
    await world.crash_before("publish secrets subaccount.credentials.issued.crm", CREATED)
    assert world.opened("crm", CRM) == []
    await world.handle()
    assert (
        set(world.opened("billing", BILLING)) == set(world.opened("crm", CRM)) == set(the_subaccount(world))
    )
    world.has_nothing_to_do()


async def test_where_nobody_is_bound_for_one_the_others_are_served(world):
    world.broker.unbind("provisioner.secrets", secrets_queue("billing"), "subaccount.credentials.*.billing")
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        assert world.opened("crm", CRM) == the_subaccount(world)
        assert (await world.entry()).owed_to == {"billing"}
        assert world.broker.ready(WORK_QUEUE) == []
        world.broker.bind("provisioner.secrets", secrets_queue("billing"), "subaccount.credentials.*.billing")
        await world.run_until_done()
    assert world.opened("billing", BILLING) == the_subaccount(world)


async def test_what_is_owed_to_a_recipient_is_never_sent_in_the_clear(world):
    """Recipients were named, and are no more: the worker was started without them."""
    await world.handle(CREATED)
    await world.ledger.record(replace(await world.entry(), owed_to=frozenset({"crm"})))
    plain = World(ledger=world.ledger, provider=world.provider, clock=world.clock)
    async with plain.working():
        await plain.send(RENAMED)
        await plain.clock.asleep()
        assert plain.broker.ready(SECRETS_QUEUE) == []
        assert (await plain.entry()).owed_to == {"crm"}


async def test_what_was_owed_before_there_were_recipients_is_owed_to_them(world):
    """The worker was started without recipients, and died before it published."""
    plain = World(ledger=world.ledger, provider=world.provider, clock=world.clock)
    await plain.crash_before("publish secrets", CREATED)
    assert (await world.entry()).owed_to == {EVERYBODY}
    await world.handle(CREATED)
    assert world.opened("crm", CRM) == world.opened("billing", BILLING) == the_subaccount(world)
    assert (await world.entry()).owed_to == frozenset()


def _all_secrets(world):
    return [one for name in ("crm", "billing") for one in world.broker.ready(secrets_queue(name))]
