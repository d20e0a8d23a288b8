"""Supervision: keeps a background loop of the worker running."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from worker.ports import Clock
from worker.telemetry.events import Telemetry

RESTART_SECONDS = 1.0


@asynccontextmanager
async def supervised(
    forever: Callable[[], Awaitable[None]], clock: Clock, telemetry: Telemetry
) -> AsyncIterator[None]:
    """Runs `forever` during the block. An error is logged, and the loop restarted after one second."""
    running = asyncio.create_task(_restarted(forever, clock, telemetry))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def _restarted(forever: Callable[[], Awaitable[None]], clock: Clock, telemetry: Telemetry) -> None:
    """A bug of ours must not silently stop the consumer or the scheduler."""
    while True:
        try:
            await forever()
        except Exception as error:  # noqa: BLE001 - as said
            telemetry.step_crashed(error)
        await clock.sleep(RESTART_SECONDS)
