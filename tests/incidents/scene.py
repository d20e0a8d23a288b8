"""Where an incident is played: broker, sandbox, ledger, a worker, and a Prometheus that scrapes it."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aio_pika

from tests.monitoring.exported import ALERTS
from tests.support.commands import CommandOutput, in_process, provisioner
from tests.support.prometheus import Prometheus, free_port, running_prometheus
from tests.support.real import EVENT, Listener, RealSystem
from worker.adapters.amqp import consumer
from worker.adapters.system import SystemClock
from worker.bootstrap.running import RunningWorker, running_worker
from worker.sandbox import Sandbox, running_sandbox
from worker.service.probes import Probes, serving
from worker.settings.parse import Address
from worker.telemetry.events import Telemetry

PATIENCE_SECONDS = 60.0
"""The longest time that a step may take."""

LOOK_SECONDS = 0.2
SHORT_SECONDS = 4

HASTY = {
    "PROVISIONER_PLAINTEXT_SECRETS": "true",
    "PROVISIONER_RATE_LIMIT": "100000/1s",
    "PROVISIONER_SETTLE_WINDOW": "1s",
    "PROVISIONER_API_TIMEOUT": "1s",
}
EXPRESSIONS: Mapping[str, str] = {rule["alert"]: rule["expr"] for rule in ALERTS}


@dataclass(frozen=True)
class Step:
    """A line of the timeline, in seconds since the scene began."""

    seconds: float
    kind: str
    text: str


@dataclass
class Scene:
    """Makes an incident, and follows it from its alert to its repair. Each step is noted in the timeline."""

    system: RealSystem
    folder: Path
    prometheus: Prometheus
    metrics: Address
    timeline: list[Step] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    @property
    def sandbox(self) -> Sandbox:
        """The imitation of Plivo."""
        return self.system.sandbox

    def note(self, kind: str, text: str) -> None:
        """Adds a line to the timeline."""
        self.timeline.append(Step(time.monotonic() - self._began, kind, text))

    def at(self, kind: str) -> float:
        """When the last step of this kind was done, in seconds since the scene began."""
        return next(step.seconds for step in reversed(self.timeline) if step.kind == kind)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[RunningWorker]:
        """A worker that is scraped, and consumes as Prometheus sees it. Its counters begin at 0."""
        telemetry = Telemetry()
        telemetry.started("0.1.0", SystemClock().now(), {})
        probes = Probes(telemetry, None)
        async with serving(probes, self.metrics), running_worker(self.system.settings, telemetry) as running:
            with probes.watching(running):
                await self._until("provisioner_consuming == 1", fires=True)
                yield running
                assert await running.drain()

    async def is_calm(self, alert: str) -> None:
        """Before the incident the alert does not fire."""
        assert not await self.prometheus.query(EXPRESSIONS[alert])

    async def alerted(self, alert: str, **labels: str) -> None:
        """Waits until the alert's own expression is true on the scraped metrics, with these labels."""
        await self._until(EXPRESSIONS[alert], fires=True, labels=labels)
        shown = ", ".join(f"{name}={value}" for name, value in labels.items())
        self.note("alerted", f"{alert}{{{shown}}}" if shown else alert)

    async def command(self, *arguments: str) -> CommandOutput:
        """Runs a command with the worker's settings."""
        return await in_process(self.system.environ, *arguments)

    async def explained(self, words: Sequence[str], *arguments: str) -> CommandOutput:
        """Runs the command that explains the incident, until its output has each of the words.

        `status` shows a worker as it last announced itself: some seconds ago.
        """
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            output = await self.command(*arguments)
            missing = [word for word in words if word not in output.out + output.err]
            if not missing or time.monotonic() > give_up_at:
                break
            await asyncio.sleep(LOOK_SECONDS)
        assert not missing, f"{missing} not in {output.out}{output.err}"
        self.note("explained", f"provisioner {' '.join(arguments)}")
        return output

    async def repair(self, *arguments: str) -> CommandOutput:
        """Runs the command that repairs it, which exits 0. `dead-letters` needs signals, so a process."""
        run = provisioner if arguments[0] == "dead-letters" else in_process
        output = await run(self.system.environ, *arguments)
        assert output.code == 0, output.out + output.err
        self.note("repaired", f"provisioner {' '.join(arguments)}".replace(f"{self.folder}/", ""))
        return output

    async def mended(self, alert: str, text: str) -> None:
        """Waits until the alert's condition is false again.

        A counter's increase over an hour stays for that hour: it is looked at over a few seconds instead.
        """
        expression = re.sub(r"\[\d+[mh]\]", f"[{SHORT_SECONDS}s]", EXPRESSIONS[alert])
        await self._until(re.sub(r"time\(\) - \d+", f"time() - {SHORT_SECONDS}", expression), fires=False)
        self.note("mended", text)

    async def _until(self, expression: str, *, fires: bool, labels: Mapping[str, str] | None = None) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = await self.prometheus.query(expression)
                wanted = [one for one in found if (labels or {}).items() <= one["metric"].items()]
                if bool(wanted) is fires:
                    return
                await asyncio.sleep(LOOK_SECONDS)

    def event(self, kind: str, department: str, sequence: int, **data: Any) -> dict[str, Any]:
        """An event of a department, with the name of its id."""
        named = {} if kind == "removed" else {"name": department.title()}
        return EVENT | {
            "id": f"{kind}-{department}-{sequence}",
            "type": f"department.{kind}.v1",
            "sequence": sequence,
            "data": {"department_id": department} | named | data,
        }

    async def send(self, *events: Mapping[str, Any]) -> None:
        """Publishes them as a producer does."""
        for one in events:
            await self.system.send(json.dumps(one).encode(), one["type"].removesuffix(".v1"))

    def written(self, *events: Mapping[str, Any]) -> str:
        """The path of a file with these events, one on a line."""
        path = self.folder / "events.jsonl"
        path.write_text("".join(f"{json.dumps(one)}\n" for one in events))
        return str(path)


async def answers(listener: Listener, outcome: str, number: int) -> list[dict[str, Any]]:
    """The first results of an outcome, once there are so many."""

    def found(heard: Listener) -> list[dict[str, Any]]:
        return [one["data"] for one in heard.documents if one["data"]["outcome"] == outcome]

    await listener.until(lambda heard: len(found(heard)) >= number)
    return found(listener)[:number]


@asynccontextmanager
async def scene(broker_url: str, folder: Path, settings: Mapping[str, str]) -> AsyncIterator[Scene]:
    """Sets the scene at this broker. `settings` are those of the incident, without `PROVISIONER_`.

    The worker looks at the lengths of its queues each half second instead of each half minute.
    """
    metrics = Address("127.0.0.1", free_port())
    with patch.object(consumer, "MAINTAIN_SECONDS", 0.5):
        async with (
            running_sandbox(rate_limit="off") as sandbox,
            await aio_pika.connect(broker_url) as connection,
            running_prometheus(folder, [f"{metrics.host}:{metrics.port}"]) as prometheus,
        ):
            environ = {
                "AMQP_URL": broker_url,
                "PLIVO_AUTH_ID": sandbox.auth_id,
                "PLIVO_AUTH_TOKEN": sandbox.auth_token,
                "PLIVO_API_URL": sandbox.url,
                "LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
                **HASTY,
                **{f"PROVISIONER_{name}": value for name, value in settings.items()},
            }
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            system = RealSystem(broker_url, sandbox, environ, channel)
            yield Scene(system, folder, prometheus, metrics)
