"""Programs for the tests: those on the PATH, or Debian's, unpacked into the user's cache.

Of a package only its programs are used. Nothing is installed, and no rights are needed.
"""

import os
import shutil
from pathlib import Path

from tests.support.nodes import skip_or_fail
from tests.support.rabbitmq_of import Apt, RabbitMQUnavailable, cache_folder, locked, unpack


def debian_program(name: str, package: str, release: str) -> Path:
    """The path of the program. Skips the test where it cannot be had; in CI that is a failure."""
    if found := shutil.which(name):
        return Path(found)
    cache = cache_folder().with_name("programs")
    try:
        folder = _fetched(cache, package, release)
    except RabbitMQUnavailable as error:
        skip_or_fail(f"there is no {name}, and it cannot be fetched: {error}")
    return next(path for path in folder.glob(f"usr/**/{name}") if path.is_file() and os.access(path, os.X_OK))


def _fetched(cache: Path, package: str, release: str) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{package}-{release}"
    with locked(cache / "lock"):
        if not folder.exists():
            apt = Apt(cache / f"{release}.apt", release)
            apt.update()
            unpacked = cache / "unpacked"
            shutil.rmtree(unpacked, ignore_errors=True)
            unpack(apt.downloaded([package]), unpacked)
            unpacked.rename(folder)
    return folder
