"""A worker killed repeatedly: `python -m tests.soak.kills --departments 500 --kills 50 --seed 7`.

A worker creates, renames and removes departments at a faulty sandbox, in an order drawn from the seed. It
gets SIGKILL at random moments and is started again at once. At the end dead letters are replayed, and the
state must follow the newest events; if a rule is broken, the exit code is 1. The seed fixes the events and
the faults, but not their exact timing.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from contracts.topology import delay_label
from tests.soak import verdict
from tests.soak.command import ERR, Report, parser, run_and_report
from tests.soak.lives import Soak, SoakPlan
from tests.soak.result_log import result_log
from tests.soak.statements import draw_statements
from worker.demo.private_node import private_node
from worker.sandbox import AUTH_ID, AUTH_TOKEN, running_sandbox
from worker.settings.load import load
from worker.settings.model import TopologySettings


@dataclass(frozen=True)
class ProgressCallbacks:
    """Callbacks for the number of kills and of answered events."""

    killed: Callable[[int], None] = lambda _: None
    answered: Callable[[int], None] = lambda _: None


async def soak(
    url: str,
    plan: SoakPlan,
    folder: Path,
    callbacks: ProgressCallbacks | None = None,
    kind: type[Soak] = Soak,
) -> Report:
    """Runs the soak against the broker at `url`, with the ledger in `folder`."""
    notify = callbacks or ProgressCallbacks()
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(
            running_sandbox(faults=plan.faults, seed=plan.seed, rate_limit="off")
        )
        environ = _environ(plan, url, sandbox.url, folder) | dict(kind.settings)
        received = await stack.enter_async_context(
            result_log(load(TopologySettings, environ), notify.answered)
        )
        events = draw_statements(plan.departments, random.Random(plan.seed))
        run = kind(plan, environ, sandbox, received, events, notify.killed)
        broken = await run.run()
    return Report(broken, _figures(run, time.monotonic() - began))


def _environ(plan: SoakPlan, url: str, sandbox_url: str, folder: Path) -> dict[str, str]:
    return {
        "AMQP_URL": url,
        "PLIVO_AUTH_ID": AUTH_ID,
        "PLIVO_AUTH_TOKEN": AUTH_TOKEN,
        "PLIVO_API_URL": sandbox_url,
        "LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
        "PROVISIONER_PLAINTEXT_SECRETS": "true",
        "PROVISIONER_RATE_LIMIT": "100000/1s",
        "PROVISIONER_SETTLE_WINDOW": delay_label(plan.settle_window),
        "PROVISIONER_API_TIMEOUT": delay_label(plan.api_timeout),
    }


def _figures(run: Soak, seconds: float) -> list[tuple[str, str]]:
    received, there = run.result_log, run.sandbox.subaccounts()
    made = verdict.duplicates(there)
    dead = ", ".join(f"{reason} {count}" for reason, count in received.reasons.items())
    return [
        ("departments", str(run.plan.departments)),
        ("events sent, copies included", f"{len(run.statements)} ({len(run.sent)} different)"),
        ("events answered", str(len(received.answered & run.sent))),
        (run.ending, str(len(run.killed_at))),
        ("events unanswered then, median and most", median_and_most(run.unanswered_at_kill, "{:.0f}")),
        ("from there to the next answer, median and worst", median_and_most(_silences(run), "{:.2f} s")),
        ("answers published again", f"{verdict.republished(received.results)} of {len(received.results)}"),
        (
            "credentials published again",
            f"{verdict.republished(received.credentials)} of {len(received.credentials)}",
        ),
        ("duplicates made, still enabled", f"{made}, {verdict.enabled_duplicates(there)}"),
        ("changes carried out late and repaired", str(run.logged["drift_mended"])),
        ("dead letters sent again", dead or "0"),
        ("calls that met a fault", _faults(run)),
        *run.more_figures(),
        ("time in all", f"{seconds:.0f} s"),
    ]


def _silences(run: Soak) -> list[float]:
    ends = [(at, run.result_log.first_answer_after(at)) for at in run.killed_at]
    return [(end - at).total_seconds() for at, end in ends if end is not None]


def median_and_most(numbers: Sequence[float], form: str) -> str:
    """Median and maximum as text; "-" without numbers."""
    if not numbers:
        return "-"
    return f"{form.format(statistics.median(numbers))}, {form.format(max(numbers))}"


def _faults(run: Soak) -> str:
    requests = run.sandbox.requests
    return f"{sum(one.fault is not None for one in requests)} of {len(requests)}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("kills", __doc__)
    options.add_argument("--kills", type=int, default=50)
    asked = options.parse_args(arguments)
    return run_soak(SoakPlan(asked.departments, asked.kills, asked.seed), Soak)


def run_soak(plan: SoakPlan, kind: type[Soak]) -> int:
    """Runs the soak on a private node, prints the report and returns the exit code."""

    async def run(folder: Path) -> Report:
        with _progress(plan, kind.ending) as callbacks:
            async with private_node() as node:
                return await soak(node.url, plan, folder, callbacks, kind)

    return run_and_report(plan.seed, run)


@contextmanager
def _progress(plan: SoakPlan, ending: str) -> Iterator[ProgressCallbacks]:
    """A progress bar on a terminal; otherwise one line for every tenth kill or drain."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as bars:
        kills = bars.add_task(ending, total=plan.kills)
        answers = bars.add_task("answers", total=None)

        def killed(number: int) -> None:
            bars.update(kills, completed=number)
            if bars.disable and number % 10 == 0:
                ERR.print(f"{number} of {plan.kills} {ending}")

        yield ProgressCallbacks(killed, lambda number: bars.update(answers, completed=number))


if __name__ == "__main__":
    sys.exit(main())
