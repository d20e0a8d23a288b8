"""`provisioner demo` on each kind of broker: it prints every step, shows no token, leaves nothing behind."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from contracts import topology as names
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
    "subaccount.disabled",
    "the sandbox refuses a message sent with it (401)",
    "10 messages, 4 departments with a subaccount each",
)
# Tokens of the sandbox are 40 characters of base64.
TOKEN = re.compile(r"[A-Za-z0-9+/]{40}")


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
    assert [part for part in STORY if part not in completed.stdout] == []
    assert not TOKEN.search(completed.stdout)
    assert list(folder.iterdir()) == [], "files left behind"


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
