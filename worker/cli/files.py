"""Files that commands read and write, and the errors for those that cannot be."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from worker.cli.streams import ReaderGone
from worker.ports import UserError
from worker.settings.files import NotText, closed_to_us, decoded


class FileUnusable(UserError):
    """A file named on the command line cannot be read or written."""


@contextmanager
def output_file(path: Path | None) -> Iterator[BinaryIO]:
    """A file to write to, or stdout for None. Raises `FileUnusable`.

    A new file is readable by its owner only, and deleted again if the block fails.
    """
    existed = path is None or path.exists()
    with writing_to(path):
        descriptor = 1 if path is None else os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    file = os.fdopen(descriptor, "wb", closefd=path is not None)
    try:
        yield file
    except BaseException:
        if path is not None and not existed:
            path.unlink(missing_ok=True)
        raise
    finally:
        with writing_to(path):
            file.close()


@contextmanager
def writing_to(path: Path | None) -> Iterator[None]:
    """Turns an `OSError` in the block into `FileUnusable`, or `ReaderGone` where stdout has no reader."""
    try:
        yield
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        raise FileUnusable(f"{path or 'standard output'} cannot be written: {error.strerror}") from None


def read_text(path: Path) -> str:
    """The text of a file, or of stdin for `-`; without a byte order mark. Raises `FileUnusable`."""
    try:
        return decoded(read_bytes(path))
    except NotText as error:
        raise FileUnusable(f"{_name(path)} {error}") from None


def read_bytes(path: Path) -> bytes:
    """The content of a file, or of stdin for `-`. Raises `FileUnusable`."""
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read()
        return path.read_bytes()
    except OSError as error:
        advice = f"; {closed_to_us(path)}" if isinstance(error, PermissionError) else ""
        raise FileUnusable(f"{_name(path)} cannot be read: {error.strerror}{advice}") from None


def _name(path: Path) -> str:
    return "standard input" if str(path) == "-" else str(path)
