"""`provisioner run`: consumes until a stop signal, then drains."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from worker.adapters.ledgers import require_no_worker
from worker.adapters.system import SystemClock
from worker.bootstrap.running import RunningWorker, running_worker
from worker.service.probes import Probes, serving
from worker.service.signals import Stop, exit_at_once, leave_no_core
from worker.settings.model import WorkerSettings
from worker.settings.names import unknown_lines, unknown_names
from worker.settings.show import written
from worker.settings.warnings import warnings_about
from worker.telemetry.events import Telemetry

VERSION = version("subaccount-provisioner")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
WITHOUT_EXTRA = (
    "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed:"
    " pip install 'subaccount-provisioner[otel]', or unset it"
)
SHOWN = ("removal", "removal_grace", "removal_limit", "protected", "sweep", "sweep_fix")
"""The settings that say what may be removed or corrected, which the first log line shows."""


async def consume(settings: WorkerSettings, environ: Mapping[str, str]) -> bool:
    """Runs a worker until a stop signal. Returns True if it finished all the work it had begun."""
    with telemetry_for(environ) as telemetry:
        return await _consume(settings, environ, telemetry)


@contextmanager
def telemetry_for(environ: Mapping[str, str]) -> Iterator[Telemetry]:
    """Telemetry with traces, if an exporter for them is configured."""
    if not traces_wanted(environ):
        yield Telemetry()
        return
    try:
        from worker.adapters.otel import complaints, exported_spans  # noqa: PLC0415 - an extra, and slow
    except ModuleNotFoundError:
        telemetry = Telemetry()
        telemetry.tracing_impossible(WITHOUT_EXTRA)
        yield telemetry
        return
    with exported_spans(VERSION, environ) as spans:
        telemetry = Telemetry(spans=spans)
        with complaints(telemetry.spans_lost):
            yield telemetry


def traces_wanted(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables name an exporter and do not switch it off."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return environ.get("OTEL_TRACES_EXPORTER") != "none" and any(environ.get(name) for name in ENDPOINTS)


async def _consume(settings: WorkerSettings, environ: Mapping[str, str], telemetry: Telemetry) -> bool:
    stop = Stop(settings.drain.total_seconds(), lambda: exit_at_once(telemetry))
    leave_no_core()
    if unknown := unknown_names(environ):
        telemetry.settings_unused(list(unknown), "; ".join(unknown_lines(environ)))
    require_no_worker(settings.ledger_url)  # it may have the address of the probes too, but this says more
    probes = Probes(telemetry, settings.signing_key_path)
    try:
        # Every mistake is found before a message is taken. Otherwise each start would count as a delivery of
        # all messages in flight.
        async with serving(probes, settings.http) as http, running_worker(settings, telemetry) as worker:
            if unsafe := warnings_about(settings, environ):
                telemetry.settings_unsafe(unsafe)
            facts = _shown(settings) | {"http": f"{http.host}:{http.port}"}
            telemetry.started(VERSION, SystemClock().now(), facts)
            with probes.watching(worker):
                await stop.asked()
                return await _drained(worker)
    except asyncio.CancelledError:
        if not stop.before_the_start:
            raise
        return True


async def _drained(worker: RunningWorker) -> bool:
    drained = await worker.drain()
    worker.telemetry.stopped(worker.unfinished)
    return drained


def _shown(settings: WorkerSettings) -> dict[str, Any]:
    return {
        "owner": settings.owner,
        "provider": settings.plivo_api_url,
        "account": settings.plivo_auth_id,
        "ledger": str(settings.ledger_url),
        **{name: written(WorkerSettings.model_fields[name], getattr(settings, name)) for name in SHOWN},
        "recipients": list(settings.recipient_names),
    }
