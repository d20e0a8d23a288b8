"""`provisioner` on a PostgreSQL that refuses: one line that says what to do, and no password."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.support.commands import in_process, provisioner
from tests.support.nodes import running_node
from tests.support.pooler import pooler
from tests.support.postgres_node import (
    NEEDS_PASSWORD,
    fresh_database,
    postgres_node,
    postgres_standby,
)
from worker.adapters.ledgers import open_ledger
from worker.ports import LedgerFailed, OpenedLedger
from worker.settings.ledger_url import parse_ledger_url
from worker.settings.load import load, rotating
from worker.settings.model import LedgerSettings

pytestmark = pytest.mark.usefixtures("postgres_server")

SECRET = "s3cr3t-0123456789"


NOWHERE = "amqp://127.0.0.1:9/"
WORKER = {
    "AMQP_URL": NOWHERE,
    "PLIVO_AUTH_ID": "MA1",
    "PLIVO_AUTH_TOKEN": "token",
    "PROVISIONER_HTTP": "127.0.0.1:0",
}


@dataclass(frozen=True)
class Servers:
    """The ports of a primary and of its standby."""

    primary: int
    standby: int

    @property
    def primary_at(self) -> str:
        return f"127.0.0.1:{self.primary}"

    @property
    def standby_at(self) -> str:
        return f"127.0.0.1:{self.standby}"

    def url(self, user: str = "postgres") -> str:
        return f"postgresql://{user}@{self.primary_at}/postgres"


@asynccontextmanager
async def running_servers() -> AsyncIterator[Servers]:
    async with postgres_node() as primary, postgres_standby(primary) as standby:
        primary.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{SECRET}' IN ROLE {NEEDS_PASSWORD}")
        primary.execute("CREATE ROLE powerless LOGIN")
        primary.execute("CREATE DATABASE closed")
        primary.execute("REVOKE CONNECT ON DATABASE closed FROM public")
        yield Servers(primary.port, standby.port)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with running_node(running_servers()) as (servers, _):
        yield servers


LOGIN, SUPERUSER = "postgresql://guarded:{secret}", "postgresql://postgres:{secret}"
REFUSED = {
    "wrong password": (f"{LOGIN}-wrong@{{primary}}/postgres", 2, "correct the user or the password"),
    "no password": ("postgresql://guarded@{primary}/postgres", 2, "PGPASSFILE (of mode 600)"),
    "no such user": ("postgresql://nobody:{secret}@{primary}/postgres", 2, "make the user, or correct it"),
    "no such database": (f"{SUPERUSER}@{{primary}}/none", 2, "create the database"),
    "no right to connect": ("postgresql://powerless@{primary}/closed", 2, "grant the user CONNECT"),
    "standby": (f"{SUPERUSER}@{{standby}}/postgres", 2, "it is a standby"),
    "no server": (f"{SUPERUSER}@127.0.0.1:1/postgres", 1, "Connection refused"),
    "no such host": (f"{SUPERUSER}@nowhere.invalid/postgres", 1, "failed to resolve host"),
    "no primary": (f"{SUPERUSER}@{{standby}},127.0.0.1:1/postgres", 1, "Connection refused"),
    "no TLS": (f"{SUPERUSER}@{{primary}}/postgres?sslmode=verify-full", 2, "correct sslmode"),
    "not PostgreSQL": (f"{SUPERUSER}@{{web}}/postgres", 2, "something else than PostgreSQL"),
    "wrong URL": (f"{SUPERUSER}/@{{primary}}/postgres", 2, "LEDGER_URL is not a PostgreSQL URL"),
}
COMMANDS = ["departments list", "holds list --json", "dead-letters audit", "reissue sales"]


@pytest.fixture
async def web() -> AsyncIterator[str]:
    """A server that speaks HTTP."""

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("why", REFUSED)
async def test_what_postgresql_refuses_is_one_line(servers: Servers, web: str, why: str):
    template, code, words = REFUSED[why]
    url = template.format(secret=SECRET, primary=servers.primary_at, standby=servers.standby_at, web=web)
    ended = [await provisioner(WORKER | {"LEDGER_URL": url}, "run")]
    asking = {"LEDGER_URL": url, "AMQP_URL": NOWHERE}
    ended += [await in_process(asking, *command.split()) for command in COMMANDS]
    for one in ended:
        (line,) = (line for line in one.err.splitlines() if not line.startswith("{"))
        assert (one.code, one.out.strip()) in {(code, ""), (code, "[]")}
        assert words in line
        assert SECRET not in one.err


async def test_a_user_who_may_make_no_tables_is_told(servers: Servers):
    ended = await provisioner(WORKER | {"LEDGER_URL": servers.url("powerless")}, "run")
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith(
        "the ledger cannot be opened: permission denied for schema public; let the user own the schema"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("pool_mode = transaction", "unsupported startup parameter"),
        ("pool_mode = transaction\nignore_startup_parameters = options", "a pooler"),
        ("pool_mode = session\nignore_startup_parameters = options", "a pooler drops the settings"),
    ],
)
async def test_a_pooler_is_refused(servers: Servers, settings: str, words: str):
    """Its clients share connections, and so each other's locks; or it drops what frees the locks."""
    async with pooler(servers.primary, settings) as place:
        ended = await provisioner(WORKER | {"LEDGER_URL": f"postgresql://postgres@{place}/postgres"}, "run")
    assert ended.code == 2
    line = ended.err.splitlines()[-1]
    assert words in line
    assert line.endswith("LEDGER_URL must name PostgreSQL itself")


async def test_a_command_makes_no_ledger(servers: Servers):
    with fresh_database(servers.url()) as url:
        for command in ("departments list", "reissue sales", "dead-letters replay --yes"):
            ended = await in_process({"LEDGER_URL": url, "AMQP_URL": NOWHERE}, *command.split())
            assert (ended.code, ended.err.count("\n")) == (1, 1)
            assert ended.err.startswith(
                f"there is no ledger at postgresql://127.0.0.1:{servers.primary}/test_"
            )
        with psycopg.connect(url) as connection:
            tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            assert tables.fetchone() == (0,)


async def test_a_ledger_of_another_owner_user_or_version_is_refused(servers: Servers):
    with fresh_database(servers.url()) as url:
        async with open_ledger(parse_ledger_url(url)) as opened:
            await opened.ledger.bind("somebody-else", "MA1")
        powerless = url.replace("postgres@", "powerless@")
        ended = await in_process({"LEDGER_URL": powerless}, "departments", "list")
        assert (ended.code, "let the user own the schema" in ended.err) == (2, True)
        ended = await provisioner(WORKER | {"LEDGER_URL": url}, "run")
        assert ended.code == 2
        assert ended.err.splitlines()[-1].startswith("the ledger belongs to owner somebody-else")
        with psycopg.connect(url) as connection:
            connection.execute("INSERT INTO migrations VALUES ('9999_later.sql', 'checksum')")
        ended = await provisioner(WORKER | {"LEDGER_URL": url}, "run")
        assert ended.code == 2
        assert ended.err.splitlines()[-1].startswith("the ledger is of a newer version of this program")


async def test_the_password_may_come_from_everywhere(servers: Servers, tmp_path: Path):
    guarded, right = servers.url("guarded"), f"postgresql://guarded:{SECRET}@{servers.primary_at}/postgres"
    (tmp_path / "url").write_text(right)
    (tmp_path / "pgpass").write_text(f"127.0.0.1:{servers.primary}:*:guarded:{SECRET}\n")
    (tmp_path / "pgpass").chmod(0o600)
    for environ in (
        {"LEDGER_URL": right},
        {"LEDGER_URL_FILE": str(tmp_path / "url")},
        {"LEDGER_URL": guarded, "PGPASSWORD": SECRET},
        {"LEDGER_URL": guarded, "PGPASSFILE": str(tmp_path / "pgpass")},
        {"LEDGER_URL": f"{guarded}?passfile={tmp_path / 'pgpass'}"},
    ):
        ended = await in_process(environ, "departments", "list")
        assert ended.err.startswith("there is no ledger at postgresql://127.0.0.1:")


async def test_a_new_password_is_read_when_the_old_one_is_refused(servers: Servers, tmp_path: Path):
    file, reports = tmp_path / "url", list[str | None]()
    with fresh_database(servers.url()) as url, psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE rotated LOGIN PASSWORD 'old' IN ROLE {NEEDS_PASSWORD}")
        admin.execute("GRANT CREATE ON SCHEMA public TO rotated")
        file.write_text(url.replace("postgres@", "rotated:old@"))
        settings = load(LedgerSettings, {"LEDGER_URL_FILE": str(file)})
        newest = rotating(settings, "ledger_url", lambda _, why_kept: reports.append(why_kept)).read_again
        async with open_ledger(settings.ledger_url, read_again=newest) as opened:
            await opened.ledger.bind("owner", "MA1")
            admin.execute("ALTER ROLE rotated PASSWORD 'new'")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'")
            with pytest.raises(LedgerFailed):
                await fails_to_bind(opened)
            file.write_text(url.replace("postgres@", "rotated:new@"))
            await opened.ledger.bind("owner", "MA1")
    assert reports == [None]


async def fails_to_bind(opened: OpenedLedger) -> None:
    """The first attempt may notice that the connection is lost, and the next one that the password is."""
    for _ in range(2):
        try:
            await opened.ledger.bind("owner", "MA1")
        except LedgerFailed as error:
            if "password authentication failed" in str(error):
                raise
