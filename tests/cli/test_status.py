"""`provisioner status`: its JSON, its table, and what needs a person. With a broker: tests/integration."""

from dataclasses import replace

import pytest

from tests.support.builders import NOW, a_worker, an_entry, owing
from tests.support.commands import in_process
from worker.adapters.memory.clock import MemoryClock
from worker.adapters.memory.ledger import MemoryLedger
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.cli.status import document
from worker.core.breaker import State
from worker.core.model.departments import Department
from worker.core.model.entry import Status
from worker.operations.status import InLedger, InQueues, Overview, in_ledger

WELL = InLedger([a_worker()], {Status.ACTIVE: 2}, holds=0, debts_overdue=0)
EMPTY = InQueues(ready=7, parked=1, dead_letters=0, unrouted=0)
NO_BROKER = "amqp://127.0.0.1:1/"


class TestNeeds:
    def test_messages_that_wait_need_nobody(self):
        assert Overview(WELL, EMPTY).needs == []

    @pytest.mark.parametrize(
        ("ledger", "queues", "words"),
        [
            (replace(WELL, workers=[]), EMPTY, "no worker runs"),
            (
                replace(WELL, workers=[a_worker(), a_worker(consuming=False, problems=("full",))]),
                EMPTY,
                "the worker host-1 4711 does not consume: full",
            ),
            (replace(WELL, workers=[a_worker(circuit=State.OPEN)]), EMPTY, "the circuit is open"),
            (replace(WELL, holds=2), EMPTY, "held removals: 2"),
            (replace(WELL, debts_overdue=1), EMPTY, "departments list --owed"),
            (WELL, replace(EMPTY, dead_letters=1234), "dead letters: 1,234"),
            (WELL, replace(EMPTY, unrouted=1), "--unrouted"),
        ],
    )
    def test_each_cause_is_one_line(self, ledger, queues, words):
        (line,) = Overview(ledger, queues).needs
        assert words in line

    def test_what_could_not_be_read_needs_a_person(self):
        assert Overview(None, InQueues(), ("no ledger", "no broker")).needs == ["no ledger", "no broker"]


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        ([], None),
        ([State.CLOSED], "closed"),
        ([State.CLOSED, State.HALF_OPEN], "half-open"),
        ([State.OPEN, State.CLOSED, State.HALF_OPEN], "open"),
    ],
)
def test_the_circuit_is_that_of_the_worst_worker(states, worst):
    workers = [a_worker(circuit=state) for state in states]
    assert document(Overview(replace(WELL, workers=workers), EMPTY))["circuit"] == worst


async def test_the_ledger_shows_those_that_run_and_what_is_owed():
    clock = MemoryClock(NOW)
    ledger = MemoryLedger(clock.now)
    overdue = an_entry(revision=0, auth_id="SA1", debt=owing("crm", retry_at=NOW), created_at=NOW)
    for entry in (overdue, replace(overdue, department=Department("acme", "hr"), auth_id="SA2", debt=None)):
        await ledger.record(entry)
    await ledger.announce(a_worker("dead"))
    clock.advance(360)
    for id_ in ("w1", "w2"):
        await ledger.announce(a_worker(id_))
    await ledger.leave("w2")
    seen = await in_ledger(ledger, clock)
    assert [worker.id for worker in seen.workers] == ["w1"]
    assert (dict(seen.departments), seen.holds, seen.debts_overdue) == ({Status.ACTIVE: 2}, 0, 1)


@pytest.fixture
async def environ(tmp_path):
    async with sqlite_ledger(tmp_path / "ledger.db") as ledger:
        await ledger.bind("default", "MA1")
        await ledger.record(an_entry(revision=0, auth_id="SA1"))
        await ledger.announce(a_worker("w1", problems=("circuit half-open: why",), circuit=State.HALF_OPEN))
    return {"LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db", "AMQP_URL": NO_BROKER}


async def test_without_the_broker_the_ledger_is_shown(environ):
    shown = await in_process(environ, "status", "--json")
    assert (shown.code, shown.err) == (1, f"RabbitMQ at {NO_BROKER} cannot be used: connection refused\n")
    (worker,) = shown.json.pop("workers")
    seen_at = worker.pop("seen_at")
    assert seen_at.endswith("Z")
    assert worker == {
        "id": "w1",
        "host": "host-1",
        "pid": 4711,
        "version": "1.2.3",
        "started_at": "2026-11-21T12:00:00Z",
        "consuming": True,
        "rate_share": 300,
        "problems": ["circuit half-open: why"],
    }
    departments = dict.fromkeys(map(str, Status), 0) | {"active": 1}
    rest = shown.json
    del rest["workers"]
    assert rest == {
        "departments": departments,
        "queue": {"ready": None, "unacked": None},
        "parked": None,
        "dead_letters": None,
        "holds": 0,
        "debts_overdue": 0,
        "unrouted": None,
        "circuit": "half-open",
    }


async def test_without_a_ledger_nothing_of_it_is_known(tmp_path):
    environ = {"LEDGER_URL": f"sqlite:///{tmp_path}/none.db", "AMQP_URL": NO_BROKER}
    shown = await in_process(environ, "status", "--json")
    assert shown.code == 1
    assert [shown.json[key] for key in ("workers", "departments", "holds", "circuit")] == [
        [],
        None,
        None,
        None,
    ]
    assert "there is no ledger" in shown.err
    assert not (tmp_path / "none.db").exists()


async def test_people_see_a_table_and_what_to_do_within_80_columns(environ, monkeypatch):
    monkeypatch.setattr("worker.cli.terminal.OUT.width", 80)
    shown = await in_process(environ, "status")
    assert shown.code == 1
    assert max(map(len, shown.out.splitlines())) <= 80
    for words in ("host-1", "4711", "circuit half-open: why", "1 active", "unknown ready", "needs a person:"):
        assert words in shown.out


@pytest.mark.parametrize("setting", ["PROVISIONER_RETRY_DELAYS", "LEDGER_URL", "AMQP_URL"])
async def test_wrong_settings_exit_2(environ, setting):
    assert (await in_process(environ | {setting: "nonsense"}, "status")).code == 2
