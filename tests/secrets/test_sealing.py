"""Sealed credentials, opened by the product and by two independent libraries."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import jwcrypto.jwe
import jwcrypto.jwk
import jwcrypto.jws
import pytest

from contracts.envelope import STRUCTURED, Message
from contracts.subaccounts import SealedContent, SealedCredentialsMessage
from tests.support.builders import AUTH_ID, NOW
from tests.support.npm import installed
from tests.support.secrets_keys import (
    PAIRS,
    TOKEN,
    clear,
    fresh_sealing_key,
    jwks,
    sealed,
    sealer_for,
    sealing_key,
    signing_key,
)
from worker.adapters.jose.open import NotOpened, open_message
from worker.core.keyring import Jwk, KeyType, public_part

JOSE_PACKAGE = "jose@6.2.17"
CONTENT = {
    "iss": "/subaccount-provisioner/default",
    "aud": "crm",
    "sub": "sales",
    "iat": int(NOW.timestamp()),
    "tenant": "acme",
    "department_id": "sales",
    "name": "Sales",
    "auth_id": AUTH_ID,
    "auth_token": TOKEN,
    "generation": 1,
}


def document(message: Message) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(message.body)
    return loaded


def header_of(compact: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(compact.partition(".")[0] + "=="))
    return loaded


@pytest.mark.parametrize(("sealing", "signing"), PAIRS)
class TestEveryKindOfKey:
    def test_the_product_opens_the_seal(self, sealing: KeyType, signing: KeyType, tmp_path: Path):
        private, worker = sealing_key(sealing), signing_key(signing)
        opened = open_message(sealed(tmp_path, private, worker).body, [private], [public_part(worker)])
        assert opened.content.auth_token.get_secret_value() == TOKEN
        assert (opened.recipient, opened.opened_with, opened.signed_by) == ("crm", "crm.1", worker["kid"])

    def test_jwcrypto_opens_the_seal(self, sealing: KeyType, signing: KeyType, tmp_path: Path):
        private, worker = sealing_key(sealing), signing_key(signing)
        message = document(sealed(tmp_path, private, worker))
        seal = jwcrypto.jwe.JWE(algs=["ECDH-ES+A256KW", "RSA-OAEP-256", "A256GCM"])
        seal.deserialize(message["data"], jwcrypto.jwk.JWK(**private))
        signature = jwcrypto.jws.JWS()
        signature.allowed_algs = ["Ed25519", "ES256"]
        signature.deserialize(seal.payload.decode(), jwcrypto.jwk.JWK(**public_part(worker)))
        assert json.loads(signature.payload) == CONTENT | {"jti": message["id"]}

    def test_jose_for_javascript_opens_the_seal(self, sealing: KeyType, signing: KeyType, tmp_path: Path):
        private, worker = sealing_key(sealing), signing_key(signing)
        message = document(sealed(tmp_path, private, worker))
        given = {"message": message, "private": private, "worker": jwks(worker)}
        assert opened_by_node(given, tmp_path) == CONTENT | {"jti": message["id"]}


OPEN_WITH_NODE = """
import { compactDecrypt, createLocalJWKSet, importJWK, jwtVerify } from "jose";
import { readFileSync } from "node:fs";
const { message, private: key, worker } = JSON.parse(readFileSync(0));
const alg = key.kty === "RSA" ? "RSA-OAEP-256" : "ECDH-ES+A256KW";
const { plaintext } = await compactDecrypt(message.data, await importJWK(key, alg));
const { payload } = await jwtVerify(plaintext, createLocalJWKSet(worker), { audience: "crm" });
console.log(JSON.stringify(payload));
"""


def opened_by_node(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "node_modules").symlink_to(installed(JOSE_PACKAGE))
    script = folder / "open.mjs"
    script.write_text(OPEN_WITH_NODE)
    ended = subprocess.run(
        ["node", script], input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    loaded: dict[str, Any] = json.loads(ended.stdout)
    return loaded


class TestTheMessage:
    def test_a_sealed_message_meets_the_contract_with_the_same_id(self, tmp_path: Path):
        message = sealed(tmp_path, sealing_key(), signing_key())
        event = SealedCredentialsMessage.model_validate_json(message.body)
        plain = clear()
        assert message.content_type == STRUCTURED
        assert event.datacontenttype == "application/jose"
        assert (event.id, event.subject, event.time) == (plain.id, plain.subject, plain.time)

    def test_only_the_envelope_and_the_key_id_are_readable(self, tmp_path: Path):
        message = document(sealed(tmp_path, sealing_key(), signing_key()))
        assert header_of(message["data"]).keys() == {"alg", "enc", "kid", "cty", "epk"}
        for secret in (TOKEN, AUTH_ID, base64.b64encode(TOKEN.encode()).decode()[:-2]):
            assert secret not in json.dumps(message)

    def test_no_two_seals_are_equal(self, tmp_path: Path):
        sealer = sealer_for(tmp_path, sealing_key())
        first, second = (document(sealer.seal(clear(), "crm")) for _ in range(2))
        assert first["data"] != second["data"]
        assert first | {"data": ""} == second | {"data": ""}

    def test_the_longest_message_can_be_sealed(self, tmp_path: Path):
        private, worker = sealing_key(kid="crm." + "x" * 100), signing_key()
        longest = clear(name="部" * 200)
        opened = open_message(
            sealed(tmp_path, private, worker, longest).body, [private], [public_part(worker)]
        )
        assert opened.content.name == "部" * 200


class TestWhatIsNotOpened:
    """Each message differs from a valid one in one property."""

    @pytest.fixture
    def private(self) -> dict[str, Any]:
        return sealing_key()

    @pytest.fixture
    def worker(self) -> dict[str, Any]:
        return signing_key()

    @pytest.fixture
    def message(self, tmp_path: Path, private: Jwk, worker: Jwk) -> dict[str, Any]:
        return document(sealed(tmp_path, private, worker))

    def refused(self, message: dict[str, Any], private: Jwk, worker: Jwk) -> str:
        with pytest.raises(NotOpened) as refusal:
            open_message(json.dumps(message).encode(), [private], [public_part(worker)])
        assert TOKEN not in str(refusal.value)
        return str(refusal.value)

    @pytest.mark.parametrize(
        ("attribute", "value", "claim"),
        [
            ("id", "another", "jti"),
            ("subject", "legal", "sub"),
            ("source", "/other", "iss"),
            ("tenant", "x", "tenant"),
        ],
    )
    def test_a_seal_moved_to_another_message_is_refused(
        self, message, private, worker, attribute, value, claim
    ):
        assert f"{claim} inside the seal" in self.refused(message | {attribute: value}, private, worker)

    def test_a_seal_re_encrypted_for_another_recipient_is_refused(self, tmp_path, worker, private):
        """Another recipient can decrypt its message and encrypt the signed content with our public key."""
        crm_key_under_billing = private | {"kid": "billing.1"}
        sealer = sealer_for(tmp_path, crm_key_under_billing, signing=worker)
        message = document(sealer.seal(clear("billing"), "billing"))
        assert header_of(message["data"])["kid"] == "billing.1"
        assert "sealed for the key billing.1" in self.refused(message, private, worker)
        resealed = resealed_for(private, message, crm_key_under_billing)
        assert "aud inside the seal" in self.refused(message | {"data": resealed}, private, worker)

    def test_a_signature_of_another_message_is_refused(self, tmp_path, private, worker):
        forger = signing_key() | {"kid": worker["kid"]}
        message = document(sealed(tmp_path, private, forger))
        assert self.refused(message, private, worker) == "its signature is not the worker's"

    def test_a_signature_by_an_unknown_key_is_refused(self, tmp_path, private, worker):
        message = document(sealed(tmp_path, private, signing_key() | {"kid": "stranger"}))
        assert "stranger, which is not among the worker's" in self.refused(message, private, worker)

    def test_another_key_with_the_same_key_id_is_refused(self, message, worker):
        assert "does not open it" in self.refused(message, fresh_sealing_key(), worker)

    @pytest.mark.parametrize("part", range(5))
    def test_a_change_to_any_part_is_refused(self, message, private, worker, part):
        parts = message["data"].split(".")
        flipped = "B" if parts[part][5:6] != "B" else "C"
        parts[part] = parts[part][:5] + flipped + parts[part][6:]
        self.refused(message | {"data": ".".join(parts)}, private, worker)

    def test_a_missing_signature_is_refused(self, message, private, worker):
        self.refused(
            message | {"data": resealed(private, json.dumps(CONTENT | {"jti": message["id"]}))},
            private,
            worker,
        )

    @pytest.mark.parametrize("alg", ["none", "HS256"])
    def test_a_signature_with_a_forbidden_algorithm_is_refused(self, message, private, worker, alg):
        """The classic attack uses the worker's public key as the secret of an HMAC."""
        content = encoded(json.dumps(CONTENT | {"jti": message["id"]}))
        head = encoded(json.dumps({"alg": alg, "kid": worker["kid"]}))
        self.refused(message | {"data": resealed(private, f"{head}.{content}.")}, private, worker)

    def test_plaintext_credentials_are_refused(self, private, worker):
        plain = json.loads(clear().model_dump_json()) | {"data": CONTENT}
        assert "are not sealed" in self.refused(plain, private, worker)

    @pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b'{"data": 7}'])
    def test_an_invalid_message_is_refused(self, private, body):
        with pytest.raises(NotOpened, match="no sealed credentials message"):
            open_message(body, [private], [])


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def resealed(private: Jwk, inside: str) -> str:
    """Encrypts any content for a recipient, which needs only the public key."""
    header = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "kid": private["kid"]}
    seal = jwcrypto.jwe.JWE(inside.encode(), json.dumps(header))
    seal.add_recipient(jwcrypto.jwk.JWK(**public_part(private)))
    compact: str = seal.serialize(compact=True)
    return compact


def resealed_for(private: Jwk, message: dict[str, Any], opened_with: Jwk) -> str:
    seal = jwcrypto.jwe.JWE()
    seal.deserialize(message["data"], jwcrypto.jwk.JWK(**opened_with))
    return resealed(private, seal.payload.decode())


def test_the_contract_documents_the_sealed_content():
    assert SealedContent.model_fields.keys() == {*CONTENT, "supersedes", "jti"}
