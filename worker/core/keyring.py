"""Reads a file of keys: the owner of each key, the keys in use, and the problems of the others.

Keys are JWK (RFC 7517) as they were read; there is no cryptography here. A recipient's key is named
`<recipient>` or `<recipient>.<anything>` by its `kid`; of several usable ones the greatest `kid`, compared as
text, is the newest. `provisioner keys new` puts the time there, which sorts.

Keys come from many tools. Members that they add (`ext`, `x5c`, `key_ops` as WebCrypto writes it) do not
matter as long as nothing says that the key is for something else. `null` is the same as leaving a member out.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from pydantic_core import from_json

from contracts.topology import checked_recipient

Jwk = Mapping[str, Any]

CONTENT_ENCRYPTION = "A256GCM"
LEAST_RSA_BITS = 2048
SEALING_KEYS = f"X25519, P-256, or RSA of at least {LEAST_RSA_BITS} bits"
SEALING_OPERATIONS = ("deriveBits", "deriveKey", "wrapKey", "encrypt")
"""The operations that a public key's `key_ops` may name (RFC 7517, section 4.3). Sealing is one of them."""
SIGNING_KEYS = "Ed25519 or P-256"

_PUBLIC_MEMBERS = ("kty", "crv", "x", "y", "n", "e", "kid", "use", "alg")
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_MATERIAL = frozenset({"kty", "crv", "x", "y", "n", "e"}) | _PRIVATE_MEMBERS
_COORDINATES = {"X25519": ("x",), "P-256": ("x", "y")}
_COORDINATE_BYTES = 32
_PRIVATE_OPERATIONS = frozenset({"unwrapKey", "decrypt"})  # some tools leave the pair's there
_ONLY_SIGN = frozenset({"Ed25519", "Ed448"})
_SHOWN_LENGTH = 30

PEM = (
    "is PEM, not JWK: convert it, for example in Node.js with"
    ' crypto.createPublicKey(pem).export({format: "jwk"}), and add the recipient\'s name as "kid"'
)
PRIVATE_PEM = "holds a private key in PEM: only its owner may have it; give the public key here, as a JWK"


class KeyType(StrEnum):
    """The types of keys that `provisioner keys new` makes."""

    X25519 = "x25519"
    P_256 = "p-256"
    RSA = "rsa"
    ED25519 = "ed25519"


SEALING_TYPES = (KeyType.X25519, KeyType.P_256, KeyType.RSA)
SIGNING_TYPES = (KeyType.ED25519, KeyType.P_256)


class BadKeys(ValueError):
    """The file holds no keys that can be read. The text quotes nothing of a key but its `kid`."""


@dataclass(frozen=True, slots=True)
class KeyState:
    """One key of a file. `problem` says why it is not used; None if it can be."""

    kid: str
    recipient: str
    kind: str
    jwk: Jwk
    problem: str | None = None


def keys_in(text: str) -> tuple[Jwk, ...]:
    """The keys of a JWKS or of a list, or the only one of a JWK; raises `BadKeys`."""
    if text.lstrip().startswith("-----BEGIN "):
        raise BadKeys(PRIVATE_PEM if "PRIVATE KEY" in text else PEM)
    try:
        document = from_json(text)
    except ValueError:
        raise BadKeys("is not JSON") from None
    if isinstance(document, dict) and "kty" in document:
        document = {"keys": [document]}
    if isinstance(document, list):
        document = {"keys": document}
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise BadKeys('is neither a JWKS, {"keys": [...]}, nor a JWK')
    if not keys:
        raise BadKeys("holds no key")
    return tuple(keys)


def recipient_keys(text: str) -> tuple[KeyState, ...]:
    """Every key of the recipients' file, the newest of each recipient first; raises `BadKeys`.

    A key whose `kid` names no recipient has an empty one.
    """
    states = [_recipient_key(jwk) for jwk in keys_in(text)]
    named = sorted(state.kid for state in states if state.recipient)
    for kid, following in pairwise(named):
        if kid == following:
            raise BadKeys(f'holds two keys of one "kid", {kid}')
    states.sort(key=lambda state: state.kid, reverse=True)
    return tuple(sorted(states, key=lambda state: state.recipient))


def recipients_of(states: Iterable[KeyState]) -> tuple[str, ...]:
    """The recipients, each once."""
    return tuple(dict.fromkeys(state.recipient for state in states if state.recipient))


def key_in_use(states: Iterable[KeyState], recipient: str) -> KeyState | None:
    """The recipient's newest usable key."""
    return next((state for state in states if state.recipient == recipient and not state.problem), None)


def signing_key(text: str) -> Jwk:
    """The private key that signs; of several, the one with the greatest `kid`. Raises `BadKeys`."""
    private = [jwk for jwk in keys_in(text) if is_private(jwk)]
    if not private:
        raise BadKeys("holds no private key")
    for jwk in private:
        if not jwk.get("kid") or not isinstance(jwk["kid"], str):
            raise BadKeys('holds a key without a "kid"')
        if signing_algorithm(jwk) is None:
            raise BadKeys(f"holds a key that is not {SIGNING_KEYS}")
    return max(private, key=lambda jwk: str(jwk["kid"]))


def public_set(keys: Iterable[Jwk]) -> dict[str, list[Jwk]]:
    """A JWKS of the public parts."""
    return {"keys": [public_part(jwk) for jwk in keys]}


def public_part(jwk: Jwk) -> dict[str, Any]:
    """The key without its private members."""
    return {name: jwk[name] for name in _PUBLIC_MEMBERS if name in jwk}


def material(jwk: Jwk) -> dict[str, Any]:
    """The key alone, without the members that a library would check for a use of its own."""
    return {name: jwk[name] for name in _MATERIAL if name in jwk}


def is_private(jwk: Jwk) -> bool:
    """Whether the key has any private member (RFC 7518, section 6)."""
    return not _PRIVATE_MEMBERS.isdisjoint(jwk)


def recipient_of(kid: str) -> str:
    """`crm.20261121T083000Z` -> `crm`; raises `ValueError` if the `kid` does not begin with a recipient."""
    return checked_recipient(kid.partition(".")[0])


def kind_of(jwk: Jwk) -> str:
    """`X25519`, `P-256`, `RSA 3072`: the type of a key, for people."""
    return str(jwk.get("crv") or (f"RSA {_bits(jwk)}" if jwk.get("kty") == "RSA" else jwk.get("kty")))


def sealing_algorithm(jwk: Jwk) -> str | None:
    """The key management algorithm for this key (RFC 7518, section 4); None if we do not use such keys."""
    match jwk.get("kty"), jwk.get("crv"):
        case ("OKP", "X25519") | ("EC", "P-256"):
            return "ECDH-ES+A256KW"
        case ("RSA", _) if _bits(jwk) >= LEAST_RSA_BITS:
            return "RSA-OAEP-256"
        case _:
            return None


def signing_algorithm(jwk: Jwk) -> str | None:
    """The signature algorithm of this key (RFC 7518 and RFC 9864); None if we do not use such keys."""
    match jwk.get("kty"), jwk.get("crv"):
        case ("OKP", "Ed25519"):
            return "Ed25519"
        case ("EC", "P-256"):
            return "ES256"
        case _:
            return None


def _recipient_key(jwk: Jwk) -> KeyState:
    kid = jwk.get("kid")
    if not kid or not isinstance(kid, str):
        return KeyState("", "", kind_of(jwk), jwk, "kid is missing: write the recipient's name there")
    try:
        recipient = recipient_of(kid)
    except ValueError as error:
        return KeyState(kid, "", kind_of(jwk), jwk, f"kid does not begin with a recipient's name: {error}")
    return KeyState(kid, recipient, kind_of(jwk), jwk, _problem(jwk))


def _problem(jwk: Jwk) -> str | None:
    if jwk.get("kty") == "oct":
        return "it is a symmetric key (oct), known to two: make a pair"
    if is_private(jwk):
        return "it is a private key: make another pair, this one is known to two"
    problems = (_problem_of_type, _problem_of_use, _problem_of_operations, _problem_of_algorithm)
    return next((found for problem in problems if (found := problem(jwk))), None)


def _problem_of_type(jwk: Jwk) -> str | None:
    kty, crv = jwk.get("kty"), jwk.get("crv")
    match kty, crv:
        case None, _:
            return "kty is missing"
        case "RSA", _:
            return _problem_of_rsa(jwk)
        case ("OKP", "X25519") | ("EC", "P-256"):
            return next(filter(None, (_problem_of_coordinate(jwk, name) for name in _COORDINATES[crv])), None)
        case "OKP" | "EC", None:
            return "crv is missing"
        case "OKP", str() if crv in _ONLY_SIGN:
            return f"{crv} only signs: use X25519 or P-256"
        case "OKP" | "EC", _:
            return f"the curve {_shown(crv)} is not supported: use X25519 or P-256"
        case _:
            return f"the type {_shown(kty)} is not supported: use {SEALING_KEYS}"


def _problem_of_rsa(jwk: Jwk) -> str | None:
    for name in ("n", "e"):
        if jwk.get(name) is None:
            return f"{name} is missing"
        if _bytes_of(jwk[name]) is None:
            return f"{name} is not base64url"
    bits = _bits(jwk)
    return f"RSA of {bits} bits: at least {LEAST_RSA_BITS} are needed" if bits < LEAST_RSA_BITS else None


def _problem_of_coordinate(jwk: Jwk, name: str) -> str | None:
    if jwk.get(name) is None:
        return f"{name} is missing"
    found = _bytes_of(jwk[name])
    if found is None:
        return f"{name} is not base64url"
    return (
        f"{name} has {len(found)} bytes, not {_COORDINATE_BYTES}" if len(found) != _COORDINATE_BYTES else None
    )


def _problem_of_use(jwk: Jwk) -> str | None:
    use = jwk.get("use")
    return None if use in {None, "enc"} else f"use is {_shown(use)}: it must be enc, or left out"


def _problem_of_operations(jwk: Jwk) -> str | None:
    operations = jwk.get("key_ops")
    if not operations and operations in (None, []):
        return None
    if not isinstance(operations, list):
        return "key_ops is not a list"
    if any(one in {*SEALING_OPERATIONS, *_PRIVATE_OPERATIONS} for one in operations if isinstance(one, str)):
        return None
    wanted = ", ".join(SEALING_OPERATIONS)
    return f"key_ops is {', '.join(map(_shown, operations))}: it must name one of {wanted}, or be left out"


def _problem_of_algorithm(jwk: Jwk) -> str | None:
    alg, algorithm = jwk.get("alg"), sealing_algorithm(jwk)
    return None if alg in {None, algorithm} else f"alg is {_shown(alg)}: it must be {algorithm}, or left out"


def _shown(value: object) -> str:
    """A short word of a key, for people; anything else might be a part of a secret."""
    short = isinstance(value, str) and 0 < len(value) <= _SHOWN_LENGTH and value.isprintable()
    return str(value) if short else "something else"


def _bits(jwk: Jwk) -> int:
    return int.from_bytes(_bytes_of(jwk.get("n")) or b"").bit_length()


def _bytes_of(value: object) -> bytes | None:
    """The bytes of a base64url text (RFC 7515, section 2); None for anything else."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", value, re.ASCII):
        return None
    try:
        return base64.urlsafe_b64decode(f"{value}==")
    except (binascii.Error, ValueError):
        return None
