"""Reads the arguments of the process, for code that runs before or after the command line is parsed."""

from collections.abc import Sequence


def command_of(arguments: Sequence[str]) -> str:
    """The command, or nothing. Options of all commands may stand before it."""
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        del rest[: 2 if rest[0] == "--env-file" else 1]
    return rest[0] if rest else ""
