"""The choice of a key from a key file, and the reasons against a key."""

import base64
import json

import pytest

from worker.core.keyring import (
    BadKeys,
    key_in_use,
    keys_in,
    kind_of,
    public_part,
    recipient_keys,
    recipients_of,
    sealing_algorithm,
    signing_algorithm,
    signing_key,
)

X25519 = {"kty": "OKP", "crv": "X25519", "x": "AAAA", "use": "enc"}
P256 = {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA", "use": "enc"}
ED25519 = {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "use": "sig"}
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ"


def rsa(bits):
    modulus = (1 << (bits - 1)).to_bytes(bits // 8)
    return {
        "kty": "RSA",
        "n": base64.urlsafe_b64encode(modulus).decode().rstrip("="),
        "e": "AQAB",
        "use": "enc",
    }


def jwks(*keys):
    return json.dumps({"keys": list(keys)})


def named(kid, jwk=X25519, **more):
    return jwk | {"kid": kid} | more


def in_use(recipient, *keys):
    state = key_in_use(recipient_keys(jwks(*keys)), recipient)
    return state.kid if state else None


def problem(jwk):
    (state,) = recipient_keys(jwks(jwk))
    return state.problem


class TestChoiceOfAKey:
    def test_each_recipient_has_its_own_key(self):
        states = recipient_keys(jwks(named("crm"), named("billing.1", P256)))

        assert recipients_of(states) == ("billing", "crm")
        crm, billing = key_in_use(states, "crm"), key_in_use(states, "billing")
        assert crm is not None
        assert crm.jwk["crv"] == "X25519"
        assert billing is not None
        assert billing.jwk["crv"] == "P-256"
        assert key_in_use(states, "hr") is None

    def test_the_greatest_kid_is_used_in_any_order_of_the_file(self):
        old, newer, newest = named("crm"), named("crm.2025-01-01"), named("crm.2026-01-01")

        assert in_use("crm", newest, old, newer) == "crm.2026-01-01"
        assert in_use("crm", old, newer, newest) == "crm.2026-01-01"

    def test_an_unusable_key_does_not_replace_a_usable_one(self):
        assert in_use("crm", named("crm.1"), named("crm.2", use="sig")) == "crm.1"
        assert in_use("crm", named("crm.2", use="sig")) is None

    def test_a_common_prefix_does_not_make_the_same_recipient(self):
        assert in_use("crm", named("crm2.1"), named("crm-eu")) is None

    def test_a_single_jwk_is_accepted_as_a_set(self):
        assert recipients_of(recipient_keys(json.dumps(named("crm")))) == ("crm",)


class TestUnusableKeys:
    @pytest.mark.parametrize("jwk", [X25519, P256, rsa(2048), rsa(3072), X25519 | {"alg": "ECDH-ES+A256KW"}])
    def test_supported_keys_have_no_problem(self, jwk):
        assert problem(named("crm", jwk)) is None

    @pytest.mark.parametrize(
        "jwk",
        [
            ED25519 | {"use": "enc"},
            P256 | {"crv": "P-384"},
            {"kty": "OKP", "crv": "X448", "use": "enc"},
            {"kty": "oct", "use": "enc"},
            {"use": "enc"},
            rsa(1024),
            rsa(2048) | {"n": "%%%"},
        ],
    )
    def test_an_unsupported_type_is_a_problem(self, jwk):
        assert problem(named("crm", jwk)) == "it is not X25519, P-256, or RSA of at least 2048 bits"

    @pytest.mark.parametrize("jwk", [X25519, P256, rsa(2048)])
    def test_the_use_is_optional(self, jwk):
        assert problem({name: value for name, value in named("crm", jwk).items() if name != "use"}) is None

    @pytest.mark.parametrize("use", ["sig", "", None, "ENC"])
    def test_another_use_is_a_problem(self, use):
        assert problem(named("crm", use=use)) == 'its "use" is not "enc"'

    @pytest.mark.parametrize(
        ("jwk", "alg"), [(X25519, "ECDH-ES"), (rsa(2048), "RSA-OAEP"), (rsa(2048), "RSA1_5")]
    )
    def test_another_algorithm_is_a_problem(self, jwk, alg):
        assert problem(named("crm", jwk, alg=alg)).startswith('its "alg" is not ')

    @pytest.mark.parametrize("member", ["d", "p", "k"])
    def test_a_private_key_is_a_problem(self, member):
        assert "private" in problem(named("crm", **{member: SECRET}))


class TestInvalidKeyFiles:
    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "7", '"x"', '{"keys": 7}', '{"keys": [7]}', '{"keys": []}', "{}", '{"keys": {}}'],
    )
    def test_an_invalid_key_file_is_refused(self, text):
        with pytest.raises(BadKeys):
            keys_in(text)

    @pytest.mark.parametrize("kid", ["", ".1", "*", "#.1", "a b.1", "x" * 101, None, 7])
    def test_a_kid_without_a_recipient_is_refused(self, kid):
        with pytest.raises(BadKeys, match="does not begin with its recipient"):
            recipient_keys(jwks(named(kid)))

    def test_two_keys_with_one_kid_are_refused(self):
        with pytest.raises(BadKeys, match="two keys of one"):
            recipient_keys(jwks(named("crm"), named("crm", P256)))

    def test_an_error_never_quotes_a_key(self):
        for keys in ([named(None, d=SECRET)], [named("crm", d=SECRET), named("crm", d=SECRET)]):
            with pytest.raises(BadKeys) as refusal:
                recipient_keys(jwks(*keys))
            assert SECRET not in str(refusal.value)


class TestSigning:
    def test_the_newest_private_key_signs(self):
        old = named("provisioner.1", ED25519, d=SECRET)
        new = named("provisioner.2", P256, d=SECRET)
        newer_but_public = named("provisioner.3", ED25519)

        assert signing_key(jwks(new, old, newer_but_public))["kid"] == "provisioner.2"

    @pytest.mark.parametrize(
        "key", [named("w", ED25519), named("", ED25519, d=SECRET), named("w", X25519, d=SECRET)]
    )
    def test_a_key_that_cannot_sign_is_refused_without_being_quoted(self, key):
        with pytest.raises(BadKeys) as refusal:
            signing_key(jwks(key))
        assert SECRET not in str(refusal.value)

    def test_algorithms_by_type_of_key(self):
        assert [signing_algorithm(key) for key in (ED25519, P256, X25519, rsa(2048))] == [
            "Ed25519",
            "ES256",
            None,
            None,
        ]
        assert [sealing_algorithm(key) for key in (X25519, P256, rsa(2048), ED25519)] == [
            "ECDH-ES+A256KW",
            "ECDH-ES+A256KW",
            "RSA-OAEP-256",
            None,
        ]


def test_the_public_part_has_no_private_members():
    private = dict.fromkeys(("d", "p", "q", "dp", "dq", "qi", "oth", "k", "anything else"), SECRET)
    for jwk in (X25519, P256, ED25519, rsa(2048)):
        assert public_part(jwk | private) == jwk


def test_the_kind_of_a_key_as_a_short_text():
    assert [kind_of(jwk) for jwk in (X25519, P256, rsa(2048), {"kty": "oct"})] == [
        "X25519",
        "P-256",
        "RSA 2048",
        "oct",
    ]
