"""The OpenAPI document is up to date and matches the responses to random requests."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import schemathesis
import typer
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from worker.sandbox import openapi
from worker.sandbox.openapi import DOCUMENT, document
from worker.sandbox.operations import NAMES

ROOT = Path(__file__).parents[2]
SCHEMA = schemathesis.openapi.from_dict(document())
EXAMPLES = 25
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
HOST = {"account_id": "MASANDBOX00000000000"}


def test_the_committed_document_is_fresh():
    checked = subprocess.run(
        [sys.executable, "-W", "error", "-m", "worker.sandbox.openapi", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_check_notices_an_outdated_document(tmp_path, monkeypatch):
    stale = tmp_path / "openapi.json"
    stale.write_text(DOCUMENT.read_text().replace("Plivo sandbox", "something else"))
    monkeypatch.setattr(openapi, "DOCUMENT", stale)
    with pytest.raises(typer.Exit) as ended:
        openapi.main(check=True)
    openapi.main(check=False)

    assert ended.value.exit_code == 1
    assert stale.read_text() == DOCUMENT.read_text()


def test_it_describes_every_operation():
    described = json.loads(DOCUMENT.read_text())
    names = [each["operationId"] for path in described["paths"].values() for each in path.values()]

    assert described["openapi"].startswith("3.1")
    assert sorted(names) == sorted(NAMES)


@pytest.fixture(scope="module")
def fuzzed(threaded):
    """One sandbox for all random requests, with some objects in it."""
    with threaded(rate_limit="off", billing_mode="postpaid") as running:
        yield running


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_response_conforms(case, fuzzed):
    _aim(case, fuzzed)
    sandbox = fuzzed.sandbox
    response = case.call(base_url=sandbox.url, auth=(sandbox.auth_id, sandbox.auth_token))
    case.validate_response(response, checks=CHECKS)


def _aim(case, fuzzed):
    """Send every case to the account, and every second one to an existing object."""
    case.path_parameters.update(HOST)
    live = fuzzed.do(lambda sandbox: sandbox.subaccounts()[:1])
    if "auth_id" in case.path_parameters and live and len(case.path_parameters["auth_id"]) % 2:
        case.path_parameters["auth_id"] = live[0].auth_id


def test_the_fuzz_can_fail(threaded_sandbox):
    """A response that contradicts the document is found: a name that is not text."""

    def spoil(sandbox):
        state = sandbox.service.state
        state.put(replace(sandbox.account, profile=replace(sandbox.account.profile, name=5)))

    threaded_sandbox.do(spoil)
    sandbox = threaded_sandbox.sandbox
    case = SCHEMA["/v1/Account/{account_id}/"]["GET"].Case(path_parameters=dict(HOST))
    response = case.call(base_url=sandbox.url, auth=(sandbox.auth_id, sandbox.auth_token))
    with pytest.raises(FailureGroup):
        case.validate_response(response, checks=CHECKS)
