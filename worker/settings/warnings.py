"""What is not wrong with the settings but not safe either: files that others may read or write."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from yarl import URL

from worker.settings.model import PREFIX, WorkerSettings

SECRET_SETTINGS = ("AMQP_URL", "PLIVO_AUTH_TOKEN", f"{PREFIX}MANAGEMENT_URL")


def cautions(settings: WorkerSettings, environ: Mapping[str, str]) -> list[str]:
    """One line for each, with what to do."""
    return [*_of_files(settings, environ), *_of_recipients(settings), *_of_ledger(settings.ledger)]


def others_may(path: Path, permission: int) -> bool:
    """Whether anybody on this machine may; False where that cannot be told."""
    try:
        return bool(path.stat().st_mode & permission)
    except OSError:
        return False


def _of_files(settings: WorkerSettings, environ: Mapping[str, str]) -> Iterator[str]:
    for what, path in _private_files(settings, environ):
        if others_may(path, stat.S_IROTH):
            yield f"{what} can be read by everybody on this machine: chmod 600 {path}"


def _private_files(settings: WorkerSettings, environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    for name in SECRET_SETTINGS:
        if path := environ.get(f"{name}_FILE"):
            yield f"{name}_FILE", Path(path)
    for url in settings.amqp_url:
        if path := URL(url).query.get("keyfile"):
            yield "the keyfile of AMQP_URL", Path(path)
    yield "the signing key", settings.signing_key_path


def _of_recipients(settings: WorkerSettings) -> Iterator[str]:
    if settings.recipients is None:
        return
    path = settings.recipients.path.absolute()
    for place in (path, path.parent):
        if others_may(place, stat.S_IWOTH):
            yield f"everybody on this machine may make themselves a recipient: chmod o-w {place}"


def _of_ledger(ledger: Path) -> Iterator[str]:
    folder = ledger.absolute().parent
    if others_may(folder, stat.S_IWOTH):
        yield f"everybody on this machine may put files beside the ledger: chmod o-w {folder}"
    if others_may(ledger, stat.S_IROTH):
        yield f"the ledger can be read by everybody on this machine: chmod 600 {ledger}"
