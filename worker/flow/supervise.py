"""Keeps a background loop of the worker running."""

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
    """Runs `forever` beside the block, starts it again after an error, and cancels it at the block's end."""
    running = asyncio.create_task(_restarted(forever, clock, telemetry))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def _restarted(forever: Callable[[], Awaitable[None]], clock: Clock, telemetry: Telemetry) -> None:
    """A fault of ours must not leave the worker deaf, or its duties undone, without a word."""
    while True:
        try:
            await forever()
        except Exception as error:  # noqa: BLE001 - as said
            telemetry.step_crashed(error)
        await clock.sleep(RESTART_SECONDS)
