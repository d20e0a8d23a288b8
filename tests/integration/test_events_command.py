"""`provisioner events show`: the course of an event, from all that can be reached."""

import json
from pathlib import Path

import pytest

from contracts import topology as names
from tests.support.commands import in_process, provisioner
from tests.support.real import EVENT, RealSystem
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.brokers import open_connection
from worker.sandbox import Effect, Fault, Rule, Sight

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

CREATED = ("emit", "created", "--id", "sales", "--name", "Sales", "--source", "/hr")
REFUSED = Fault("refused", Effect.NEVER, Sight.ERROR, 400)
SHOW = ("events", "show")


async def test_the_course_from_dead_letter_over_replay_to_answer(system: RealSystem):
    system.sandbox.set_rules(Rule("create_subaccount", REFUSED, times=1))
    async with system.worker():
        dead = await in_process(system.environ, *CREATED, "--event-id", "hr-1", "--wait")
        while_dead = await in_process(system.environ, *SHOW, "hr-1", "--json")
        replayed = await provisioner(system.environ, "dead-letters", "replay", "--as", "ada")
        after = await in_process(system.environ, *SHOW, "hr-1")
    assert (dead.code, while_dead.code, replayed.code, after.code) == (1, 0, 0, 0)
    (course,) = while_dead.json["events"]
    assert (course["source"], course["department_id"]) == ("/hr", "sales")
    assert [moment["what"] for moment in course["moments"]] == ["dead letter, rejected"]
    title, *rows = after.out.splitlines()
    assert title == "event hr-1 of /hr, department.created.v1, department sales"
    whats = [row.split("  ")[1].strip() for row in rows if row.startswith("20")]
    assert whats == ["time of the event", "replay by ada", "answered created", "credentials", "replay by ada"]
    assert "result published" in after.out
    assert after.err == "calls and waits are in the worker's log alone: search it for event_id hr-1\n"


async def test_each_source_is_shown(system: RealSystem):
    async with system.worker():
        for source in ("/hr", "/crm"):
            await in_process(system.environ, *CREATED, "--event-id", "1", "--source", source, "--wait")
        both = await in_process(system.environ, *SHOW, "1")
        one = await in_process(system.environ, *SHOW, "1", "--source", "/crm", "--json")
    titles = [line for line in both.out.splitlines() if line.startswith("event ")]
    assert [title.split()[3] for title in titles] == ["/crm,", "/hr,"]
    assert both.err.startswith("2 sources have an event 1; --source shows one of them\n")
    assert [event["source"] for event in one.json["events"]] == ["/crm"]


async def test_what_could_not_be_read_is_said(system: RealSystem):
    async with system.worker():
        await in_process(system.environ, *CREATED, "--event-id", "hr-1", "--wait")
    nowhere = {"AMQP_URL": "amqp://127.0.0.1:1/"}
    shown = await in_process(system.environ | nowhere, *SHOW, "hr-1")
    assert shown.code == 0
    assert "answered created" in shown.out
    assert shown.err.startswith(
        "dead letters could not be read: RabbitMQ at amqp://127.0.0.1:1/ cannot be used"
    )


async def test_an_unknown_event_is_one_line(system: RealSystem, tmp_path: Path):
    async with open_connection([system.url]) as connection:
        await rabbitmq_topology.apply(
            connection, names.topology(names.BrokerVersion.parse(connection.server_version))
        )
    await system.send(json.dumps(EVENT).encode())
    missing = {"LEDGER_URL": f"sqlite:///{tmp_path / 'none.db'}"}
    shown = await in_process(system.environ | missing, *SHOW, "hr-9", "--source", "/hr")
    assert shown.code == 1
    (line,) = shown.err.splitlines()
    assert line.startswith(
        "no event hr-9 of /hr was found in dead letters, unrouted messages; ledger and audit"
    )
    assert line.endswith("which cannot be searched: 1 in provisioner.departments")


async def test_an_event_that_no_queue_takes_is_found(system: RealSystem):
    async with system.worker():
        await system.send(json.dumps(EVENT | {"id": "lost"}).encode(), key="departments.created")
        shown = await in_process(system.environ, *SHOW, "lost", "--json")
    (course,) = shown.json["events"]
    assert course["department_id"] == "sales"
    assert [(one["what"], one["detail"]) for one in course["moments"]] == [
        ("unrouted", "no queue takes the key departments.created")
    ]


async def test_a_message_that_cannot_be_read_is_found_by_the_id_of_its_letter(system: RealSystem):
    async with system.worker():
        dead_letters = await system.listen(names.DEAD_LETTERS)
        await system.send(b"not json")
        await dead_letters.count(1)
        listed = await in_process(system.environ, "dead-letters", "list", "--json")
        (letter,) = listed.json["dead_letters"]
        shown = await in_process(system.environ, *SHOW, letter["fingerprint"])
    assert shown.code == 0
    assert "a message that cannot be read" in shown.out
    assert "dead letter, malformed" in shown.out
