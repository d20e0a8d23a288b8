"""Credentials for recipients: each gets its own sealed message; a missing key delays only its recipient."""

from dataclasses import dataclass, field, replace

import pytest

from contracts.topology import SECRETS_QUEUE, WORK_QUEUE, secrets_queue
from tests.support.builders import department_created, department_renamed, owing
from tests.support.secrets_keys import KeyReports, fresh_sealing_key, signing_key, write_keys
from tests.support.world import World
from worker.adapters.jose.open import open_message
from worker.adapters.jose.seal import JoseSealer, RecipientKeys
from worker.core.decide import Policy
from worker.core.keyring import public_part
from worker.core.model.credentials import ANY_RECIPIENT

CREATED = department_created("Sales", sequence=1)
RENAMED = department_renamed("Marketing", sequence=2)
WORKER = signing_key()
CRM, BILLING = fresh_sealing_key("crm.1"), fresh_sealing_key("billing.1")


@dataclass
class SealingWorld(World):
    policy: Policy = field(default_factory=lambda: Policy(recipients=frozenset({"crm", "billing"})))

    def open_queue(self, recipient, key):
        """The credentials in the recipient's queue, opened with its key."""
        waiting = self.broker.ready(secrets_queue(recipient))
        messages = [open_message(one.message.body, [key], [public_part(WORKER)]) for one in waiting]
        assert {one.routing_key for one in waiting} <= {f"subaccount.credentials.issued.{recipient}"}
        return [(one.content.auth_id, one.content.auth_token.get_secret_value()) for one in messages]


@pytest.fixture
def file(tmp_path):
    return write_keys(tmp_path / "recipients.json", CRM, BILLING)


@pytest.fixture
def key_log():
    return KeyReports()


@pytest.fixture
def world(file, key_log):
    return SealingWorld(sealer=JoseSealer(RecipientKeys(file, ("crm", "billing"), key_log), WORKER))


def credentials_at_provider(world):
    (held,) = world.provider.subaccounts
    return [(held.auth_id, held.auth_token.get_secret_value())]


async def test_each_recipient_gets_its_own_sealed_message(world):
    await world.handle(CREATED)
    assert (
        world.open_queue("crm", CRM) == world.open_queue("billing", BILLING) == credentials_at_provider(world)
    )
    assert SECRETS_QUEUE not in world.broker._queues
    ids = [one.message.body.split(b'"id":"')[1][:36] for one in _all_secrets(world)]
    assert len(set(ids)) == 2
    assert (await world.entry()).owed_to == frozenset()


async def test_a_recipient_without_a_key_delays_only_itself(world, file, key_log):
    write_keys(file, CRM)
    async with world.working():
        await world.send(CREATED)
        for _ in range(4):
            await world.clock.asleep(2)  # the retry, and the gate's release after ten minutes
            assert (await world.entry()).owed_to == {"billing"}
            assert world.broker.ready(secrets_queue("billing")) == []
            assert world.open_queue("crm", CRM) == credentials_at_provider(world), (
                "sent once, in spite of the retry"
            )
            world.clock.advance(world.clock.seconds_to_next())
        write_keys(file, CRM, BILLING)
        await world.run_until_done()
    assert (
        world.open_queue("crm", CRM) == world.open_queue("billing", BILLING) == credentials_at_provider(world)
    )
    world.answered(CREATED, "created")
    world.has_dead_lettered_nothing()
    assert [line[:2] for line in key_log.lines if line[0] == "billing"] == [
        ("billing", None),
        ("billing", "billing.1"),
    ]


async def test_a_crash_between_two_recipients_loses_no_message(world):
    await world.crash_before("publish secrets subaccount.credentials.issued.crm", CREATED)
    assert world.open_queue("crm", CRM) == []
    await world.handle()
    assert (
        set(world.open_queue("billing", BILLING))
        == set(world.open_queue("crm", CRM))
        == set(credentials_at_provider(world))
    )
    world.has_nothing_to_do()


async def test_an_unroutable_recipient_does_not_delay_the_others(world):
    world.broker.unbind("provisioner.secrets", secrets_queue("billing"), "subaccount.credentials.*.billing")
    async with world.working():
        await world.send(CREATED)
        await world.clock.asleep()
        assert world.open_queue("crm", CRM) == credentials_at_provider(world)
        assert (await world.entry()).owed_to == {"billing"}
        assert world.broker.ready(WORK_QUEUE) == []
        world.broker.bind("provisioner.secrets", secrets_queue("billing"), "subaccount.credentials.*.billing")
        await world.run_until_done()
    assert world.open_queue("billing", BILLING) == credentials_at_provider(world)


async def test_credentials_owed_to_a_recipient_are_never_sent_unsealed(world):
    """The worker was restarted without the recipients it had."""
    await world.handle(CREATED)
    await world.ledger.record(replace(await world.entry(), debt=owing("crm")))
    plain = World(ledger=world.ledger, provider=world.provider, clock=world.clock)
    async with plain.working():
        await plain.send(RENAMED)
        await plain.clock.asleep()
        assert plain.broker.ready(SECRETS_QUEUE) == []
        assert (await plain.entry()).owed_to == {"crm"}


async def test_credentials_owed_before_recipients_are_owed_to_the_recipients(world):
    """A worker without recipients died before it published."""
    plain = World(ledger=world.ledger, provider=world.provider, clock=world.clock)
    await plain.crash_before("publish secrets", CREATED)
    assert (await world.entry()).owed_to == {ANY_RECIPIENT}
    await world.handle(CREATED)
    assert (
        world.open_queue("crm", CRM) == world.open_queue("billing", BILLING) == credentials_at_provider(world)
    )
    assert (await world.entry()).owed_to == frozenset()


def _all_secrets(world):
    return [one for name in ("crm", "billing") for one in world.broker.ready(secrets_queue(name))]
