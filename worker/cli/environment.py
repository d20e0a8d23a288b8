"""`--env-file`: settings from a file of `NAME=VALUE` lines, for every command."""

import io
import os
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from worker.cli.files import FileUnusable, read_text

SHOWN_MISTAKES = 20

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvFileUnusable(FileUnusable):
    """A file of settings cannot be read, or has lines that set nothing; their content is not quoted."""

    exit_code = 2


def use_env_file(path: Path, environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets what the file says and the environment does not. A blank variable counts as unset.

    Lines are `NAME=VALUE`, as in a shell: `export`, quotes and comments are allowed, and nothing is expanded.
    A `NAME` in the environment wins over `NAME_FILE` in the file, and the other way round. Raises
    `EnvFileUnusable`.
    """
    given = {name.removesuffix("_FILE") for name, value in environ.items() if value.strip()}
    environ.update(
        {name: value for name, value in _values_in(path) if name.removesuffix("_FILE") not in given}
    )


def _values_in(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = read_text(path)
    except FileUnusable as error:
        raise EnvFileUnusable(str(error)) from None
    bindings = list(parse_stream(io.StringIO(text)))
    wrong = [_line_of(one) for one in bindings if one.error or (one.key is not None and not _is_usable(one))]
    if wrong:
        more = len(wrong) - SHOWN_MISTAKES
        lines = [f"{path} line {number}: not NAME=VALUE" for number in wrong[:SHOWN_MISTAKES]]
        raise EnvFileUnusable("\n".join(lines + ([f"and {more} more lines"] if more > 0 else [])))
    yield from ((one.key, one.value) for one in bindings if one.key is not None and one.value is not None)


def _is_usable(binding: Binding) -> bool:
    """An environment can hold it: a name, and a value without a NUL."""
    named = binding.key is not None and _NAME.fullmatch(binding.key) is not None
    return named and binding.value is not None and "\0" not in binding.value


def _line_of(binding: Binding) -> int:
    """The number of its first line that is not blank."""
    blank = re.match(r"\s*", binding.original.string)
    return binding.original.line + (blank[0].count("\n") if blank else 0)
