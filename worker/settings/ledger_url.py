"""The URL of the ledger: a file of SQLite, or a database of PostgreSQL.

`parse_ledger_url` raises `ValueError`; the text follows the name of the setting and quotes no secret.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path

from pydantic import SecretStr

from worker.core.visible import visible
from worker.settings.files import require_readable

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")
LARGEST_PORT = 65535

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
WRITABLE = ("read-write", "primary", "any")
READ_ONLY = ("read-only", "standby", "prefer-standby")
FILES = ("passfile", "sslrootcert", "sslcert", "sslkey")
"""Parameters of libpq that name a file."""

_NO_URL = (
    "is not a ledger URL; write sqlite:////absolute/path.db, or postgresql://user:password@host:5432/database"
)
_NOT_POSTGRES = (
    "is not a PostgreSQL URL; write postgresql://user:password@host:5432/database, with %40, %2F and %25 for"
    " @, / and % in the password"
)


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """A ledger in a file of this machine."""

    path: Path

    def __str__(self) -> str:
        """`sqlite:///provisioner.db`."""
        return f"{SQLITE}{self.path}"


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A ledger in a database of PostgreSQL. `conninfo`: the URL as libpq takes it, password included.

    What it leaves out, libpq takes from the environment (`PGPASSWORD`, `PGPASSFILE`, `PGSSLMODE` …).
    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
    """

    conninfo: SecretStr

    def __str__(self) -> str:
        """`postgresql://user@host:5432/database`: without the password and other parameters."""
        found = self.parameters()
        login = f"{found['user']}@" if "user" in found else ""
        return visible(f"{POSTGRES[0]}{login}{self.place}/{self.database}")

    @property
    def database(self) -> str:
        """The name of the database; empty if it is that of the user."""
        return self.parameters().get("dbname", "")

    @property
    def place(self) -> str:
        """`db1:5432,db2:5432`: the servers; of those on this machine the folder of the socket, or nothing."""
        return ",".join(f"{host}:{port}" if port else host for host, port in servers(self.parameters()))

    def parameters(self) -> Mapping[str, str]:
        """The parameters by their names in libpq. Raises `ValueError` if the URL is none of PostgreSQL."""
        return _parameters(self.conninfo.get_secret_value())


LedgerUrl = SqliteUrl | PostgresUrl


def parse_ledger_url(text: str) -> LedgerUrl:
    """The URL of a ledger."""
    if text.startswith(SQLITE) and len(text) > len(SQLITE):
        return _sqlite(text.removeprefix(SQLITE))
    if text.startswith(POSTGRES):
        return _postgres(text)
    raise ValueError(_NO_URL)


def is_same_ledger(one: LedgerUrl, other: LedgerUrl) -> bool:
    """Whether both name the same file, or the same database on the same servers, whatever the login."""
    match one, other:
        case PostgresUrl(), PostgresUrl():
            return (one.place, one.database) == (other.place, other.database)
        case _:
            return one == other


def servers(parameters: Mapping[str, str]) -> list[tuple[str, str]]:
    """Host and port of each server; without a port, the default one."""
    hosts = (parameters.get("host") or parameters.get("hostaddr", "")).split(",")
    ports = parameters.get("port", "").split(",")
    if len(ports) == 1:  # one port is that of every host
        ports *= len(hosts)
    return list(zip_longest(hosts, ports, fillvalue=""))


def _sqlite(path: str) -> SqliteUrl:
    if path == ":memory:":
        raise ValueError(
            "is a ledger in memory, which a restart would lose; write sqlite:////absolute/path.db"
        )
    return SqliteUrl(Path(path))


def _postgres(text: str) -> PostgresUrl:
    found = _parameters(text)
    # Text after an unquoted @ or / in the password is read as a host, a port or a database.
    misplaced = any("@" in host.lstrip("@") for host, _ in servers(found)) or "@" in found.get("dbname", "")
    if misplaced or re.search(r"\s", text) or not all(map(_is_port, found.get("port", "").split(","))):
        raise ValueError(_NOT_POSTGRES)
    _choice(found, "sslmode", SSL_MODES)
    _choice(found, "target_session_attrs", WRITABLE + READ_ONLY)
    if (attrs := found.get("target_session_attrs")) in READ_ONLY:
        raise ValueError(
            f"asks for a server that takes no writes (target_session_attrs={attrs}); leave that parameter out"
        )
    for name in FILES:
        if (path := found.get(name)) and path != "system":  # sslrootcert=system is the machine's own store
            require_readable(name, Path(path))
    return PostgresUrl(SecretStr(text))


def _parameters(text: str) -> Mapping[str, str]:
    import psycopg  # noqa: PLC0415 - it takes 0.2 s, which no start without PostgreSQL needs
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    try:
        return {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except psycopg.Error as error:
        known = [option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()]
        raise ValueError(_meant(str(error), known) or _NOT_POSTGRES) from None


def _meant(error: str, known: Iterable[str]) -> str | None:
    """A line about a misspelt parameter. Text that resembles no parameter may be part of a password."""
    unknown = re.search(r'invalid URI query parameter: "([^"]*)"', error)
    close = get_close_matches(unknown[1], list(known), 1) if unknown else []
    return f"has a parameter that PostgreSQL does not know; did you mean {close[0]}?" if close else None


def _is_port(text: str) -> bool:
    return not text or (text.isdecimal() and 0 < int(text) <= LARGEST_PORT)


def _choice(found: Mapping[str, str], name: str, choices: Iterable[str]) -> None:
    if found.get(name, next(iter(choices))) not in choices:
        raise ValueError(f"has an unknown {name}; write one of {', '.join(choices)}")
