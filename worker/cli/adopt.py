"""`provisioner adopt`."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from worker.cli import terminal
from worker.cli.files import read_text
from worker.cli.loop import run_to_exit
from worker.cli.options import By, Json
from worker.operations.adopt import (
    Choices,
    ListedForLines,
    Planned,
    Planning,
    State,
    apply_plan,
    entries_of_lines,
)
from worker.operations.adoption_lines import AdoptionLine, lines_in
from worker.operations.wishes import Asking, is_running
from worker.ports import Ledger
from worker.settings.load import load
from worker.settings.model import ProviderSettings

WORDS = {
    State.ADOPT: "to adopt",
    State.ADOPTED: "adopted",
    State.ALREADY: "adopted before",
    State.REFUSED: "refused",
}

COLUMNS = ("line", "tenant", "department", "auth id", "name", "state", "reason")


@dataclass(frozen=True, slots=True)
class _Request:
    """The input of the command. `by`: the operator; `skips`: refused lines do not stop the others."""

    lines: Sequence[AdoptionLine]
    file: Path
    choices: Choices
    by: str
    applies: bool
    skips: bool

    @property
    def selection(self) -> str:
        """The command's words for the audit."""
        options = {
            "--keep-names": self.choices.keeps_names,
            "--issue": self.choices.issues,
            "--enable": self.choices.enables,
            "--skip-bad": self.skips,
        }
        return " ".join([f"--from {self.file}", *(option for option, given in options.items() if given)])


def adopt(
    file: Annotated[
        Path,
        typer.Option(
            "--from",
            metavar="FILE",
            help="CSV with the header department_id,auth_id and optionally tenant,name; or JSON Lines with"
            " these members. - is stdin.",
        ),
    ],
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="Have the running worker do it; without, only plan it.")
    ] = False,
    keep_names: Annotated[
        bool,
        typer.Option("--keep-names", help="Leave the names at Plivo: no tag is added, now or later."),
    ] = False,
    issue: Annotated[bool, typer.Option("--issue", help="Publish the credentials of each.")] = False,
    enable: Annotated[
        bool, typer.Option("--enable", help="Enable those that are disabled, which are refused otherwise.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Apply the other lines although some are refused.")
    ] = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Put existing subaccounts on record for departments. Without --apply it changes nothing.

    It reads Plivo's list of subaccounts and says for each line of the file what would be done. With --apply
    the running worker does it: each subaccount is renamed to carry the department's tag, and belongs to the
    department from then on. The department's name is the file's, else Plivo's. Apply a file before the
    departments' first events: an event creates a subaccount for a department that has none.

    A file can be applied again: what is done already stays. Nothing is done if one line is refused, unless
    --skip-bad is given. Exit 1 if one was refused.
    """
    from worker.adapters.system import os_user

    settings = load(ProviderSettings, os.environ)
    choices = Choices(keeps_names=keep_names, issues=issue, enables=enable)
    lines = lines_in(read_text(file))
    request = _Request(lines, file, choices, by or os_user(), apply, skip_bad)
    run_to_exit(_adopt(settings, request, as_json=as_json))


async def _adopt(settings: ProviderSettings, request: _Request, *, as_json: bool) -> bool:
    """Returns whether no line was refused."""
    from worker.adapters.system import SystemClock, fresh_id
    from worker.cli import open_ports

    if not request.applies:
        async with open_ports.ledger_to_plan(settings) as (ledger, _):
            beside_worker = await is_running(ledger)
            planned = await _planned(settings, ledger, request, beside_worker=beside_worker)
        _show(planned, request, applied=False, as_json=as_json)
        return _is_well(planned)
    async with open_ports.ledger_to_write(settings) as (ledger, audit):
        await ledger.bind(settings.owner, settings.plivo_auth_id)
        asking = Asking(ledger, audit, SystemClock(), request.by, fresh_id)
        await asking.require_worker()
        planned = await _planned(settings, ledger, request, beside_worker=True)
        applied = request.skips or _is_well(planned)
        if applied and _counts(planned)[State.ADOPT]:
            # The worker uses its whole limit at once: the calls of the list must not count beside it.
            await asking.clock.sleep(settings.rate_limit.window.total_seconds())
            planned = await _applied(asking, planned, request)
    _show(planned, request, applied=applied, as_json=as_json)
    return _is_well(planned)


async def _planned(
    settings: ProviderSettings, ledger: Ledger, request: _Request, *, beside_worker: bool
) -> list[Planned]:
    from worker.adapters.system import SystemClock
    from worker.cli.open_provider import listing
    from worker.cli.progress import progress
    from worker.core.decide import Policy
    from worker.core.naming import Names

    names = Names(settings.owner, settings.names)
    entries = await entries_of_lines(ledger, request.lines)
    listed = ListedForLines(request.lines, entries, names)
    async with listing(settings, beside_worker=beside_worker) as opened:
        with progress("pages of Plivo's list") as display:
            await opened.read(listed, display.at)
    planning = Planning(
        entries,
        listed.found,
        names,
        Policy(capabilities=opened.provider.capabilities),
        request.by,
        SystemClock().now(),
    )
    return planning.plan(request.lines, request.choices)


async def _applied(asking: Asking, planned: Sequence[Planned], request: _Request) -> list[Planned]:
    from worker.cli.progress import progress

    with progress("adopting", _counts(planned)[State.ADOPT]) as display:
        return await apply_plan(asking, planned, request.choices, request.selection, display.at)


def _is_well(planned: Sequence[Planned]) -> bool:
    return not _counts(planned)[State.REFUSED]


def _counts(planned: Sequence[Planned]) -> Counter[State]:
    return Counter(one.state for one in planned)


def _show(planned: Sequence[Planned], request: _Request, *, applied: bool, as_json: bool) -> None:
    counts = _counts(planned)
    if as_json:
        summary = {state.value: counts[state] for state in State}
        terminal.print_json({"applied": applied, "lines": list(map(_document, planned)), "summary": summary})
        return
    shown = [one for one in planned if one.state is State.REFUSED] if applied else planned
    if shown:
        terminal.print_table(COLUMNS, map(_row, shown), "")
    terminal.say(", ".join(f"{counts[state]:,} {word}" for state, word in WORDS.items() if counts[state]))
    if advice := _advice(counts, request, applied=applied):
        terminal.advise(advice)


def _advice(counts: Counter[State], request: _Request, *, applied: bool) -> str | None:
    """The lines that were not adopted, with advice."""
    match applied, request.applies, bool(counts[State.REFUSED]):
        case False, True, True:
            return "nothing was applied: correct the refused lines, or apply the others with --skip-bad"
        case False, False, True:
            return "nothing was changed; --apply needs the refused lines corrected, or --skip-bad"
        case False, False, False:
            return (
                "nothing was changed; --apply has the running worker adopt them"
                if counts[State.ADOPT]
                else None
            )
        case True, _, True:
            return "correct the refused lines and apply the file again: lines that are done stay as they are"
        case _:
            return None


def _row(planned: Planned) -> tuple[object, ...]:
    tenant, id_ = planned.line.department or (None, None)
    state = planned.state
    return planned.line.number, tenant, id_, planned.line.auth_id, planned.name, WORDS[state], planned.reason


def _document(planned: Planned) -> dict[str, object]:
    tenant, id_ = planned.line.department or (None, None)
    return {
        "line": planned.line.number,
        "tenant": tenant,
        "department_id": id_,
        "auth_id": planned.line.auth_id,
        "name": planned.name,
        "state": planned.state,
        "reason": planned.reason,
    }
