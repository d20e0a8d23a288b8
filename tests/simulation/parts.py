"""The worker's own parts, put together as its composition root does; a mutant replaces some of them."""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import SecretStr

from worker.act import Actor, Names
from worker.adapters.fingerprints import KeyedFingerprints
from worker.adapters.sealing import Unsealed
from worker.circuit import Circuit
from worker.core.judge import Patience
from worker.duties import Scheduler
from worker.intake import Intake
from worker.lanes import Lanes
from worker.ledger_watch import LedgerWatch
from worker.outbox import Outbox
from worker.pipeline import Pipeline
from worker.scan import Scanner, Strays
from worker.undelivered import Undelivered
from worker.waiting import WaitingRoom

ROOM = 3
"""Half of what one worker takes at a time."""


@dataclass(frozen=True, slots=True)
class Worker:
    pipeline: Pipeline
    scheduler: Scheduler
    intake: Intake


@dataclass(frozen=True, slots=True)
class Parts:
    pipeline: type[Pipeline] = Pipeline
    outbox: type[Outbox] = Outbox
    actor: type[Actor] = Actor
    scanner: type[Scanner] = Scanner
    strays: type[Strays] = Strays
    circuit: type[Circuit] = Circuit
    scheduler: type[Scheduler] = Scheduler

    def assemble(
        self,
        *,
        ledger: Any,
        provider: Any,
        publisher: Any,
        clock: Any,
        policy: Any,
        patience: Patience,
        telemetry: Any,
        owner: str,
        template: Any,
    ) -> Worker:
        waiting = WaitingRoom(clock, ROOM)
        intake = Intake(clock, telemetry, waiting)
        circuit = self.circuit(provider, intake, clock, telemetry)
        stopping = asyncio.Event()
        scanner = self.scanner(circuit, template, clock, stopping)
        strays = self.strays(scanner, circuit, template, ledger)
        actor = self.actor(circuit, ledger, Names(owner, template), clock, scanner, strays, policy.enable)
        outbox = self.outbox(
            ledger=ledger,
            actor=actor,
            publisher=publisher,
            sealer=Unsealed(),
            fingerprints=KeyedFingerprints(SecretStr("simulated")),
            clock=clock,
            policy=policy,
            telemetry=telemetry,
            undelivered=Undelivered(intake),
        )
        pipeline = self.pipeline(
            outbox=outbox,
            patience=patience,
            lanes=Lanes(),
            waiting=waiting,
            intake=intake,
            ledger_watch=LedgerWatch(partial(ledger.bind, owner, "MA1"), intake, clock),
            stopping=stopping,
        )
        return Worker(pipeline, self.scheduler(pipeline), intake)
