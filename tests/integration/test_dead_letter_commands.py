"""`provisioner dead-letters` against a real broker: every command, interrupted, and with few rights."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from contracts import topology as names
from tests.support.commands import CommandOutput, in_process
from tests.support.real import RealSystem
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.connect import connect
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.demo.private_node import private_node

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(180)]


READING = {"list", "show", "plan", "audit"}
"""The others listen to signals, or write bytes to the descriptor of stdout, so they need a process."""


async def cli(environ: dict[str, str], *arguments: str, given: bytes = b"") -> CommandOutput:
    if arguments[0] in READING:
        return await in_process(environ, "dead-letters", *arguments)
    process = await started(environ, *arguments)
    out, err = await process.communicate(given)
    assert b"Traceback" not in err
    return CommandOutput(process.returncode or 0, out.decode(), err.decode())


async def started(environ: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "dead-letters", *arguments),
        env=dict(os.environ) | {"COLUMNS": "200"} | environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def event(number: int, name: Any = " ") -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"e-{number}",
        "source": "/hr",
        "type": "department.created.v1",
        "time": "2026-11-01T08:30:00Z",
        "data": {"department_id": f"d-{number}", "name": name},
    }


async def publish_dead_letters(
    channel: aio_pika.abc.AbstractChannel, *events: dict[str, Any], reason: str = "rejected"
) -> None:
    """Publishes the events as dead letters of a worker."""
    exchange = await channel.get_exchange(names.DEAD_LETTERS, ensure=False)
    for one in events:
        headers = {
            "x-dead-reason": reason,
            "x-dead-detail": "the provider answered 400 to create",
            "x-dead-at": "2026-11-01T08:30:01+00:00",
            "x-attempts": 1,
            "x-event-id": one["id"],
            "x-department-id": one["data"]["department_id"],
        }
        message = aio_pika.Message(
            json.dumps(one).encode(),
            headers=headers,
            content_type="application/cloudevents+json",
            delivery_mode=2,
        )
        await exchange.publish(message, "department.created")


@asynccontextmanager
async def idle(system: RealSystem) -> AsyncIterator[dict[str, str]]:
    """Yields the environment once broker objects and a ledger exist; no worker runs."""
    async with sqlite_ledger(system.ledger), await connect(system.url, "test") as connection:
        await rabbitmq_topology.apply(
            connection, names.topology(names.BrokerVersion.parse(connection.server_version))
        )
        yield system.environ


async def drained(system: RealSystem, queue: str) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """Consumes and returns all messages of the queue."""
    taken = await system.channel.get_queue(queue, ensure=False)
    messages = []
    while message := await taken.get(no_ack=True, fail=False):
        messages.append(message)
    return messages


async def test_an_operator_repairs_a_dead_letter_and_replays_it(system: RealSystem, tmp_path: Path):
    """Runs list, show, plan, export, repair, import, replay, discard and audit, as an operator does."""
    async with system.worker():
        dead = await system.listen(names.DEAD_LETTERS)
        await system.send(b"hello")
        await system.send(json.dumps(event(1)).encode())
        await dead.count(2)
        environ = system.environ
        listed = await cli(environ, "list")
        assert "2 dead letters" in listed.out
        assert listed.out.index("messages") < listed.out.index("event or letter"), "the summary comes first"
        summary = (await cli(environ, "list", "--json")).json
        reasons = {(one["reason"], one["count"], one["departments"]) for one in summary["reasons"]}
        assert reasons == {("malformed", 1, 0), ("invalid", 1, 1)}
        departments = {(one["department_id"], one["count"]) for one in summary["departments"]}
        assert departments == {(None, 1), ("d-1", 1)}
        (letter,) = [one["fingerprint"] for one in summary["dead_letters"] if one["event_id"] is None]
        assert letter in listed.out
        output = (await cli(environ, "show", "--id", "e-1")).out
        assert '"department_id": "d-1"' in output
        assert re.search(r"content type +application/cloudevents\+json\n", output)
        assert "the first" not in (await cli(environ, "show", "--limit", "2")).out
        assert (await cli(environ, "show", "--limit", "1")).out.endswith("the first 1; --limit shows more\n")
        planned = (await cli(environ, "plan", "--json")).json
        assert planned["outcomes"] == {"still malformed": 1, "still invalid": 1}
        failed = await cli(environ, "replay", "--id", "e-1", "--as", "ada")
        assert (failed.code, "1 dead-lettered again" in failed.err) == (1, True)
        assert failed.out.endswith("1 replayed, 0 answered\n")

        file = tmp_path / "dead.jsonl"
        assert (await cli(environ, "export", "--reason", "invalid", "--output", str(file))).code == 0
        assert file.stat().st_mode & 0o777 == 0o600
        refused = await cli(environ, "import", str(file))
        assert (refused.code, refused.err.startswith("line 1: still invalid: data.name")) == (2, True)
        mended = file.read_text().replace('\\"name\\": \\" \\"', '\\"name\\": \\"Sales\\"')
        results = await system.listen(names.RESULTS)
        sent = await cli(environ, "import", "-", "--discard-originals", "--yes", given=mended.encode())
        assert sent.out == "1 sent, 1 original discarded\n"
        await results.until(lambda all_: any(one["data"]["outcome"] == "created" for one in all_.documents))
        assert (await cli(environ, "discard", "--id", letter, "--yes")).out == "1 discarded\n"
        audited = (await cli(environ, "audit", "--id", letter, "--json")).json
        assert [line["action"] for line in audited][-1] == "discard"
        assert (await cli(environ, "list")).out == "no dead letter\n"
        audited = (await cli(environ, "audit", "--id", "e-1", "--json")).json
        assert [line["action"] for line in audited] == [
            "show",
            "show",
            "replay",
            "replay",
            "export",
            "import",
            "discard",
        ]
        assert [line["by"] for line in audited][2] == "ada"
        assert (await cli(environ, "audit", "--since", "1h", "--by", "ada", "--json")).json == audited[2:4]


async def test_a_successful_replay_reports_each_outcome(system: RealSystem):
    async with idle(system) as environ:
        await publish_dead_letters(system.channel, *(event(n, f"Name {n}") for n in range(12)))
        async with system.worker():
            output = await cli(environ, "replay", "--yes", "--json")
        assert output.code == 0
        assert (output.json["replayed"], output.json["answered"]) == (12, 12)
        assert len(system.sandbox.subaccounts()) == 12
        assert await system.depth(names.DEAD_LETTER_QUEUE) == 0


async def test_a_replayed_message_equals_the_original(system: RealSystem):
    async with idle(system) as environ:
        await publish_dead_letters(system.channel, event(1, "Sales"))
        assert (await cli(environ, "replay", "--yes", "--no-wait", "--as", "ada")).out == "1 replayed\n"
        (message,) = await drained(system, names.WORK_QUEUE)
        assert json.loads(message.body) == event(1, "Sales")
        assert (message.routing_key, message.content_type) == (
            "department.created",
            "application/cloudevents+json",
        )
        assert set(message.headers) - {"x-delivery-count"} == {"x-replay-id", "x-replayed-by"}
        assert message.headers["x-replayed-by"] == "ada"


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL])
async def test_an_interrupted_replay_loses_nothing_and_can_be_completed(
    system: RealSystem, way: signal.Signals
):
    async with idle(system) as environ:
        numbers = range(3_000)
        await publish_dead_letters(system.channel, *(event(n, f"Name {n}") for n in numbers))
        process = await started(environ, "replay", "--yes", "--no-wait")
        async with asyncio.timeout(60):
            while await system.depth(names.WORK_QUEUE) < 600:  # noqa: ASYNC110 - only the broker knows
                await asyncio.sleep(0.005)
        process.send_signal(way)
        out, err = await process.communicate()
        assert process.returncode == (1 if way == signal.SIGINT else -signal.SIGKILL)
        async with asyncio.timeout(30):
            while (await cli(environ, "list", "--json")).code:  # until the broker notices
                pass
        moved, left = await system.depth(names.WORK_QUEUE), await system.depth(names.DEAD_LETTER_QUEUE)
        assert 0 < left < len(numbers)
        if way == signal.SIGINT:
            assert moved + left == len(numbers)
            assert out.decode() == f"{moved:,} replayed; stopped, the rest is where it was\n"
            assert err.decode() == "stopping…\n"
        assert (await cli(environ, "replay", "--yes", "--no-wait")).code == 0
        there = Counter(json.loads(message.body)["id"] for message in await drained(system, names.WORK_QUEUE))
        assert set(there) == {f"e-{n}" for n in numbers}
        assert await system.depth(names.DEAD_LETTER_QUEUE) == 0


async def test_a_replay_waiting_for_an_answer_stops_at_once_with_a_report(system: RealSystem):
    async with idle(system) as environ:
        await publish_dead_letters(system.channel, *(event(n, "Sales") for n in range(2)))
        process = await started(environ, "replay", "--yes")
        async with asyncio.timeout(30):
            while await system.depth(names.WORK_QUEUE) < 1:  # noqa: ASYNC110 - only the broker knows
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # the replay waits for the answer
        for _ in range(3):
            process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, err.decode()) == (1, "stopping…\n")
        assert out.decode().endswith("1 replayed, 0 answered; stopped, the rest is where it was\n")
        audited = (await cli(environ, "audit", "--json")).json
        assert [line["outcome"] for line in audited] == ["sent to work", "no answer yet"]


async def at_a_terminal(environ: dict[str, str], keys: bytes, *arguments: str) -> CommandOutput:
    """Runs the command with a pseudo-terminal as its standard input and output."""
    terminal, its_end = os.openpty()
    os.write(terminal, keys)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "dead-letters", *arguments),
        env=dict(os.environ) | {"COLUMNS": "200", "TERM": "dumb"} | environ,
        stdin=its_end,
        stdout=subprocess.PIPE,
        stderr=its_end,
    )
    out, _ = await process.communicate()
    os.close(its_end)
    asked = b""
    with suppress(OSError):  # Linux raises this once the other end is closed
        while part := os.read(terminal, 65_536):
            asked += part
    os.close(terminal)
    return CommandOutput(process.returncode or 0, out.decode(), asked.decode())


async def test_a_person_at_a_terminal_is_asked_to_confirm(system: RealSystem, tmp_path: Path):
    async with idle(system) as environ:
        await publish_dead_letters(system.channel, event(1, "Sales"))
        end_of_input = await at_a_terminal(environ, b"\x04", "replay")
        asked, last = end_of_input.err.splitlines()[-2:]
        assert "Replay 1 dead letter (all)? [y/N]:" in asked
        assert (end_of_input.code, end_of_input.out.strip(), last) == (1, "", "nothing was done")
        assert (await at_a_terminal(environ, b"n\n", "discard", "--id", "e-1")).code == 1
        unknown_ledger = environ | {"LEDGER_URL": f"sqlite:///{tmp_path}/none.db"}
        file = tmp_path / "dead.jsonl"
        file.write_text((await cli(environ, "export")).out)
        for command in (("replay",), ("discard", "--id", "e-1"), ("import", str(file))):
            output = await at_a_terminal(unknown_ledger, b"y\n", *command)
            assert (output.code, "y/N" in output.err, "there is no ledger" in output.err) == (1, False, True)
        assert await system.depth(names.DEAD_LETTER_QUEUE) == 1
        sent = await at_a_terminal(environ, b"y\n", "replay", "--no-wait")
        assert (sent.code, sent.out.strip()) == (0, "1 replayed")


async def test_a_filter_without_a_match_reports_the_number_of_letters(system: RealSystem):
    async with idle(system) as environ:
        await publish_dead_letters(system.channel, *(event(n, "Sales") for n in range(2)))
        for command in (("list",), ("show",), ("plan",), ("replay", "--yes"), ("discard", "--yes")):
            output = await cli(environ, *command, "--reason", "exhausted")
            assert (output.code, output.out, output.err) == (0, "none of 2 dead letters is selected\n", ""), (
                command
            )


async def test_an_unwritable_export_fails_before_it_is_recorded(system: RealSystem, tmp_path: Path):
    async with idle(system) as environ:
        await publish_dead_letters(system.channel, event(1, "a\x9bb"))
        output = await cli(environ, "export", "--output", str(tmp_path / "none" / "dead.jsonl"))
        assert (output.code, one_line(output)) == (
            1,
            f"{tmp_path}/none/dead.jsonl cannot be written: No such file or directory",
        )
        assert (await cli(environ, "audit", "--json")).json == []
        path = tmp_path / "dead.jsonl"
        path.write_text("what was there before, and longer than what comes\n" * 50)
        assert (await cli(environ, "export", "--output", str(path))).out == f"1 exported to {path}\n"
        (line,) = path.read_text().splitlines()
        assert json.loads(line)["event_id"] == "e-1"
        unreachable = environ | {"AMQP_URL": "amqp://127.0.0.1:1/"}
        assert (await cli(unreachable, "export", "--output", str(path))).code == 1
        assert (await cli(unreachable, "export", "--output", str(tmp_path / "new"))).code == 1
        assert path.read_text().splitlines() == [line]
        assert not (tmp_path / "new").exists()
        printed = (await cli(environ, "export")).out
        assert "\x9b" not in printed
        assert json.loads(json.loads(printed)["body"])["data"]["name"] == "a\x9bb"


async def test_an_empty_import_sends_nothing_without_confirmation():
    output = await cli({"AMQP_URL": "amqp://127.0.0.1:1/"}, "import", "-", given=b"\n")
    assert (output.code, output.out, output.err) == (0, "nothing to send\n", "")


async def test_a_second_operator_learns_that_the_queue_is_in_use_and_waits(system: RealSystem):
    async with idle(system) as environ, await aio_pika.connect(system.url) as stranger:
        await publish_dead_letters(system.channel, *(event(number) for number in range(3)))
        channel = await stranger.channel()
        await (await channel.get_queue(names.DEAD_LETTER_QUEUE, ensure=False)).consume(ignore)
        process, impatient = await started(environ, "list", "--json"), await started(environ, "list")
        for one in (process, impatient):
            assert one.stderr
            said = await one.stderr.readline()
            assert said == b"another consumer is reading the dead letters; waiting for it\n"
        impatient.send_signal(signal.SIGINT)
        assert await impatient.wait() == 130
        assert process.returncode is None
        await channel.close()
        out, _ = await process.communicate()
        assert (process.returncode, json.loads(out)["seen"]) == (0, 3)


async def test_operators_at_once_see_every_letter_also_beside_one_that_is_killed(system: RealSystem):
    async with idle(system) as environ:
        numbers = range(2_000)
        await publish_dead_letters(system.channel, *(event(number) for number in numbers))
        killed, *others = [await started(environ, "list", "--json", "--limit", "2000") for _ in range(4)]
        async with asyncio.timeout(60):
            while (await depth_seen(system)).consumer_count == 0:  # noqa: ASYNC110 - only the broker knows
                await asyncio.sleep(0.01)
        killed.kill()
        for process in others:
            out, err = await process.communicate()
            assert process.returncode == 0, err
            listed = [letter["event_id"] for letter in json.loads(out)["dead_letters"]]
            assert sorted(listed) == sorted(f"e-{number}" for number in numbers)
        await killed.communicate()


async def depth_seen(system: RealSystem) -> Any:
    found = await system.channel.declare_queue(names.DEAD_LETTER_QUEUE, passive=True)
    return found.declaration_result


async def ignore(_message: object) -> None:
    return None


async def test_without_a_ledger_only_read_commands_work(system: RealSystem, tmp_path: Path):
    async with idle(system) as environ:
        await publish_dead_letters(system.channel, event(1, "Sales"))
        exported = await cli(environ, "export")
        unknown_ledger = environ | {"LEDGER_URL": f"sqlite:///{tmp_path}/none.db"}
        changes = (("replay", "--yes"), ("discard", "--all", "--yes"), ("import", "-", "--yes"))
        for command in (*changes, ("plan",), ("audit",)):
            output = await cli(unknown_ledger, *command, given=exported.out.encode())
            assert (output.code, output.out) == (1, "")
            assert output.err.endswith("set LEDGER_URL to the one the worker uses\n")
            assert len(output.err.splitlines()) == 1
        shown = await cli(unknown_ledger, "show")
        assert shown.code == 0
        assert shown.err.startswith("not on record in the audit: there is no ledger")
        assert (await cli(unknown_ledger, "list")).err == ""
        async with asyncio.timeout(30):  # the broker puts back what it held for a command a little later
            while await system.depth(names.DEAD_LETTER_QUEUE) != 1:  # noqa: ASYNC110 - only the broker knows
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "arguments",
    [
        ("discard",),
        ("discard", "--all", "--id", "x", "--yes"),
        ("list", "--since", "soon"),
        ("list", "--since", "999999d"),
        ("list", "--reason", "tired"),
        ("replay", "--rate", "inf", "--yes"),
        ("import", "missing.jsonl"),
    ],
)
async def test_invalid_arguments_are_refused(arguments):
    output = await cli({"AMQP_URL": "amqp://127.0.0.1:1/"}, *arguments)
    assert output.code == (1 if "missing.jsonl" in arguments else 2)
    assert output.out == ""
    assert "Value error" not in output.err


@pytest.mark.usefixtures("rabbitmq_server")
async def test_a_replay_needs_only_read_on_the_queue_and_write_on_the_exchange(tmp_path: Path):
    ledger = tmp_path / "ledger.db"
    async with (
        private_node() as node,
        sqlite_ledger(ledger),
        await connect(node.url, "test") as connection,
        await aio_pika.connect(node.url) as plain,
    ):
        await rabbitmq_topology.apply(
            connection, names.topology(names.BrokerVersion.parse(connection.server_version))
        )
        channel = await plain.channel()
        await node.rabbitmqctl("add_user", "operator", "pass")

        async def may(write: str, read: str) -> None:
            await node.rabbitmqctl("set_permissions", "operator", "^$", write, read)

        url = node.url.replace("guest:guest", "operator:pass")
        environ = {"AMQP_URL": url, "LEDGER_URL": f"sqlite:///{ledger}"}
        await publish_dead_letters(channel, *(event(n, "Sales") for n in range(3)))
        await may(r"^provisioner\.replay$", r"^provisioner\.dead-letters$")
        for command in ("list", "show", "plan", "export"):
            assert (await cli(environ, command)).code == 0, command
        assert (await cli(environ, "replay", "--no-wait", "--id", "e-0")).out == "1 replayed\n"
        exported = (await cli(environ, "export", "--id", "e-1")).out
        sent = await cli(environ, "import", "-", "--discard-originals", "--yes", given=exported.encode())
        assert sent.out == "1 sent, 1 original discarded\n"

        await may("^$", r"^provisioner\.dead-letters$")
        unwritten = await cli(environ, "replay", "--yes", "--no-wait")
        assert unwritten.code == 1
        assert "operator has no write right on exchange provisioner.replay" in one_line(unwritten)
        await may(r"^provisioner\.replay$", "^$")
        unread = await cli(environ, "list")
        assert one_line(unread).startswith("the queue provisioner.dead-letters cannot be read: ")
        await may(r"^provisioner\.replay$", r"^provisioner\.dead-letters$")
        assert (await cli(environ, "list", "--json")).json["selected"] == 1
        assert (await cli(environ, "discard", "--all")).out == "1 discarded\n"


def one_line(output: CommandOutput) -> str:
    (line,) = output.err.splitlines()
    return line
