"""Test secrets, and the search for them in everything the product writes."""

import base64
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

OURS = ("worker", "contracts", "pydantic_core")


@dataclass
class Canaries:
    """Secrets by name: a failing test reports the name, not the secret."""

    secrets: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, secret: str) -> None:
        assert len(secret) >= 12, "a secret this short may occur by chance"
        self.secrets[name] = secret

    def found_in(self, data: bytes) -> set[str]:
        """The names of the secrets in the text, in any encoding that a program may write."""
        return {
            name for name, secret in self.secrets.items() if any(map(data.__contains__, _written(secret)))
        }

    def found_in_folder(self, folder: Path) -> dict[str, set[str]]:
        files = {path: _content(path) for path in folder.rglob("*") if path.is_file()}
        found = {str(path.relative_to(folder)): self.found_in(data) for path, data in files.items()}
        return {path: names for path, names in found.items() if names}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # files of a broker may disappear meanwhile
        return b""


def _written(secret: str) -> Iterator[bytes]:
    raw = secret.encode()
    yield raw
    yield raw.hex().encode()
    for before in range(3):  # at each of the three base64 offsets
        encoded = base64.b64encode(b"\0" * before + raw)
        whole = encoded[(0, 2, 3)[before] : len(encoded) // 4 * 4 - 4]
        yield whole
        yield whole.replace(b"+", b"-").replace(b"/", b"_")


@dataclass
class RecordedExceptions:
    """Records every product exception raised within the block, caught or not, with its chain."""

    texts: list[str] = field(default_factory=list)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._entering)
        try:
            yield
        finally:
            sys.settrace(before)

    def _entering(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        ours = str(frame.f_globals.get("__name__", "")).startswith(("worker.", "contracts."))
        return self._within if ours else None

    def _within(self, _frame: FrameType, event: str, argument: Any) -> Any:
        if event == "exception" and argument[0].__module__.partition(".")[0] in OURS:
            self.texts += chain_of(argument[1])
        return self._within


def chain_of(error: BaseException | None) -> Iterator[str]:
    """The exception and its whole chain as text, including causes hidden by `from None`."""
    while error is not None:
        yield f"{type(error).__name__} {error} {error!r} {error.args!r}"
        error = error.__cause__ or error.__context__


def assert_absent(found: Mapping[str, set[str]]) -> None:
    """Fails if any secret was found."""
    hits = [f"{where}: {', '.join(sorted(names))}" for where, names in found.items() if names]
    assert not hits, "secrets were found\n" + "\n".join(hits)
