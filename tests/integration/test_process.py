"""`provisioner run` as a process: environment, signals and exit code."""

import asyncio
import json
import os
import signal
import socket
import sys
import tomllib
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from contracts import topology as names
from tests.soak.worker_process import worker_process
from tests.support.real import EVENT, RealSystem
from tests.support.secrets_keys import fresh_sealing_key
from worker.core.keyring import public_part
from worker.sandbox import Rule, fault

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

RUN = (sys.executable, "-m", "worker", "run")


async def start(environ: Mapping[str, str]) -> Process:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PROVISIONER_", "PLIVO_"))
    }
    clean["PROVISIONER_HTTP"] = "127.0.0.1:0"  # not the default port, which other processes may use
    return await asyncio.create_subprocess_exec(*RUN, env=clean | dict(environ), stdout=PIPE, stderr=PIPE)


async def log_until(process: Process, event: str) -> list[dict[str, Any]]:
    """Reads the log up to the first line of this event."""
    assert process.stderr is not None
    lines = []
    async for line in process.stderr:
        lines.append(json.loads(line))
        if lines[-1]["event"] == event:
            return lines
    pytest.fail(f"the worker ended before {event}: {lines}")


@asynccontextmanager
async def running(system: RealSystem) -> AsyncIterator[Process]:
    process = await start(system.environ | {"PROVISIONER_HTTP": f"127.0.0.1:{free_port()}"})
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def refused(environ: Mapping[str, str]) -> tuple[int | None, list[str]]:
    process = await start(environ)
    _, stderr = await process.communicate()
    return process.returncode, stderr.decode().splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_worker_handles_events_reports_ready_and_ends_on_a_signal(
    system: RealSystem, number: signal.Signals
):
    async with running(system) as process, aiohttp.ClientSession() as http:
        started = (await log_until(process, "worker_started"))[-1]
        secrets = await system.listen(names.SECRETS)
        await system.send(json.dumps(EVENT).encode())
        await secrets.count(1)
        async with http.get(f"http://{started['http']}/readyz") as ready:
            assert ready.status == 200
            assert await ready.json() == {"status": "ready", "wrong": []}
        async with http.get(f"http://{started['http']}/metrics") as metrics:
            assert 'provisioner_events_received_total{type="created"} 1.0' in await metrics.text()
        async with http.get(f"http://{started['http']}/livez") as live:
            assert live.status == 200
        process.send_signal(signal.SIGUSR1)
        process.send_signal(number)
        assert await process.wait() == 0
    assert [one.name.startswith("Sales [") for one in system.sandbox.subaccounts()] == [True]
    assert await system.depth(names.WORK_QUEUE) == 0


async def test_a_killed_worker_leaves_its_message_to_the_next_worker(system: RealSystem):
    """SIGKILL during a provider call: the next worker finds the subaccount and does not create it again."""
    asked = asyncio.ensure_future(system.sandbox.called("create_subaccount"))
    async with running(system) as process:
        await log_until(process, "worker_started")
        await system.send(json.dumps(EVENT).encode())
        await asked
        process.kill()
        await process.wait()
    async with running(system) as process:
        results = await system.listen(names.RESULTS)
        await log_until(process, "department_event_answered")
        await results.count(0)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert len(system.sandbox.subaccounts()) == 1
    assert len(system.sandbox.calls("create_subaccount")) == 1


async def test_a_second_signal_ends_the_worker_at_once(system: RealSystem):
    system.sandbox.set_rules(Rule("create_subaccount", fault("no-answer")))
    async with running(system) as process:
        await log_until(process, "worker_started")
        await system.send(json.dumps(EVENT).encode())
        await system.sandbox.called("create_subaccount")
        process.send_signal(signal.SIGTERM)
        await log_until(process, "worker_stopping")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 1
    system.sandbox.set_rules()
    await next_worker_finishes(system)


async def test_a_drain_that_takes_too_long_is_cut_off(system: RealSystem, tmp_path: Path):
    armed = tmp_path / "armed"
    armed.touch()
    short = {"PROVISIONER_DRAIN": "1s", "PROVISIONER_API_TIMEOUT": "500ms", "PROVISIONER_SETTLE_WINDOW": "2s"}
    halting = ("tests.soak.halting_worker", "done", str(armed))
    async with worker_process(system.environ | short, halting) as worker:
        await system.send(json.dumps(EVENT).encode())
        await worker.logged("halted")
        assert await worker.stop() == 1
    system.environ |= short
    await next_worker_finishes(system)


async def next_worker_finishes(system: RealSystem) -> None:
    async with running(system) as process:
        await log_until(process, "department_event_answered")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert len(system.sandbox.subaccounts()) == 1
    assert await system.depth(names.WORK_QUEUE) == 0


async def test_a_sigterm_during_the_start_ends_the_worker_cleanly(system: RealSystem):
    unreachable = {"AMQP_URL": f"amqp://127.0.0.1:{free_port()}/", "PROVISIONER_NO_SUCH": "1"}
    process = await start(system.environ | unreachable)
    await log_until(process, "settings_unused")
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    await process.communicate()


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ("run", signal.SIGTERM, 0),
        ("run", signal.SIGINT, 0),
        ("run", signal.SIGHUP, 0),
        ("demo", signal.SIGTERM, 128 + signal.SIGTERM),
        ("demo", signal.SIGINT, 128 + signal.SIGINT),
    ],
)
async def test_a_sigterm_during_imports_ends_the_worker_silently(
    tmp_path: Path, command: str, number: signal.Signals, code: int
):
    """A module that the worker imports reports its import and blocks forever."""
    (tmp_path / "typer.py").write_text(
        "import threading\nprint('importing', flush=True)\nthreading.Event().wait()"
    )
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(*RUN[:-1], command, env=environ, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"importing\n"
    process.send_signal(number)
    assert await process.communicate() == (b"", b"")
    assert process.returncode == code


def test_the_command_and_the_module_have_the_same_entry_point():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"provisioner": "worker.__main__:main"}


async def test_invalid_settings_print_one_line_each_and_exit_2():
    code, lines = await refused(
        {
            "PLIVO_AUTH_ID": "MASANDBOX00000000000",
            "PLIVO_AUTH_TOKEN": "very-secret",
            "AMQP_URL": "http://hr:very-secret@127.0.0.1",
            "PROVISIONER_API_TIMEOUT": "twenty",
            "LEDGER_URL": "mysql://somewhere",
        }
    )
    assert code == 2
    assert [line.split()[0] for line in sorted(lines)] == [
        "AMQP_URL",
        "LEDGER_URL",
        "PROVISIONER_API_TIMEOUT",
    ]
    assert "very-secret" not in "".join(lines)


async def test_unsealed_credentials_to_a_remote_broker_are_refused_at_once():
    """The broker does not exist: connecting would last the grace period of the start and exit with 1."""
    code, lines = await refused(
        {
            "PLIVO_AUTH_ID": "MASANDBOX00000000000",
            "PLIVO_AUTH_TOKEN": "very-secret",
            "AMQP_URL": "amqp://worker:very-secret@broker.invalid/",
            "PROVISIONER_SIGNING_KEY": "no-such-file",
        }
    )
    assert code == 2
    signing_key, plaintext = lines
    assert signing_key.startswith("PROVISIONER_SIGNING_KEY cannot be read: ")
    assert plaintext.startswith("PROVISIONER_PLAINTEXT_SECRETS is not true: ")
    assert plaintext.endswith("set PROVISIONER_RECIPIENTS to seal them")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"use": "sig"}, "use is sig: it must be enc, or left out"),
        ({"x": "AAAA"}, "x has 3 bytes, not 32"),
    ],
)
async def test_a_recipient_without_a_key_is_refused_at_once(tmp_path: Path, change: dict[str, str], why: str):
    """The broker does not exist: connecting would last the grace period of the start and exit with 1."""
    keys = {
        "keys": [public_part(fresh_sealing_key("crm.1")) | change, public_part(fresh_sealing_key("hr.1"))]
    }
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    code, lines = await refused(
        {
            "PLIVO_AUTH_ID": "MASANDBOX00000000000",
            "PLIVO_AUTH_TOKEN": "very-secret",
            "AMQP_URL": "amqp://broker.invalid/",
            "LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
            "PROVISIONER_RECIPIENTS": str(tmp_path / "keys.json"),
        }
    )
    assert code == 2
    (line,) = lines
    assert line.startswith("PROVISIONER_RECIPIENTS has no usable key for crm in ")
    assert line.endswith(f"(crm.1: {why})")


async def test_the_ledger_of_another_account_is_refused(system: RealSystem):
    async with running(system) as process:
        await log_until(process, "worker_started")
        process.send_signal(signal.SIGTERM)
        await process.wait()
    code, lines = await refused(system.environ | {"PROVISIONER_OWNER": "somebody-else"})
    assert code == 2
    assert lines == [
        (
            "the ledger belongs to owner default of provider account MASANDBOX00000000000, and the settings"
            " name owner somebody-else of account MASANDBOX00000000000: set PROVISIONER_OWNER and"
            " PLIVO_AUTH_ID to the ledger's, or LEDGER_URL to a new ledger"
        )
    ]


async def test_a_refused_broker_login_prints_one_line_and_exits_1(system: RealSystem):
    wrong = system.url.replace("guest:guest", "guest:very-secret")
    code, lines = await refused(system.environ | {"AMQP_URL": wrong})
    assert code == 1
    assert len(lines) == 1
    assert "refuses the login in AMQP_URL" in lines[0]
    assert "very-secret" not in lines[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "192.0.2.1", ".."])
async def test_an_unusable_http_address_is_refused_before_consuming(system: RealSystem, host: str):
    async with system.worker():
        """Makes the topology."""
    await system.send(json.dumps(EVENT).encode())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"{host}:{taken.getsockname()[1]}"
        code, lines = await refused(system.environ | {"PROVISIONER_HTTP": address})
    assert code == 2
    (line,) = lines
    assert line.startswith(f"cannot listen on {address} (")
    assert line.endswith("); set PROVISIONER_HTTP to another address")
    message = await (await system.channel.get_queue(names.WORK_QUEUE)).get()
    assert not message.redelivered
    await message.ack()


async def test_a_starting_worker_is_alive_but_not_ready(system: RealSystem):
    asked = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    http_port = free_port()
    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as broker:
        silent = {"AMQP_URL": f"amqp://127.0.0.1:{broker.sockets[0].getsockname()[1]}/"}
        process = await start(system.environ | silent | {"PROVISIONER_HTTP": f"127.0.0.1:{http_port}"})
        await asked.wait()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{http_port}") as http:
            async with http.get("/livez") as live:
                assert live.status == 200
            async with http.get("/readyz") as ready:
                assert ready.status == 503
                assert await ready.json() == {"status": "not ready", "wrong": ["the worker is starting"]}
            async with http.get("/metrics") as metrics:
                assert metrics.status == 200
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        await process.communicate()


@pytest.mark.parametrize("place_of_ledger", ["", "missing/ledger.db", "token"])
async def test_an_unusable_ledger_path_prints_one_line_and_exits_2(
    system: RealSystem, tmp_path: Path, place_of_ledger: str
):
    (tmp_path / "token").write_text("no database")
    (tmp_path / "token").chmod(0o644)
    code, lines = await refused(system.environ | {"LEDGER_URL": f"sqlite:///{tmp_path / place_of_ledger}"})
    assert code == 2
    (line,) = lines
    assert line.startswith(f"the ledger {tmp_path / place_of_ledger} cannot be opened: ")
    assert "set LEDGER_URL to " in line
