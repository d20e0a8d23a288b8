"""`emit --wait` and `results` against a real broker and a real worker."""

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts import topology as names
from tests.support.commands import in_process, provisioner, started
from tests.support.real import EVENT, RealSystem
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.brokers import open_connection

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

CREATED = ("emit", "created", "--id", "sales", "--name", "Sales")


async def test_emit_prints_the_final_answer(system: RealSystem):
    async with system.worker():
        table = await provisioner(system.environ, *CREATED, "--event-id", "hr-1", "--wait")
        document = await in_process(system.environ, *CREATED, "--event-id", "hr-2", "--wait", "--json")
    assert (table.code, table.err) == (0, "")
    assert table.out.split()[-4:-1] == ["created", "sales", system.sandbox.subaccounts()[0].auth_id]
    assert table.out.split()[-1] == "hr-1"
    assert document.code == 0
    (answer,) = document.json
    assert answer["type"] == "subaccount.unchanged.v1"
    assert answer["data"]["event"]["id"] == "hr-2"


async def test_emit_exits_with_1_for_a_dead_letter(system: RealSystem):
    ahead = (datetime.now(UTC) + timedelta(days=400)).isoformat()
    async with system.worker():
        answered = await in_process(system.environ, *CREATED, "--time", ahead, "--wait")
    assert answered.code == 1
    assert "failed" in answered.out
    assert "more than 10 minutes ahead" in answered.out


async def test_emit_names_the_event_that_supersedes(system: RealSystem):
    async with system.worker():
        await in_process(system.environ, *CREATED, "--sequence", "7", "--event-id", "hr-newer", "--wait")
        older = await in_process(system.environ, *CREATED, "--sequence", "3", "--wait")
    assert older.code == 0
    assert "superseded by hr-newer of /subaccount-provisioner/emit" in older.out


async def test_emit_waits_for_all_events_of_a_file(system: RealSystem, tmp_path: Path):
    events = [
        EVENT | {"id": f"e-{number}", "data": {"department_id": f"d-{number}", "name": "One"}}
        for number in range(25)
    ]
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(map(json.dumps, events)))
    async with system.worker():
        answered = await in_process(system.environ, "emit", "--file", str(file), "--wait", "--json")
    assert answered.code == 0
    assert {one["data"]["event"]["id"] for one in answered.json} == {event["id"] for event in events}


async def test_emit_gives_up_in_one_line_without_a_worker(system: RealSystem):
    async with open_connection([system.url]) as connection:
        await rabbitmq_topology.apply(
            connection, names.topology(names.BrokerVersion.parse(connection.server_version))
        )
    answered = await in_process(
        system.environ, *CREATED, "--event-id", "hr-1", "--wait", "--timeout", "300ms"
    )
    assert answered.code == 1
    (line,) = answered.err.splitlines()
    assert line.startswith("no answer within 0.3 s: event hr-1; look at `provisioner events show hr-1`")


async def test_emit_says_that_nothing_is_there_to_listen_to(system: RealSystem):
    answered = await in_process(system.environ, *CREATED, "--wait")
    assert answered.code == 1
    assert answered.err == (
        "there is no exchange provisioner.results: start `provisioner run`, or run"
        " `provisioner topology apply`\n"
    )


@pytest.mark.parametrize("given", ["--timeout 3s", "--wait --timeout 3", "--wait --timeout 0s"])
async def test_a_timeout_is_checked(system: RealSystem, given: str):
    answered = await in_process(system.environ, *CREATED, *given.split())
    assert answered.code == 2
    assert "--timeout needs --wait" in answered.err or "write a time above zero" in answered.err
    assert len(answered.err.splitlines()) == 1


async def test_results_follow_until_ctrl_c(system: RealSystem):
    async with system.worker():
        follower = await started(system.environ, "results", "--follow", "--json", "--outcome", "created")
        assert follower.stdout
        assert follower.stderr
        assert b"listening" in await follower.stderr.readline()
        for number in range(3):
            created = ("created", "--id", f"d-{number}", "--name", "One")
            await in_process(system.environ, "emit", *created, "--event-id", f"e-{number}", "--wait")
            await in_process(system.environ, "emit", *created, "--wait")  # unchanged, which is filtered out
            line = json.loads(await follower.stdout.readline())
            assert (line["type"], line["data"]["event"]["id"]) == ("subaccount.created.v1", f"e-{number}")
        follower.send_signal(signal.SIGINT)
        rest, complaints = await follower.communicate()
    assert (follower.returncode, rest, complaints) == (130, b"", b"")


async def test_results_end_at_their_limit(system: RealSystem):
    async with system.worker():
        follower = await started(system.environ, "results", "-f", "--limit", "2", "--department", "d-1")
        assert follower.stderr
        await follower.stderr.readline()
        for name in ("One", "Two", "Three"):
            for department in ("d-0", "d-1"):
                await in_process(
                    system.environ, "emit", "created", "--id", department, "--name", name, "--wait"
                )
        out, _ = await follower.communicate()
    assert follower.returncode == 0
    first, second = out.decode().splitlines()
    assert [line.split()[2:4] for line in (first, second)] == [["created", "d-1"], ["renamed", "d-1"]]
