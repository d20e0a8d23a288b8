"""URLs of ledgers: which are accepted, what is shown of them, and what is said of those that are refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from worker.settings.ledger_url import LedgerUrl, PostgresUrl, SqliteUrl, parse_ledger_url, servers
from worker.settings.load import SettingsError, load, rotating
from worker.settings.model import LedgerSettings, SealingSettings, WorkerSettings
from worker.settings.show import described
from worker.settings.warnings import warnings_about

SECRET = "s3cr3t-0123456789"
NEEDED = {"PLIVO_AUTH_ID": "MA1", "PLIVO_AUTH_TOKEN": "token"}
REMOTE = f"postgresql://u:{SECRET}@db/p"
CRM = {"kty": "OKP", "crv": "X25519", "x": "AAAA", "use": "enc", "kid": "crm"}
SIGNER = {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "d": "AAAA", "kid": "provisioner.1"}


def chosen(url: str) -> LedgerUrl:
    return load(LedgerSettings, {"LEDGER_URL": url}).ledger_url


def mistakes(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as refusal:
        load(WorkerSettings, NEEDED | environ)
    assert refusal.value.exit_code == 2
    assert SECRET not in str(refusal.value)
    return str(refusal.value).splitlines()


def test_a_file_of_sqlite():
    assert chosen("sqlite:///a/b.db") == SqliteUrl(Path("a/b.db"))
    assert chosen("sqlite:////var/a.db") == SqliteUrl(Path("/var/a.db"))
    assert str(chosen("sqlite:////var/a.db")) == "sqlite:////var/a.db"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://u:{SECRET}@db/p", "postgresql://u@db/p"),
        (f"postgres://u:{SECRET}@db:6432/p", "postgresql://u@db:6432/p"),
        (f"postgresql://u@a,b:5433/p?password={SECRET}&sslmode=verify-full", "postgresql://u@a,b:5433/p"),
        ("postgresql://a:1,b:2/p?target_session_attrs=primary", "postgresql://a:1,b:2/p"),
        (f"postgresql://u:{SECRET}%40%2F%3F%23@[::1]:5432/p", "postgresql://u@::1:5432/p"),
        ("postgresql:///p?host=/run/postgresql&user=u", "postgresql://u@/run/postgresql/p"),
        ("postgresql://a,b/p?port=6432&sslrootcert=system", "postgresql://a:6432,b:6432/p"),
        ("postgresql:///p?service=ledger", "postgresql:///p"),
        ("postgresql://", "postgresql:///"),
    ],
)
def test_a_database_of_postgresql_is_shown_without_its_password(url, shown):
    found = chosen(url)
    assert isinstance(found, PostgresUrl)
    assert found.conninfo.get_secret_value() == url
    assert str(found) == shown
    assert SECRET not in repr(found)
    assert SECRET not in repr(load(LedgerSettings, {"LEDGER_URL": url}))


def test_the_url_may_come_from_a_file(tmp_path):
    file = tmp_path / "url"
    file.write_text(f"{REMOTE}\n")
    assert load(LedgerSettings, {"LEDGER_URL_FILE": str(file)}).ledger_url == chosen(REMOTE)


def test_only_the_login_of_a_ledger_changes_without_a_restart(tmp_path):
    file = tmp_path / "url"
    file.write_text("postgresql://u:old@db/p")
    reports: list[str | None] = []
    settings = load(LedgerSettings, {"LEDGER_URL_FILE": str(file)})
    url = rotating(settings, "ledger_url", lambda _, why_kept: reports.append(why_kept))
    file.write_text(f"postgresql://v:{SECRET}@db/p?sslmode=require")
    assert url.read_again() == parse_ledger_url(f"postgresql://v:{SECRET}@db/p?sslmode=require")
    for other in (
        "postgresql://db/other",
        "postgresql://other/p",
        "sqlite:///p",
        f"postgres://u:{SECRET}@db:x/p",
    ):
        file.write_text(other)
        assert str(url.read_again()) == "postgresql://v@db/p"
    changed, *kept = reports
    assert changed is None
    assert kept[0] == (
        "LEDGER_URL_FILE names another ledger (postgresql://db/other) than the one in use: restore it,"
        " or restart"
    )
    assert len(kept) == 4
    assert SECRET not in str(kept)


NO_URL = "is not a ledger URL; write sqlite:////absolute/path.db, or postgresql://"
NOT_POSTGRES = "is not a PostgreSQL URL; write postgresql://user:password@host:5432/database"


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("a.db", NO_URL),
        ("sqlite:///", NO_URL),
        ("sqlite://a", NO_URL),
        (f"mysql://u:{SECRET}@db/p", NO_URL),
        (f"postgresql+asyncpg://u:{SECRET}@db/p", NO_URL),
        (f"host=db password={SECRET}", NO_URL),
        ("sqlite:///:memory:", "is a ledger in memory, which a restart would lose"),
        (f"postgresql://u:{SECRET}@more@db/p", NOT_POSTGRES),
        (f"postgresql://u:{SECRET}/more@db/p", NOT_POSTGRES),
        (f"postgresql://u:1/{SECRET}@db/p", NOT_POSTGRES),
        (f"postgresql://u:/{SECRET}?more@db/p", NOT_POSTGRES),
        (f"postgresql://u:%{SECRET}@db/p", NOT_POSTGRES),
        (f"postgresql://u:{SECRET} @db/p", NOT_POSTGRES),
        (f"postgresql://u:{SECRET}@db:port/p", NOT_POSTGRES),
        (f"postgresql://u:{SECRET}@db:65536/p", NOT_POSTGRES),
        (f"postgresql://u:{SECRET}@[::1/p", NOT_POSTGRES),
        (f"postgresql://u@db/p?{SECRET}", NOT_POSTGRES),
        (f"{REMOTE}?sslmod=require", "has a parameter that PostgreSQL does not know; did you mean sslmode?"),
        (f"{REMOTE}?sslmode=yes", "has an unknown sslmode; write one of disable, allow, prefer, require"),
        (f"{REMOTE}?target_session_attrs=rw", "has an unknown target_session_attrs; write one of read-write"),
        (
            f"{REMOTE}?target_session_attrs=prefer-standby",
            "asks for a server that takes no writes (target_session_attrs=prefer-standby)",
        ),
        (f"{REMOTE}?sslrootcert=/no/ca.pem", "names a sslrootcert that cannot be read: No such file"),
        (f"{REMOTE}?passfile=/no/pgpass", "names a passfile that cannot be read: No such file"),
    ],
)
def test_a_wrong_url_is_one_line_without_its_password(url, line):
    (found,) = mistakes(LEDGER_URL=url)
    assert found.startswith(f"LEDGER_URL {line}")


PASSWORDS = st.text(st.sampled_from("@/:?#%&=[],+ ") | st.characters(exclude_characters="\0"), min_size=1)


@given(PASSWORDS, st.sampled_from(["user", "host,other", "[::1]:1", ""]))
def test_no_password_is_shown_however_it_is_written(password, host):
    """Quoted it is accepted; as it is it may be refused, and is shown in neither case."""
    password = f"{SECRET}{password}{SECRET}"
    quoted = str(URL.build(scheme="postgresql", user="u", password=password, host="h", path="/p"))
    assert str(parse_ledger_url(quoted)) == "postgresql://u@h/p"
    try:
        shown = str(parse_ledger_url(f"postgresql://u:{password}@{host}/p"))
    except ValueError as error:
        shown = str(error)
    assert SECRET not in shown


def test_one_port_is_that_of_every_host():
    assert servers({"host": "a,b", "port": "6432"}) == [("a", "6432"), ("b", "6432")]
    assert servers({"host": "a,b", "port": "1,"}) == [("a", "1"), ("b", "")]
    assert servers({}) == [("", "")]


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """The settings of sealed credentials, without a signing key."""
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [CRM]}))
    return {"PROVISIONER_RECIPIENTS": str(file)}


def test_a_default_signing_key_is_beside_a_file_only(keys):
    beside = load(SealingSettings, {"LEDGER_URL": "sqlite:////var/a.db", **keys}).signing_key_path
    assert beside == Path("/var/a.db.signing-key.json")
    assert load(SealingSettings, {"LEDGER_URL": REMOTE}).signing_key_path is None


def test_workers_that_seal_need_one_signing_key_with_postgresql(keys, tmp_path):
    (line,) = mistakes(LEDGER_URL=REMOTE, **keys)
    assert line.startswith(
        "PROVISIONER_SIGNING_KEY is not set: with a PostgreSQL ledger all workers share one"
    )
    file = tmp_path / "signing.json"
    file.write_text(json.dumps(SIGNER))
    both = {"LEDGER_URL": REMOTE, "PROVISIONER_SIGNING_KEY": str(file), **keys}
    assert load(WorkerSettings, NEEDED | both).signing_key_path == file


VERIFY = "the PostgreSQL server is not verified"


@pytest.mark.parametrize(
    ("url", "environ", "warned"),
    [
        (REMOTE, {}, True),
        (f"{REMOTE}?sslmode=require", {}, True),
        ("postgresql://127.0.0.1,db/p", {}, True),
        ("postgresql:///p", {"PGHOST": "db"}, True),
        (f"{REMOTE}?sslmode=verify-full", {}, False),
        (REMOTE, {"PGSSLMODE": "verify-ca"}, False),
        ("postgresql://localhost:5433/p", {}, False),
        ("postgresql:///p", {}, False),
        ("postgresql:///p?host=/run/postgresql", {}, False),
    ],
)
def test_a_server_that_is_not_verified_warns(url, environ, warned):
    assert [line.startswith(VERIFY) for line in warnings(LEDGER_URL=url, **environ)] == [True] * warned


def test_files_with_a_password_must_be_closed(tmp_path):
    local = "postgresql://127.0.0.1/p"
    url, passwords = tmp_path / "url", tmp_path / "pgpass"
    for file in (url, passwords):
        file.write_text(local)
        file.chmod(0o604)
    environ = {"LEDGER_URL_FILE": str(url), "PGPASSFILE": str(passwords)}
    assert warnings(**environ) == [
        f"LEDGER_URL_FILE can be read by everybody on this machine: chmod 600 {url}",
        f"PGPASSFILE is ignored by libpq, since others may read it: chmod 600 {passwords}",
    ]
    url.chmod(0o600)
    passwords.chmod(0o600)
    assert warnings(**environ) == []
    passwords.chmod(0o640)
    assert len(warnings(LEDGER_URL=f"{local}?passfile={passwords}")) == 1


def warnings(**environ: str) -> list[str]:
    given = {"PROVISIONER_PLAINTEXT_SECRETS": "true", **NEEDED, **environ}
    return warnings_about(load(WorkerSettings, given), given)


def test_the_default_is_shown_as_a_url():
    (default,) = [default for name, default, _ in described(LedgerSettings) if name == "LEDGER_URL"]
    assert default == "sqlite:///provisioner.db"
