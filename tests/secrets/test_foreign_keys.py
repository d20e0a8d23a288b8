"""Recipients' keys as other tools export them: what is sealed for one opens with its private part."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import AUTH_ID
from tests.support.nodes import skip_or_fail
from tests.support.npm import installed
from tests.support.secrets_keys import KeyReports, clear, signing_key
from worker.adapters.jose.open import open_message
from worker.adapters.jose.seal import JoseSealer, RecipientKeys, usable_keys
from worker.core.keyring import BadKeys, public_part, recipient_keys

JOSE_PACKAGE = "jose@6.2.17"
WORKER = signing_key()

EXPORT = """
import { exportJWK, generateKeyPair } from "jose";
import { generateKeyPairSync, webcrypto } from "node:crypto";
const { subtle } = webcrypto;
const exponent = new Uint8Array([1, 0, 1]);
const rsa = { name: "RSA-OAEP", modulusLength: 2048, publicExponent: exponent, hash: "SHA-256" };
const ecdh = { name: "ECDH", namedCurve: "P-256" };
const web = async (algorithm, uses) => {
  const pair = await subtle.generateKey(algorithm, true, uses);
  return [await subtle.exportKey("jwk", pair.publicKey), await subtle.exportKey("jwk", pair.privateKey)];
};
const jose = async (alg, options) => {
  const pair = await generateKeyPair(alg, { extractable: true, ...options });
  return [await exportJWK(pair.publicKey), await exportJWK(pair.privateKey)];
};
const node = (type, options) => {
  const pair = generateKeyPairSync(type, options);
  return [pair.publicKey, pair.privateKey].map((key) => key.export({ format: "jwk" }));
};
const pem = generateKeyPairSync("x25519").publicKey.export({ format: "pem", type: "spki" });
console.log(JSON.stringify({
  "webcrypto-ecdh-deriveBits": await web(ecdh, ["deriveBits"]),
  "webcrypto-ecdh-deriveKey": await web(ecdh, ["deriveKey"]),
  "webcrypto-x25519": await web({ name: "X25519" }, ["deriveBits"]),
  "webcrypto-rsa-encrypt": await web(rsa, ["encrypt", "decrypt"]),
  "webcrypto-rsa-wrapKey": await web(rsa, ["wrapKey", "unwrapKey"]),
  "jose-p-256": await jose("ECDH-ES+A256KW"),
  "jose-x25519": await jose("ECDH-ES+A256KW", { crv: "X25519" }),
  "jose-rsa": await jose("RSA-OAEP-256"),
  "node-p-256": node("ec", { namedCurve: "P-256" }),
  "node-x25519": node("x25519"),
  "node-rsa": node("rsa", { modulusLength: 2048 }),
  pem: [pem, null],
}));
"""
TOOLS = [
    *(f"webcrypto-{kind}" for kind in ("ecdh-deriveBits", "ecdh-deriveKey", "x25519")),
    *("webcrypto-rsa-encrypt", "webcrypto-rsa-wrapKey"),
    *(f"{tool}-{kind}" for tool in ("jose", "node") for kind in ("p-256", "x25519", "rsa")),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The public and the private key of a pair by each tool."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(installed(JOSE_PACKAGE))
    (folder / "export.mjs").write_text(EXPORT)
    ended = subprocess.run(
        ["node", str(folder / "export.mjs")], capture_output=True, text=True, timeout=60, check=False
    )
    if "X25519" in ended.stderr:
        skip_or_fail("this node has no X25519 in WebCrypto")
    assert ended.returncode == 0, ended.stderr
    told: dict[str, list[Any]] = json.loads(ended.stdout)
    return told


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("shape", ["JWKS", "JWK"])
def test_an_exported_key_opens_what_is_sealed_for_it(
    exported: dict[str, list[Any]], tmp_path: Path, tool: str, shape: str
) -> None:
    public, private = (key | {"kid": "crm"} for key in exported[tool])
    file = tmp_path / "recipients.json"
    file.write_text(json.dumps({"keys": [public]} if shape == "JWKS" else public))
    assert [state.problem for state in usable_keys(file.read_text())] == [None]
    sealer = JoseSealer(RecipientKeys(file, ("crm",), KeyReports()), WORKER)
    opened = open_message(sealer.seal(clear(), "crm").body, [private], [public_part(WORKER)])
    assert opened.content.auth_id == AUTH_ID


def test_webcrypto_marks_its_keys(exported: dict[str, list[Any]]) -> None:
    """The reason for this file: libraries check such members for uses of their own."""
    assert exported["webcrypto-ecdh-deriveBits"][0]["key_ops"] == []
    assert exported["webcrypto-rsa-wrapKey"][0]["key_ops"] == ["wrapKey"]


def test_a_key_as_step_makes_it_by_default_is_named() -> None:
    """Its `alg` says that the content key is agreed on directly, which we do not do."""
    x = "qaBIqKqUNSe9GPtuHggY4A_KhMmBRMRhs0y5YvrJLs8"
    y = "kYcw9Ndjzx5NSZcX51v8itLLI95lmxPmKSfFSbAZxaE"
    key = {"use": "enc", "kty": "EC", "kid": "crm", "crv": "P-256", "alg": "ECDH-ES", "x": x, "y": y}
    (state,) = recipient_keys(json.dumps(key))
    assert state.problem == "alg is ECDH-ES: it must be ECDH-ES+A256KW, or left out"
    (state,) = usable_keys(json.dumps(key | {"alg": "ECDH-ES+A256KW", "x5c": ["MIIB"], "x5t": "abc"}))
    assert state.problem is None


def test_pem_says_what_to_do(exported: dict[str, list[Any]]) -> None:
    with pytest.raises(BadKeys, match="convert it"):
        recipient_keys(exported["pem"][0])
