"""Reads a file of keys: the owner of each key, the keys in use, and the problems of the others.

Keys are JWK (RFC 7517) as they were read; there is no cryptography here. A recipient's key is named
`<recipient>` or `<recipient>.<anything>` by its `kid`; of several usable ones the greatest `kid`, compared as
text, is the newest. `provisioner keys new` puts the time there, which sorts.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic_core import from_json

from contracts.topology import checked_recipient

Jwk = Mapping[str, Any]

CONTENT_ENCRYPTION = "A256GCM"
LEAST_RSA_BITS = 2048
SEALING_KEYS = f"X25519, P-256, or RSA of at least {LEAST_RSA_BITS} bits"
SIGNING_KEYS = "Ed25519 or P-256"

_PUBLIC_MEMBERS = ("kty", "crv", "x", "y", "n", "e", "kid", "use", "alg")
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


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
    """The keys of a JWKS, or the only one of a JWK; raises `BadKeys`."""
    try:
        document = from_json(text)
    except ValueError:
        raise BadKeys("is not JSON") from None
    if isinstance(document, dict) and "kty" in document:
        document = {"keys": [document]}
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise BadKeys('is neither a JWKS, {"keys": [...]}, nor a JWK')
    if not keys:
        raise BadKeys("holds no key")
    return tuple(keys)


def recipient_keys(text: str) -> tuple[KeyState, ...]:
    """Every key of the recipients' file, the newest of each recipient first; raises `BadKeys`."""
    states = [_recipient_key(jwk) for jwk in keys_in(text)]
    if len({state.kid for state in states}) < len(states):
        raise BadKeys('holds two keys of one "kid"')
    states.sort(key=lambda state: state.kid, reverse=True)
    return tuple(sorted(states, key=lambda state: state.recipient))


def recipients_of(states: Iterable[KeyState]) -> tuple[str, ...]:
    """The recipients, each once."""
    return tuple(dict.fromkeys(state.recipient for state in states))


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
    try:
        recipient = recipient_of(kid if isinstance(kid, str) else "")
    except ValueError as error:
        raise BadKeys(f'holds a key whose "kid" does not begin with its recipient: {error}') from None
    return KeyState(str(kid), recipient, kind_of(jwk), jwk, _problem(jwk))


def _problem(jwk: Jwk) -> str | None:
    algorithm = sealing_algorithm(jwk)
    if is_private(jwk):
        return "it is a private key: make another pair, this one is known to two"
    if jwk.get("use", "enc") != "enc":  # it may be left out
        return 'its "use" is not "enc"'
    if algorithm is None:
        return f"it is not {SEALING_KEYS}"
    if jwk.get("alg", algorithm) != algorithm:
        return f'its "alg" is not {algorithm}'
    return None


def _bits(jwk: Jwk) -> int:
    modulus = jwk.get("n")
    try:
        return int.from_bytes(base64.urlsafe_b64decode(f"{modulus}==")).bit_length()
    except (binascii.Error, ValueError):
        return 0
