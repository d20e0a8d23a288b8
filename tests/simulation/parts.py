"""The worker's own parts, put together as its composition root does; a mutant replaces some of them."""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import SecretStr

from worker.adapters.jose.fingerprints import KeyedFingerprints
from worker.adapters.jose.seal import Unsealed
from worker.core.judge import Patience
from worker.flow.gate import Gate
from worker.flow.lanes import Lanes
from worker.flow.ledger_watch import LedgerWatch
from worker.flow.undelivered import UndeliveredCredentials
from worker.flow.waiting import WaitingRoom
from worker.pipeline.handler import Pipeline
from worker.pipeline.outbox import Outbox
from worker.pipeline.scheduler import Scheduler
from worker.provider.act import Actor, Names
from worker.provider.circuit import Circuit
from worker.provider.scan import Scanner, Strays

ROOM = 3
"""Half of what one worker takes at a time."""


@dataclass(frozen=True, slots=True)
class Worker:
    pipeline: Pipeline
    scheduler: Scheduler
    gate: Gate


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
        gate = Gate(clock, telemetry, waiting)
        circuit = self.circuit(provider, gate, clock, telemetry)
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
            undelivered=UndeliveredCredentials(gate),
        )
        pipeline = self.pipeline(
            outbox=outbox,
            patience=patience,
            lanes=Lanes(),
            waiting=waiting,
            gate=gate,
            ledger_watch=LedgerWatch(partial(ledger.bind, owner, "MA1"), gate, clock),
            stopping=stopping,
        )
        return Worker(pipeline, self.scheduler(pipeline), gate)
