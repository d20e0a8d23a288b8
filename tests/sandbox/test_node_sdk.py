"""Plivo's own Node SDK, unpatched, drives every imitated operation."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.npm import installed
from worker.sandbox.operations import NAMES

PACKAGE = "plivo@4.79.0"
SCRIPT = Path(__file__).with_name("plivo_node.cjs")


@pytest.fixture(scope="module")
def package():
    return installed(PACKAGE) / "plivo"


@pytest.fixture
def output(package, threaded_sandbox):
    sandbox = threaded_sandbox.sandbox
    environment = {
        **os.environ,
        "PLIVO_PACKAGE": str(package),
        "SANDBOX_URL": sandbox.url,
        "SANDBOX_AUTH_ID": sandbox.auth_id,
        "SANDBOX_AUTH_TOKEN": sandbox.auth_token,
    }
    ended = subprocess.run(
        ["node", str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])  # the SDK prints other lines before it


def test_it_is_the_real_sdk(package):
    assert json.loads((package / "package.json").read_text())["version"] == PACKAGE.partition("@")[2]


def test_the_node_sdk_cannot_tell_the_difference(output, threaded_sandbox):
    assert output["subaccounts"] == {
        "message": "created",
        "tokenLength": 40,
        "renamed": ["Renamed", True],
        "disabled": False,
        "listed": [["plain", False], ["Renamed", False]],
        "paged": ["Renamed"],
        "left": 0,
        "missing": [404, "not found", True],
        "nameless": [400, "name parameter is invalid: it is empty", True],
    }
    assert output["resources"] == {
        "application": [True, "http://127.0.0.1/other"],
        "endpoint": "Front",
        "bought": "fulfilled",
        "moved": True,
        "counts": [1, 1, 1],
    }
    assert output["usage"] == {
        "called": "call fired",
        "refused": [None, "AxiosError: Request failed with status code 403", False],
        "disabled": [401, "this subaccount is disabled", True],
        "message": ["sent", 1],
        "listed": 1,
        "account": ["Lucius Fox", "99.98600"],
    }
    assert output["stranger"] == [401, "authentication failed", True]
    log = threaded_sandbox.do(lambda sandbox: sandbox.requests)
    assert {entry.operation for entry in log} - {None} == set(NAMES)
