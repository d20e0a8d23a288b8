"""Settings as a person writes them in the environment: for `run --help` and for the table in the README.

A field whose text is not `str(value)` says so beside its parser, with `Printed`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from contracts.topology import delay_label
from worker.ports import RateLimit
from worker.settings.files import Recipients
from worker.settings.parse import SQLITE, Address


@dataclass(frozen=True, slots=True)
class Printed:
    """How a field's value is written; goes into the field's `Annotated`."""

    write: Callable[[Any], str]


def described(model: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Name, default as one would write it, and meaning of each setting of a model."""
    return [
        (
            field.alias or "",
            "required" if field.is_required() else written(field, field.default),
            field.description or "",
        )
        for field in model.model_fields.values()
    ]


def written(field: FieldInfo, value: object) -> str:
    """The value of a field as it is written in the environment; empty for None."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case _:
            writers = [mark.write for mark in field.metadata if isinstance(mark, Printed)]
            return writers[0](value) if writers else str(value)


def durations(values: Iterable[timedelta]) -> str:
    return ",".join(map(delay_label, values))


def rate_limit(limit: RateLimit) -> str:
    return f"{limit.calls}/{delay_label(limit.window)}"


def address(value: Address) -> str:
    return f"{value.host}:{value.port}"


def path_of(recipients: Recipients) -> str:
    return str(recipients.path)


def sqlite_url(path: Path) -> str:
    return f"{SQLITE}{path}"
