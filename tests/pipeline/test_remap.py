"""Remapping payloads that no profile could map: what leaves the queue, what stays, and in which order."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from contracts.topology import DEPARTMENTS, UNMAPPED_QUEUE, WORK_QUEUE, BrokerVersion, topology
from worker.adapters.memory.broker import MemoryBroker
from worker.adapters.memory.dead_letters import MemoryDeadLetters
from worker.adapters.system import SystemClock
from worker.core.intake.mapping import map_received
from worker.core.intake.parsing import parse_profile
from worker.core.intake.received import Received
from worker.core.intake.unmapped import unmapped
from worker.core.messages import Outgoing
from worker.operations.dead_letters.replay import ReplayFailed
from worker.operations.intake import NO_PROFILE, Remap, RemapOptions
from worker.ports import NotTaken, TooManyReturns

RABBITMQ_4 = BrokerVersion(4, 1)
AT = datetime(2026, 11, 1, 8, 30, tzinfo=UTC)


def profile(file="acme", /, **changes):
    document = {
        "auth": {"kind": "none"},
        "id": "item.id",
        "name": "item.title",
        "samples": [{"body": {}, "events": []}],
    }
    return parse_profile(file, document | changes)


BROKEN = {name: profile(name) for name in ("acme", "other")}
REPAIRED = {name: profile(name, name="item.name", ignore="item.kind == 'role'") for name in BROKEN}


class Stage:
    """A broker in memory whose queue has the payloads that broken profiles left."""

    def __init__(self):
        self.broker = MemoryBroker()
        self.broker.declare(topology(RABBITMQ_4))
        self.published: list[Outgoing] = []
        self.refuses = ""

    async def publish(self, outgoing):
        if (
            outgoing.exchange == DEPARTMENTS
            and self.refuses
            and self.refuses in outgoing.message.body.decode()
        ):
            raise NotTaken("RabbitMQ did not take a message for departments")
        self.published.append(outgoing)
        await self.broker.publish(outgoing)

    async def keep(self, *bodies, name="acme"):
        for body in bodies:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            received = Received(raw, {}, AT)
            reasons = map_received(BROKEN[name], received).unmappable
            assert reasons
            await self.broker.publish(unmapped(BROKEN[name], received, reasons))

    def remap(self, profiles=REPAIRED, *, dry=False, only=None, unlimited=True, **options):
        queue = MemoryDeadLetters(self.broker, RABBITMQ_4, unlimited=unlimited, name=UNMAPPED_QUEUE)
        return Remap(queue, self, SystemClock(), RemapOptions(profiles, only), dry=dry, **options)

    @property
    def waiting(self):
        return [outgoing.message.body for outgoing in self.broker.ready(UNMAPPED_QUEUE)]

    @property
    def events(self):
        return [json.loads(outgoing.message.body) for outgoing in self.broker.ready(WORK_QUEUE)]


@pytest.fixture
async def stage():
    return Stage()


async def test_what_maps_leaves_the_queue_and_the_rest_stays_in_order(stage):
    await stage.keep({"id": 1, "name": "A"}, b"no json", {"id": 2, "name": "B"}, {"id": 3}, {"kind": "role"})

    report = await stage.remap().run()

    assert (report.seen, report.selected, report.remapped, report.events, report.ignored) == (5, 5, 3, 2, 1)
    assert sorted(reason[:14] for _, reason in report.kept) == ["body: not JSON", "name: missing"]
    assert stage.waiting == [b"no json", b'{"id": 3}']
    assert [event["data"]["name"] for event in stage.events] == ["A", "B"]


async def test_the_time_and_the_id_are_those_of_the_arrival(stage):
    body = json.dumps({"id": 1, "name": "A"}).encode()
    await stage.keep(body)
    await stage.remap().run()

    (event,) = stage.events
    (expected,) = map_received(REPAIRED["acme"], Received(body, {}, AT)).events
    assert (event["id"], event["time"]) == (expected.id, "2026-11-01T08:30:00Z")
    assert event["source"] == "/in/acme"


async def test_only_one_profile(stage):
    await stage.keep({"id": 1, "name": "A"})
    await stage.keep({"id": 2, "name": "B"}, name="other")

    report = await stage.remap(only="other").run()

    assert (report.seen, report.selected, report.remapped) == (2, 1, 1)
    assert [event["data"]["department_id"] for event in stage.events] == ["2"]
    assert stage.waiting == [b'{"id": 1, "name": "A"}']


async def test_a_profile_that_is_gone_keeps_its_payloads(stage):
    await stage.keep({"id": 1, "name": "A"})

    report = await stage.remap({}).run()

    assert dict(report.kept) == {("acme", NO_PROFILE): 1}
    assert len(stage.waiting) == 1


async def test_a_dry_run_changes_nothing(stage):
    await stage.keep({"id": 1, "name": "A"}, {"id": 3})

    report = await stage.remap(dry=True).run()

    assert (report.remapped, report.events) == (1, 1)
    assert len(stage.waiting) == 2
    assert stage.published == []


async def test_at_most_so_many(stage):
    await stage.keep(*({"id": number, "name": "A"} for number in range(5)))

    report = await stage.remap().run(2)

    assert report.remapped == 2
    assert stage.waiting == [json.dumps({"id": number, "name": "A"}).encode() for number in (2, 3, 4)]


async def test_an_event_that_is_not_confirmed_keeps_its_payload(stage):
    await stage.keep(
        {"id": 0, "name": "A"}, {"id": 1, "name": "A"}, {"id": 2, "name": "Refused"}, {"id": 3, "name": "A"}
    )
    stage.refuses = "Refused"
    work = stage.remap()

    with pytest.raises(ReplayFailed, match="did not take a message"):
        await work.run()

    assert (work.report.remapped, work.report.events) == (3, 3)
    assert stage.waiting == [b'{"id": 2, "name": "Refused"}']
    stage.refuses = ""
    assert (await stage.remap().run()).remapped == 1
    assert stage.waiting == []


async def test_a_payload_of_several_items_leaves_as_a_whole(stage):
    profiles = {"acme": replace(REPAIRED["acme"], each=profile(each="body").each)}
    await stage.keep([{"id": 1, "name": "A"}, {"id": 2}])

    report = await stage.remap(profiles).run()

    assert (report.remapped, stage.published, len(stage.waiting)) == (0, [], 1)


async def test_near_a_delivery_limit_the_queue_is_left_alone(stage):
    await stage.keep({"id": 1, "name": "A"})
    for _ in range(15):
        await stage.remap(dry=True).run()

    with pytest.raises(TooManyReturns, match="the oldest payload was given back"):
        await stage.remap(unlimited=False).run()

    assert len(stage.waiting) == 1
