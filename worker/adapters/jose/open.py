"""The recipient's side of a seal: decrypts the JWE (RFC 7516), verifies the JWS in it (RFC 7515)."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from joserfc import jwe, jws
from joserfc.errors import JoseError
from joserfc.jwk import import_key
from pydantic import ValidationError
from pydantic_core import from_json

from contracts.envelope import describe
from contracts.subaccounts import JOSE, CredentialsMessage, SealedContent, SealedCredentialsMessage
from worker.core.keyring import (
    CONTENT_ENCRYPTION,
    Jwk,
    material,
    public_part,
    recipient_of,
    sealing_algorithm,
    signing_algorithm,
)
from worker.ports import UserError

# joserfc raises these for damaged input, a wrong key, or an algorithm that is not allowed.
_REFUSALS = (JoseError, ValueError, TypeError, KeyError)


class NotOpened(UserError):
    """The message is not genuine, or not for this key. The text quotes nothing of its content."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The content, its recipient, and the `kid` of the key that opened it and of the key that signed it."""

    content: SealedContent
    recipient: str
    opened_with: str
    signed_by: str


def open_message(body: bytes, private_keys: Sequence[Jwk], worker_keys: Sequence[Jwk]) -> Opened:
    """Opens a sealed message and checks that the worker made it for us. Raises `NotOpened`."""
    message = _sealed_message(body)
    kid, signed = _unsealed(message.data, private_keys)
    signed_by, payload = _verified(signed, worker_keys)
    try:
        content = SealedContent.model_validate_json(payload)
    except ValidationError as error:
        raise NotOpened(f"its inside breaks the contract: {describe(error)}") from None
    recipient = recipient_of(kid)
    _check_addressee(message, content, recipient)
    return Opened(content, recipient, kid, signed_by)


def _sealed_message(body: bytes) -> SealedCredentialsMessage:
    try:
        return SealedCredentialsMessage.model_validate_json(body)
    except ValidationError as error:
        complaint = describe(error)
    try:
        CredentialsMessage.model_validate_json(body)
    except ValidationError:
        raise NotOpened(f"this is no sealed credentials message: {complaint}") from None
    raise NotOpened(f"these credentials are not sealed: their datacontenttype is not {JOSE}")


def _unsealed(sealed: str, private_keys: Sequence[Jwk]) -> tuple[str, bytes]:
    kid = _kid_in(sealed.encode())
    jwk = _named(kid, private_keys)
    algorithm = sealing_algorithm(jwk) if jwk else None
    if jwk is None or algorithm is None:
        ours = ", ".join(str(key.get("kid")) for key in private_keys)
        raise NotOpened(f"it is sealed for the key {kid}; given is {ours}")
    try:
        opened = jwe.decrypt_compact(sealed, import_key(material(jwk)), [algorithm, CONTENT_ENCRYPTION])
    except _REFUSALS:
        raise NotOpened(f"the key {kid} does not open it: damaged, or another key of that name") from None
    return kid, opened.plaintext or b""


def _verified(signed: bytes, worker_keys: Sequence[Jwk]) -> tuple[str, bytes]:
    kid = _kid_in(signed)
    jwk = _named(kid, worker_keys)
    algorithm = signing_algorithm(jwk) if jwk else None
    if jwk is None or algorithm is None:
        raise NotOpened(f"it is signed with the key {kid}, which is not among the worker's")
    try:
        return kid, jws.deserialize_compact(
            signed, import_key(material(public_part(jwk))), [algorithm]
        ).payload
    except _REFUSALS:
        raise NotOpened("its signature is not the worker's") from None


def _named(kid: str, keys: Sequence[Jwk]) -> Jwk | None:
    return next((key for key in keys if key.get("kid") == kid), None)


def _kid_in(compact: bytes) -> str:
    """The `kid` in the header of a compact serialisation; nothing is verified yet."""
    try:
        header = from_json(base64.urlsafe_b64decode(compact.partition(b".")[0] + b"=="))
        return str(header["kid"])
    except (ValueError, TypeError, KeyError):
        raise NotOpened("its header names no key") from None


def _check_addressee(message: SealedCredentialsMessage, content: SealedContent, recipient: str) -> None:
    """Rejects a seal that was moved to another message or made for another recipient."""
    expected = {
        "aud": (content.aud, recipient),
        "iss": (content.iss, message.source),
        "sub": (content.sub, message.subject),
        "jti": (content.jti, message.id),
        "tenant": (content.tenant, message.tenant),
        "department_id": (content.department_id, message.subject),
    }
    for name, (inside, outside) in expected.items():
        if inside != outside:
            raise NotOpened(f"{name} inside the seal is not that of the message: it was sealed for another")
