"""The Dockerfile: under hadolint, and carried out and run as far as that goes without a container engine."""

import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.deploy.image import DOCKERFILE, ROOT, Stage, Unbuildable, build, instructions, require_mounts
from tests.support.nodes import skip_or_fail
from worker.demo.private_node import Ports

pytestmark = [pytest.mark.timeout(900), pytest.mark.no_cover]

SETTINGS = {  # of servers that are not there
    "AMQP_URL": "amqp://127.0.0.1:1/",
    "PLIVO_API_URL": "http://127.0.0.1:1",
    "PLIVO_AUTH_ID": "MASANDBOX00000000000",
    "PLIVO_AUTH_TOKEN": "sandbox",
}


def test_hadolint_has_nothing_to_say(tmp_path: Path):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text(f"{DOCKERFILE.read_text()}\nRUN cd / && apt-get install curl\n")
    assert subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, check=False).returncode


def test_the_lock_file_decides_what_is_installed():
    runs = " ".join(rest for name, rest in instructions(DOCKERFILE.read_text()) if name == "RUN")
    assert all("--frozen" in sync for sync in re.findall(r"uv sync.*?(?= /|$)", runs))
    (uv,) = re.findall(r"ARG UV_VERSION=(.*)", DOCKERFILE.read_text())
    (backend,) = re.findall(
        r'requires = \["uv_build>=([\d.]+),<([\d.]+)"\]', (ROOT / "pyproject.toml").read_text()
    )
    least, below = ([int(part) for part in one.split(".")] for one in backend)
    assert (
        least <= [int(part) for part in uv.split(".")] < below
    )  # else the backend would be fetched, unpinned


def test_the_builder_is_sent_what_the_image_is_built_from_and_nothing_else():
    ignored, *lines = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()[1:]
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copies = [rest.split()[:-1] for name, rest in instructions(DOCKERFILE.read_text()) if name == "COPY"]
    assert ignored == "*"
    assert sent == {word for words in copies if not words[0].startswith("--from") for word in words}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("image")
    try:
        require_mounts(folder)
    except Unbuildable as reason:
        skip_or_fail(str(reason))
    return build(folder)


def run(image: Stage, command: Sequence[str]) -> "subprocess.Popen[str]":
    return image.process(command, SETTINGS, read_only=True)


def output(image: Stage, *command: str) -> str:
    process = run(image, command)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return out


def check_that_it_runs_as_a_user_without_rights_on_a_read_only_root(image: Stage):
    assert output(image, "sh", "-c", "id -u && id -G").split() == ["10001", "10001"]
    assert "Read-only file system" in output(image, "sh", "-c", "touch /opt/provisioner/x 2>&1 || true")
    assert output(image, "sh", "-c", "touch x && pwd").strip() == "/var/lib/provisioner"


def check_that_it_has_what_it_needs_and_no_tool_of_the_build(image: Stage):
    assert output(image, *image.entrypoint, "--version").startswith("provisioner ")
    listed = {path.name for path in (image.files / "opt/provisioner/bin").iterdir()}
    assert "provisioner" in listed
    assert not {"uv", "pytest", "pip"} & listed
    assert not (image.files / "uv").exists()
    assert not (image.files / "build").exists()


def check_that_the_demo_runs_in_it(image: Stage):
    assert "demo" in output(image, *image.entrypoint, "demo", "--memory").lower()


def check_that_its_health_is_that_of_the_worker_and_sigterm_ends_it(image: Stage):
    """The worker waits for RabbitMQ, which is not there: it is alive."""
    image.environ["PROVISIONER_HTTP"] = f"0.0.0.0:{Ports.free().amqp}"
    with run(image, [*image.entrypoint, *image.command]) as worker:
        try:
            while not is_healthy(image):
                assert worker.poll() is None, worker.communicate()[0]
            worker.send_signal(signal.SIGTERM)
            out, _ = worker.communicate()
            assert worker.returncode == 0, out
        finally:
            worker.kill()
    assert not is_healthy(image)


def test_the_image_runs_as_a_container_does(image: Stage):
    """One test, since it takes a while to build."""
    check_that_it_runs_as_a_user_without_rights_on_a_read_only_root(image)
    check_that_it_has_what_it_needs_and_no_tool_of_the_build(image)
    check_that_the_demo_runs_in_it(image)
    check_that_its_health_is_that_of_the_worker_and_sigterm_ends_it(image)


def is_healthy(image: Stage) -> bool:
    process = run(image, image.health)
    process.communicate()
    return process.returncode == 0
