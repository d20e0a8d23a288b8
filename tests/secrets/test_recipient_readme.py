"""The contracts' README opens a seal in two languages and documents its content."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import contracts
from contracts.subaccounts import Credentials, SealedContent
from tests.support.builders import AUTH_ID
from tests.support.npm import installed
from tests.support.secrets_keys import PAIRS, TOKEN, clear, jwks, sealed, sealing_key, signing_key
from worker.core.keyring import KeyType

README = (Path(contracts.__file__).parent / "README.md").read_text(encoding="utf-8")
JOSE_PACKAGE = "jose@6.2.17"

CALL = """
import { openSealed } from "./example.mjs";
import { readFileSync } from "node:fs";
const [body, ours, workers, me] = JSON.parse(readFileSync(0));
try {
  const { auth_id, auth_token, generation } = await openSealed(body, ours, workers, me);
  console.log(JSON.stringify([auth_id, auth_token, generation]));
}
catch (error) { console.log(JSON.stringify(["refused", error.message])); }
"""


def code(language: str) -> str:
    block = re.search(rf"```{language} open\n(.*?)```", README, re.DOTALL)
    assert block is not None
    return block[1]


def in_python(*given: Any) -> list[Any]:
    defined: dict[str, Any] = {}
    exec(compile(code("python"), "README.md", "exec"), defined)  # noqa: S102 - our own
    try:
        content = defined["open_sealed"](*given)
        return [content["auth_id"], content["auth_token"], content["generation"]]
    except ValueError as error:
        return ["refused", str(error)]


def in_javascript(folder: Path, *given: Any) -> list[Any]:
    (folder / "node_modules").symlink_to(installed(JOSE_PACKAGE))
    (folder / "example.mjs").write_text(code("javascript"))
    (folder / "call.mjs").write_text(CALL)
    command = ["node", str(folder / "call.mjs")]
    ended = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    told: list[Any] = json.loads(ended.stdout)
    return told


@pytest.fixture(params=PAIRS)
def given(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, ...]:
    """A sealed body, the recipient's private keys and the worker's public keys: an old and a new one each."""
    sealing: KeyType
    signing: KeyType
    sealing, signing = request.param
    ours, worker = sealing_key(sealing, "crm.2"), signing_key(signing)
    body = sealed(tmp_path, ours, worker).body.decode()
    older = sealing_key(KeyType.X25519, "crm.1")
    return body, {"keys": [older, ours]}, jwks(signing_key() | {"kid": "older"}, worker)


def test_both_examples_open_a_sealed_message(given: tuple[Any, ...], tmp_path: Path):
    assert in_python(*given, "crm") == [AUTH_ID, TOKEN, 1]
    assert in_javascript(tmp_path, *given, "crm") == [AUTH_ID, TOKEN, 1]


@pytest.mark.parametrize("given", PAIRS[:1], indirect=True)
@pytest.mark.parametrize("attribute", ["id", "subject", "source", "me"])
def test_both_examples_refuse_a_message_for_another_recipient(
    given: tuple[Any, ...], tmp_path: Path, attribute: str
):
    body, ours, workers = given
    me = "billing" if attribute == "me" else "crm"
    moved = json.dumps(json.loads(body) | {attribute: "another"}) if attribute != "me" else body
    for told in (in_python(moved, ours, workers, me), in_javascript(tmp_path, moved, ours, workers, me)):
        assert told[0] == "refused"


def test_the_documented_claims_are_those_of_a_seal():
    table = README.partition("| Claim | Equal to |")[2].partition("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert named == SealedContent.model_fields.keys() - Credentials.model_fields.keys()


def test_the_python_example_has_fifteen_lines():
    lines = [line for line in code("python").splitlines() if line.strip()]
    assert len(lines) <= 15
    assert clear().datacontenttype == "application/json"
