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
from worker.adapters.system import SystemClock
from worker.core.dead_letters import Selection
from worker.settings.model import Duration

E = TypeVar("E", bound=StrEnum)


def one_of(choices: type[E]) -> Callable[[str], E]:
    """A parser for the values of an enum. Typer's own error message would quote Python's."""

    def parse(text: str) -> E:
        try:
            return choices(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is none of {', '.join(choices)}") from None

    return parse


def moment(text: str) -> datetime:
    """`2026-11-01T08:30:00Z`, `2026-11-01`, or `2h`: so long ago."""
    with suppress(ValidationError, OverflowError):
        return SystemClock().now() - TypeAdapter(Duration).validate_python(text)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write a time like 2026-11-01T08:30:00Z, or 2h for so long ago") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def time_option(help_: str) -> Any:
    """An option that takes a `moment`."""
    return typer.Option(parser=moment, metavar="TIME", help=help_)


# For several groups of commands
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]
DepartmentId = Annotated[str, typer.Argument(metavar="DEPARTMENT")]
Tenant = Annotated[str, typer.Option(help="Whose department it is.")]

# For dead letters: how
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; scripts are not asked anyway.")]
By = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who does it; the OS user by default.")]
Unlimited = Annotated[
    bool, typer.Option("--no-delivery-limit", help="You know that the queue has none (RabbitMQ 4).")
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="No more than so many.")]
Shown = Annotated[int, typer.Option("--limit", min=0, metavar="N", help="How many to show one by one.")]

# For dead letters: which. Every command that selects letters takes all eight, and passes them to `selected`.
Reasons = Annotated[
    list[DeadReason] | None,
    typer.Option(
        parser=one_of(DeadReason), metavar="REASON", help=f"Why it is dead: {', '.join(DeadReason)}."
    ),
]
Departments = Annotated[list[str] | None, typer.Option(metavar="ID", help="The department's id.")]
Tenants = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Whose department.")]
Types = Annotated[
    list[str] | None, typer.Option("--type", metavar="TYPE", help="created, or the whole type.")
]
Ids = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="ID", help="The event's id; or the letter's, as list and show tell it."),
]
Since = Annotated[datetime | None, time_option("Dead since then; 2h: since two hours ago.")]
Until = Annotated[datetime | None, time_option("Dead by then; 2h: by two hours ago.")]
Words = Annotated[str | None, typer.Option(metavar="WORDS", help="Words in the detail.")]


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
    """The selection that the eight filter options describe."""
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


EVERYTHING = Selection()


@dataclass(frozen=True)
class Request:
    """What every command about dead letters is given: which letters, and by whom.

    `file` is that of an import. `assume_unlimited`: the operator says that the queue has no delivery limit.
    """

    selection: Selection = EVERYTHING
    file: Path | None = None
    by: str | None = None
    assume_unlimited: bool = False
