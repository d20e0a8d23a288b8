"""`provisioner run`: consume until told to stop, then drain."""

from importlib.metadata import version
from typing import Any

from worker.bootstrap import running_worker
from worker.entrypoints.probes import serving
from worker.entrypoints.signals import stop_signal
from worker.settings import WorkerSettings, unknown_names
from worker.telemetry import Telemetry


async def consume(settings: WorkerSettings, environ_names: dict[str, str]) -> bool:
    """True if everything begun was finished before the end."""
    telemetry = Telemetry()
    if unknown := unknown_names(environ_names):
        telemetry.settings_unused(unknown)
    stop = stop_signal()
    async with running_worker(settings, telemetry) as worker, serving(worker, settings.http):
        telemetry.started(version("subaccount-provisioner"), _shown(settings))
        await stop.wait()
        drained = await worker.drain()
        telemetry.stopped(len(worker.pipeline.lanes))
    return drained


def _shown(settings: WorkerSettings) -> dict[str, Any]:
    return {
        "owner": settings.owner,
        "provider": settings.plivo_api_url,
        "account": settings.plivo_auth_id,
        "ledger": str(settings.ledger),
        "http": f"{settings.http.host}:{settings.http.port}",
        "removal": settings.removal.value,
    }
