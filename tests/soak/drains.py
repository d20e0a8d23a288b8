"""A worker stopped repeatedly: `python -m tests.soak.drains --times 100 --seed 7`.

Like `tests.soak.kills`, but each worker gets SIGTERM during its work. It must end with exit code 0 within
the drain timeout and lose no message. If a rule is broken, the exit code is 1.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tests.soak.command import parser
from tests.soak.kills import median_and_most, run_soak
from tests.soak.lives import Soak, SoakPlan
from tests.soak.verdict import Violation
from tests.soak.worker_process import WorkerProcess

DRAIN_SECONDS = 25  # the default of PROVISIONER_DRAIN


@dataclass
class Drains(Soak):
    """A soak whose workers are drained, not killed."""

    ending: ClassVar[str] = "drains"
    moment_weights: ClassVar[Sequence[int]] = (
        0,
        8,
        2,
    )  # before a process handles signals, SIGTERM just kills it
    took_seconds: list[float] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)
    failures: list[Violation] = field(default_factory=list)

    async def run(self) -> list[Violation]:
        return [*await super().run(), *self.failures]

    def more_figures(self) -> list[tuple[str, str]]:
        return [
            ("messages in flight then, median and most", median_and_most(self.in_flight, "{:.0f}")),
            ("from SIGTERM to the end, median and worst", median_and_most(self.took_seconds, "{:.2f} s")),
        ]

    async def _end(self, worker: WorkerProcess) -> None:
        began = time.monotonic()
        code = await worker.stop()
        self.took_seconds.append(time.monotonic() - began)
        self.in_flight += [line["in_flight"] for line in worker.log if line["event"] == "worker_stopping"]
        if code != 0 or self.took_seconds[-1] > DRAIN_SECONDS:
            end = [line["event"] for line in worker.log[-3:]]
            self.failures.append(
                Violation("-", f"ended with {code} after {self.took_seconds[-1]:.1f} s: {end}")
            )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("drains", __doc__)
    options.add_argument("--times", type=int, default=100)
    asked = options.parse_args(arguments)
    return run_soak(SoakPlan(asked.departments, asked.times, asked.seed), Drains)


if __name__ == "__main__":
    sys.exit(main())
