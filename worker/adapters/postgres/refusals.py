"""Errors of PostgreSQL as one line for people, with what to do about them."""

import re
from collections.abc import Iterator

import psycopg
from psycopg import errors

from worker.ports import LedgerFailed, LedgerUnusable

LONGEST_REASON = 400

_LOGIN = (
    "correct the user or the password in LEDGER_URL, LEDGER_URL_FILE, PGPASSWORD or PGPASSFILE (of mode 600)"
)
_HINTS = {
    r"no password supplied|authentication failed": _LOGIN,
    r'role ".*" (does not exist|is not permitted to log in)': "make the user, or correct it in LEDGER_URL",
    r'database ".*" does not exist': "create the database, or name another one in LEDGER_URL",
    r'permission denied for database ".*"': "grant the user CONNECT on the database",
    r"no pg_hba.conf entry": "let the server's pg_hba.conf accept this host and user",
    r"session is read-only|server is in hot standby mode": (
        "it is a standby, or set to take no writes; LEDGER_URL must name the primary"
    ),
    r"unsupported startup parameter": "a pooler stands in between; LEDGER_URL must name PostgreSQL itself",
    r'prepared statement ".*" (does not exist|already exists)': (
        "a pooler stands in between; LEDGER_URL must name PostgreSQL itself"
    ),
    r"unrecognized configuration parameter": "PostgreSQL 14 or newer is needed",
    r"invalid response to SSL negotiation|expected authentication request": (
        "something else than PostgreSQL listens there; correct host and port in LEDGER_URL"
    ),
    r"does not support SSL|certificate|private key file|SSL error": (
        "correct sslmode and the files of certificates in LEDGER_URL, or the server's certificate"
    ),
    r"permission denied for (schema|table|sequence|function)|must be owner of": (
        "let the user own the schema, or grant CREATE on it; every worker has the same user"
    ),
}
"""Advice, by words of the server and of libpq, which tells no code. The first that match count."""

_EACH_SERVER = re.compile(r"^- host: .*?: (?=connection|failed)", re.MULTILINE)
"""The begin of the line about one server, in an error about several."""


def refused(error: psycopg.Error) -> LedgerFailed:
    """The error of a connection or of a migration that failed.

    `LedgerUnusable` if only other settings help, or an administrator; else it may work later. Of several
    servers each has to refuse for the same reason: at a failover one is a standby, and another one is away.
    """
    reasons = list(dict.fromkeys(_reasons(error)))
    hints = {_hint(reason) for reason in reasons}
    text = "; ".join(reasons)
    match list(hints):
        case [str(hint)]:
            return LedgerUnusable(f"the ledger cannot be opened: {text}; {hint}")
        case _:
            return LedgerFailed(f"the ledger cannot be reached: {text}")


def reason_of(error: psycopg.Error) -> str:
    """The error in one line."""
    return _line(error.diag.message_primary or str(error))


def _reasons(error: psycopg.Error) -> Iterator[str]:
    """The text of each server."""
    if isinstance(error, errors.OperationalError) and error.sqlstate is None:
        _, *servers = _EACH_SERVER.split(str(error))
        yield from map(_line, servers or [str(error)])
    else:
        yield reason_of(error)


def _line(text: str) -> str:
    """One line, without libpq's question whether the server is running. libpq may have no words."""
    text = " ".join(text.partition("\n\tIs the server running")[0].split())
    text = re.sub(r"^connection (failed|is bad): ", "", text)
    if not text:
        return "the connection is closed"
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


def _hint(reason: str) -> str | None:
    return next((hint for words, hint in _HINTS.items() if re.search(words, reason)), None)
