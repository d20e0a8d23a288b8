"""Opens the provider for commands that read it. Slower to import than `open_ports`: few commands need it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from worker.adapters.plivo.client import plivo_provider
from worker.adapters.system import SystemClock
from worker.bootstrap import plivo_account
from worker.ports import Provider, RateLimit
from worker.provider.pages import PageReader
from worker.settings.model import ProviderSettings
from worker.telemetry.events import Telemetry

SHARE_BESIDE_A_WORKER = 0.1
"""The part of the rate limit that a command takes while a worker has the rest."""


@asynccontextmanager
async def provider(
    settings: ProviderSettings, *, beside_worker: bool
) -> AsyncIterator[tuple[Provider, PageReader]]:
    """The provider without a circuit breaker, and the reader of its lists.

    `beside_worker`: a worker runs, which leaves a part of the rate limit.
    """
    calls, window = settings.rate_limit
    rate = (
        RateLimit(max(1, int(calls * SHARE_BESIDE_A_WORKER)), window)
        if beside_worker
        else settings.rate_limit
    )
    account = replace(plivo_account(settings, Telemetry()), rate=rate)
    stopping = asyncio.Event()
    async with plivo_provider(account, SystemClock(), stopping) as opened:
        yield opened, PageReader(SystemClock(), stopping)
