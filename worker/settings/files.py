"""Texts in files, and parsers of settings that name files.

The files are read at once, so a mistake is reported at the start.

All raise `ValueError`; the text follows the name of the setting and quotes nothing of a key.
"""

import codecs
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from worker.core.keyring import BadKeys, is_private, recipient_keys, recipients_of, signing_key

T = TypeVar("T")
TLS_FILES = ("cafile", "certfile", "keyfile")
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Recipients(NamedTuple):
    """The file of the recipients' public keys, and its recipients when the settings were read."""

    path: Path
    names: tuple[str, ...]


def decoded(content: bytes) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises `ValueError`; the text follows the name of the file.
    """
    if content.startswith(UTF16) or _is_utf16_without_mark(content):
        raise ValueError("is UTF-16: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8: save it as UTF-8") from None


def _is_utf16_without_mark(content: bytes) -> bool:
    """Whether each second byte at its begin is NUL, as of ASCII text in UTF-16."""
    begin = content[:64]
    return len(begin) > 1 and (not any(begin[1::2]) or not any(begin[::2]))


def recipients_file(value: object) -> object:
    """The path of a JWKS of public keys (RFC 7517, section 5), as `Recipients`."""
    if not isinstance(value, str):
        return value
    states = _keys_of(value, recipient_keys)
    if private := [state.kid for state in states if is_private(state.jwk)]:
        raise ValueError(f"{value} holds a private key, {private[0]}: make another pair")
    return Recipients(Path(value), recipients_of(states))


def signing_key_file(value: object) -> object:
    """The path of the worker's private key (JWK or JWKS), as a `Path`."""
    if not isinstance(value, str):
        return value
    _keys_of(value, signing_key)
    return Path(value)


def check_tls(query: Mapping[str, str]) -> None:
    """Checks the query of an AMQP URL: its files must be readable, and the broker must be verified."""
    if query.get("no_verify_ssl", "0") != "0":
        raise ValueError(
            "says no_verify_ssl: anyone could pose as the broker; give its authority as cafile instead"
        )
    if query.get("keyfile") and not query.get("certfile"):
        raise ValueError("has a keyfile without a certfile")
    for name in TLS_FILES:
        if path := query.get(name):
            _readable(name, Path(path))


def _readable(name: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ValueError(f"names a {name} that cannot be read: {error.strerror}") from None


def _keys_of(path: str, read: Callable[[str], T]) -> T:
    """Applies `read` to the file's text. A value that is not a path may be a key, so it is not quoted."""
    if "{" in path:
        raise ValueError("is the path of a file, not the key itself")
    try:
        return read(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    except BadKeys as error:
        raise ValueError(f"{path} {error}") from None
