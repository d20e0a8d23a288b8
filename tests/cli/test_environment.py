"""`--env-file` and `--version`: of every command, and before it."""

import sys

import pytest

from worker.cli.app import command_line, main
from worker.cli.arguments import command_of
from worker.cli.environment import EnvFileUnusable, use_env_file


def used(tmp_path, text: str | bytes, **environ: str) -> dict[str, str]:
    file = tmp_path / "worker.env"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    use_env_file(file, environ)
    return environ


def refusal(tmp_path, text: str | bytes) -> list[str]:
    with pytest.raises(EnvFileUnusable) as refused:
        used(tmp_path, text)
    assert refused.value.exit_code == 2
    return str(refused.value).replace(str(tmp_path / "worker.env"), "FILE").splitlines()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("export A=b", "b"),
        ("  A = b  ", "b"),
        ("A='b # c'", "b # c"),
        ('A="b # c" # d', "b # c"),
        ("A=b # c", "b"),
        ("A=b#c", "b#c"),
        ("A=", ""),
        ("A={name} [{tag}]", "{name} [{tag}]"),
        ("A=${HOME}$X", "${HOME}$X"),
        ("A=amqp://u:p=w@h/%2f", "amqp://u:p=w@h/%2f"),
        ("A=b\r", "b"),
        ("\ufeffA=b", "b"),
        ("A=b\nA=c", "c"),
        ("A=Équipe", "Équipe"),
    ],
)
def test_a_line_sets_a_variable(tmp_path, line, value):
    assert used(tmp_path, f"{line}\n# a comment\n\n") == {"A": value}


def test_the_environment_wins(tmp_path):
    text = "OWNER=file\nTOKEN_FILE=/run/token\nOTHER=file\nBLANK=file\nURL=file\n"
    given = {"OWNER": "given", "TOKEN": "given", "BLANK": " ", "URL_FILE": "/run/url"}
    assert used(tmp_path, text, **given) == given | {"OTHER": "file", "BLANK": "file"}


def test_every_bad_line_is_named_without_its_content(tmp_path):
    text = "A=b\n\nsecret\n  # c\nexport\nB C=secret\n1A=secret\nA='secret\n"
    assert refusal(tmp_path, text) == [f"FILE line {number}: not NAME=VALUE" for number in (3, 5, 6, 7, 8)]


def test_many_bad_lines_are_counted(tmp_path):
    lines = refusal(tmp_path, "secret\n" * 30)
    assert len(lines) == 21
    assert lines[-1] == "and 10 more lines"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("A=b\n".encode("utf-16"), "FILE is UTF-16: save it as UTF-8"),
        ("A=b\n".encode("utf-16-le"), "FILE is UTF-16: save it as UTF-8"),
        ("A=b\n".encode("utf-16-be"), "FILE is UTF-16: save it as UTF-8"),
        ("A=é\n".encode("latin-1"), "FILE is not UTF-8: save it as UTF-8"),
        (b"A=b\0c\n", "FILE line 1: not NAME=VALUE"),
    ],
)
def test_another_encoding_is_named(tmp_path, content, line):
    assert refusal(tmp_path, content) == [line]


def test_an_unreadable_file_is_one_line(tmp_path):
    for path, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(EnvFileUnusable) as refused:
            use_env_file(path, {})
        assert str(refused.value) == f"{path} cannot be read: {why}"


def ended(monkeypatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["provisioner", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize(
    "arguments",
    ["--env-file {} departments list", "departments --env-file {} list", "departments list --env-file={}"],
)
def test_the_option_stands_before_or_after_the_command(tmp_path, monkeypatch, capsys, arguments):
    file = tmp_path / "worker.env"
    file.write_text(f"LEDGER_URL=sqlite:///{tmp_path}/from-the-file.db\n")
    monkeypatch.setenv("LEDGER_URL", "")
    assert ended(monkeypatch, *arguments.format(file).split()) == 1
    assert "from-the-file.db" in capsys.readouterr().err


def test_every_command_has_the_option():
    def below(command):
        yield command
        for one in getattr(command, "commands", {}).values():
            yield from below(one)

    commands = list(below(command_line()))
    assert len(commands) > 20
    lacking = [one.name for one in commands if not any("--env-file" in param.opts for param in one.params)]
    assert lacking == []


def test_the_version_is_printed(monkeypatch, capsys):
    assert ended(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("provisioner 0.")


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("run", "run"),
        ("--env-file f run", "run"),
        ("--env-file=f run --env-file g", "run"),
        ("departments show run", "departments"),
        ("--version", ""),
        ("--env-file", ""),
        ("", ""),
    ],
)
def test_the_command_is_found_among_the_arguments(arguments, command):
    assert command_of(arguments.split()) == command


def test_a_misspelt_setting_is_told_beside_the_output(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEDGER_URL", f"sqlite:///{tmp_path}/none.db")
    monkeypatch.setenv("PROVISIONER_PREFTECH", "secret")
    monkeypatch.setenv("PROVISIONER_RATE_LIMIT", "300")
    line = "PROVISIONER_PREFTECH is no setting of this version: did you mean PROVISIONER_PREFETCH?"
    assert ended(monkeypatch, "departments", "list") == 1
    assert capsys.readouterr().err.splitlines()[1:] == [line]
    assert ended(monkeypatch, "run") == 2
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert ended(monkeypatch, "departments", "list", "--help") == 0
    assert capsys.readouterr().err == ""
