"""Key files (JWK and JWKS, RFC 7517): makes pairs, and writes private keys with mode 0600."""

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from joserfc.jwk import ECKey, Key, KeyParameters, OKPKey, RSAKey
from pydantic_core import to_json

from worker.core.keyring import (
    BadKeys,
    Jwk,
    KeyType,
    is_private,
    keys_in,
    public_part,
    public_set,
    signing_key,
)
from worker.ports import UserError
from worker.settings.files import NotText, closed_to_us, decoded

RSA_BITS = 3072
SIGNER = "provisioner"


class KeyFileError(UserError):
    """A key file cannot be read or written. The text quotes nothing of a key."""


def new_sealing_key(recipient: str, kind: KeyType, now: datetime) -> dict[str, Any]:
    """Makes a recipient's private key; `kind` is one of `SEALING_TYPES`, else `ValueError`."""
    named = KeyParameters(kid=_kid(recipient, now), use="enc")
    made: Key
    match kind:
        case KeyType.X25519:
            made = OKPKey.generate_key("X25519", named)
        case KeyType.P_256:
            made = ECKey.generate_key("P-256", named)
        case KeyType.RSA:
            made = RSAKey.generate_key(RSA_BITS, named)
        case _:
            raise ValueError(f"{kind} does not seal")
    return dict(made.as_dict(private=True))


def new_signing_key(kind: KeyType, now: datetime) -> dict[str, Any]:
    """Makes the worker's private key; `kind` is one of `SIGNING_TYPES`, else `ValueError`."""
    named = KeyParameters(kid=_kid(SIGNER, now), use="sig")
    made: Key
    match kind:
        case KeyType.ED25519:
            made = OKPKey.generate_key("Ed25519", named)
        case KeyType.P_256:
            made = ECKey.generate_key("P-256", named)
        case _:
            raise ValueError(f"{kind} does not sign")
    return dict(made.as_dict(private=True))


def read_keys(path: Path) -> tuple[Jwk, ...]:
    """Every key in a file; raises `KeyFileError`."""
    try:
        return keys_in(decoded(path.read_bytes()))
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {_why(path, error)}") from None
    except (BadKeys, NotText) as error:
        raise KeyFileError(f"{path} {error}") from None


def is_there(path: Path) -> bool:
    """Whether there is such a file; raises `KeyFileError` if its folder may not be searched."""
    try:
        return path.exists()
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {_why(path, error)}") from None


def _why(path: Path, error: OSError) -> str:
    advice = f"; {closed_to_us(path)}" if isinstance(error, PermissionError) else ""
    return f"{error.strerror}{advice}"


def read_signing_key(path: Path) -> Jwk:
    """The signing key: of several private keys the one with the greatest `kid`. Raises `KeyFileError`."""
    keys = read_keys(path)
    try:
        return signing_key(to_json({"keys": keys}).decode())
    except BadKeys as error:
        raise KeyFileError(f"{path} {error}") from None


def signing_key_made_once(path: Path, now: datetime) -> Jwk:
    """The signing key in the file, which is created if it is missing. Raises `KeyFileError`."""
    if not is_there(path):
        with suppress(FileExistsError):  # another process was faster
            write_new(path, [new_signing_key(KeyType.ED25519, now)])
    return read_signing_key(path)


def rotate_signing_key(path: Path, kind: KeyType, now: datetime) -> dict[str, Any]:
    """Puts a new key into the file and keeps the public parts of the older ones. Raises `KeyFileError`."""
    made = new_signing_key(kind, now)
    before = [public_part(jwk) for jwk in read_keys(path)] if is_there(path) else []
    _replace(path, [*before, made])
    return made


def public_jwks(path: Path | None) -> dict[str, list[Jwk]]:
    """The public parts of all keys in the file, to verify signatures; empty without a file.

    Raises `KeyFileError`.
    """
    return public_set(read_keys(path) if path is not None and is_there(path) else ())


def add_public(path: Path, jwk: Jwk) -> None:
    """Adds a public key to a world-readable JWKS, which is created if needed. Raises `KeyFileError`."""
    _replace(path, [*(read_keys(path) if is_there(path) else ()), public_part(jwk)])


def write_new(path: Path, keys: Iterable[Jwk]) -> None:
    """Creates a file atomically; raises `FileExistsError` if it exists, or `KeyFileError`."""
    fresh = _written_beside(path, list(keys))
    try:
        os.link(fresh, path)
    except FileExistsError:
        raise
    except OSError as error:
        raise KeyFileError(f"{path} cannot be made: {_why(path, error)}") from None
    finally:
        fresh.unlink()


def _replace(path: Path, keys: list[Jwk]) -> None:
    fresh = _written_beside(path, keys)
    try:
        fresh.replace(path)
    except OSError as error:
        fresh.unlink()
        raise KeyFileError(f"{path} cannot be written: {_why(path, error)}") from None


def _written_beside(path: Path, keys: list[Jwk]) -> Path:
    """A temporary file in the same folder; its mode is 0600 from the start if a key in it is private."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    mode = 0o600 if any(map(is_private, keys)) else 0o644
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(to_json({"keys": keys}, indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {_why(path, error)}") from None
    return fresh


def _kid(name: str, now: datetime) -> str:
    return f"{name}.{now:%Y%m%dT%H%M%S%f}Z"
