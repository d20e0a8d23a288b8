"""`provisioner dead-letters`: thin subcommands. What they do is in `entrypoints/dead_letters.py`."""

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError

from contracts.subaccounts import DeadReason
from worker.adapters.system import SystemClock
from worker.cli.loop import run
from worker.core.dead_letters import Selection
from worker.settings import model as settings
from worker.settings.load import load

DONE, FAILED = 0, 1
MOST_A_SECOND = 1_000_000

app = typer.Typer(no_args_is_help=True, help="Look at what could not be carried out, and replay it.")

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; scripts are not asked anyway.")]
By = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who does it; the OS user by default.")]
Unlimited = Annotated[
    bool, typer.Option("--no-delivery-limit", help="You know that the queue has none (RabbitMQ 4).")
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="No more than so many.")]
Shown = Annotated[int, typer.Option("--limit", min=0, metavar="N", help="How many to show one by one.")]


def _moment(text: str) -> datetime:
    """`2026-11-01T08:30:00Z`, `2026-11-01`, or `2h`: so long ago."""
    with suppress(ValidationError, OverflowError):
        return SystemClock().now() - TypeAdapter(settings.Duration).validate_python(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write a time like 2026-11-01T08:30:00Z, or 2h for so long ago") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


E = TypeVar("E", bound=StrEnum)


def one_of(choices: type[E]) -> Callable[[str], E]:
    """Typer's own words for a value that is none of them name Python's error."""

    def chosen(text: str) -> E:
        try:
            return choices(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is none of {', '.join(choices)}") from None

    return chosen


def _time(help_: str) -> Any:
    return typer.Option(parser=_moment, metavar="TIME", help=help_)


def _filters(
    reason: Annotated[
        list[DeadReason] | None,
        typer.Option(
            parser=one_of(DeadReason), metavar="REASON", help=f"Why it is dead: {', '.join(DeadReason)}."
        ),
    ] = None,
    department: Annotated[list[str] | None, typer.Option(metavar="ID", help="The department's id.")] = None,
    tenant: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Whose department.")] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="created, or the whole type.")
    ] = None,
    id_: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="The event's id; or the letter's, as list and show tell it."),
    ] = None,
    since: Annotated[datetime | None, _time("Dead since then; 2h: since two hours ago.")] = None,
    until: Annotated[datetime | None, _time("Dead by then; 2h: by two hours ago.")] = None,
    text: Annotated[str | None, typer.Option(metavar="WORDS", help="Words in the detail.")] = None,
) -> Selection:
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


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the filter options; it gets them as one `selection`."""
    own, filters = inspect.signature(command).parameters, inspect.signature(_filters).parameters

    @wraps(command)
    def with_filters(**given: Any) -> None:
        selection = _filters(**{name: given.pop(name) for name in filters})
        command(selection, **given)

    kept = [parameter for name, parameter in own.items() if name != "selection"]
    shared = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in filters.values()]
    with_filters.__signature__ = inspect.Signature(shared + kept)  # type: ignore[attr-defined]
    with_filters.__annotations__ = {each.name: each.annotation for each in [*shared, *kept]}
    return with_filters


def _settings() -> settings.DeadLetterSettings:
    return load(settings.DeadLetterSettings, os.environ)


@app.command("list")
@_filtered
def list_(
    selection: Selection, *, limit: Shown = 50, unlimited: Unlimited = False, as_json: Json = False
) -> None:
    """How many there are, by reason and department, and what each is."""
    from worker.cli import dead_letter_commands as dead_letters

    asked = dead_letters.Asked(selection, as_json=as_json, surely_unlimited=unlimited)
    run(dead_letters.list_(_settings(), asked, limit))


@app.command()
@_filtered
def show(
    selection: Selection,
    *,
    limit: Shown = 10,
    by: By = None,
    unlimited: Unlimited = False,
    as_json: Json = False,
) -> None:
    """Everything about them, bodies too."""
    from worker.cli import dead_letter_commands as dead_letters

    asked = dead_letters.Asked(selection, by=by, as_json=as_json, surely_unlimited=unlimited)
    run(dead_letters.show(_settings(), asked, limit))


@app.command()
@_filtered
def plan(
    selection: Selection, *, limit: Shown = 50, unlimited: Unlimited = False, as_json: Json = False
) -> None:
    """What a replay of each would come to right now. Changes nothing."""
    from worker.cli import dead_letter_commands as dead_letters

    asked = dead_letters.Asked(selection, as_json=as_json, surely_unlimited=unlimited)
    run(dead_letters.plan_(_settings(), asked, limit))


@app.command()
@_filtered
def replay(
    selection: Selection,
    *,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=MOST_A_SECOND, metavar="N", help="No more than so many a second."),
    ] = None,
    limit: Limit = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Send all, and do not see what comes.")] = False,
    yes: Yes = False,
    by: By = None,
    unlimited: Unlimited = False,
    as_json: Json = False,
) -> None:
    """Send them to work again, in growing batches while all goes well."""
    from worker.cli import dead_letter_commands as dead_letters

    asked = dead_letters.Asked(selection, by=by, as_json=as_json, surely_unlimited=unlimited)
    most = _agreed("Replay", asked, limit, yes=yes)
    good = run(dead_letters.replay(_settings(), asked, most, rate, wait=not no_wait))
    raise typer.Exit(DONE if good else FAILED)


@app.command()
@_filtered
def discard(
    selection: Selection,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All of them, without a filter.")] = False,
    limit: Limit = None,
    yes: Yes = False,
    by: By = None,
    unlimited: Unlimited = False,
    as_json: Json = False,
) -> None:
    """Throw them away; the audit keeps what they were."""
    from worker.cli import dead_letter_commands as dead_letters

    if (selection == Selection()) is not everything:
        raise typer.BadParameter("give a filter, or --all for all of them")
    asked = dead_letters.Asked(selection, by=by, as_json=as_json, surely_unlimited=unlimited)
    most = _agreed("Discard", asked, limit, yes=yes)
    raise typer.Exit(DONE if run(dead_letters.discard(_settings(), asked, most)) else FAILED)


@app.command()
@_filtered
def export(
    selection: Selection,
    *,
    output: Annotated[Path | None, typer.Option(help="A file instead of stdout.")] = None,
    limit: Limit = None,
    by: By = None,
    unlimited: Unlimited = False,
    as_json: Json = False,
) -> None:
    """Write them as JSON, one a line, to be edited and imported."""
    from worker.cli import dead_letter_commands as dead_letters

    asked = dead_letters.Asked(selection, by=by, as_json=as_json, surely_unlimited=unlimited)
    run(dead_letters.export(_settings(), asked, limit, output))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What export wrote, edited; - for stdin.", allow_dash=True)],
    *,
    discard_originals: Annotated[
        bool, typer.Option("--discard-originals", help="Then discard the dead letters they were.")
    ] = False,
    yes: Yes = False,
    by: By = None,
    unlimited: Unlimited = False,
    as_json: Json = False,
) -> None:
    """Send edited ones to work as new attempts of the same events: all, or none if one is not valid."""
    from worker.cli import dead_letter_commands as dead_letters
    from worker.cli import view as dead_letters_shown

    chosen, edited = _settings(), dead_letters.read_import(file)
    if not edited:
        dead_letters_shown.nothing_to_send(as_json=as_json)
        return
    if _somebody_is_there() and not yes:
        run(dead_letters.require_ledger(chosen))
        _ask(f"Send {len(edited):,} message{'s' * (len(edited) != 1)} to work?")
    asked = dead_letters.Asked(file=file, by=by, as_json=as_json, surely_unlimited=unlimited)
    good = run(dead_letters.import_(chosen, asked, edited, discard_originals=discard_originals))
    raise typer.Exit(DONE if good else FAILED)


@app.command()
def audit(
    since: Annotated[datetime | None, _time("Done since then; 2h: since two hours ago.")] = None,
    by: Annotated[str | None, typer.Option(help="Who did it.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="To which event, or to which letter.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Who did what to which dead letter, and what came of it."""
    from worker.cli import dead_letter_commands as dead_letters

    chosen = load(settings.LedgerSettings, os.environ)
    run(dead_letters.audit(chosen, since, by, id_, as_json=as_json))


def _agreed(verb: str, asked: Any, limit: int | None, *, yes: bool) -> int | None:
    """How many to take: where somebody is asked, or watches, no more than there were then."""
    from worker.cli import dead_letter_commands as dead_letters

    asks = _somebody_is_there() and not yes
    if not (asks or sys.stderr.isatty()):
        return limit
    there = run(dead_letters.count(_settings(), asked))
    most = there if limit is None else min(there, limit)
    if most and asks:
        _ask(f"{verb} {most:,} dead letter{'s' * (most != 1)} ({asked.selection})?")
    return most


def _somebody_is_there() -> bool:
    """A script knows what it does: it is not asked."""
    return sys.stdin.isatty()


def _ask(question: str) -> None:
    """Goes on only after a yes."""
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # by Ctrl-C or Ctrl-D, which end no line
        typer.echo(err=True)
        raise
    if not agreed:
        raise typer.Abort
