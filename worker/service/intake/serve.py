"""`provisioner intake`: serves until a stop signal, then answers what is in flight and ends."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import Any

from contracts import topology as names
from worker.adapters.amqp.intake import intake_publisher
from worker.adapters.system import SystemClock
from worker.flow.supervise import supervised
from worker.service.intake.bodies import Bodies
from worker.service.intake.confirming import Confirming
from worker.service.intake.rates import Rates
from worker.service.intake.requests import ANYBODY, Requests
from worker.service.intake.server import Listening, listening
from worker.service.signals import Stop, exit_at_once, leave_no_core
from worker.settings.load import SettingsError
from worker.settings.model import IntakeSettings
from worker.settings.names import unknown_lines, unknown_names
from worker.settings.parse import PREFIX
from worker.settings.sources import Secrets, Source, open_to_everybody, ready_sources
from worker.settings.tokens import Tokens
from worker.settings.warnings import intake_exposures
from worker.telemetry.events import Telemetry
from worker.telemetry.metrics import Process

LOOK_SECONDS = 1.0


async def serve(settings: IntakeSettings, environ: Mapping[str, str]) -> bool:
    """Runs the intake until a stop signal. Returns True if every request under way was answered."""
    telemetry = Telemetry(process=Process.INTAKE)
    stop = Stop(settings.drain.total_seconds(), lambda: exit_at_once(telemetry))
    leave_no_core()
    if unknown := unknown_names(environ):
        telemetry.settings_unused(list(unknown), "; ".join(unknown_lines(environ)))
    try:
        async with running_intake(settings, telemetry, environ) as intake:
            await stop.asked()
            return await intake.drain()
    except asyncio.CancelledError:
        if not stop.before_the_start:
            raise
        return True


class RunningIntake:
    """An intake that serves, and its drain."""

    def __init__(
        self, requests: Requests, server: Listening, telemetry: Telemetry, drain_seconds: float
    ) -> None:
        self.requests = requests
        self.server = server
        self._telemetry = telemetry
        self._drain_seconds = drain_seconds

    async def drain(self) -> bool:
        """Accepts no connection and answers the requests under way; False if that takes too long.

        Another request on an open connection is still answered, and the connection closed after it.
        """
        self.requests.ending = True
        self._telemetry.intake_stopping(self.requests.answering)
        await self.server.stop_accepting()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                while self.requests.answering:  # one may begin just as the last one ends
                    await self.requests.idle.wait()
        self._telemetry.intake_stopped(self.requests.answering)
        return not self.requests.answering

    async def report(self) -> None:
        """Sets the gauges every second, until it is cancelled."""
        while True:
            self._telemetry.intake_load(
                ready=not await self.requests.problems(),
                in_flight=self.requests.in_flight,
                connections=self.server.connections,
            )
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def running_intake(
    settings: IntakeSettings, telemetry: Telemetry, environ: Mapping[str, str]
) -> AsyncIterator[RunningIntake]:
    """Serves for the time of the block. Raises `SettingsError`, `SourcesInvalid` or `AddressUnusable`.

    A broker that is away is waited for: the intake is not ready meanwhile.
    """
    clock = SystemClock()
    sources = ready_sources(settings.sources)
    if mistakes := open_to_everybody(settings.intake, sources):
        raise SettingsError("\n".join(mistakes))
    tokens = None
    if settings.intake_tokens is not None:
        path = settings.intake_tokens
        tokens = Tokens(path, partial(telemetry.setting_read_again, f"{PREFIX}INTAKE_TOKENS"))
    secrets = dict(_secrets_of(sources, telemetry))
    enabled = enabled_in(sources)
    if unsafe := intake_exposures(settings, environ, [each.path for each in secrets.values()]):
        telemetry.settings_unsafe(unsafe)
    async with AsyncExitStack() as stack:

        def exchanges() -> Sequence[str]:
            return [names.DEPARTMENTS, *([names.UNMAPPED] if enabled_in(sources) else [])]

        publisher = await stack.enter_async_context(intake_publisher(settings, exchanges, clock, telemetry))
        requests = Requests(
            confirming=Confirming(publisher, publisher.problems, clock),
            tokens=tokens,
            sources=sources,
            secrets=secrets,
            rates=Rates(settings.intake_rate, clock),
            bodies=Bodies(),
            clock=clock,
            telemetry=telemetry,
            registry=telemetry.registry,
        )
        server = await stack.enter_async_context(listening(settings.intake, requests))
        intake = RunningIntake(requests, server, telemetry, settings.drain.total_seconds())
        await stack.enter_async_context(supervised(intake.report, clock, telemetry))
        senders = [
            *(tokens.names if tokens else [ANYBODY]),
            *(each.profile.source for each in enabled.values()),
        ]
        telemetry.intake_started(
            version("subaccount-provisioner"), clock.now(), _shown(server, enabled), senders
        )
        yield intake


def enabled_in(sources: Mapping[str, Source]) -> Mapping[str, Source]:
    """The sources whose requests are taken now."""
    return {name: source for name, source in sources.items() if source.is_enabled}


def _secrets_of(sources: Mapping[str, Source], telemetry: Telemetry) -> Iterator[tuple[str, Secrets]]:
    for name, source in sources.items():
        secrets = source.secrets(partial(telemetry.setting_read_again, source.file))
        if secrets is not None:
            yield name, secrets


def _shown(server: Listening, enabled: Mapping[str, Source]) -> dict[str, Any]:
    return {"http": f"{server.address.host}:{server.address.port}", "profiles": list(enabled)}
