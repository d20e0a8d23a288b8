"""The tokens of those who may post CloudEvents to the intake: a file of `name: token` lines."""

import hmac
import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from worker.core.intake.proof import NotProven
from worker.settings.files import NotText, decoded, why_unreadable

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN = re.compile(r"[!-~]+")
_SCHEME = "bearer "
LONGEST_TOKEN = 4096

OnRead = Callable[[str | None], None]
"""Is told that the file was read again: None for new tokens, else why the old ones are kept."""


class Token(NamedTuple):
    """A token, of which only a digest is kept. `place`: its line among those of its name, from 1 on."""

    name: str
    place: int
    digest: bytes


def tokens_file(value: object) -> object:
    """The path of a file of tokens, as a `Path`. Raises `ValueError`."""
    if not isinstance(value, str):
        return value
    try:
        tokens_in(Path(value).read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read: {why_unreadable(error, value)}") from None
    except ValueError as error:
        raise ValueError(f"{value}: {error}") from None
    return Path(value)


def tokens_in(content: bytes) -> Sequence[Token]:
    """The tokens in a file; blank lines and those that begin with # say nothing.

    Raises `ValueError`, whose text shows no token.
    """
    try:
        lines = decoded(content).splitlines()
    except NotText as error:
        raise ValueError(f"it {error}") from None
    found: list[Token] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            found.append(_token(number, text, found))
    if not found:
        raise ValueError("it has no token; write lines such as `hr: TOKEN`")
    return tuple(found)


def _token(number: int, text: str, before: Sequence[Token]) -> Token:
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if not colon or not _NAME.fullmatch(name):
        raise ValueError(f"line {number}: write `name: token`; a name has 1 to 64 of A-Z a-z 0-9 . _ -")
    if not _TOKEN.fullmatch(rest) or len(rest) > LONGEST_TOKEN:
        raise ValueError(
            f"line {number}: a token has 1 to {LONGEST_TOKEN:,} visible ASCII characters, without blanks"
        )
    digest = sha256(rest.encode()).digest()
    if any(each.digest == digest for each in before):
        raise ValueError(f"line {number}: this token is there twice")
    return Token(name, 1 + sum(each.name == name for each in before), digest)


def _unreported(_why_kept: str | None) -> None:
    return None


class Tokens:
    """The tokens in a file. They are read again when it has changed.

    A changed file that is half-written or wrong leaves the old tokens in force.
    """

    def __init__(self, path: Path, on_read: OnRead = _unreported) -> None:
        self._path = path
        self._on_read = on_read
        self._seen = self._state()
        self._tokens = tokens_in(path.read_bytes())
        self._reported: str | None = None

    @property
    def names(self) -> Sequence[str]:
        """The names, each once."""
        return list(dict.fromkeys(each.name for each in self._tokens))

    def prove(self, authorization: str | None) -> Token:
        """The token in an `Authorization` header; raises `NotProven`. It takes the same time for each."""
        self._read_if_changed()
        if not authorization:
            raise NotProven("no-header")
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise NotProven("no-bearer-token")
        given = sha256(authorization[len(_SCHEME) :].strip().encode(errors="surrogateescape")).digest()
        found = [each for each in self._tokens if hmac.compare_digest(each.digest, given)]
        if not found:
            raise NotProven("wrong-token")
        return found[0]

    def _state(self) -> tuple[int, int, int, int]:
        state = self._path.stat()
        return state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino

    def _read_if_changed(self) -> None:
        try:
            seen = self._state()
            if seen == self._seen:
                return
            found = tokens_in(self._path.read_bytes())
        except OSError as error:
            self._keep(f"it cannot be read: {why_unreadable(error, str(self._path))}")
            return
        except ValueError as error:
            self._keep(str(error))
            return
        self._seen, self._reported = seen, None
        if found != self._tokens:
            self._tokens = found
            self._on_read(None)

    def _keep(self, why: str) -> None:
        if why != self._reported:
            self._reported = why
            self._on_read(why)
