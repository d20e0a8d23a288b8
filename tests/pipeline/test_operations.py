"""Every operation on memory ports, as a front end other than the CLI would call it."""

import asyncio
import io
from itertools import count
from typing import Any

import pytest

from contracts.topology import NO_NAMESPACE, BrokerVersion
from tests.support.builders import NOW, SALES, department_created
from tests.support.world import fault
from worker.adapters.memory.dead_letters import MemoryAudit, MemoryDeadLetters
from worker.core.decide import Policy
from worker.core.model import Department
from worker.operations.dead_letters import removal, summary, transfer
from worker.operations.dead_letters.plan import plan
from worker.operations.dead_letters.replay import Replay
from worker.operations.dead_letters.session import Session
from worker.operations.departments import UnknownDepartment, credentials_state, departments, history
from worker.operations.emit import EmitFailed, InvalidEvent, complete_event, emit, events_in
from worker.operations.reissue import NotCarriedOut, reissue
from worker.operations.topology import TopologyOptions, apply_topology, check_topology, export_topology
from worker.ports import PublishFailed, Unroutable

RABBITMQ_4 = BrokerVersion(4, 1)
OPTIONS = TopologyOptions((), ("crm",), NO_NAMESPACE)


@pytest.fixture
def new_id():
    numbers = count(1)
    return lambda: f"id-{next(numbers)}"


def session_of(world):
    queue = MemoryDeadLetters(world.broker, RABBITMQ_4)
    return Session(queue, world.broker, MemoryAudit(), world.clock, "ada", "run")


async def test_events_are_published_one_by_one(world, new_id):
    now = world.clock.now()
    given = {"type": "department.created.v1", "data": {"department_id": "sales", "name": "Sales"}}
    events = [
        complete_event(given, now, new_id),
        *events_in(
            ["", '{"type": "department.removed.v1", "data": {"department_id": "sales"}}'], now, new_id
        ),
    ]
    assert [sent async for sent in emit(world.broker, events)] == [1, 2]
    await world.handle()
    assert [entry.department.id for entry in await departments(world.ledger)] == ["sales"]
    with pytest.raises(InvalidEvent, match=r"^line 2: not JSON"):
        events_in(["", "{"], now, new_id)


def test_every_invalid_line_of_a_file_is_named(new_id):
    good = '{"type": "department.removed.v1", "data": {"department_id": "sales"}}'
    with pytest.raises(InvalidEvent) as caught:
        events_in([good, "{", good, "[]", *["{}"] * 30], NOW, new_id)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["line 2", "line 4", "line 5"]
    assert (len(lines), lines[-1]) == (21, "and 12 more lines")


def test_an_event_is_emitted_in_the_one_spelling_of_its_department(world, new_id):
    """`null` is as good as absent, also for what has a default."""
    line = (
        '{"type": "com.example.department.updated", "id": null, "time": null, "tenant": " emea\\t",'
        ' "data": {"department_id": 42.0, "name": "Cafe\\u0301  Nord", "previous_name": 5}}'
    )
    (event,) = events_in([line], world.clock.now(), new_id)
    assert (event.id, event.time, event.type) == ("id-1", world.clock.now(), "department.renamed.v1")
    assert (event.tenant, event.data.department_id, event.data.name) == ("emea", "42", "Caf\u00e9 Nord")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            '{"type": "department.created", "data": {"departmentId": "a", "name": "b"}}',
            "data.departmentId: did",
        ),
        ('{"eventType": "department.created"}', "eventType: did you mean type"),
        ('{"type": "departments.created"}', "did you mean department.created.v1"),
        ('{"type": "department.removed", "data_base64": "?"}', "data_base64: not base64"),
    ],
)
def test_a_near_miss_in_a_line_is_named(line, text, world, new_id):
    with pytest.raises(InvalidEvent, match=f"^line 1: .*{text}"):
        events_in([line], world.clock.now(), new_id)


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (Unroutable("returned"), "^0 of 1 sent; no queue is bound"),
        (PublishFailed("away"), "^0 of 1 sent; away"),
    ],
)
async def test_an_event_that_cannot_be_sent_is_a_user_error(failure, text):
    class Refusing:
        async def publish(self, _outgoing):
            raise failure

    with pytest.raises(EmitFailed, match=text):
        _ = [sent async for sent in emit(Refusing(), [department_created()])]


async def test_a_department_is_listed_with_its_history(world):
    await world.handle(department_created())
    found = await history(world.ledger, SALES)
    assert credentials_state(found.entry) == "sent (1)"
    assert [answer.outcome for answer in found.answers] == ["created"]
    assert await departments(world.ledger, "another") == []
    with pytest.raises(UnknownDepartment, match="never heard of department hr"):
        await history(world.ledger, Department("default", "hr"))


async def test_a_reissue_is_carried_out_by_the_worker_or_withdrawn(world, new_id, monkeypatch):
    await world.handle(department_created())
    audit = MemoryAudit()
    ports = {"ledger": world.ledger, "audit": audit, "clock": world.clock, "new_id": new_id}
    with pytest.raises(UnknownDepartment):
        await reissue(Department("default", "hr"), None, "ada", **ports)
    monkeypatch.setattr("worker.operations.reissue.TIMEOUT_SECONDS", 0.05)
    with pytest.raises(NotCarriedOut, match="is withdrawn"):
        await reissue(SALES, None, "ada", **ports)
    assert [line.outcome for line in await audit.lines()] == ["asked for", "withdrawn, no worker has done it"]


class Objects:
    """A broker whose objects are those of the last apply."""

    version = "4.1.3"

    def __init__(self):
        self.applied: Any = None

    async def apply(self, wanted):
        self.applied = wanted

    async def check(self, wanted):
        state = "ok" if self.applied == wanted else "missing"
        return [Found("queue", queue.name, state, "") for queue in wanted.queues]


class Found:
    def __init__(self, *fields):
        self.kind, self.name, self.state, self.detail = fields


class Managed:
    """A management API whose objects are as wanted."""

    async def read(self):
        return self

    def adapted(self, topology):
        return topology

    def findings(self, *_looked_at):
        return []


async def test_the_topology_is_applied_checked_and_exported():
    broker = Objects()
    assert not (await check_topology(broker, None, OPTIONS)).fits
    applied = await apply_topology(broker, None, OPTIONS)
    assert (applied.broker, applied.queues) == ("4.1.3", len(broker.applied.queues))
    compared = await check_topology(broker, Managed(), OPTIONS)
    assert (compared.fits, compared.complete) == (True, True)
    assert not (await check_topology(broker, None, OPTIONS)).complete
    assert export_topology(RABBITMQ_4, OPTIONS, "/hr")["queues"][0]["vhost"] == "/hr"


async def test_dead_letters_are_listed_planned_exported_replayed_and_discarded(world):
    for number in range(3):
        world.witness.fail("create", fault("create", 400))
        await world.handle(department_created(id=f"e-{number}", department_id=f"d-{number}"))
    session, seen, file = session_of(world), list[int](), io.BytesIO()
    listed = await summary.summarize(session, 10, seen.append)
    assert (listed.selected, seen[-1]) == (3, 3)
    assert len((await summary.gather(session, 2)).found) == 2
    assert (await plan(session, world.ledger, Policy(), 10, seen.append)).outcomes == {"create": 3}
    assert await transfer.export(session, 1, file, seen.append) == 1
    assert (await Replay(session).send(1)).sent == 1
    remover = removal.discarding(session, asyncio.Event(), seen.append)
    await remover.remove(None)
    assert (remover.gone, world.dead_letters()) == (2, [])
    actions = [line.action for line in await session.audit.lines()]
    assert actions == ["show", "show", "export", "replay", "discard", "discard"]
