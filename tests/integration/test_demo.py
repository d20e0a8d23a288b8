"""`provisioner demo` on each kind of broker: it prints every step, shows no token, leaves nothing behind."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from contracts import topology as names
from tests.support.commands import provisioner
from worker.adapters.amqp.topology import state_of
from worker.adapters.brokers import open_connection

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

STORY = (
    "created sales",
    "auth_token ••••",
    "the sandbox takes a message sent with it (202)",
    "subaccount.renamed",
    "known, and answered before",
    "subaccount.superseded",
    "dead letter, malformed",
    "dead letter, invalid",
    "dead letter, rejected",
    "created finance “Finance”, replayed",
    "subaccount.disabled",
    "the sandbox refuses a message sent with it (401)",
    "subaccount.restored",
    "subaccount.held, protected",
    "provisioner holds approve H",
    "removed finance, approved",
    "15 steps, 5 departments with a subaccount each",
)
# Tokens of the sandbox are 40 characters of base64.
TOKEN = re.compile(r"[A-Za-z0-9+/]{40}")


NEXT = ("next:", "demo --stay", "--help")


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs the demo with wide output and with its temporary files in `folder`."""
    clean = {name: value for name, value in os.environ.items() if name != "AMQP_URL"}
    return subprocess.run(
        (sys.executable, "-m", "worker", "demo", *arguments),
        env=clean | {"TMPDIR": str(folder), "COLUMNS": "200"} | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_demo_succeeded(completed: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert completed.stderr == ""
    assert completed.returncode == 0
    assert [part for part in (*STORY, *NEXT) if part not in completed.stdout] == []
    assert_calls_come_first(completed.stdout)
    assert not TOKEN.search(completed.stdout)
    assert list(folder.iterdir()) == [], "files left behind"


def assert_calls_come_first(text: str) -> None:
    """Each call is printed before the credentials and the result that it yields."""
    parts = re.findall(r"^ +[0-9.]+s  (event|replay|ada|call|secret|result) ", text, re.MULTILINE)
    steps = re.findall(r"(?:event|replay|ada)((?: \w+)*?)(?= event| replay| ada|$)", " ".join(parts))
    assert len(steps) == 15
    assert {step.strip() for step in steps} == {"call result", "call secret result"}


def processes_of(folder: Path) -> list[str]:
    """The live processes with the folder in their command line or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            completed = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in completed and int(process.name) != os.getpid():
            found.append(completed.decode(errors="replace"))
    return found


@pytest.mark.usefixtures("rabbitmq_server")
def test_the_demo_runs_on_a_private_node(tmp_path: Path):
    assert_demo_succeeded(run(tmp_path), tmp_path)
    assert processes_of(tmp_path) == []


async def test_the_demo_runs_on_the_broker_in_amqp_url(clean_broker: str, tmp_path: Path):
    assert_demo_succeeded(await asyncio.to_thread(run, tmp_path, AMQP_URL=clean_broker), tmp_path)
    async with open_connection([clean_broker]) as there:
        assert await state_of(there, names.WORK_QUEUE) is None


async def test_the_demo_refuses_a_broker_in_use(clean_broker: str, tmp_path: Path):
    async with (
        open_connection([clean_broker]) as there,
        there.channel() as channel,
    ):
        await channel.objects.declare_queue(names.WORK_QUEUE, {"x-queue-type": "quorum"})
        await channel.consume(names.WORK_QUEUE)
        completed = await asyncio.to_thread(run, tmp_path, AMQP_URL=clean_broker)
    assert completed.returncode == 1
    assert completed.stderr.startswith("the queue provisioner.departments at this broker is in use")


def test_the_demo_in_memory_says_so(tmp_path: Path):
    completed = run(tmp_path, "--memory")
    assert_demo_succeeded(completed, tmp_path)
    assert "IN MEMORY" in completed.stdout


@asynccontextmanager
async def staying(folder: Path, *arguments: str, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A demo that stays, read up to the beginning of its log. It must end by itself, or is killed."""
    clean = {name: value for name, value in os.environ.items() if name != "AMQP_URL"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "demo", "--stay", *arguments),
        env=clean | {"TMPDIR": str(folder), "COLUMNS": "40"} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.usefixtures("rabbitmq_server")
async def test_the_demo_stays_until_ctrl_c(tmp_path: Path):
    async with staying(tmp_path) as demo:
        assert demo.stdout
        lines: list[str] = []
        while not lines or "log of the worker" not in lines[-1]:
            lines.append((await demo.stdout.readline()).decode())
            assert lines[-1], "the demo ended"
        text = "".join(lines)
        exported = dict(re.findall(r"^export (\w+)=(\S+)$", text, re.MULTILINE))
        answered = await provisioner(exported, "emit", "created", "--id", "mine", "--name", "Mine", "--wait")
        (env_file,) = re.findall(r"--env-file (\S+)$", text, re.MULTILINE)
        again = await provisioner({}, "--env-file", env_file, "departments", "show", "mine", "--json")
        (adoption,) = re.findall(r"adopt --from (\S+)", text)
        planned = await provisioner(exported, "adopt", "--from", adoption, "--json")
        (event,) = re.findall(r"plan --file (\S+)", text)
        foreseen = await provisioner(exported, "plan", "--file", event, "--json")
        held = await provisioner(exported, "emit", "removed", "--id", "sales", "--wait", "--json")
        holds = await provisioner(exported, "holds", "list", "--json")
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://{exported['PROVISIONER_HTTP']}/readyz") as ready,
            http.get(f"{exported['PLIVO_API_URL']}/v1/Account/{exported['PLIVO_AUTH_ID']}/") as refused,
        ):
            assert (ready.status, refused.status) == (200, 401)
        demo.send_signal(signal.SIGINT)
        rest, errors = await demo.communicate()
    assert (answered.code, again.json["status"]) == (0, "active")
    assert [line["state"] for line in planned.json["lines"]] == ["adopt"]
    assert foreseen.json["decision"] == "disable"
    assert held.code == 1
    assert [hold["department_id"] for hold in holds.json] == ["sales"]
    assert demo.returncode == 0
    assert "nothing left behind" in " ".join(rest.decode().split())
    assert b"worker_started" in errors
    assert b"worker_stopped" in errors
    assert b"Traceback" not in errors
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    assert processes_of(tmp_path) == []


def test_the_demo_stays_only_with_rabbitmq(tmp_path: Path):
    completed = run(tmp_path, "--memory", "--stay")
    assert completed.returncode == 2
    assert completed.stderr.startswith("--stay needs RabbitMQ, which other terminals can reach")
