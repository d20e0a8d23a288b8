"""Every operation on memory ports, as a front end other than the CLI would call it."""

import asyncio
import io
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from contracts.subaccounts import ResultCode
from contracts.topology import NO_NAMESPACE, BrokerVersion
from tests.support.builders import (
    CLAIM,
    NOW,
    SALES,
    a_worker,
    department_created,
    department_removed,
    department_renamed,
)
from tests.support.world import fault
from worker.adapters.memory.dead_letters import MemoryAudit, MemoryDeadLetters
from worker.core.decide import Policy
from worker.core.model.departments import Department
from worker.core.model.entry import Status
from worker.core.model.wishes import Reissuing
from worker.core.reissue import answer_to, request_of
from worker.operations.dead_letters import removal, summary, transfer
from worker.operations.dead_letters.plan import plan
from worker.operations.dead_letters.replay import Replay
from worker.operations.dead_letters.session import Session
from worker.operations.departments import UnknownDepartment, credentials_state, departments, history
from worker.operations.emit import EmitFailed, InvalidEvent, complete_event, emit, events_in
from worker.operations.reset_version import UNDER_WAY, Resetting, of_department, of_source
from worker.operations.topology import TopologyOptions, apply_topology, check_topology, export_topology
from worker.operations.wishes import Asking, NotCarriedOut, NoWorker, StillUnderWay
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
        *events_in('\n{"type": "department.removed.v1", "data": {"department_id": "sales"}}', now, new_id),
    ]
    assert [sent async for sent in emit(world.broker, events)] == [1, 2]
    await world.handle()
    assert [entry.department.id async for entry in departments(world.ledger)] == ["sales"]
    with pytest.raises(InvalidEvent, match=r"^line 2: not JSON"):
        events_in("\n{", now, new_id)


def test_every_invalid_line_of_a_file_is_named(new_id):
    good = '{"type": "department.removed.v1", "data": {"department_id": "sales"}}'
    with pytest.raises(InvalidEvent) as caught:
        events_in("\n".join([good, "{", good, "[]", *["{}"] * 30]), NOW, new_id)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["line 2", "line 4", "line 5"]
    assert (len(lines), lines[-1]) == (21, "and 12 more")


def test_an_event_is_emitted_in_the_one_spelling_of_its_department(world, new_id):
    """`null` is as good as absent, also for what has a default."""
    line = (
        '{"type": "com.example.department.updated", "id": null, "time": null, "tenant": " emea\\t",'
        ' "data": {"department_id": 42.0, "name": "Cafe\\u0301  Nord", "previous_name": 5}}'
    )
    (event,) = events_in(line, world.clock.now(), new_id)
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
        events_in(line, world.clock.now(), new_id)


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
    found = await history(world.ledger, MemoryAudit(), SALES, NOW)
    assert credentials_state(found.entry) == "sent (1)"
    assert [answer.outcome for answer in found.answers] == ["created"]
    assert [entry async for entry in departments(world.ledger, "another")] == []
    with pytest.raises(UnknownDepartment, match="never heard of department hr"):
        await history(world.ledger, MemoryAudit(), Department("default", "hr"), NOW)


async def test_a_reissue_is_carried_out_by_the_worker_or_withdrawn(world, new_id, monkeypatch):
    await world.handle(department_created())
    audit = MemoryAudit()
    asking = Asking(world.ledger, audit, world.clock, "ada", new_id)
    with pytest.raises(UnknownDepartment):
        await asking.reissue(Department("default", "hr"), None)
    await worker_runs(world)
    monkeypatch.setattr("worker.operations.wishes.TIMEOUT_SECONDS", 0.05)
    with pytest.raises(NotCarriedOut, match="is withdrawn"):
        await asking.reissue(SALES, None)
    assert [line.outcome for line in await audit.lines()] == ["asked for", "withdrawn, no worker has done it"]


async def worker_runs(world):
    await world.ledger.announce(a_worker())


async def answered(world, asked):
    """Runs the worker's wishes until the command has its answer."""
    async with world.working() as running:
        while not asked.done():
            await worker_runs(world)
            await running.worker.scheduler.file_wishes()
            await running.worker.lanes.idle()
            world.clock.advance(1)
            await asyncio.sleep(0)
    return await asked


async def test_without_a_worker_nothing_is_asked_for(world, new_id):
    """A worker that ran a while ago, or that will run once a clock is set right, or that stops, is none."""
    await world.handle(department_created())
    audit = MemoryAudit()
    asking = Asking(world.ledger, audit, world.clock, "ada", new_id)
    await world.ledger.announce(a_worker("w1"))
    await world.ledger.leave("w1")
    await world.ledger.announce(a_worker("w2"))
    for seconds in (6, -12):  # the clock was set back meanwhile
        world.clock.advance(seconds)
        for asked in (
            asking.reissue(SALES, None),
            asking.recreate(SALES),
            asking.ask_all([asking.wish(SALES, Reissuing())], "all"),
        ):
            with pytest.raises(NoWorker, match="start `provisioner run`"):
                await asked
    assert (await audit.lines(), await world.ledger.wishes()) == ([], [])


async def test_several_wishes_are_left_at_once_and_each_is_answered(world, new_id):
    ids = ("a", "b")
    await world.handle(*(department_created(id=f"e-{one}", department_id=one) for one in ids))
    audit, seen = MemoryAudit(), list[int]()
    asking = Asking(world.ledger, audit, world.clock, "ada", new_id)
    wishes = [asking.wish(SALES._replace(id=one), Reissuing()) for one in (*ids, "unknown")]
    await worker_runs(world)
    asked = asyncio.create_task(asking.ask_all(wishes, "all", seen.append))
    answers = await answered(world, asked)
    assert [answer.outcome for answer in answers] == ["reissued", "reissued", "failed"]
    assert (seen[-1], await world.ledger.wishes()) == (3, [])
    assert [line.outcome for line in await audit.lines()] == ["asked for"] * 3


async def test_wishes_that_no_worker_grants_are_withdrawn(world, new_id):
    """The worker stops beside its first answer."""
    await world.handle(department_created())
    audit = MemoryAudit()
    asking = Asking(world.ledger, audit, world.clock, "ada", new_id)
    first, second = (asking.wish(SALES, Reissuing()) for _ in range(2))
    await worker_runs(world)
    given = answer_to(request_of(first), await world.entry(), ResultCode.REISSUED, None, NOW)
    await world.ledger.record_answer(replace(given, confirmed=True))
    asked = asyncio.create_task(asking.ask_all([first, second], "all"))
    await asyncio.sleep(0.01)
    world.clock.advance(6)
    answers = await asked
    assert [answer is not None for answer in answers] == [True, False]
    assert await world.ledger.wishes() == [first]  # the next worker ends it
    assert [line.event_id for line in (await audit.lines())[2:]] == [second.id]


async def test_a_recreation_is_waited_for_until_it_is_done(world, new_id, monkeypatch):
    """Nobody had noticed the loss, so that the worker asks for the subaccount a settle window long."""
    monkeypatch.setattr("worker.operations.wishes.TIMEOUT_SECONDS", 0.2)
    await world.handle(department_created())
    world.provider.subaccounts.clear()
    audit, begun = MemoryAudit(), []
    asking = Asking(world.ledger, audit, world.clock, "ada", new_id, lambda: begun.append(True))
    await worker_runs(world)
    answer = await answered(world, asyncio.create_task(asking.recreate(SALES)))
    assert (answer.outcome, answer.auth_id) == ("created", (await world.entry()).auth_id)
    lines = await audit.lines()
    assert [(line.action, line.outcome) for line in lines] == [
        ("recreate", "asked for"),
        ("recreate", "created"),
    ]
    assert await world.ledger.wishes() == []


async def test_a_recreation_that_no_worker_begins_is_withdrawn(world, new_id, monkeypatch):
    monkeypatch.setattr("worker.operations.wishes.TIMEOUT_SECONDS", 0.05)
    await world.handle(department_created())
    await worker_runs(world)
    with pytest.raises(NotCarriedOut, match="is withdrawn"):
        await Asking(world.ledger, MemoryAudit(), world.clock, "ada", new_id).recreate(SALES)
    assert await world.ledger.wishes() == []


async def test_a_worker_that_stops_is_not_waited_for(world, new_id):
    await world.handle(department_created())
    await worker_runs(world)
    asked = asyncio.create_task(
        Asking(world.ledger, MemoryAudit(), world.clock, "ada", new_id).reissue(SALES, None)
    )
    await asyncio.sleep(0.01)
    world.clock.advance(6)
    with pytest.raises(NoWorker, match="it is withdrawn"):
        await asked
    assert await world.ledger.wishes() == []


async def test_a_recreation_that_takes_too_long_goes_on_without_the_command(world, new_id, monkeypatch):
    monkeypatch.setattr("worker.operations.wishes.TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr("worker.operations.wishes.LONGEST_SECONDS", 0.1)
    await world.handle(department_created())
    world.provider.subaccounts.clear()
    await worker_runs(world)
    asked = asyncio.create_task(
        Asking(world.ledger, MemoryAudit(), world.clock, "ada", new_id).recreate(SALES)
    )
    await asyncio.sleep(0.01)
    async with world.working() as running:
        await running.worker.scheduler.file_wishes()
        await running.worker.lanes.idle()
    with pytest.raises(StillUnderWay, match="departments show sales"):
        await asked
    assert len(await world.ledger.wishes()) == 1


def resetting(world, audit):
    return Resetting(world.ledger, audit, world.clock, "ada", "run", "--source /hr/old")


OLD = department_created("Old", source="/hr/old", sequence=48213)
MOVED = department_created("New", source="/hr/new", sequence=1)
NEXT = department_renamed("Newest", source="/hr/new", sequence=2)


async def test_a_sequence_that_began_anew_applies_after_a_reset(world):
    await world.handle(OLD, MOVED)
    world.answered(MOVED, "superseded")
    audit = MemoryAudit()
    entries = await of_source(world.ledger, "/hr/old", None)
    (done,) = await resetting(world, audit).reset(entries)
    assert (done.department, done.version.sequence) == (SALES, 48213)
    assert [line.outcome for line in await audit.lines()] == [
        "asked for",
        "forgot sequence 48213 of /hr/old",
    ]
    await world.handle(MOVED)  # what was answered stays answered
    world.answered(MOVED, "superseded")
    await world.handle(NEXT)
    world.answered(NEXT, "renamed")
    await world.has_one_live_subaccount("Newest")
    assert await of_source(world.ledger, "/hr/old", None) == []


async def test_a_reset_selects_the_departments_of_one_source(world):
    other = department_created("Other", department_id="other", source="/hr/other", sequence=5)
    await world.handle(OLD, other)
    entries = await of_source(world.ledger, "/hr/old", None)
    assert [entry.department.id for entry in entries] == ["sales"]
    assert await of_source(world.ledger, "/hr/old", "another") == []
    with pytest.raises(UnknownDepartment):
        await of_department(world.ledger, Department("default", "nobody"))


async def test_a_reset_keeps_a_version_that_has_come_meanwhile(world):
    await world.handle(OLD)
    entries = await of_department(world.ledger, SALES)
    newer = department_renamed("Newer", source="/hr/old", sequence=48214)
    await world.handle(newer)
    (done,) = await resetting(world, MemoryAudit()).reset(entries)
    assert (done.version, done.left) == (None, "a newer event was answered meanwhile")
    assert (await world.entry()).version.sequence == 48214


@pytest.mark.parametrize("call", ["recall", "record active", "update", "publish results", "ack"])
async def test_a_reset_beside_a_worker_loses_nothing(world, call):
    """The command writes at any moment of an event's way; the event is still carried out once."""
    await world.handle(OLD)

    async def reset() -> None:
        entries = await of_department(world.ledger, SALES)
        await resetting(world, MemoryAudit()).reset(entries)

    world.witness.before(call, reset)
    newer = department_renamed("Newer", source="/hr/old", sequence=48214)
    await world.handle(newer)
    world.answered(newer, "renamed", times=None)
    await world.has_one_live_subaccount("Newer")
    world.has_dead_lettered_nothing()


async def test_a_reset_waits_for_a_create_under_way(world, monkeypatch):
    """Its claim is not written over: the worker would take its own subaccount for a duplicate."""
    monkeypatch.setattr("worker.operations.reset_version.TIMEOUT_SECONDS", 0.05)
    await world.handle(OLD, department_removed(source="/hr/old", sequence=48214))
    entry = await world.entry()
    claimed = replace(
        entry, status=Status.CLAIMED, auth_id=None, issued=entry.issued, removal=entry.removal, claim=CLAIM
    )
    claimed = await world.ledger.record(claimed)
    (done,) = await resetting(world, MemoryAudit()).reset([claimed])
    assert (done.version, done.left) == (None, UNDER_WAY)
    assert await world.entry() == claimed


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
