"""A private RabbitMQ node: for the demo, and for tests that need a broker.

It runs the `rabbitmq-server` package of Debian or Ubuntu, installed or unpacked in RABBITMQ_ROOT, as root or
as any user, on free loopback ports and inside one temporary folder. It shares nothing with a system-wide
RabbitMQ, needs no epmd, and ends with its owner.
"""

import asyncio
import os
import re
import secrets
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Self

import aiohttp

ROOT_VARIABLE = "RABBITMQ_ROOT"
"""The environment variable with the folder into which RabbitMQ's and Erlang's packages were unpacked."""

# Relative to the folder of the node: the scripts do not quote this path, and an absolute one may have spaces.
SCRIPTS = Path("installation/sbin")

MANAGEMENT_PLUGINS = frozenset({"rabbitmq_management", "rabbitmq_management_agent", "rabbitmq_web_dispatch"})

START_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.02

# Below the ephemeral range: while the broker is down, no outgoing connection may take its port. A client that
# reconnects can even end up connected to itself.
PORTS = range(15_000, 32_000)

# Standard input ends when the owner closes it or dies in any way. HOME identifies every process of the node.
KEEPER = """
read -r _
while node=$(grep -lszxF "HOME=$1" /proc/[0-9]*/environ | cut -d/ -f3) && [ -n "$node" ]; do
  kill -KILL $node 2>/dev/null
  sleep 0.02
done
rm -rf "$1"
"""


class NodeUnavailable(Exception):
    """No node can be started. The text is one line for people, with the remedy."""


@dataclass(frozen=True, slots=True)
class Installation:
    """RabbitMQ's and Erlang's packages: the system's, or unpacked in a folder of their own."""

    root: Path

    @classmethod
    def chosen(cls) -> Self:
        """The one in RABBITMQ_ROOT, else the system's."""
        return cls(Path(os.environ.get(ROOT_VARIABLE) or "/"))

    @property
    def exists(self) -> bool:
        """Whether RabbitMQ is there."""
        return self._server_script.exists()

    def require(self) -> None:
        """Raises NodeUnavailable if it is not there."""
        if not self.exists:
            raise NodeUnavailable(
                "RabbitMQ is not installed: apt-get install rabbitmq-server, or set AMQP_URL to a running"
                " broker"
            )

    @property
    def home(self) -> Path:
        """RabbitMQ's folder, with `sbin`, `escript` and `plugins`."""
        return self._server_script.resolve().parent.parent

    @property
    def path(self) -> str:
        """The PATH on which its scripts find its own Erlang first."""
        path = os.environ.get("PATH", os.defpath)
        return path if self.root == Path("/") else f"{self.root / 'usr/lib/erlang/bin'}{os.pathsep}{path}"

    @property
    def _server_script(self) -> Path:
        # Not /usr/sbin/rabbitmq-server: that wrapper insists on the rabbitmq user and on /var/lib/rabbitmq.
        return self.root / "usr/lib/rabbitmq/bin/rabbitmq-server"


@dataclass(frozen=True, slots=True)
class Ports:
    """The loopback ports of a node."""

    amqp: int
    distribution: int
    management: int
    epmd: int  # a free port: no epmd runs

    @classmethod
    def free(cls) -> Self:
        """Four different ports that are free now."""
        chosen: set[int] = set()
        while len(chosen) < 4:  # noqa: PLR2004 - one for each field
            port = PORTS[secrets.randbelow(len(PORTS))]
            if _is_free(port):
                chosen.add(port)
        return cls(*chosen)


class PrivateNode:
    """A running node. Its URLs and its data stay the same over `stop` and `start`."""

    def __init__(
        self, folder: Path, ports: Ports, environment: Mapping[str, str], *, management: bool = False
    ) -> None:
        self.url = f"amqp://guest:guest@127.0.0.1:{ports.amqp}/"
        self.management_url = f"http://guest:guest@127.0.0.1:{ports.management}" if management else None
        self.version = "unknown"
        self._folder = folder
        self._ports = ports
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, on_progress: Callable[[str], None] = lambda _: None) -> None:
        """Start the node and return when it answers AMQP and, where enabled, the management API.

        Raises NodeUnavailable if it ends early or is silent for START_TIMEOUT_SECONDS.
        """
        on_progress("starting Erlang")
        self._process = _spawn(self._folder, self._environment)
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await self._announce_version(self._process, on_progress)
                await self._answer(self._process)
        except TimeoutError:
            raise self._no_start() from None
        on_progress(f"RabbitMQ {self.version} is ready on port {self._ports.amqp}")

    async def stop(self) -> None:
        """Shut the broker down in an orderly way. It closes its connections and keeps its data."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        self._process = None

    async def start_app(self) -> None:
        """Make the node serve again after `stop_app`."""
        await self.rabbitmqctl("start_app")

    async def stop_app(self) -> None:
        """Stop RabbitMQ but keep its Erlang VM, so that it is back sooner than after `stop`."""
        await self.rabbitmqctl("stop_app")

    async def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against this node and return its output. Raises NodeUnavailable if it fails."""
        process = await asyncio.create_subprocess_exec(
            self._folder / SCRIPTS / "rabbitmqctl",
            "--quiet",
            *arguments,
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await process.communicate()
        if process.returncode != 0:
            reason = " ".join(errors.decode(errors="replace").split())
            raise NodeUnavailable(f"rabbitmqctl {arguments[0]} failed: {reason}")
        return output.decode()

    async def _announce_version(
        self, process: subprocess.Popen[bytes], on_progress: Callable[[str], None]
    ) -> None:
        while (found := re.search(r"Starting RabbitMQ (\S+) on Erlang", self._log())) is None:
            await self._pause(process)
        self.version = found[1]
        on_progress(f"starting RabbitMQ {self.version}")

    async def _answer(self, process: subprocess.Popen[bytes]) -> None:
        while not await _answers_amqp(self._ports.amqp):
            await self._pause(process)
        while self.management_url and not await _answers_management(self.management_url):
            await self._pause(process)

    async def _pause(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            raise self._no_start()
        await asyncio.sleep(POLL_SECONDS)

    def _no_start(self) -> NodeUnavailable:
        lines = [line for line in self._log().splitlines() if line.strip()] or ["it printed nothing"]
        return NodeUnavailable(
            f"RabbitMQ does not start ({lines[-1].strip()}); set AMQP_URL to a running broker"
        )

    def _log(self) -> str:
        return _log_file(self._folder).read_text(errors="replace")


@asynccontextmanager
async def private_node(
    *,
    management: bool = False,
    plugins: Collection[str] = (),
    config: Mapping[str, str] | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[PrivateNode]:
    """Run a node for the time of the block. It leaves nothing behind, even if the owner is killed.

    `plugins` are enabled too; `config` holds further lines of rabbitmq.conf.
    `on_progress` gets one short line per stage of the start.
    Raises NodeUnavailable.
    """
    installation = Installation.chosen()
    installation.require()
    ports = Ports.free()
    folder = Path(tempfile.mkdtemp(prefix="private-rabbitmq-"))
    keeper = keep(folder)
    node = PrivateNode(folder, ports, environment_of(folder, ports, installation), management=management)
    try:
        enabled = {*plugins, *({"rabbitmq_management"} if management else ())}
        settings = settings_of(ports, management=management) | dict(config or {})
        furnish(folder, installation, settings, enabled)
        await node.start(on_progress)
        yield node
    finally:
        await asyncio.to_thread(keeper.communicate)
        await node.stop()


def keep(folder: Path) -> subprocess.Popen[bytes]:
    """Start what ends all processes with this HOME, and removes it, once its standard input ends."""
    return subprocess.Popen(
        ["/bin/sh", "-c", KEEPER, "keeper", folder], stdin=subprocess.PIPE, start_new_session=True
    )


def furnish(
    folder: Path, installation: Installation, settings: Mapping[str, str], enabled: Collection[str] = ()
) -> None:
    """Put everything into the folder that a node needs to start."""
    cookie = folder / ".erlang.cookie"
    cookie.touch(mode=0o600)
    cookie.write_text(secrets.token_hex())
    cookie.chmod(0o400)
    (folder / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
    (folder / "enabled_plugins").write_text(f"[{','.join(sorted(enabled))}].\n")
    (folder / "rabbitmq-env.conf").touch()
    _log_file(folder).touch()
    _link(installation, folder / "installation", enabled)


def _link(installation: Installation, home: Path, enabled: Collection[str]) -> None:
    """Link the installation, without the plugins that this node does not need.

    Erlang looks for every module in every plugin: with all of them, starting takes twice as long.
    """
    installed = installation.home
    wanted = {"rabbitmq_prelaunch", *enabled}
    if "rabbitmq_management" in enabled:
        wanted |= MANAGEMENT_PLUGINS
    (home / "plugins").mkdir(parents=True)
    for name in ("sbin", "escript"):
        (home / name).symlink_to(installed / name)
    for plugin in (installed / "plugins").iterdir():
        application = plugin.name.partition("-")[0]
        if application in wanted or not application.startswith("rabbitmq_"):
            (home / "plugins" / plugin.name).symlink_to(plugin)


def settings_of(ports: Ports, *, management: bool = False) -> dict[str, str]:
    """The lines of rabbitmq.conf."""
    settings = {
        "listeners.tcp.1": f"127.0.0.1:{ports.amqp}",
        "disk_free_limit.absolute": "50MB",
        "raft.wal_max_size_bytes": str(16 * 1024 * 1024),
        "log.file": "false",
        "log.console": "true",
    }
    if management:
        settings |= {"management.tcp.ip": "127.0.0.1", "management.tcp.port": str(ports.management)}
    return settings


def _spawn(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    log = _log_file(folder)
    log.write_bytes(b"")
    with log.open("ab") as output:
        return subprocess.Popen(
            [folder / SCRIPTS / "rabbitmq-server"],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C in the owner's terminal is for the owner
        )


def environment_of(folder: Path, ports: Ports, installation: Installation) -> dict[str, str]:
    """The environment of a node's processes, and of rabbitmqctl."""
    name = f"private-{ports.amqp}@127.0.0.1"
    fixed_port = f"-erl_epmd_port {ports.distribution}"
    return {
        "PATH": installation.path,
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "RABBITMQ_SCRIPTS_DIR": str(SCRIPTS),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_USE_LONGNAME": "true",
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        # For every Erlang VM: RabbitMQ starts one each minute only to start epmd.
        "ERL_FLAGS": "-start_epmd false",
        "ERL_EPMD_PORT": str(ports.epmd),
        # With a name given here Erlang is distributed before RabbitMQ checks, so RabbitMQ starts no epmd.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            f"{fixed_port} -name {name} -kernel inet_dist_use_interface {{127,0,0,1}}"
        ),
        "RABBITMQ_CTL_ERL_ARGS": f"{fixed_port} -dist_listen false",
        # The script then execs Erlang instead of waiting for it, so that our signals reach Erlang.
        "RUNNING_UNDER_SYSTEMD": "true",
        "ERL_CRASH_DUMP_SECONDS": "0",
    }


def _log_file(folder: Path) -> Path:
    return folder / "console.log"


async def _answers_amqp(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"AMQP\x00\x00\x09\x01")
        return await reader.read(1) == b"\x01"  # the first byte of a method frame: Connection.Start
    except OSError:
        return False
    finally:
        writer.close()


async def _answers_management(url: str) -> bool:
    """RabbitMQ 4.3 answers 500 for a moment after its start."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/api/overview") as response:
            return response.status == HTTPStatus.OK
    except aiohttp.ClientError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
