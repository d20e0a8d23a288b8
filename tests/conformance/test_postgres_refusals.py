"""Errors of PostgreSQL in one line: what a person can do, and whether to try again."""

import psycopg
import pytest
from psycopg import errors

from worker.adapters.postgres.refusals import refused
from worker.ports import LedgerFailed, LedgerUnusable

AT = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '
AWAY = "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?"


def several(*reasons: str) -> str:
    """As psycopg tells of attempts at several servers."""
    each = "\n".join(
        f"- host: '10.0.0.{n}', port: '5432', hostaddr: None: {AT}{why}" for n, why in enumerate(reasons)
    )
    return f"{AT}{reasons[-1]}\nMultiple connection attempts failed. All failures were:\n{each}"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (f'{AT}FATAL:  password authentication failed for user "u"', "correct the user or the password"),
        (f"{AT}fe_sendauth: no password supplied", "correct the user or the password"),
        (f'{AT}FATAL:  role "u" is not permitted to log in', "make the user"),
        (f'{AT}FATAL:  role "u" does not exist', "make the user"),
        (f'{AT}FATAL:  database "p" does not exist', "create the database"),
        (
            f'{AT}FATAL:  permission denied for database "p"\nDETAIL:  User does not have CONNECT privilege.',
            "grant the user CONNECT",
        ),
        (f'{AT}FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "u"', "let the server's pg_hba.conf"),
        (f"{AT}session is read-only", "it is a standby"),
        (f"{AT}server is in hot standby mode", "it is a standby"),
        (f"{AT}FATAL:  unsupported startup parameter in options: tcp_user_timeout", "a pooler stands"),
        (f'{AT}prepared statement "_pg3_1" does not exist', "a pooler stands"),
        (
            f'{AT}FATAL:  unrecognized configuration parameter "idle_session_timeout"',
            "PostgreSQL 14 or newer",
        ),
        (f"{AT}received invalid response to SSL negotiation: H", "something else than PostgreSQL"),
        (
            f"{AT}expected authentication request from server, but received H",
            "something else than PostgreSQL",
        ),
        (f"{AT}server does not support SSL, but SSL was required", "correct sslmode"),
        (f"{AT}SSL error: certificate verify failed", "correct sslmode"),
        (several("session is read-only", "session is read-only"), "it is a standby"),
    ],
)
def test_what_only_a_person_can_change_says_how(text, hint):
    error = refused(errors.OperationalError(text))
    assert isinstance(error, LedgerUnusable)
    assert str(error).startswith("the ledger cannot be opened: connection to server at")
    assert hint in str(error)
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{AT}{AWAY}", "Connection refused"),
        (f"{AT}FATAL:  the database system is starting up", "starting up"),
        ("failed to resolve host 'db': [Errno -2] Name or service not known", "failed to resolve host 'db'"),
        (several("session is read-only", AWAY), "session is read-only; connection to server"),
        ("", "the connection is closed"),
        (AT + "x" * 1000, "x" * 100),
    ],
)
def test_what_may_pass_by_itself_is_no_fault_of_the_settings(text, reason):
    error = refused(errors.OperationalError(text))
    assert type(error) is LedgerFailed
    assert str(error).startswith("the ledger cannot be reached: ")
    assert reason in str(error)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 500


def test_what_the_server_says_of_a_statement(postgres_database):
    with psycopg.connect(postgres_database) as connection:
        connection.execute("CREATE ROLE nobody_special")
        connection.execute("SET ROLE nobody_special")
        with pytest.raises(errors.InsufficientPrivilege) as refusal:
            connection.execute("CREATE TABLE departments (id text)")
        connection.rollback()
    error = refused(refusal.value)
    assert str(error).startswith(
        "the ledger cannot be opened: permission denied for schema public; let the user"
    )
