"""An intake on loopback whose broker is in memory: it confirms, or not, as the test says."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from contracts.intake import EVENTS_PATH
from worker.adapters.system import SystemClock
from worker.core.messages import Outgoing
from worker.ports import PublishFailed, RateLimit
from worker.service.intake.bodies import Bodies
from worker.service.intake.confirming import Confirming
from worker.service.intake.rates import Rates
from worker.service.intake.requests import Requests
from worker.service.intake.serve import RunningIntake
from worker.service.intake.server import listening
from worker.settings.parse import Address
from worker.settings.sources import load_sources
from worker.settings.tokens import Tokens
from worker.telemetry.events import Telemetry
from worker.telemetry.metrics import Process

TOKEN = "token-of-the-hr-system"
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


def event(number: int = 1, **more: Any) -> dict[str, Any]:
    """A department event as a sender writes it."""
    return {
        "specversion": "1.0",
        "id": f"event-{number}",
        "source": "/test/hr",
        "type": "department.created.v1",
        "time": "2026-11-01T08:30:00Z",
        "data": {"department_id": f"d-{number}", "name": "Sales"},
        **more,
    }


@dataclass
class Broker:
    """Keeps what it confirms. `open` is cleared by a test to hold the confirms back.

    `begun` is released by each publish.
    """

    taken: list[Outgoing] = field(default_factory=list)
    begun: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    refuse: Callable[[Outgoing], bool] = lambda _: False
    open: asyncio.Event = field(default_factory=asyncio.Event)
    connected: bool = True

    def __post_init__(self) -> None:
        self.open.set()

    async def publish(self, outgoing: Outgoing) -> None:
        self.begun.release()
        await self.open.wait()
        if self.refuse(outgoing):
            raise PublishFailed("refused by the test")
        self.taken.append(outgoing)

    async def problems(self) -> list[str]:
        return [] if self.connected else ["no connection to publish on"]

    @property
    def documents(self) -> list[Any]:
        return [json.loads(each.message.body) for each in self.taken]


@dataclass
class Intake:
    """A running intake, and a client of it."""

    url: str
    running: RunningIntake
    broker: Broker
    session: aiohttp.ClientSession
    telemetry: Telemetry

    async def post(
        self,
        body: Any,
        headers: Mapping[str, str] = STRUCTURED,
        path: str = EVENTS_PATH,
        token: str | None = TOKEN,
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Posts JSON, or bytes as they are; returns status, parsed body, headers."""
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        sent = {**headers, **({"Authorization": f"Bearer {token}"} if token else {})}
        async with self.session.post(self.url + path, data=data, headers=sent) as response:
            told = await response.read()
            return response.status, json.loads(told) if told else None, response.headers

    def counted(self, name: str, **labels: str) -> float:
        """The value of a metric's series."""
        return self.telemetry.registry.get_sample_value(f"provisioner_{name}", labels) or 0.0


@asynccontextmanager
async def running_intake(
    tokens: Path | None,
    *,
    sources: Path | None = None,
    rate: RateLimit = RateLimit(10_000, timedelta(seconds=1)),  # noqa: B008 - it is frozen
    bodies: Bodies | None = None,
    confirm_seconds: float = 2.0,
    max_connections: int = 100,
    idle_seconds: float = 20.0,
) -> AsyncIterator[Intake]:
    """The parts as `serve` wires them, with a broker in memory."""
    telemetry, clock, broker = Telemetry(process=Process.INTAKE), SystemClock(), Broker()
    found = load_sources(sources)
    secrets = {name: made for name, source in found.items() if (made := source.secrets()) is not None}
    requests = Requests(
        confirming=Confirming(broker, broker.problems, clock, confirm_seconds),
        tokens=Tokens(tokens) if tokens else None,
        sources=found,
        secrets=secrets,
        rates=Rates(rate, clock),
        bodies=bodies or Bodies(),
        clock=clock,
        telemetry=telemetry,
        registry=telemetry.registry,
    )
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            listening(
                Address("127.0.0.1", 0), requests, max_connections=max_connections, idle_seconds=idle_seconds
            )
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        running = RunningIntake(requests, server, telemetry, drain_seconds=5)
        yield Intake(f"http://127.0.0.1:{server.address.port}", running, broker, session, telemetry)


def write(path: Path, text: str) -> None:
    """Replaces a small file; the loop may wait for it."""
    path.write_text(text)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"hr: {TOKEN}\n")
    return path


@pytest.fixture
async def intake(tokens: Path) -> AsyncIterator[Intake]:
    async with running_intake(tokens) as running:
        yield running
