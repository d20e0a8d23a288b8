"""Proves that a request comes from its sender. Every comparison takes the same time, whatever differs.

HMAC: RFC 2104. Standard Webhooks: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec
"""

import base64
import binascii
import hmac
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256

from pydantic import SecretStr

from contracts.encoding import Unreadable, json_of
from contracts.times import EARLIEST_MILLISECONDS
from worker.core.intake.expressions import Unevaluated
from worker.core.intake.profile import Auth, Bearer, Encoding, Hmac, NoProof
from worker.core.intake.received import Received

BASE64_KEY = "whsec_"
"""Begins a secret that is base64, as Standard Webhooks writes it. Other secrets are their own text."""
MOST_SIGNATURES = 20
_SCHEME = "bearer "


class NotProven(Exception):
    """The request is not authentic. `cause` is for the log: the sender gets one text for every cause."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class BadSecret(ValueError):
    """A line of the secret file cannot be used. The text does not show it."""


def verify(auth: Auth, secrets: Sequence[SecretStr], received: Received) -> int:
    """Returns the place of the secret that proves the request (0 without a proof); raises `NotProven`.

    All secrets are tried, so that the old and the new one are valid while a secret is rotated. They are as
    `require_usable` wants them.
    """
    match auth:
        case NoProof():
            return 0
        case Bearer():
            given = _tokens(auth, received)
            expected = [sha256(_utf8(secret)).digest() for secret in secrets]
        case Hmac():
            given = _signatures(auth, received)
            signed = _signed(auth, received)
            expected = [hmac.digest(key_of(secret), signed, auth.algorithm) for secret in secrets]
    if not expected:
        raise NotProven("no-secret")
    places = [
        place
        for place, right in enumerate(expected)
        if sum(hmac.compare_digest(each, right) for each in given)  # not any(), which ends at the first
    ]
    if not places:
        raise NotProven("wrong-token" if isinstance(auth, Bearer) else "wrong-signature")
    return places[0]


def require_usable(auth: Auth, secret: SecretStr) -> None:
    """Raises `BadSecret` for a secret that can prove nothing."""
    if isinstance(auth, Hmac):
        key_of(secret)


def key_of(secret: SecretStr) -> bytes:
    """The key of an HMAC; raises `BadSecret`."""
    text = secret.get_secret_value()
    if not text.startswith(BASE64_KEY):
        return _utf8(secret)
    try:
        key = _from_base64(text.removeprefix(BASE64_KEY), urlsafe=False)
    except ValueError:
        key = b""
    if not key:
        raise BadSecret(f"begins with {BASE64_KEY}, but the rest is not base64")
    return key


def _utf8(secret: SecretStr) -> bytes:
    return secret.get_secret_value().encode(errors="surrogateescape")


def _tokens(auth: Bearer, received: Received) -> list[bytes]:
    """The digests of the token as sent, and without the word Bearer before it: they are of one length."""
    sent = _sent_token(auth, received)
    if not sent.startswith(auth.prefix):
        raise NotProven("no-prefix")
    token = sent.removeprefix(auth.prefix).strip()
    is_login = auth.header == "authorization" and token[: len(_SCHEME)].lower() == _SCHEME
    candidates = [token, token[len(_SCHEME) :].strip()] if is_login else [token]
    return [sha256(each.encode(errors="surrogateescape")).digest() for each in candidates]


def _sent_token(auth: Bearer, received: Received) -> str:
    if auth.field is None:
        return _header(received, auth.header)
    try:
        sent = auth.field.value({"body": json_of(received.body), "item": None, "headers": {}})
    except (Unreadable, Unevaluated):
        raise NotProven("unreadable-body") from None
    if not isinstance(sent, str) or not sent:
        raise NotProven("no-token")
    return sent


def _header(received: Received, name: str) -> str:
    value = received.headers.get(name, "").strip()
    if not value:
        raise NotProven("no-header")
    return value


def _signatures(auth: Hmac, received: Received) -> list[bytes]:
    """The signatures in the header: several stand there while a sender rotates its secret."""
    value = _header(received, auth.header)
    written = [value, *(value.split(" ") if " " in value else [])]
    named = [each.removeprefix(auth.prefix) for each in written if each.startswith(auth.prefix)]
    if not named:
        raise NotProven("no-prefix")
    decoded = list(_decoded(auth.encoding, named[:MOST_SIGNATURES]))
    if not decoded:
        raise NotProven("unreadable-signature")
    return decoded


def _decoded(encoding: Encoding, written: Sequence[str]) -> Iterator[bytes]:
    for each in written:
        try:
            match encoding:
                case Encoding.HEX:
                    yield binascii.unhexlify(each)
                case Encoding.BASE64 | Encoding.BASE64URL:
                    yield _from_base64(each, urlsafe=encoding is Encoding.BASE64URL)
        except ValueError:
            continue


def _from_base64(text: str, *, urlsafe: bool) -> bytes:
    """Decodes base64 with or without its padding; raises `ValueError`."""
    padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
    return base64.b64decode(padded, altchars=b"-_" if urlsafe else None, validate=True)


def _signed(auth: Hmac, received: Received) -> bytes:
    values = {"{body}": received.body}
    if auth.timestamp_header is not None and "{timestamp}" in auth.signed:
        written = _header(received, auth.timestamp_header)
        _require_fresh(auth, written, received.at)
        values["{timestamp}"] = written.encode(errors="surrogateescape")
    if auth.id_header is not None and "{id}" in auth.signed:
        values["{id}"] = _header(received, auth.id_header).encode(errors="surrogateescape")
    return b"".join(values.get(part, part.encode()) for part in auth.signed)


def _require_fresh(auth: Hmac, written: str, now: datetime) -> None:
    """Raises `NotProven` unless the timestamp, in seconds or milliseconds, is near to now."""
    if not re.fullmatch("[0-9]{1,16}", written):
        raise NotProven("unreadable-timestamp")
    number = int(written)
    seconds = number / 1000 if number >= EARLIEST_MILLISECONDS else number
    if abs(now.astimezone(UTC).timestamp() - seconds) > auth.tolerance.total_seconds():
        raise NotProven("stale-timestamp")
