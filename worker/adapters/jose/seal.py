"""The `Sealer` port: a JWE (RFC 7516) for one recipient with a JWS (RFC 7515) by the worker's key in it.

The algorithms are those of `core/keyring.py` only.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from joserfc import jwe, jws
from joserfc.errors import JoseError
from joserfc.jwk import import_key

from contracts.envelope import Message
from contracts.subaccounts import CredentialsMessage, content_to_seal, plain_message, sealed_message
from worker.core.keyring import (
    CONTENT_ENCRYPTION,
    BadKeys,
    Jwk,
    KeyState,
    key_in_use,
    material,
    recipient_keys,
    sealing_algorithm,
    signing_algorithm,
)
from worker.core.model.credentials import ANY_RECIPIENT
from worker.ports import NoRecipientKey
from worker.settings.files import NotText, decoded

OnKeyChange = Callable[[str, str | None, str], None]
"""Called at a change with a recipient, the `kid` now in use (None: no usable key), and the reason."""


class Unsealed:
    """Credentials in the clear, for every bound queue: only for a broker that no one else can read."""

    def seal(self, clear: CredentialsMessage, recipient: str) -> Message:
        """See `Sealer.seal`. Raises `NoRecipientKey` for a named recipient."""
        if recipient != ANY_RECIPIENT:
            raise NoRecipientKey(
                f"credentials are owed to {recipient} alone; set PROVISIONER_RECIPIENTS as it was"
            )
        return plain_message(clear)


class JoseSealer:
    """Seals for recipients, and signs with the worker's key; the signed content is a JWT (RFC 7519)."""

    def __init__(self, recipients: "RecipientKeys", signing_key: Jwk) -> None:
        self._recipients = recipients
        self._signer = import_key(material(signing_key))
        self._protected = {"alg": str(signing_algorithm(signing_key)), "kid": signing_key["kid"]}

    def seal(self, clear: CredentialsMessage, recipient: str) -> Message:
        """See `Sealer.seal`. Raises `NoRecipientKey` without a usable key."""
        key = self._recipients.key_of(recipient)
        signed = jws.serialize_compact(
            self._protected | {"typ": "JWT"},
            content_to_seal(clear, recipient),
            self._signer,
            algorithms=[self._protected["alg"]],
        )
        return sealed_message(clear, _sealed(signed, key))


class _Stamp(NamedTuple):
    """Identifies a version of a file."""

    inode: int
    size: int
    changed_at: int


def usable_keys(text: str) -> tuple[KeyState, ...]:
    """The keys of the recipients' file; one that fails a trial seal gets a `problem`. Raises `BadKeys`."""
    return tuple(replace(state, problem=state.problem or _damage(state)) for state in recipient_keys(text))


def _damage(state: KeyState) -> str | None:
    try:
        _sealed(b"", state)
    except (JoseError, ValueError, TypeError, KeyError):
        return "it is damaged"
    return None


def _sealed(content: str | bytes, state: KeyState) -> str:
    algorithms = {"alg": str(sealing_algorithm(state.jwk)), "enc": CONTENT_ENCRYPTION}
    header = algorithms | {"kid": state.kid, "cty": "JWT"}
    return jwe.encrypt_compact(header, content, import_key(material(state.jwk)), list(algorithms.values()))


class RecipientKeys:
    """The recipients' public keys, reloaded when their file changes.

    An unreadable file counts as empty: it may have withdrawn the keys that were read before.
    """

    def __init__(self, path: Path, recipients: Sequence[str], on_change: OnKeyChange) -> None:
        self._path = path
        self._recipients = recipients
        self._on_change = on_change
        self._stamp: _Stamp | None = None
        self._states: tuple[KeyState, ...] = ()
        self._fault = ""
        self._reported: dict[str, str | None] = {}

    def refresh(self) -> None:
        """Reads the file if it has changed, and reports the recipients whose key has changed."""
        stamp = self._stamp_of_file()
        if stamp is not None and stamp == self._stamp:
            return
        self._stamp, self._states, self._fault = stamp, (), ""
        try:
            self._states = usable_keys(decoded(self._path.read_bytes()))
        except OSError as error:
            self._fault = f"{self._path} cannot be read: {error.strerror}"
        except (BadKeys, NotText) as error:
            self._fault = f"{self._path} {error}"
        for recipient in self._recipients:
            self._current(recipient)

    def key_of(self, recipient: str) -> KeyState:
        """The key to seal with for a recipient; raises `NoRecipientKey`."""
        self.refresh()
        state = self._current(recipient)
        if state is None:
            raise NoRecipientKey(self._why(recipient))
        return state

    def nameless(self) -> list[str]:
        """The problem of each key whose `kid` names no recipient."""
        self.refresh()
        return [state.problem or "" for state in self._states if not state.recipient]

    def _current(self, recipient: str) -> KeyState | None:
        """The recipient's key in use; reports a change since the last call."""
        state = key_in_use(self._states, recipient)
        kid = state.kid if state else None
        if self._reported.get(recipient, "") != kid:
            self._reported[recipient] = kid
            self._on_change(recipient, kid, "" if state else self._why(recipient))
        return state

    def _why(self, recipient: str) -> str:
        if self._fault:
            return f"no key to seal with: {self._fault}"
        if recipient == ANY_RECIPIENT:
            return "credentials are owed from before PROVISIONER_RECIPIENTS was set, and name no recipient"
        problems = [f"{state.kid}: {state.problem}" for state in self._states if state.recipient == recipient]
        found = "; ".join(problems) or "none bears its name"
        return f"no usable key for {recipient} in {self._path} ({found})"

    def _stamp_of_file(self) -> _Stamp | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return _Stamp(found.st_ino, found.st_size, found.st_mtime_ns)
