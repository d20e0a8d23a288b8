"""`provisioner doctor`."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from worker.cli import terminal
from worker.cli.loop import run_to_exit
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.core.checks import Check


def doctor(*, as_json: Json = False) -> None:
    """Check settings, broker, ledger, Plivo and recipients, and say what to do. Exit code 1 on a `fail`.

    It changes nothing and may run beside a worker. `warn` is what the worker corrects by itself, what could
    not be seen, or what may be meant so.
    """
    run_to_exit(_doctor(dict(os.environ), as_json=as_json))


async def _doctor(environ: Mapping[str, str], *, as_json: bool) -> bool:
    """Returns whether no check failed."""
    from worker.bootstrap.doctor import probes
    from worker.cli.progress import progress
    from worker.core.checks import CheckStatus
    from worker.operations.doctor.examine import examine

    wanted = probes(environ)
    with progress("checks", len(wanted)) as display:
        found = await examine(wanted, on_done=display.more)
    if as_json:
        terminal.print_json([_document(check) for check in found])
    else:
        _print(found)
    return all(check.status is not CheckStatus.FAIL for check in found)


def _document(check: "Check") -> Mapping[str, str]:
    return {
        "check": check.check,
        "status": str(check.status),
        "detail": check.detail,
        "hint": check.hint,
    }


def _print(found: Sequence["Check"]) -> None:
    rows = [tuple(_document(check).values()) for check in found]
    width = Console().width  # in a pipe too: a line for each check would be too long for people
    terminal.print_table(("check", "status", "detail", "what to do"), rows, "", width=width)
    counts = {status: sum(row[1] == status for row in rows) for status in ("fail", "warn")}
    if any(counts.values()):
        terminal.say(", ".join(f"{number} {status}" for status, number in counts.items() if number))
    else:
        terminal.say("all is well", "green")
