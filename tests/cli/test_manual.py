"""The help of each command has an example that can be typed, and its settings in a table."""

import shlex
import sys

import pytest

from worker.cli.app import command_line, main
from worker.cli.manual import PAGES
from worker.settings.model import WorkerSettings
from worker.settings.show import described


def leaves(command, path=""):
    below = getattr(command, "commands", {})
    if not below or (path and command.invoke_without_command):
        yield path, command
    for name, one in below.items():
        yield from leaves(one, f"{path} {name}".strip())


COMMANDS = dict(leaves(command_line()))


def help_of(monkeypatch, capsys, command: str, columns: int) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", ["provisioner", *command.split(), "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


def test_every_command_has_a_page():
    assert PAGES.keys() == COMMANDS.keys()


@pytest.mark.parametrize("path", PAGES)
def test_an_example_is_of_its_command_and_its_options_exist(path):
    words = shlex.split(PAGES[path][0].partition(">")[0])
    known = {option for param in COMMANDS[path].params for option in param.opts}
    assert words[0] == "provisioner"
    assert path in " ".join(words)
    assert [word for word in words if word.startswith("--") and word not in known] == []


@pytest.mark.parametrize("path", PAGES)
def test_the_help_ends_with_the_example_and_the_settings(monkeypatch, capsys, path):
    example, model = PAGES[path]
    lines = help_of(monkeypatch, capsys, path, 80)
    assert f"   {example}" in lines
    names = [name for name, _, _ in described(model)] if model else []
    assert [name for name in names if not any(line.startswith(name) for line in lines)] == []


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_the_settings_of_run_are_aligned_and_complete(monkeypatch, capsys, columns):
    lines = help_of(monkeypatch, capsys, "run", columns)
    assert max(map(len, lines)) <= columns
    header = next(line for line in lines if line.startswith("setting"))
    at = header.index("default")
    for name, default, meaning in described(WorkerSettings):
        (row,) = [line for line in lines if line.split()[:1] == [name]]
        assert row[at:].startswith(default)
        assert " ".join(meaning.split()) in " ".join(" ".join(lines).split())


def test_the_shell_can_complete_commands(monkeypatch, capsys):
    monkeypatch.setenv("_PROVISIONER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "provisioner dep")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.split() == ["departments"]
