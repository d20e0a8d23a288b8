"""The command prints its address, stops cleanly, and reports errors in one line."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import typer
from typer.testing import CliRunner

from worker.sandbox.assumptions import switches
from worker.sandbox.command import sandbox

ROOT = Path(__file__).parents[2]
SECRET = "a-token-of-my-own"
app = typer.Typer()
app.command()(sandbox)


def first_group(pattern: str, text: str) -> str:
    """The text that the pattern's group matches, `^` and `$` at any line."""
    match = re.search(pattern, text, re.MULTILINE)
    assert match is not None, text
    return match[1]


class Program:
    """Runs `python -m worker.sandbox` on free ports and reads its directions."""

    def __init__(self, *options, **environment):
        command = [sys.executable, "-m", "worker.sandbox", "--port", "0", *options]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.output = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if line.startswith("Ctrl-C"):
                break
        self.url = first_group(r"listening on (\S+),", self.output)
        self.management_url = first_group(r"curl (\S+)/state", self.output)

    def end(self, number):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_until_a_signal_and_exits_0(number):
    program = Program()
    auth = ("MASANDBOX00000000000", "sandbox")
    response = requests.get(f"{program.url}/v1/Account/{auth[0]}/", auth=auth, timeout=10)
    state = requests.get(f"{program.management_url}/state", timeout=10).json()

    assert program.end(number) == (0, "", "")
    assert response.status_code == 200
    assert state["url"] == program.url


def test_it_prints_that_it_is_not_plivo_and_how_to_connect():
    program = Program()
    program.end(signal.SIGTERM)

    assert "THIS IS NOT PLIVO" in program.output.splitlines()[0]
    exports = re.findall(r"^export (\S+)=(\S+)$", program.output, re.MULTILINE)
    assert dict(exports) == {
        "PLIVO_API_URL": program.url,
        "PLIVO_AUTH_ID": "MASANDBOX00000000000",
        "PLIVO_AUTH_TOKEN": "sandbox",
    }


def test_the_curl_line_works_as_printed():
    program = Program()
    command = first_group(r"^(curl -u .*\\\n.*)$", program.output)
    response = subprocess.run(shlex.split(command), capture_output=True, check=True, timeout=30)
    program.end(signal.SIGTERM)

    assert json.loads(response.stdout)["meta"]["total_count"] == 0


def test_the_directions_fit_80_columns():
    program = Program()
    program.end(signal.SIGTERM)

    assert max(map(len, program.output.splitlines())) <= 80


def auth_id_of_a_new_subaccount(*options):
    program = Program(*options)
    response = requests.post(
        f"{program.url}/v1/Account/MASANDBOX00000000000/Subaccount/",
        json={"name": "x"},
        auth=("MASANDBOX00000000000", "sandbox"),
        timeout=10,
    )
    program.end(signal.SIGTERM)
    return response.json()["auth_id"], first_group(r"seed (\d+)$", program.output)


def test_a_sandbox_begun_anew_repeats_no_identifier_and_prints_its_seed():
    (first, seed), (second, other) = auth_id_of_a_new_subaccount(), auth_id_of_a_new_subaccount()

    assert first != second
    assert seed != other
    assert auth_id_of_a_new_subaccount("--seed", seed) == (first, seed)


def test_a_sandbox_with_a_state_file_repeats_no_identifier(tmp_path):
    options = ("--state", str(tmp_path / "state.db"))

    assert auth_id_of_a_new_subaccount(*options)[0] != auth_id_of_a_new_subaccount(*options)[0]


def test_a_token_from_the_environment_is_used_and_never_shown():
    program = Program(SANDBOX_AUTH_TOKEN=SECRET)
    path = f"{program.url}/v1/Account/MASANDBOX00000000000/"
    statuses = [
        requests.get(path, auth=("MASANDBOX00000000000", token), timeout=10).status_code
        for token in (SECRET, "sandbox")
    ]
    _, out, err = program.end(signal.SIGTERM)

    assert statuses == [200, 401]
    assert SECRET not in program.output + out + err


def test_options_reach_the_sandbox(tmp_path):
    program = Program(
        *("--seed", "5", "--faults", "mild", "--account-type", "developer", "--billing-mode", "postpaid"),
        *("--cash-credits", "0.5", "--start", "2026-01-31", "--auth-id", "MAOTHER0000000000000"),
        *(
            "--assume",
            "name_max=9",
            "--assume",
            "empty_update=refused",
            "--state",
            str(tmp_path / "state.db"),
        ),
    )
    state = requests.get(f"{program.management_url}/state", timeout=10).json()
    rules = requests.get(f"{program.management_url}/faults", timeout=10).json()["rules"]
    program.end(signal.SIGTERM)

    account = state["account"]
    assert (state["seed"], state["now"][:10]) == (5, "2026-01-31")
    assert (
        account["auth_id"],
        account["account_type"],
        account["billing_mode"],
        account["cash_credits"],
    ) == (
        "MAOTHER0000000000000",
        "developer",
        "postpaid",
        "0.5",
    )
    assert (state["assumptions"]["name_max"], state["assumptions"]["empty_update"]) == (9, "refused")
    assert len(rules) > 10
    assert (tmp_path / "state.db").exists()


@pytest.mark.parametrize("taken", ["--port", "--management-port"])
def test_a_port_in_use_is_one_line_and_exit_1(taken):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = ["--port", "0", taken, str(listener.getsockname()[1])]
        result = CliRunner().invoke(app, options)

    assert result.exit_code == 1
    assert "address already in use" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "output"),
    [
        (["--assume", "nonsense"], "'nonsense' is not NAME=VALUE"),
        (["--assume", "nonsense=1"], "'nonsense=1' is not NAME=VALUE"),
        (["--assume", "disabled_status=500"], "disabled_status"),
        (["--assume", "name_max=0"], "name_max"),
        (["--assume", "time_zone=Mars/Olympus"], "no such zone"),
        (["--auth-id", "SA123"], "not the auth id of a main account"),
        (["--rate-limit", "many"], "write 300/5s, or off"),
        (["--cash-credits", "much"], "not an amount"),
    ],
)
def test_an_invalid_option_is_one_line_and_exit_2(options, output):
    result = CliRunner().invoke(app, ["--port", "0", *options])

    assert result.exit_code == 2
    assert output in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "options", [["--faults", "wild"], ["--port", "70000"], ["--start", "soon"], ["extra"]]
)
def test_usage_errors_exit_2(options):
    assert CliRunner().invoke(app, options).exit_code == 2


def test_an_unusable_state_file_is_one_line_and_exit_1(tmp_path):
    result = CliRunner().invoke(app, ["--port", "0", "--state", str(tmp_path / "no" / "state.db")])

    assert result.exit_code == 1
    assert result.stderr.startswith("cannot use ")
    assert len(result.stderr.splitlines()) == 1


def test_help_names_every_assumption_with_its_default():
    output = CliRunner(env={"COLUMNS": "500"}).invoke(app, ["--help"]).stdout

    for switch in switches():
        assert f"{switch.name}={switch.default} ({switch.values})" in output
