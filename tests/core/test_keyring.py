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

ZEROS = "A" * 43  # 32 bytes
X25519 = {"kty": "OKP", "crv": "X25519", "x": ZEROS, "use": "enc"}
P256 = {"kty": "EC", "crv": "P-256", "x": ZEROS, "y": ZEROS, "use": "enc"}
ED25519 = {"kty": "OKP", "crv": "Ed25519", "x": ZEROS, "use": "sig"}
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

    def test_a_list_is_accepted_as_a_set(self):
        assert recipients_of(recipient_keys(json.dumps([named("crm"), named("hr")]))) == ("crm", "hr")


class TestUnusableKeys:
    @pytest.mark.parametrize("jwk", [X25519, P256, rsa(2048), rsa(3072), X25519 | {"alg": "ECDH-ES+A256KW"}])
    def test_supported_keys_have_no_problem(self, jwk):
        assert problem(named("crm", jwk)) is None

    @pytest.mark.parametrize(
        ("jwk", "reason"),
        [
            (ED25519 | {"use": "enc"}, "Ed25519 only signs: use X25519 or P-256"),
            (P256 | {"crv": "P-384"}, "the curve P-384 is not supported: use X25519 or P-256"),
            (X25519 | {"crv": "X448"}, "the curve X448 is not supported: use X25519 or P-256"),
            (P256 | {"crv": SECRET * 2}, "the curve something else is not supported: use X25519 or P-256"),
            (X25519 | {"crv": None}, "crv is missing"),
            ({"kty": "oct", "k": SECRET}, "it is a symmetric key (oct), known to two: make a pair"),
            (
                {"kty": "AKP"},
                "the type AKP is not supported: use X25519, P-256, or RSA of at least 2048 bits",
            ),
            ({"use": "enc"}, "kty is missing"),
            (rsa(1024), "RSA of 1024 bits: at least 2048 are needed"),
            (rsa(2048) | {"n": "%%%"}, "n is not base64url"),
            (rsa(2048) | {"e": None}, "e is missing"),
            (X25519 | {"x": "AAAA"}, "x has 3 bytes, not 32"),
            (P256 | {"y": 7}, "y is not base64url"),
            (P256 | {"y": ZEROS + "="}, "y is not base64url"),
            (P256 | {"y": None}, "y is missing"),
        ],
    )
    def test_an_unsupported_key_is_named_with_its_reason(self, jwk, reason):
        assert problem(named("crm", jwk)) == reason

    @pytest.mark.parametrize("jwk", [X25519, P256, rsa(2048)])
    def test_use_is_optional_and_may_be_null(self, jwk):
        assert problem({name: value for name, value in named("crm", jwk).items() if name != "use"}) is None
        assert problem(named("crm", jwk, use=None, alg=None, key_ops=None)) is None

    @pytest.mark.parametrize(("use", "shown"), [("sig", "sig"), ("", "something else"), ("ENC", "ENC")])
    def test_another_use_is_a_problem(self, use, shown):
        assert problem(named("crm", use=use)) == f"use is {shown}: it must be enc, or left out"

    @pytest.mark.parametrize(
        ("jwk", "alg", "right"),
        [
            (X25519, "ECDH-ES", "ECDH-ES+A256KW"),
            (rsa(2048), "RSA-OAEP", "RSA-OAEP-256"),
            (rsa(2048), "RSA1_5", "RSA-OAEP-256"),
        ],
    )
    def test_another_algorithm_is_a_problem(self, jwk, alg, right):
        assert problem(named("crm", jwk, alg=alg)) == f"alg is {alg}: it must be {right}, or left out"

    @pytest.mark.parametrize(
        "operations",
        [
            [],
            ["deriveBits"],
            ["deriveKey"],
            ["deriveKey", "deriveBits"],
            ["wrapKey"],
            ["encrypt"],
            ["encrypt", "wrapKey"],
            ["unwrapKey"],
            ["verify", "encrypt"],
        ],
        ids=str,
    )
    @pytest.mark.parametrize("jwk", [X25519, P256, rsa(2048)], ids=["X25519", "P-256", "RSA"])
    def test_operations_as_tools_write_them_are_fine(self, jwk, operations):
        extra = {"ext": True, "x5c": ["MIIB"], "x5t": "abc", "iat": 7}
        assert problem(named("crm", jwk, key_ops=operations, **extra)) is None

    @pytest.mark.parametrize(
        ("operations", "reason"),
        [
            (["verify"], "key_ops is verify: it must name one of "),
            (["sign", "verify"], "key_ops is sign, verify: "),
            ([7], "key_ops is something else: "),
            ("encrypt", "key_ops is not a list"),
            ({}, "key_ops is not a list"),
            ("", "key_ops is not a list"),
        ],
    )
    def test_other_operations_are_a_problem(self, operations, reason):
        assert problem(named("crm", key_ops=operations)).startswith(reason)

    def test_the_first_reason_is_that_of_the_type(self):
        assert "P-384" in problem(named("crm", P256, crv="P-384", use="sig", alg="ES384"))

    @pytest.mark.parametrize("kid", [None, "", 7])
    def test_a_missing_kid_is_a_problem_of_its_key_alone(self, kid):
        states = recipient_keys(jwks(named(kid), named("crm")))
        assert [(one.recipient, one.problem) for one in states] == [
            ("", "kid is missing: write the recipient's name there"),
            ("crm", None),
        ]
        assert recipients_of(states) == ("crm",)

    @pytest.mark.parametrize("kid", [".1", "*", "#.1", "a b.1", "x" * 101])
    def test_a_kid_without_a_recipient_is_a_problem_of_its_key_alone(self, kid):
        nameless, named_ = recipient_keys(jwks(named(kid), named("crm")))
        assert nameless.recipient == ""
        assert (nameless.problem or "").startswith("kid does not begin with a recipient's name: ")
        assert (named_.recipient, named_.problem) == ("crm", None)

    @pytest.mark.parametrize("member", ["d", "p", "k"])
    def test_a_private_key_is_a_problem(self, member):
        assert "private" in problem(named("crm", **{member: SECRET}))


class TestInvalidKeyFiles:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "[7]",
            "7",
            '"x"',
            '{"keys": 7}',
            '{"keys": [7]}',
            '{"keys": []}',
            "{}",
            '{"keys": {}}',
        ],
    )
    def test_an_invalid_key_file_is_refused(self, text):
        with pytest.raises(BadKeys):
            keys_in(text)

    def test_two_keys_with_one_kid_are_refused(self):
        with pytest.raises(BadKeys, match=r'two keys of one "kid", crm$'):
            recipient_keys(jwks(named("crm"), named("crm", P256)))

    def test_an_error_never_quotes_a_key(self):
        with pytest.raises(BadKeys) as refusal:
            recipient_keys(jwks(named("crm", d=SECRET), named("crm", d=SECRET)))
        assert SECRET not in str(refusal.value)
        shown = dict.fromkeys(("use", "alg", "crv", "kty"), SECRET * 2) | {"key_ops": [SECRET * 2]}
        for member, value in shown.items():
            assert SECRET not in problem(named("crm", **{member: value}))

    @pytest.mark.parametrize(
        ("label", "advice"),
        [
            ("PUBLIC KEY", "convert it"),
            ("CERTIFICATE", "convert it"),
            ("EC PRIVATE KEY", "private key in PEM"),
        ],
    )
    def test_pem_is_named(self, label, advice):
        with pytest.raises(BadKeys, match=advice) as refusal:
            keys_in(f"\n-----BEGIN {label}-----\n{SECRET}\n-----END {label}-----\n")
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
