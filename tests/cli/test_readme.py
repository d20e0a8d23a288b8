"""The README keeps its word."""

import re
from pathlib import Path

from typer.main import get_command

from worker.cli.app import app
from worker.settings.model import WorkerSettings, described

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_its_first_two_code_blocks_are_the_two_commands():
    first, second, *_ = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert first == "deploy/quickstart\n"
    assert second == "tests/run\n"
    assert all((ROOT / command.strip()).stat().st_mode & 0o111 for command in (first, second))


def test_its_settings_are_the_settings():
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| (.*?) \|$", README, re.MULTILINE)
    told = [(name, default.strip("`"), meaning) for name, default, meaning in rows]
    assert told == described(WorkerSettings)


def test_the_commands_it_names_are_there():
    named = set(re.findall(r"provisioner ([a-z-]+)", README)) | {"departments", "topology"}
    assert named <= set(get_command(app).commands)  # type: ignore[attr-defined]


def test_what_it_links_to_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
