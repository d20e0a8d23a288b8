"""Prometheus and promtool for the tests: those on the PATH, or Debian's, unpacked into the user's cache.

Of Debian's package only the two programs are used. Nothing is installed, and no rights are needed.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.rabbitmq_of import Apt, RabbitMQUnavailable, cache_folder, locked, unpack

RELEASE = "bookworm"


def prometheus_folder() -> Path:
    """The folder with the programs. Skips the test where there is none; in CI that is a failure."""
    if found := shutil.which("promtool"):
        return Path(found).parent
    cache = cache_folder().with_name("prometheus")
    try:
        return _fetched(cache)
    except RabbitMQUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"there is no promtool, and it cannot be fetched: {error}")


def _fetched(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / RELEASE
    with locked(cache / "lock"):
        if not folder.exists():
            apt = Apt(cache / "apt", RELEASE)
            apt.update()
            unpacked = cache / "unpacked"
            shutil.rmtree(unpacked, ignore_errors=True)
            unpack(apt.downloaded(["prometheus"]), unpacked)
            unpacked.rename(folder)
    return folder / "usr/bin"
