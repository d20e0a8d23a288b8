"""The start of `provisioner intake`: each mistake is one line, and a broker that is away is waited for."""

import json
import socket
from pathlib import Path

import pytest

from tests.soak.intake import INTAKE
from tests.soak.worker_process import worker_process
from tests.support.commands import provisioner

NOWHERE = "amqp://guest:guest@127.0.0.1:1/"
TOKEN = "token-that-nobody-may-read"
OPEN = {
    "auth": {"kind": "none"},
    "id": "item.id",
    "name": "item.name",
    "time": "item.at",
    "samples": [
        {
            "body": {"id": "1", "name": "Sales", "at": "2026-11-01T08:30:00Z"},
            "events": [{"department_id": "1", "name": "Sales"}],
        }
    ],
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Settings with which the intake starts, on any free port of all addresses."""
    tokens, sources = tmp_path / "tokens", tmp_path / "sources"
    tokens.write_text(f"hr: {TOKEN}\n")
    tokens.chmod(0o600)
    sources.mkdir()
    return {
        "AMQP_URL": NOWHERE,
        "PROVISIONER_INTAKE": "0.0.0.0:0",
        "PROVISIONER_INTAKE_TOKENS": str(tokens),
        "PROVISIONER_SOURCES": str(sources),
    }


async def refused(environ: dict[str, str], code: int = 2) -> str:
    """The one line of a refused start, beside the log: it may have tried to reach the broker."""
    ended = await provisioner(environ, "intake")
    assert ended.code == code
    assert ended.out == ""
    assert TOKEN not in ended.err
    (line,) = (line for line in ended.err.splitlines() if not line.startswith("{"))
    return line


async def test_beyond_loopback_it_needs_tokens(environ: dict[str, str]):
    del environ["PROVISIONER_INTAKE_TOKENS"]
    line = await refused(environ)
    assert "PROVISIONER_INTAKE_TOKENS" in line
    assert "beyond loopback" in line


async def test_beyond_loopback_each_profile_needs_a_proof(environ: dict[str, str]):
    file = Path(environ["PROVISIONER_SOURCES"]) / "open.yaml"
    file.write_text(json.dumps(OPEN))
    assert (await refused(environ)).startswith("open.yaml: auth: none is for loopback")


async def test_on_loopback_a_profile_may_have_no_proof(environ: dict[str, str]):
    file = Path(environ["PROVISIONER_SOURCES"]) / "open.yaml"
    file.write_text(json.dumps(OPEN))
    del environ["PROVISIONER_INTAKE_TOKENS"]
    async with worker_process(
        environ | {"PROVISIONER_INTAKE": "127.0.0.1:0"}, INTAKE, "intake_started"
    ) as one:
        assert await one.stop() == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (TOKEN, "line 1: write `name: token`"),
        (f"hr: {TOKEN}\nb: {TOKEN}", "line 2: this token is there twice"),
    ],
)
async def test_a_wrong_file_of_tokens_is_named(environ: dict[str, str], content: str, told: str):
    Path(environ["PROVISIONER_INTAKE_TOKENS"]).write_text(content)  # noqa: ASYNC240 - a small file
    line = await refused(environ)
    assert line.startswith("PROVISIONER_INTAKE_TOKENS")
    assert told in line


async def test_a_missing_folder_of_profiles_is_named(environ: dict[str, str], tmp_path: Path):
    environ["PROVISIONER_SOURCES"] = str(tmp_path / "none")
    assert (await refused(environ)).startswith("PROVISIONER_SOURCES")


async def test_an_address_in_use_is_named(environ: dict[str, str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = await refused(environ | {"PROVISIONER_INTAKE": address}, code=2)
    assert "PROVISIONER_INTAKE" in line
    assert address in line


async def test_secrets_that_others_can_read_are_a_warning(environ: dict[str, str]):
    folder = Path(environ["PROVISIONER_SOURCES"])
    profile = OPEN | {"auth": {"kind": "bearer", "secret_file": "open.secret"}}
    (folder / "open.yaml").write_text(json.dumps(profile))
    (folder / "open.secret").write_text(f"{TOKEN}-of-a-profile\n")
    for file in (Path(environ["PROVISIONER_INTAKE_TOKENS"]), folder / "open.secret"):
        file.chmod(0o644)
    async with worker_process(environ, INTAKE, "intake_started") as one:
        assert await one.stop() == 0
    (unsafe,) = (line for line in one.log if line["event"] == "settings_unsafe")
    told = "\n".join(unsafe["details"])
    assert environ["PROVISIONER_INTAKE_TOKENS"] in told
    assert "open.secret" in told
    assert TOKEN not in json.dumps(one.log)
