"""Writes settings as in the environment: for `run --help` and for the table in the README.

A field whose text is not `str(value)` has a writer, `Printed`, beside its parser.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from contracts.topology import Namespace, delay_label
from worker.core.limits import RemovalLimit, Window
from worker.core.protected import Protected
from worker.ports import RateLimit
from worker.settings.files import Recipients
from worker.settings.parse import OFF, Address


@dataclass(frozen=True, slots=True)
class Printed:
    """The writer of a field's values, in the field's `Annotated`. `none`: the text for None."""

    write: Callable[[Any], str]
    none: str = ""


def described(model: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Name, default as in the environment, and meaning of each setting of a model."""
    return [
        (
            field.alias or "",
            "required" if field.is_required() else written(field, field.default),
            field.description or "",
        )
        for field in model.model_fields.values()
    ]


def written(field: FieldInfo, value: object) -> str:
    """A field's value as text of the environment; empty for None, unless its writer says otherwise."""
    printed = next((mark for mark in field.metadata if isinstance(mark, Printed)), Printed(str))
    match value:
        case None:
            return printed.none
        case bool():
            return str(value).lower()
        case _:
            return printed.write(value)


def durations(values: Iterable[timedelta]) -> str:
    """`30s,5m`."""
    return ",".join(map(delay_label, values))


def period(value: timedelta) -> str:
    """`30d`; one day is `24h`, and none is `0s`."""
    if not value:
        return "0s"
    return "24h" if value == timedelta(days=1) else delay_label(value)


def removal_limit(limit: RemovalLimit) -> str:
    """`10%/24h,20/30d`, or `off`."""
    return ",".join(map(_window, limit)) or OFF


def _window(window: Window) -> str:
    if not window.is_percentage:
        return f"{window.most}/{period(window.length)}"
    share = Decimal(window.most.numerator) / Decimal(window.most.denominator)
    return f"{share.normalize():f}%/{period(window.length)}"


def protected(value: Protected) -> str:
    """`sales,acme/finance,emea-*`; empty for none."""
    return ",".join(value.patterns)


def rate_limit(limit: RateLimit) -> str:
    """`300/5s`."""
    return f"{limit.calls}/{delay_label(limit.window)}"


def namespace(value: Namespace) -> str:
    """`staging`; empty for none."""
    return value.prefix


def address(value: Address) -> str:
    """`127.0.0.1:8080`."""
    return f"{value.host}:{value.port}"


def path_of(recipients: Recipients) -> str:
    """The path of the recipients' file."""
    return str(recipients.path)
