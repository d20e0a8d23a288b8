"""A misused command prints one line with the mistake and a hint."""

import subprocess
import sys

import pytest

from worker.cli.app import main


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("rn", "No such command 'rn'. Did you mean 'run'? (see `provisioner --help`)"),
        ("run --fast", "No such option: --fast (see `provisioner run --help`)"),
        ("reissue", "Missing argument 'DEPARTMENT'. (see `provisioner reissue --help`)"),
        ("emit created", "created needs --id and --name (see `provisioner emit --help`)"),
        ("emit removed", "removed needs --id (see `provisioner emit --help`)"),
        (
            "topology export --broker",
            "Option '--broker' requires an argument. (see `provisioner --help`)",
        ),
    ],
)
def test_a_misused_command_prints_one_line(arguments, line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["provisioner", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", f"{line}\n")


@pytest.mark.parametrize("arguments", ["", "topology", "dead-letters"])
def test_without_a_command_the_help_is_shown(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["provisioner", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert "Usage:" in printed.out
    assert "Commands" in printed.out
    assert not printed.err


def test_a_command_does_not_import_what_others_need():
    """Half of what a start takes is imports; aiohttp alone is a quarter."""
    code = (
        "import sys\nfrom worker.cli.app import command_line\nimport worker.cli.open_ports\n"
        "command_line(['departments', 'list'])\n"
        "print('aiohttp' in sys.modules, 'worker.sandbox' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
