"""The sandbox as a separate process that reports its calls.

`python -m tests.benchmarks.provider RATE LATENCY`, with a rate of `300/5s` or `off`, and seconds. It prints
its URL. For each input line it prints the calls since the last one as `[[seconds, status], ...]`, in seconds
of the machine's monotonic clock.
"""

import json
import sys
import time

from tests.benchmarks.processes import run_on_the_fastest_loop, say, standard_input
from worker.sandbox import Entry, Rule, Sandbox, fault, running_sandbox


class Calls:
    """The times and statuses of calls since the last report."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._add = sandbox.journal.add
        self._calls: list[tuple[float, int | None]] = []
        sandbox.journal.add = self._note  # type: ignore[method-assign]  # it keeps too few

    def _note(self, entry: Entry) -> None:
        self._calls.append((time.monotonic(), entry.status))
        self._add(entry)

    def take(self) -> list[tuple[float, int | None]]:
        calls, self._calls = self._calls, []
        return calls


async def main(rate: str, latency_seconds: float) -> None:
    slow = [Rule("*", fault("slow", delay_seconds=latency_seconds))] if latency_seconds else "none"
    async with running_sandbox(rate_limit=rate, faults=slow) as sandbox:
        calls = Calls(sandbox)
        say(sandbox.url)
        async for _ in await standard_input():
            say(json.dumps(calls.take()))


if __name__ == "__main__":
    run_on_the_fastest_loop(main(sys.argv[1], float(sys.argv[2])))
