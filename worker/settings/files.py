"""Texts in files, and parsers of settings that name files.

The files are read at once, so a mistake is reported at the start.

All raise `ValueError`; the text follows the name of the setting and quotes nothing of a key.
"""

import codecs
import os
import pwd
import re
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


class NotText(ValueError):
    """A file is not text in UTF-8; the text follows the name of the file."""


def decoded(content: bytes) -> str:
    """The text of a file in UTF-8, without a byte order mark. Raises `NotText`."""
    if content.startswith(UTF16) or _is_utf16_without_mark(content):
        raise NotText("is UTF-16: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotText("is not UTF-8: save it as UTF-8") from None


def _is_utf16_without_mark(content: bytes) -> bool:
    """Whether each second byte at its begin is NUL, as of ASCII text in UTF-16."""
    begin = content[:64]
    return len(begin) > 1 and (not any(begin[1::2]) or not any(begin[::2]))


def closed_to_us(path: Path) -> str:
    """Advice about a file that this process may not read or write; its folder may be closed as well."""
    found = next(filter(_is_found, (path, *path.absolute().parents)))
    owner = found.stat().st_uid
    if owner == os.geteuid():
        return f"chmod u+{'rwx' if found.is_dir() else 'rw'} {found}"
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"uid {owner}"
    return f"run it as the worker's user ({name})"


def _is_found(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


def recipients_file(value: object) -> object:
    """The path of a JWKS of public keys (RFC 7517, section 5), as `Recipients`."""
    if not isinstance(value, str):
        return value
    states = _keys_of(value, recipient_keys)
    if private := [state.kid for state in states if is_private(state.jwk)]:
        raise ValueError(f"{value} holds a private key, {private[0]}: make another pair")
    if not (names := recipients_of(states)):
        raise ValueError(f"{value} holds no key of a recipient: {states[0].problem}")
    return Recipients(Path(value), names)


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
            require_readable(name, Path(path))


def require_readable(name: str, path: Path) -> None:
    """Raises `ValueError` if the file that a URL names as `name` cannot be read."""
    try:
        path.read_bytes()
    except OSError as error:
        raise ValueError(f"names a {name} that cannot be read: {why_unreadable(error, str(path))}") from None


def _keys_of(path: str, read: Callable[[str], T]) -> T:
    """Applies `read` to the file's text. A value that does not look like a path may be a key."""
    if "{" in path:
        raise ValueError("is the path of a file, not the key itself")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {why_unreadable(error, path)}") from None
    try:
        return read(decoded(content))
    except (BadKeys, NotText) as error:
        raise ValueError(f"{path} {error}") from None


_PATH = re.compile(r"(?:/|\.{1,2}/|~)[^\n]*|[^\s@:]*\.(?:json|jwks?|pem|key|crt|txt|env)")
"""Text that certainly names a file. Anything else in the place of a path may be the secret itself."""


def why_unreadable(error: OSError, path: str) -> str:
    """The error of a file that a setting names, with its path unless that may be a secret."""
    why = error.strerror or type(error).__name__
    if not _PATH.fullmatch(path):
        return why
    advice = f"; {closed_to_us(Path(path))}" if isinstance(error, PermissionError) else ""
    return f"{why}: {path}{advice}"
