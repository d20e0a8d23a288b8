"""`provisioner run`: consume until told to stop, then drain."""

import asyncio
import resource
import signal
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from worker.bootstrap import running_worker
from worker.cautions import cautions
from worker.entrypoints.probes import serving
from worker.settings import WorkerSettings, unknown_names
from worker.telemetry import Telemetry


async def consume(settings: WorkerSettings, environ: Mapping[str, str]) -> bool:
    """True if everything begun was finished before the end."""
    telemetry = Telemetry()
    _leave_no_core()
    if unsafe := cautions(settings, environ):
        telemetry.settings_unsafe(unsafe)
    if unknown := unknown_names(environ):
        telemetry.settings_unused(unknown)
    stop = _stop_signal()
    async with running_worker(settings, telemetry) as worker, serving(worker, settings.http):
        telemetry.started(version("subaccount-provisioner"), _shown(settings))
        await stop.wait()
        drained = await worker.drain()
        telemetry.stopped(len(worker.pipeline.lanes))
    return drained


def _leave_no_core() -> None:
    """A core file would hold every token in memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; after it they have their ordinary, instant effect again."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def begin_to_stop() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, begin_to_stop)
    return stop


def _shown(settings: WorkerSettings) -> dict[str, Any]:
    return {
        "owner": settings.owner,
        "provider": settings.plivo_api_url,
        "account": settings.plivo_auth_id,
        "ledger": str(settings.ledger),
        "http": f"{settings.http.host}:{settings.http.port}",
        "removal": settings.removal.value,
        "recipients": list(settings.recipient_names),
    }
