"""Warnings about valid settings and file modes that are insecure."""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from yarl import URL

from worker.settings.ledger_url import LedgerUrl, PostgresUrl, SqliteUrl, servers
from worker.settings.model import BrokerSettings, IntakeSettings, WorkerSettings
from worker.settings.parse import PREFIX, is_loopback

SECRET_SETTINGS = ("AMQP_URL", "PLIVO_AUTH_TOKEN", "PLIVO_PROXY_URL", f"{PREFIX}MANAGEMENT_URL")
VERIFIED = ("verify-ca", "verify-full")


def warnings_about(settings: WorkerSettings, environ: Mapping[str, str]) -> list[str]:
    """One line for each risk, with the command that removes it."""
    return [*exposures(settings, environ), *shared_owner(settings)]


def exposures(settings: WorkerSettings, environ: Mapping[str, str]) -> list[str]:
    """One line for each secret that others can read, and each peer that is not verified."""
    return [
        *_about_files(settings, environ),
        *_about_recipients(settings),
        *_about_ledger(settings.ledger_url, environ),
        *_about_unencrypted(settings),
    ]


def intake_exposures(
    settings: IntakeSettings, environ: Mapping[str, str], secrets: Iterable[Path]
) -> list[str]:
    """One line for each secret of the intake that others can read. `secrets`: the files of the profiles."""
    files = [*_login_files(settings, environ, ("AMQP_URL",)), *(("a secret", path) for path in secrets)]
    if settings.intake_tokens is not None:
        files.append((f"{PREFIX}INTAKE_TOKENS", settings.intake_tokens))
    return list(_open_to_read(files))


def others_may(path: Path, permission: int) -> bool:
    """Whether a file's mode grants a permission to all users; False if the mode cannot be read.

    `permission` is `stat.S_IROTH` or `stat.S_IWOTH`. Nobody writes to what is mounted read-only:
    Kubernetes mounts secrets so, in a folder of mode 1777.
    """
    try:
        if permission == stat.S_IWOTH and os.statvfs(path).f_flag & os.ST_RDONLY:
            return False
        return bool(path.stat().st_mode & permission)
    except OSError:
        return False


def is_open(path: Path) -> bool:
    """Whether a file's mode grants others or its group anything; False if the mode cannot be read."""
    try:
        return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
    except OSError:
        return False


def _about_files(settings: WorkerSettings, environ: Mapping[str, str]) -> Iterator[str]:
    yield from _open_to_read(_private_files(settings, environ))


def _open_to_read(files: Iterable[tuple[str, Path]]) -> Iterator[str]:
    for what, path in files:
        if others_may(path, stat.S_IROTH):
            yield f"{what} can be read by everybody on this machine: chmod 600 {path}"


def _private_files(settings: WorkerSettings, environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    has_password = isinstance(settings.ledger_url, PostgresUrl)
    yield from _login_files(settings, environ, (*SECRET_SETTINGS, *(["LEDGER_URL"] if has_password else [])))
    if settings.signing_key_path is not None:
        yield "the signing key", settings.signing_key_path


def _login_files(
    settings: BrokerSettings, environ: Mapping[str, str], names: Iterable[str]
) -> Iterator[tuple[str, Path]]:
    for name in names:
        if path := environ.get(f"{name}_FILE"):
            yield f"{name}_FILE", Path(path)
    for url in settings.amqp_url:
        if path := URL(url).query.get("keyfile"):
            yield "the keyfile of AMQP_URL", Path(path)


def _about_recipients(settings: WorkerSettings) -> Iterator[str]:
    if settings.recipients is None:
        return
    path = settings.recipients.path.absolute()
    for place in (path, path.parent):
        if others_may(place, stat.S_IWOTH):
            yield f"everybody on this machine may make themselves a recipient: chmod o-w {place}"


def _about_ledger(url: LedgerUrl, environ: Mapping[str, str]) -> Iterator[str]:
    match url:
        case SqliteUrl(path):
            yield from _about_ledger_file(path)
        case PostgresUrl():
            yield from _about_database(url, environ)


def _about_ledger_file(path: Path) -> Iterator[str]:
    folder = path.absolute().parent
    if others_may(folder, stat.S_IWOTH):
        yield f"everybody on this machine may put files beside the ledger: chmod o-w {folder}"
    if others_may(path, stat.S_IROTH):
        yield f"the ledger can be read by everybody on this machine: chmod 600 {path}"


def _about_database(url: PostgresUrl, environ: Mapping[str, str]) -> Iterator[str]:
    """Whether its server is verified, and whether libpq will read the file of passwords."""
    defaults = {"host": environ.get("PGHOST", ""), "sslmode": environ.get("PGSSLMODE", "")}
    found = {**defaults, **url.parameters()}
    remote = [host for host, _ in servers(found) if not host.startswith("/") and not is_loopback(host)]
    if any(remote) and found["sslmode"] not in VERIFIED:
        yield (
            "the PostgreSQL server is not verified, so anyone on the way could pose as it: add"
            " sslmode=verify-full&sslrootcert=FILE to LEDGER_URL"
        )
    passwords = found.get("passfile") or environ.get("PGPASSFILE")
    if passwords and is_open(Path(passwords)):
        yield f"PGPASSFILE is ignored by libpq, since others may read it: chmod 600 {passwords}"


def _about_unencrypted(settings: WorkerSettings) -> Iterator[str]:
    """Whether the token of the account goes over a network in the clear, to a server that nobody verifies.

    The broker is left out: many run it without TLS in a network of their own.
    """
    url = URL(settings.plivo_api_url)
    if url.scheme == "http" and not is_loopback(url.host or ""):
        yield "PLIVO_API_URL has no TLS, so anyone on the way can read the auth token: write https://"


def shared_owner(settings: WorkerSettings) -> Iterator[str]:
    """Tags depend on the owner, so two deployments of one owner find each other's subaccounts."""
    if settings.namespace.prefix and settings.owner == WorkerSettings.model_fields["owner"].default:
        yield (
            f"{PREFIX}NAMESPACE is set and {PREFIX}OWNER is not: a deployment of the same owner on this Plivo"
            f" account takes over the same subaccounts; set {PREFIX}OWNER unless there is none"
        )
