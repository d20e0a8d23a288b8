"""RabbitMQ of another release comes from the cache if it can; a failure is one line with the remedy."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.rabbitmq_of import LOOK_UP_AGAIN_SECONDS, MADE_BY, READY, cache_folder

PROJECT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:1/debian"


@pytest.fixture(autouse=True)
def _without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DEBIAN_MIRROR", NOBODY)


def fetched(version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.support.rabbitmq_of", version],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


def known(name: str, age_seconds: float) -> Path:
    """A folder that was finished and last looked up so long ago."""
    ready = cache_folder() / name / READY
    ready.parent.mkdir(parents=True)
    ready.touch()
    then = time.time() - age_seconds
    os.utime(ready, (then, then))
    return ready.parent


def test_without_network_the_failure_is_one_line():
    (cache_folder() / f"trixie-{MADE_BY}-not-finished" / "usr").mkdir(parents=True)
    output = fetched("4.0")
    assert (output.returncode, output.stdout) == (1, "")
    (line,) = output.stderr.splitlines()
    assert line.startswith("RabbitMQ 4.0 cannot be fetched: ")
    assert any(cause in line for cause in (NOBODY, "debian-archive-keyring", "apt-get is missing"))


def test_the_newest_folder_of_the_release_is_used_for_a_week():
    known(f"trixie-{MADE_BY}-old", 3600)
    newest = known(f"trixie-{MADE_BY}-new", 60)
    known("forky-other", 1)
    output = fetched("4.0")
    assert (output.returncode, output.stdout, output.stderr) == (0, f"{newest}\n", "")


def test_a_failed_look_up_goes_on_with_the_folder_from_the_cache():
    old = known(f"trixie-{MADE_BY}-old", LOOK_UP_AGAIN_SECONDS + 60)
    output = fetched("4.0")
    assert (output.returncode, output.stdout) == (0, f"{old}\n")
    assert output.stderr.endswith(f"; going on with {old}\n")


def test_an_unknown_version_is_a_usage_error():
    output = fetched("5.0")
    assert output.returncode == 2
    assert output.stderr == "RabbitMQ '5.0' is not known: give one of 3.10, 4.0, 4.3\n"
