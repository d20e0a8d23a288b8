"""The wheel: installed by pip and by uv into an empty environment, it runs the demo."""

import os
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.nodes import skip_or_fail
from tests.support.uv import find_uv

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.timeout(900), pytest.mark.no_cover, pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def uv() -> str:
    return find_uv() or skip_or_fail("there is no uv: `tests/run lint` installs it")


@pytest.fixture(scope="module")
def wheel(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    called(uv, "build", "--wheel", "--out-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


def called(*command: str | Path, **environ: str) -> str:
    done = subprocess.run(
        command,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | environ,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def demonstrates(command: Sequence[str | Path]) -> None:
    assert called(*command, "--version").startswith("provisioner ")
    assert "15 steps" in called(*command, "demo", "--memory")


def test_pip_installs_it(wheel: Path, tmp_path: Path):
    venv.create(tmp_path / "empty", with_pip=True)
    called(tmp_path / "empty/bin/pip", "install", "--disable-pip-version-check", "--no-compile", wheel)
    demonstrates([tmp_path / "empty/bin/provisioner"])


def test_uv_tool_installs_it(uv: str, wheel: Path, tmp_path: Path):
    folders = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    called(uv, "tool", "install", "--python", "python3", wheel, **folders)
    demonstrates([tmp_path / "bin/provisioner"])
