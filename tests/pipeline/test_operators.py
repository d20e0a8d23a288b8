"""Dead-letter operations with a worker: plans are accurate, and replays lose and repeat nothing."""

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import groupby

import pytest
from pydantic_core import from_json, to_json

from contracts.envelope import STRUCTURED, document, read
from contracts.subaccounts import DeadReason
from contracts.topology import DEAD_LETTER_QUEUE, WORK_QUEUE, BrokerVersion
from tests.support.builders import NOW, SALES, department_created, department_removed, department_renamed
from tests.support.world import fault
from worker.adapters.amqp.errors import BrokerUnavailable
from worker.adapters.memory.dead_letters import MemoryAudit, MemoryDeadLetters
from worker.adapters.memory.ledger import MemoryLedger
from worker.core.dead_letters import Selection
from worker.core.decide import Policy
from worker.core.judge import DeadLetter
from worker.core.messages import dead_letter
from worker.core.model.causes import Reference
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.recollection import Recollection
from worker.operations.dead_letters import removal, tracking, transfer
from worker.operations.dead_letters.plan import plan
from worker.operations.dead_letters.replay import Replay, ReplayFailed
from worker.operations.dead_letters.session import Session
from worker.operations.dead_letters.summary import DepartmentCount, ReasonCount, gather, summarize
from worker.operations.emit import inbound
from worker.ports import LedgerFailed, PublishFailed, TooManyReturns

RABBITMQ_4 = BrokerVersion(4, 1)


TYPED = {"content_type": STRUCTURED}


def silent(_number: int) -> None:
    """No progress bar."""


def session_of(world, run="run", *, unlimited=True, **fields):
    queue = MemoryDeadLetters(world.broker, RABBITMQ_4, unlimited=unlimited)
    return replace(Session(queue, world.broker, MemoryAudit(), world.clock, "ada", run), **fields)


async def bury(world, *events, status=400):
    """Lets the provider refuse the events, so that they are dead-lettered as `rejected`."""
    for event in events:
        world.witness.fail("create", fault("create", status))
        await world.handle(event)


async def bury_many(world, count):
    events = [department_created(id=f"e-{n}", department_id=f"d-{n}") for n in range(count)]
    await bury(world, *events)
    return events


async def seen(session):
    return await summarize(session, 1000, silent)


# Listing


async def test_a_list_groups_by_reason_and_department(world):
    await bury(world, department_created(id="e-1"), department_created(id="e-2"))
    await world.send_raw(b"hello")
    await world.handle()
    summary = await seen(session_of(world))
    assert summary.reasons == [ReasonCount("rejected", 2, 1), ReasonCount("malformed", 1, 0)]
    assert summary.departments == [
        DepartmentCount(SALES.tenant, "sales", 2, {"rejected": 2}),
        DepartmentCount(None, None, 1, {"malformed": 1}),
    ]
    assert [letter.event_id for letter in summary.letters] == ["e-1", "e-2", None]
    assert (await seen(session_of(world, selection=Selection(reason=("malformed",))))).selected == 1


async def test_a_department_with_several_reasons_is_listed_once(world):
    await bury(world, department_created(id="e-1"), department_created(id="e-2", department_id="hr"))
    await world.send_raw(to_json(document(department_created(id="e-3")) | {"type": "department.moved"}))
    await world.handle()
    summary = await seen(session_of(world))
    assert summary.reasons == [ReasonCount("rejected", 2, 2), ReasonCount("unsupported-type", 1, 1)]
    assert [(one.department_id, one.count) for one in summary.departments] == [("sales", 2), ("hr", 1)]
    assert summary.departments[0].reasons == {"rejected": 1, "unsupported-type": 1}


@pytest.mark.parametrize(("most", "more"), [(2, True), (3, False), (4, False), (0, True)])
async def test_a_list_reports_whether_there_are_more_letters(world, most, more):
    await bury_many(world, 3)
    gathered = await gather(session_of(world), most)
    assert (len(gathered.found), gathered.more) == (min(most, 3), more)


async def test_browsing_never_reaches_the_delivery_limit_of_rabbitmq_4(world):
    """Without x-delivery-limit: browsing is refused in time, and the last browse rescues the letter."""
    await bury_many(world, 3)
    world.broker.limit_deliveries(DEAD_LETTER_QUEUE, 20)
    session = session_of(world, unlimited=False)
    looks = [await asyncio.gather(seen(session), return_exceptions=True) for _ in range(100)]
    refused = [error for (error,) in looks if isinstance(error, TooManyReturns)]
    assert all("--no-delivery-limit" in str(error) for error in refused)
    left = len(world.broker.ready(DEAD_LETTER_QUEUE)) + len(world.broker.ready(WORK_QUEUE))
    assert (left, len(refused)) == (3, 33)
    rescued = [line for line in await session.audit.lines() if line.action == "rescue"]
    assert len(rescued) == len(world.broker.ready(WORK_QUEUE))


@pytest.mark.parametrize("known", [{"unlimited": True}, {"unlimited": False, "assume_unlimited": True}])
async def test_browsing_an_unlimited_queue_is_never_refused(world, known):
    await bury_many(world, 2)
    for _ in range(30):
        assert (await seen(session_of(world, **known))).selected == 2


# Planning


class ReadOnly(MemoryLedger):
    """A ledger that refuses every write."""

    def __init__(self, ledger: MemoryLedger) -> None:
        super().__init__()
        self._ledger = ledger

    async def recall(self, department: Department, event: Reference) -> Recollection:
        return await self._ledger.recall(department, event)

    async def record(self, *_: object) -> Entry:
        raise LedgerFailed("read only")


class Mute:
    async def publish(self, outgoing):
        raise AssertionError(f"published {outgoing.routing_key}")


BEFORE = {
    "nothing": [],
    "active": [department_created(sequence=5)],
    "renamed since": [department_created(sequence=5), department_renamed("Later", sequence=50)],
    "removed": [department_created(sequence=5), department_removed(sequence=6)],
}
DEAD = [
    department_created("Sales", id="dead", sequence=9),
    department_renamed("Marketing", id="dead", sequence=9),
    department_removed(id="dead", sequence=9),
]


@pytest.mark.parametrize("dead", DEAD, ids=lambda event: event.kind)
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
async def test_a_replay_has_the_planned_outcome(world, before, dead):
    """The letter is older than the events of its department, and the current state counts."""
    await world.handle(*before)
    await world.broker.publish(
        dead_letter(inbound(dead), DeadLetter(DeadReason.EXHAUSTED, "old"), None, 8, NOW)
    )
    queue_before, calls_before = world.dead_letters(), len(world.provider.calls)
    mute = session_of(world, publisher=Mute())
    made = await plan(mute, ReadOnly(world.ledger), world.policy, 10, silent)
    (prospect,) = made.prospects
    assert world.dead_letters() == queue_before
    assert len(world.provider.calls) == calls_before

    await world.replay_dead_letters()
    await world.handle()
    (result,) = world.results(dead)
    done = {
        "create": "created",
        "rename": "renamed",
        "restore": "restored",
        "disable": "disabled",
        "unchanged": "unchanged",
        "superseded": "superseded",
    }
    assert result.data["outcome"] == done[prospect.outcome]
    assert len(world.provider.calls) - calls_before == prospect.calls == made.least_calls


async def test_a_plan_counts_calls_of_the_newest_letter_per_department(world):
    events = [department_created(f"Name {n}", id=f"e-{n}", sequence=n) for n in (1, 3, 2)]
    await bury(world, *events)
    made = await plan(session_of(world), world.ledger, Policy(), 1, silent)
    assert (made.selected, len(made.prospects), made.least_calls) == (3, 1, 1)
    assert made.outcomes == {"create": 3}


async def test_a_plan_of_an_unreadable_letter_is_still_malformed(world):
    await world.send_raw(b"hello")
    await world.handle()
    (prospect,) = (await plan(session_of(world), world.ledger, Policy(), 10, silent)).prospects
    assert (prospect.outcome, prospect.calls) == ("still malformed", 0)


# Replaying


async def replaying(world, session, most=None, **fields):
    """Replays with a running worker; time advances while both wait."""
    work = Replay(session, **fields)
    async with world.working():
        return await in_time(world, work.send_and_track(most, world.ledger))


async def in_time(world, work):
    """Advances time from one wake-up to the next until the work is done."""
    task = asyncio.ensure_future(work)
    while not task.done():
        asleep = asyncio.create_task(world.clock.asleep())
        await asyncio.wait({asleep, task}, return_when=asyncio.FIRST_COMPLETED)
        asleep.cancel()
        if not task.done():
            world.clock.advance(world.clock.seconds_to_next())
    return await task


async def test_letters_are_replayed_in_growing_batches(world):
    events = await bury_many(world, 12)
    session = session_of(world)
    report = await replaying(world, session)
    assert (report.sent, report.answered, report.is_bad) == (12, 12, False)
    groups = groupby(line.outcome for line in await session.audit.lines())
    assert [len(list(lines)) for outcome, lines in groups if outcome == "sent to work"] == [1, 2, 5, 4]
    world.has_dead_lettered_nothing()
    for event in events:
        world.answered(event, "failed", "created")
    outcomes = [line.outcome for line in await session.audit.lines(id_="e-3")]
    assert outcomes == ["sent to work", "answered created"]


async def test_a_failed_batch_ends_the_replay(world):
    await bury_many(world, 9)
    world.witness.fail("create", fault("create", 400))
    session = session_of(world)
    report = await replaying(world, session)
    assert (report.sent, report.answered, len(report.dead_again)) == (1, 0, 1)
    assert report.dead_again[0].outcome.startswith("dead-lettered again, rejected")
    assert [letter.message.headers["x-event-id"] for letter in world.dead_letters()] == [
        *(f"e-{n}" for n in range(1, 9)),
        "e-0",
    ]


async def test_a_letter_dead_again_is_not_replayed_twice_in_one_run(world):
    await world.send_raw(b"hello")
    await world.handle()
    session = session_of(world)
    assert len((await replaying(world, session)).dead_again) == 1
    assert (await seen(session)).selected == 0
    assert (await seen(session_of(world, "another"))).selected == 1


async def test_without_a_worker_a_replay_times_out(world):
    await bury_many(world, 2)
    log = Log(world.clock)
    report = await in_time(world, Replay(session_of(world), observer=log).send_and_track(None, world.ledger))
    assert (report.sent, len(report.unanswered)) == (1, 1)
    assert (world.clock.now() - NOW).total_seconds() > tracking.GIVE_UP_SECONDS
    assert log.waited == sorted(log.waited)
    assert log.waited[-1] > tracking.GIVE_UP_SECONDS - tracking.LONGEST_PAUSE_SECONDS - 1


async def test_the_observer_gets_sent_and_settled_letters(world):
    await bury_many(world, 4)
    await world.send_raw(b"hello")
    await world.handle()
    log = Log(world.clock)
    report = await replaying(world, session_of(world), observer=log)
    assert (report.answered, len(report.dead_again)) == (4, 1)
    assert (len(log.sent_at), len(log.settled_at)) == (5, 5)
    assert log.sent_at[-1] < log.settled_at[-1]


async def test_answers_are_tracked_while_a_batch_is_sent(world):
    """A batch may take long at a low rate."""
    await bury_many(world, 28)
    log = Log(world.clock)
    report = await replaying(world, session_of(world), per_second=1, observer=log)
    assert report.answered == 28
    late = [settled - sent for sent, settled in zip(log.sent_at, log.settled_at, strict=True)]
    assert max(late) <= 3


async def test_an_empty_selection_reports_the_number_of_letters_seen(world):
    await bury_many(world, 3)
    none = session_of(world, selection=Selection(reason=("exhausted",)))
    reports = [
        await Replay(none).send(None),
        await Replay(none).send_and_track(None, world.ledger),
        await Replay(session_of(world)).send_and_track(0, world.ledger),
    ]
    assert [(one.sent, one.seen) for one in reports] == [(0, 3)] * 3
    remover = removal.discarding(none, asyncio.Event(), silent)
    await remover.remove(None)
    assert (remover.gone, remover.seen) == (0, 3)


async def test_a_replay_sends_at_most_the_given_number(world):
    await bury_many(world, 9)
    assert (await Replay(session_of(world)).send(6)).sent == 6
    assert len(world.dead_letters()) == 3


class Log(tracking.Observer):
    """Records the reports of a replay with their times."""

    def __init__(self, clock):
        self.clock, self.begun = clock, clock.monotonic()
        self.sent_at, self.settled_at, self.waited = [], [], []

    def sent(self, more):
        self.sent_at += [self.clock.monotonic() - self.begun] * more

    def settled(self, more):
        self.settled_at += [self.clock.monotonic() - self.begun] * more

    def waiting(self, seconds):
        self.waited.append(seconds)


def most_in_a_second(times):
    return max(sum(begun <= time < begun + 1 for time in times) for begun in times)


@pytest.mark.no_cover
@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("rate", [0.5, 1, 2.5, 7, 60, 130])
async def test_the_rate_holds_in_every_second(world, rate, tracked):
    """The rate holds within the growing batches and between them."""
    await bury_many(world, 30 if rate < 10 else 300)
    log = Log(world.clock)
    work = Replay(session_of(world), rate, observer=log)
    async with world.working():
        await in_time(world, work.send_and_track(None, world.ledger) if tracked else work.send(None))
    assert len(log.sent_at) == work.report.sent == (30 if rate < 10 else 300)
    assert most_in_a_second(log.sent_at) <= max(rate, 1)
    waiting_for_answers = 20
    assert log.sent_at[-1] < len(log.sent_at) / rate * 1.3 + waiting_for_answers


async def test_a_slow_replay_lets_others_browse_between_letters(world):
    await bury_many(world, 3)
    task = asyncio.create_task(Replay(session := session_of(world), 0.05).send(None))
    await world.clock.asleep()
    world.clock.advance(5)
    await world.clock.asleep()
    assert (await seen(session)).selected == 2
    assert (await in_time(world, task)).sent == 3


class Refusing:
    """Accepts a number of messages and refuses all later ones."""

    def __init__(self, broker, taken):
        self.broker, self.left = broker, taken

    async def publish(self, outgoing):
        self.left -= 1
        if self.left < 0:
            raise PublishFailed("publishing to provisioner.replay failed: ACCESS_REFUSED")
        await self.broker.publish(outgoing)


async def test_letters_refused_by_the_broker_stay_in_the_queue(world):
    await bury_many(world, 5)
    session = session_of(world, publisher=Refusing(world.broker, 3))
    with pytest.raises(ReplayFailed, match="ACCESS_REFUSED"):
        await (work := Replay(session)).send(None)
    assert work.report.sent == 3
    assert [letter.message.headers["x-event-id"] for letter in world.dead_letters()] == ["e-3", "e-4"]
    assert len(world.broker.ready(WORK_QUEUE)) == len(await session.audit.lines()) == 3


class NoRecord(MemoryAudit):
    async def append(self, _lines):
        raise LedgerFailed("the ledger cannot be written: disk full")


async def test_no_letter_leaves_without_an_audit_line(world):
    await bury_many(world, 2)
    session = session_of(world, audit=NoRecord())
    with pytest.raises(LedgerFailed):
        await removal.discarding(session, asyncio.Event(), silent).remove(None)
    with pytest.raises(LedgerFailed):
        await Replay(session).send(None)
    assert len(world.dead_letters()) == 2


class Stopping(tracking.Observer):
    """Stops the replay as soon as a letter was sent."""

    def __init__(self, stopping):
        self.stopping = stopping

    def sent(self, _more):
        self.stopping.set()


async def test_a_stop_ends_a_replay_between_batches(world):
    await bury_many(world, 3)
    stopping = asyncio.Event()
    work = Replay(session_of(world), stopping=stopping, observer=Stopping(stopping))
    assert (await work.send(None)).sent == 1
    assert len(world.dead_letters()) + len(world.broker.ready(WORK_QUEUE)) == 3


async def test_a_stop_ends_every_wait(world):
    """The waits are for an answer, for the rate limit and for other readers."""
    await bury_many(world, 100)
    for naps in range(20):
        stopping = asyncio.Event()
        work = Replay(session_of(world, f"run-{naps}"), 0.3, stopping)
        task = asyncio.create_task(work.send_and_track(None, world.ledger) if naps % 2 else work.send(None))
        for _ in range(naps // 2):
            await world.clock.asleep()
            world.clock.advance(world.clock.seconds_to_next())
        await world.clock.asleep()
        stopped_at = world.clock.now()
        stopping.set()
        assert (await task).sent
        assert world.clock.now() == stopped_at


async def test_answers_before_a_stop_are_reported(world):
    """The answer arrived after the last poll."""
    await bury_many(world, 1)
    stopping, session = asyncio.Event(), session_of(world)
    task = asyncio.create_task(Replay(session, stopping=stopping).send_and_track(None, world.ledger))
    await world.clock.asleep()
    async with world.working():
        await world.done()
    stopping.set()
    report = await task
    assert (report.sent, report.answered, report.unanswered) == (1, 1, [])
    assert [line.outcome for line in await session.audit.lines()] == ["sent to work", "answered created"]


class Disconnecting(MemoryDeadLetters):
    """The broker becomes unavailable after `passes_left` browses."""

    passes_left = 2

    def browse(self, *, waits: bool = True):  # noqa: ARG002
        self.passes_left -= 1
        if self.passes_left < 0:
            raise BrokerUnavailable("RabbitMQ cannot be used: the connection was closed")
        return super().browse()


async def test_a_lost_broker_keeps_known_outcomes_in_report_and_audit(world):
    await bury_many(world, 9)
    queue = Disconnecting(world.broker, RABBITMQ_4)
    work = Replay(session := session_of(world, queue=queue))
    async with world.working():
        with pytest.raises(BrokerUnavailable):
            await in_time(world, work.send_and_track(None, world.ledger))
    assert (work.report.sent, work.report.answered) == (3, 3)
    outcomes = Counter(line.outcome for line in await session.audit.lines())
    assert outcomes == {"sent to work": 3, "answered created": 3}
    assert len(world.dead_letters()) == 6


async def test_a_broker_lost_while_tracking_is_recorded_as_no_answer_yet(world):
    await bury_many(world, 2)
    queue = Disconnecting(world.broker, RABBITMQ_4)
    queue.passes_left = 1
    work = Replay(session := session_of(world, queue=queue))
    with pytest.raises(BrokerUnavailable):
        await in_time(world, work.send_and_track(None, world.ledger))
    assert (work.report.sent, len(work.report.unanswered)) == (1, 1)
    assert [line.outcome for line in await session.audit.lines()] == ["sent to work", "no answer yet"]


async def test_a_replay_cancelled_at_any_point_loses_no_letter(world):
    events = await bury_many(world, 4)
    for steps in range(40):
        task = asyncio.create_task(Replay(session_of(world, f"run-{steps}")).send(None))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        there = {letter.message.headers["x-event-id"] for letter in world.dead_letters()}
        there |= {read(outgoing.message).id for outgoing in world.broker.ready(WORK_QUEUE)}
        assert there == {event.id for event in events}
    await world.handle()
    for event in events:
        await world.has_issued_credentials(Department(event.tenant, event.data.department_id))


# Export, edit and import


async def test_an_edited_export_is_imported_and_its_original_discarded(world, tmp_path):
    invalid = document(department_created()) | {"data": {"department_id": "sales", "name": " "}}
    await world.send_raw(to_json(invalid), raw=b"\xff", number=5)
    await world.send_raw(b"hello")
    await world.handle()
    session = session_of(world, selection=Selection(reason=("invalid",)))
    path = tmp_path / "dead.jsonl"
    with path.open("wb") as file:
        assert await transfer.export(session, None, file, silent) == 1
    with pytest.raises(transfer.InvalidImport, match=r"line 1: still invalid: data\.name"):
        transfer.read_import(path.read_text())

    edited = transfer.read_import(path.read_text().replace(r"\"name\":\" \"", r"\"name\":\"Sales\""))
    session = session_of(world, "import")
    assert await transfer.send_edited(session, edited, asyncio.Event(), silent) == 1
    (sent,) = world.broker.ready(WORK_QUEUE)
    assert sent.message.headers == {
        "raw": b"\xff",
        "number": 5,
        "x-replay-id": "import-1",
        "x-replayed-by": "ada",
        "x-edited-from": "created-1",
    }
    assert await transfer.discard_originals(session, edited) == 1
    await world.handle()
    await world.has_one_live_subaccount("Sales")
    assert world.dead_lettered("malformed")


def test_every_error_of_an_import_names_its_line():
    lines = ["", "hello", "[]", "{}", '{"body": 5}', '{"body_base64": "?"}', '{"body": "", "headers": 1}']
    with pytest.raises(transfer.InvalidImport) as error:
        transfer.read_import("\n".join(lines))
    errors = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in errors] == [f"line {n}" for n in range(2, 8)]
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ('{"body": "x"', "not JSON (EOF while parsing an object at column 12)"),
        (
            '{"body": {"$time": "soon"}}',
            "a value tagged as bytes or as a time is invalid (Invalid isoformat string: 'soon')",
        ),
    ],
)
def test_an_import_error_names_only_the_line_of_the_file(line, mistake):
    with pytest.raises(transfer.InvalidImport) as error:
        transfer.read_import(f"[]\n{line}\n{{}}")
    assert str(error.value).splitlines()[1] == f"line 2: {mistake}"


async def test_a_letter_without_an_event_id_is_found_by_fingerprint(world):
    for body in (b"hello", b"world"):
        await world.send_raw(body)
    await world.handle()
    hello, world_ = (await seen(session_of(world))).letters
    session = session_of(world, selection=Selection(id=(hello.fingerprint,)))
    await removal.discarding(session, asyncio.Event(), silent).remove(None)
    assert [letter.fingerprint for letter in (await seen(session_of(world))).letters] == [world_.fingerprint]
    (line,) = await session.audit.lines(id_=hello.fingerprint)
    assert (line.event_id, line.letter, line.outcome) == (None, hello.fingerprint, "discarded")


async def test_the_audit_follows_a_letter_through_export_and_import(world, tmp_path):
    """The imported message is another one, but its audit lines name the original letter."""
    await world.send_raw(b"hello")
    await world.handle()
    session, path = session_of(world), tmp_path / "dead.jsonl"
    with path.open("wb") as file:
        await transfer.export(session, None, file, silent)
    line = from_json(path.read_bytes())
    line["body"] = to_json(document(department_created())).decode()
    edited = transfer.read_import(to_json(line).decode())
    await transfer.send_edited(session, edited, asyncio.Event(), silent)
    await transfer.discard_originals(session, edited)
    lines = await session.audit.lines(id_=line["letter"])
    assert [one.action for one in lines] == ["export", "import", "discard"]


async def test_a_stopped_or_refused_import_reports_how_many_were_sent(world, monkeypatch):
    monkeypatch.setattr(transfer, "BATCH_LETTERS", 2)
    lines = [
        to_json({"body": to_json(document(department_created(id=f"e-{n}"))).decode()} | TYPED).decode()
        for n in range(6)
    ]
    edited, stopping = transfer.read_import("\n".join(lines)), asyncio.Event()
    assert await transfer.send_edited(session_of(world), edited, stopping, lambda _: stopping.set()) == 2
    session = session_of(world, publisher=Refusing(world.broker, 3))
    with pytest.raises(ReplayFailed, match=r"^3 of 6 sent: publishing .* ACCESS_REFUSED"):
        await transfer.send_edited(session, edited, asyncio.Event(), silent)
    assert len(world.broker.ready(WORK_QUEUE)) == 2 + 3


async def test_discarded_letters_are_recorded_in_the_audit(world):
    await bury_many(world, 3)
    session = session_of(world, selection=Selection(id=("e-1",)), asked="--id e-1")
    remover = removal.discarding(session, asyncio.Event(), silent)
    await remover.remove(None)
    assert remover.gone == 1
    (line,) = await session.audit.lines()
    assert (line.by, line.action, line.selection, line.event_id) == ("ada", "discard", "--id e-1", "e-1")
    assert (line.reason, line.department_id, line.outcome) == ("rejected", "d-1", "discarded")
    assert len(world.dead_letters()) == 2
