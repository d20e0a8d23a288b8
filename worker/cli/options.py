"""Options and arguments that several commands share, each declared once."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError

from contracts.subaccounts import DeadReason
from contracts.text import identifier
from worker.adapters.system import SystemClock
from worker.core.dead_letters import Selection
from worker.operations.dead_letters.session import EVERYTHING
from worker.settings.model import Duration

E = TypeVar("E", bound=StrEnum)


def one_of(choices: type[E]) -> Callable[[str], E]:
    """A parser for the values of an enum. Typer's own error message would show Python names."""

    def parse(text: str) -> E:
        try:
            return choices(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is none of {', '.join(choices)}") from None

    return parse


def moment(text: str) -> datetime:
    """Parses `2026-11-01T08:30:00Z`, `2026-11-01` (UTC), or `2h`, two hours before now."""
    with suppress(ValidationError, OverflowError):
        return SystemClock().now() - TypeAdapter(Duration).validate_python(text)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write a time like 2026-11-01T08:30:00Z, or 2h for two hours ago") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def seconds(text: str) -> float:
    """Parses `500ms`, `30s`, `5m`, `1h`; the result is in seconds."""
    try:
        return float(TypeAdapter(Duration).validate_python(text).total_seconds())
    except ValidationError:
        raise typer.BadParameter("write a time above zero, like 500ms, 30s, 5m or 1h") from None


def spelt(text: str) -> str:
    """Parses the id of a department or a tenant: in whatever spelling, it is the one on record."""
    try:
        return identifier(text)
    except ValueError as error:
        raise typer.BadParameter(f"an id {error}") from None


def time_option(help_: str) -> Any:
    """An option that takes a `moment`."""
    return typer.Option(parser=moment, metavar="TIME", help=help_)


# For several groups of commands
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]
DepartmentId = Annotated[str, typer.Argument(parser=spelt, metavar="DEPARTMENT")]
Tenant = Annotated[str, typer.Option(parser=spelt, metavar="NAME", help="The department's tenant.")]

# For dead-letter commands
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; scripts are not asked anyway.")]
By = Annotated[str | None, typer.Option("--as", metavar="NAME", help="The operator; the OS user by default.")]
Unlimited = Annotated[
    bool,
    typer.Option("--no-delivery-limit", help="Assume that the queue has no delivery limit (RabbitMQ 4)."),
]
Unrouted = Annotated[
    bool,
    typer.Option("--unrouted", help="Messages under a routing key that no queue takes, not dead letters."),
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="At most this many.")]
Shown = Annotated[int, typer.Option("--limit", min=0, metavar="N", help="How many to show individually.")]

# Filters of dead letters. Typer reads options from a command's own signature and cannot group them, so each
# command that selects letters lists all eight and passes them to `selected`.
Reasons = Annotated[
    list[DeadReason] | None,
    typer.Option(parser=one_of(DeadReason), metavar="REASON", help=f"The reason: {', '.join(DeadReason)}."),
]
Departments = Annotated[
    list[str] | None, typer.Option(parser=spelt, metavar="ID", help="The department's id.")
]
Tenants = Annotated[
    list[str] | None, typer.Option(parser=spelt, metavar="NAME", help="The department's tenant.")
]
Types = Annotated[
    list[str] | None, typer.Option("--type", metavar="TYPE", help="The event's type, as created or in full.")
]
Ids = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="ID", help="The event's id, or the letter's id from list and show."),
]
Since = Annotated[datetime | None, time_option("Dead-lettered since then; 2h: two hours ago.")]
Until = Annotated[datetime | None, time_option("Dead-lettered by then; 2h: two hours ago.")]
Words = Annotated[str | None, typer.Option(metavar="WORDS", help="Text in the detail.")]


def selected(
    reason: Sequence[DeadReason] | None,
    department: Sequence[str] | None,
    tenant: Sequence[str] | None,
    type_: Sequence[str] | None,
    id_: Sequence[str] | None,
    since: datetime | None,
    until: datetime | None,
    text: str | None,
) -> Selection:
    """The selection that the filter options describe."""
    return Selection(
        tuple(str(one) for one in reason or ()),
        tuple(department or ()),
        tuple(tenant or ()),
        tuple(type_ or ()),
        tuple(id_ or ()),
        since,
        until,
        text,
    )


@dataclass(frozen=True)
class Request:
    """The input of every dead-letter command: the selection and the operator (`by`; None: the OS user).

    `file` is that of an import. `assume_unlimited`: the operator says that the queue has no delivery limit.
    `unrouted`: the command works on the messages that no queue took.
    """

    selection: Selection = EVERYTHING
    file: Path | None = None
    by: str | None = None
    assume_unlimited: bool = False
    unrouted: bool = False

    @property
    def noun(self) -> str:
        """The word for one selected message."""
        return "unrouted message" if self.unrouted else "dead letter"
