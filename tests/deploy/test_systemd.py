"""The systemd unit: under systemd-analyze, and its command run with its environment and its restrictions."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aio_pika
import aiohttp
import pytest

from contracts import topology as names
from tests.support.commands import provisioner
from tests.support.nodes import skip_or_fail
from tests.support.postgres_node import Account
from tests.support.real import EVENT
from tests.support.secrets_keys import sealing_key, write_keys
from worker.adapters.ledgers import open_ledger
from worker.demo.private_node import Ports
from worker.sandbox import running_sandbox
from worker.settings.load import load
from worker.settings.model import IntakeSettings, WorkerSettings

SYSTEMD = Path(__file__).parents[2] / "deploy/systemd"
UNIT, ENVIRONMENT = SYSTEMD / "provisioner.service", SYSTEMD / "provisioner.env"
NIGHTLY, TIMER = SYSTEMD / "provisioner-snapshot.service", SYSTEMD / "provisioner-snapshot.timer"
NIGHTLY_ENVIRONMENT = SYSTEMD / "provisioner-snapshot.env"
INTAKE, INTAKE_ENVIRONMENT = SYSTEMD / "provisioner-intake.service", SYSTEMD / "provisioner-intake.env"
UNITS = (UNIT, INTAKE)
NAMES = [one.stem for one in UNITS]
INSTALLED = "/opt/provisioner/bin/provisioner"
HERE = Path(sys.executable).with_name("provisioner")
EXPOSURE_TENTHS = 20


def unit(file: Path = UNIT) -> Mapping[str, Sequence[str]]:
    """The values of each key, in order."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", file.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def value(key: str, file: Path = UNIT) -> str:
    (only,) = unit(file)[key]
    return only


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    if not shutil.which("systemd-analyze"):
        skip_or_fail("there is no systemd-analyze: apt-get install systemd")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", UNITS, ids=NAMES)
@pytest.mark.parametrize(("old", "new", "said"), [("", "", ""), ("Restart=", "Restarts=", "Restarts")])
def test_systemd_knows_every_key(tmp_path: Path, file: Path, old: str, new: str, said: str):
    """It tells an unknown key, and ends with 0."""
    installed = tmp_path / file.name
    installed.write_text(file.read_text().replace(INSTALLED, "/bin/true").replace(old, new))
    done = analyze("verify", installed)
    assert done.returncode == 0
    assert said in done.stderr
    assert bool(said) == bool(done.stderr)


@pytest.mark.parametrize("file", [*UNITS, NIGHTLY], ids=lambda file: file.name)
def test_its_exposure_is_at_most_two(file: Path):
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE_TENTHS}", file)
    assert done.returncode == 0, done.stdout


def test_the_nightly_list_has_a_timer_and_the_restrictions_of_the_worker(tmp_path: Path):
    for file in (NIGHTLY, TIMER):
        (tmp_path / file.name).write_text(file.read_text().replace(INSTALLED, "/bin/true"))
    done = analyze("verify", tmp_path / TIMER.name, tmp_path / NIGHTLY.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert unit(TIMER)["WantedBy"] == ["timers.target"]
    own = {"Type", "ExecStart", "Description", "After", "TimeoutStartSec", "EnvironmentFile"}
    ours = {"RuntimeDirectory": ["provisioner-snapshot"], "RuntimeDirectoryMode": ["0700"]}
    of_worker = {
        "StartLimitIntervalSec",
        "Restart",
        "RestartSec",
        "RestartPreventExitStatus",
        "TimeoutStopSec",
    }
    worker = {key: of for key, of in unit().items() if key not in own | of_worker | {"KillMode", "WantedBy"}}
    assert {key: of for key, of in unit(NIGHTLY).items() if key not in own} == worker | ours


@pytest.mark.xdist_group("broker")
async def test_the_commands_of_the_nightly_list_send_it(clean_broker: str, tmp_path: Path):
    environ = settings_of(tmp_path, {"amqp-url": clean_broker})
    assert unit(NIGHTLY)["EnvironmentFile"][1] == f"/etc/provisioner/{NIGHTLY_ENVIRONMENT.name}"
    own = {
        name: one.replace("/etc/provisioner", str(tmp_path)) for name, one in assignments(NIGHTLY_ENVIRONMENT)
    }
    (tmp_path / "amqp-url-producer").write_text(clean_broker)
    environ |= {"LEDGER_URL": f"sqlite:///{tmp_path}/provisioner.db"} | own
    (tmp_path / "hr.csv").write_text("department_id,name\n1,Sales\n")
    assert (await provisioner(environ, "topology", "apply")).code == 0
    async with open_ledger(load(WorkerSettings, environ).ledger_url):
        pass
    said = []
    for line in unit(NIGHTLY)["ExecStart"]:
        for folder in ("/var/lib/provisioner", "%t/provisioner-snapshot"):
            line = line.replace(folder + "/", f"{tmp_path}/")  # noqa: PLW2901
        command, *words = shlex.split(line)
        assert command == INSTALLED
        done = await provisioner(environ, *words)
        assert done.code == 0, done.err
        said.append(done.out.splitlines()[-1])
    assert said[0].endswith("1 created, 0 renamed, 0 same, 0 missing, 0 refused")
    assert said[1] == "events sent: 1; removals among them: 0"


def test_the_intake_is_confined_as_the_worker_and_cannot_read_its_files():
    worker, intake = dict(unit()), dict(unit(INTAKE))
    own = {"User", "Group", "EnvironmentFile", "ExecStart", "Description", "After", "WorkingDirectory"}
    for key in (*own, "StateDirectory", "StateDirectoryMode"):
        worker.pop(key)
        assert (intake.pop(key, None) is None) == (key not in own)
    assert intake == worker
    assert value("User", INTAKE) != value("User")
    assert value("EnvironmentFile", INTAKE).startswith("/etc/provisioner-intake/")


def test_the_example_of_the_intakes_settings_is_valid(tmp_path: Path):
    environ = settings_of_intake(tmp_path, "amqp://127.0.0.1/")
    known = {field.alias for field in IntakeSettings.model_fields.values()}
    assert {name.removesuffix("_FILE") for name in environ} <= known
    assert set(load(IntakeSettings, environ).files) == {"AMQP_URL"}


def settings_of_intake(folder: Path, amqp_url: str) -> dict[str, str]:
    """The settings of provisioner-intake.env, with `folder` for /etc/provisioner-intake."""
    (folder / "amqp-url").write_text(amqp_url)
    (folder / "tokens").write_text("hr: s3cr3t\n")
    (folder / "sources").mkdir()
    lines = assignments(INTAKE_ENVIRONMENT)
    return {name: one.replace("/etc/provisioner-intake", str(folder)) for name, one in lines}


def test_a_drain_ends_before_systemd_kills_it():
    assert value("TimeoutStopSec") == "40s"
    drain = WorkerSettings.model_fields["drain"].default
    assert drain.total_seconds() < 40


def test_it_is_restarted_except_when_its_settings_are_wrong():
    assert value("Restart") == "always"
    assert value("RestartPreventExitStatus") == "2"
    assert value("StartLimitIntervalSec") == "0"  # an outage of RabbitMQ may last longer than five tries


def test_the_example_of_its_settings_is_valid(tmp_path: Path):
    environ = settings_of(tmp_path, {})
    known = {field.alias for field in WorkerSettings.model_fields.values()}
    assert {name.removesuffix("_FILE") for name in environ} <= known
    assert set(load(WorkerSettings, environ).files) == {"AMQP_URL", "PLIVO_AUTH_TOKEN"}


def assignments(file: Path) -> Sequence[tuple[str, str]]:
    return re.findall(r"^(\w+)=(.*)$", file.read_text(), re.MULTILINE)


def settings_of(folder: Path, secrets: Mapping[str, str]) -> dict[str, str]:
    """The settings of provisioner.env, with `folder` for /etc/provisioner, where secrets are written."""
    lines = assignments(ENVIRONMENT)
    for name, default in {"amqp-url": "amqp://127.0.0.1/", "plivo-auth-token": "token"}.items():
        (folder / name).write_text(secrets.get(name, default))
    write_keys(folder / "recipients.json", sealing_key())
    return {name: one.replace("/etc/provisioner", str(folder)) for name, one in lines}


@dataclass(frozen=True)
class Service:
    """Runs the unit as systemd would, without systemd."""

    command: Sequence[str]
    environ: Mapping[str, str]
    state: Path

    @property
    def address(self) -> str:
        return self.environ.get("PROVISIONER_HTTP") or self.environ["PROVISIONER_INTAKE"]

    async def start(self) -> Process:
        """Returns when it is ready."""
        process = await asyncio.create_subprocess_exec(
            *self.command, env=self.environ, cwd=self.state, stdin=subprocess.DEVNULL, stderr=PIPE
        )
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            while process.returncode is None:
                try:
                    async with session.get(f"http://{self.address}/readyz") as response:
                        if response.status == 200:
                            return process
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        assert process.stderr is not None
        pytest.fail((await process.stderr.read()).decode())


def allowed_calls(file: Path = UNIT) -> str:
    """The names of the unit's SystemCallFilter, its sets resolved."""
    sets: dict[str, list[str]] = {}
    for line in analyze("--no-pager", "syscall-filter").stdout.splitlines():
        if line.startswith("@"):
            members = sets[line.strip()] = []
        elif line.startswith("    ") and not line.strip().startswith("#"):
            members.append(line.strip())

    def resolved(name: str) -> set[str]:
        return set().union(*map(resolved, sets[name])) if name in sets else {name}

    allowed: set[str] = set()
    for line in unit(file)["SystemCallFilter"]:
        chosen = set().union(*map(resolved, line.removeprefix("~").split()))
        allowed = allowed - chosen if line.startswith("~") else allowed | chosen
    return "\n".join(sorted(allowed))


@pytest.fixture
async def service(clean_broker: str) -> AsyncIterator[Service]:
    """The unit's command, confined as the unit says, beside RabbitMQ and a sandbox."""
    account = Account.unprivileged()
    if not account.may_enter(HERE.parent):
        account = Account()
    folder = Path(tempfile.mkdtemp(prefix="provisioner-unit-"))
    state, etc = folder / "state", folder / "etc"
    for one in (state, etc):
        one.mkdir()
    (folder / "syscalls").write_text(allowed_calls())
    async with running_sandbox(rate_limit="off") as sandbox:
        secrets = {"amqp-url": clean_broker, "plivo-auth-token": sandbox.auth_token}
        environ = settings_of(etc, secrets) | {
            "PATH": os.environ["PATH"],
            "LEDGER_URL": f"sqlite:///{state}/provisioner.db",
            "PLIVO_AUTH_ID": sandbox.auth_id,
            "PLIVO_API_URL": sandbox.url,
            "PROVISIONER_HTTP": f"127.0.0.1:{Ports.free().amqp}",
        }
        for line in unit()["Environment"]:
            environ |= dict(one.split("=", 1) for one in shlex.split(line))
        uid, gid = account.uid or 0, account.gid or 0
        for path in (folder, state, etc, *etc.iterdir(), folder / "syscalls"):
            os.chown(path, uid, gid) if account.uid else None
        start = value("ExecStart").replace(INSTALLED, str(HERE))
        confined = [sys.executable, str(Path(__file__).with_name("confined.py")), f"{uid}:{gid}"]
        yield Service([*confined, str(folder / "syscalls"), *shlex.split(start)], environ, state)
    async with await aio_pika.connect(clean_broker) as connection:
        await (await connection.channel()).queue_delete(names.secrets_queue("crm"))
    shutil.rmtree(folder)


@pytest.fixture
async def intake(clean_broker: str) -> AsyncIterator[Service]:
    """The command of the intake's unit, confined as the unit says."""
    account = Account.unprivileged()
    if not account.may_enter(HERE.parent):
        account = Account()
    folder = Path(tempfile.mkdtemp(prefix="provisioner-intake-"))
    environ = settings_of_intake(folder, clean_broker) | {
        "PATH": os.environ["PATH"],
        "PROVISIONER_INTAKE": f"127.0.0.1:{Ports.free().amqp}",
    }
    (folder / "syscalls").write_text(allowed_calls(INTAKE))
    uid, gid = account.uid or 0, account.gid or 0
    for path in [folder, *map(folder.joinpath, ("amqp-url", "tokens", "sources", "syscalls"))]:
        os.chown(path, uid, gid) if account.uid else None
    start = value("ExecStart", INTAKE).replace(INSTALLED, str(HERE))
    confined = [sys.executable, str(Path(__file__).with_name("confined.py")), f"{uid}:{gid}"]
    applied = await provisioner({"AMQP_URL": clean_broker}, "topology", "apply")
    assert applied.code == 0, applied.err
    yield Service([*confined, str(folder / "syscalls"), *shlex.split(start)], environ, Path("/"))
    shutil.rmtree(folder)


def is_confined(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return {"NoNewPrivs:\t1", "Seccomp:\t2"} <= set(status.splitlines())


@pytest.mark.xdist_group("broker")
async def test_its_command_works_confined_and_survives_sigkill(service: Service):
    async def answer(*event: str) -> str:
        told = await provisioner(service.environ, "emit", *event, "--id", "sales", "--wait", "--json")
        assert told.code == 0, told.err
        return told.out

    process = await service.start()
    try:
        assert is_confined(process.pid)
        assert '"created"' in await answer("created", "--name", "Sales")
        ledger = service.state / "provisioner.db"
        assert ledger.stat().st_mode & 0o777 == 0o600
        process.kill()
        await process.communicate()
        process = await service.start()  # as Restart=always does
        assert '"renamed"' in await answer("renamed", "--name", "Sales EMEA")
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), 40)
        assert process.returncode == 0, log
        assert b'"worker_stopped"' in log
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.xdist_group("broker")
async def test_the_intake_works_confined_and_drains(intake: Service, clean_broker: str):
    process = await intake.start()
    try:
        assert is_confined(process.pid)
        headers = {"Authorization": "Bearer s3cr3t", "Content-Type": "application/cloudevents+json"}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(f"http://{intake.address}/v1/events", data=json.dumps(EVENT)) as response,
        ):
            assert response.status == 202, await response.text()
        async with await aio_pika.connect(clean_broker) as connection:
            queue = await (await connection.channel()).get_queue(names.WORK_QUEUE)
            assert (await queue.get()).body
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), 40)
        assert process.returncode == 0, log
        assert b'"intake_stopped"' in log
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
