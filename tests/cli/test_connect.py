"""contracts/CONNECT.md: a newcomer who follows it has a profile that works."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from worker.core.intake.mapping import map_received
from worker.core.intake.parsing import _ALL_AUTH_KEYS, _KEYS
from worker.core.intake.profile import Handshakes
from worker.core.intake.proof import verify
from worker.core.intake.received import Received
from worker.settings.sources import load_sources

PAGE = (Path(__file__).parents[2] / "contracts/CONNECT.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for found, text in BLOCKS if found == language]


@pytest.fixture
def folder(tmp_path):
    """The folder of a reader who has done what the page says before its commands."""
    (payload,), (profile,) = blocks("json"), blocks("yaml")
    (tmp_path / "payload.json").write_text(payload)
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/northwind.yaml").write_text(profile)
    return tmp_path


def shell(folder, script):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-ec", script],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_commands_work_in_order(folder):
    prepare, check, send = blocks("sh")
    sign = send.partition("curl ")[0]
    out = shell(folder, f'{prepare}\n{check}\n{sign}\necho "signature $signature"')

    assert re.search(r"/in/northwind +ok +1 +northwind.yaml +ok", out)
    assert re.search(r"department.created.v1 +42 +Sales +default +2026-11-01 08:30:00Z +3 ", out)
    assert re.search(r"department.removed.v1 +43 +Old ", out)
    assert "1 ignored" in out
    source = load_sources(folder / "sources")["northwind"]
    body = (folder / "payload.json").read_bytes()
    headers = {"x-northwind-signature": f"sha256={out.split()[-1]}"}
    received = Received(body, headers, datetime(2026, 11, 1, tzinfo=UTC))
    assert (secrets := source.secrets()) is not None
    assert verify(source.profile.auth, secrets.current(), received) == 0
    assert len(map_received(source.profile, received).events) == len(json.loads(body)["changes"]) - 1


def test_it_names_every_key():
    keys = PAGE.partition("## Keys")[2].partition("## Traps")[0]

    assert {key for key in (*_KEYS, *_ALL_AUTH_KEYS) if f"`{key}`" not in keys} == {"kind"}
    assert [kind for kind in Handshakes if f"`{kind}`" not in keys] == []
