"""The worker's own parts, put together as its composition root does; a mutant replaces some of them."""

from dataclasses import dataclass
from typing import Any

from worker.act import Actor, Names
from worker.adapters.sealing import Unsealed
from worker.duties import Scheduler
from worker.lanes import Lanes
from worker.pipeline import Pipeline
from worker.scan import Scanner, Strays


@dataclass(frozen=True, slots=True)
class Worker:
    pipeline: Pipeline
    scheduler: Scheduler


@dataclass(frozen=True, slots=True)
class Parts:
    pipeline: type[Pipeline] = Pipeline
    actor: type[Actor] = Actor
    scanner: type[Scanner] = Scanner
    strays: type[Strays] = Strays
    scheduler: type[Scheduler] = Scheduler

    def assemble(
        self,
        *,
        ledger: Any,
        provider: Any,
        publisher: Any,
        clock: Any,
        policy: Any,
        telemetry: Any,
        owner: str,
        template: Any,
    ) -> Worker:
        scanner = self.scanner(provider, template, clock)
        strays = self.strays(scanner, provider, template, ledger)
        actor = self.actor(provider, ledger, Names(owner, template), clock, scanner, strays)
        pipeline = self.pipeline(ledger, actor, publisher, Unsealed(), clock, policy, Lanes(), telemetry)
        return Worker(pipeline, self.scheduler(pipeline))
