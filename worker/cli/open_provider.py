"""Opens the provider for commands that read it. Slower to import than `open_ports`: few commands need it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from worker.adapters.jose.fingerprints import KeyedFingerprints
from worker.adapters.plivo.client import plivo_provider
from worker.adapters.system import SystemClock
from worker.bootstrap.running import plivo_account
from worker.ports import CallFailed, Provider, RateLimit, UserError
from worker.provider.listing import Listing
from worker.provider.pace import Pace
from worker.provider.pages import PageReader
from worker.settings.model import ProviderSettings
from worker.telemetry.events import Telemetry

SHARE_BESIDE_A_WORKER = 0.1
"""The part of the rate limit that a command takes while a worker has the rest."""


class ListFailed(UserError):
    """The provider's list of subaccounts, or one of them, could not be read."""


@asynccontextmanager
async def listing(settings: ProviderSettings, *, beside_worker: bool) -> AsyncIterator[Listing]:
    """The provider's list of subaccounts; a call that fails in the context raises `ListFailed`.

    `beside_worker`: as in `provider`.
    """
    pace = Pace(settings.rate_limit, lambda: beside_worker, SystemClock(), asyncio.Event())
    fingerprints = KeyedFingerprints(settings.plivo_auth_token)
    async with provider(settings, beside_worker=beside_worker) as (opened, pages):
        try:
            yield Listing(opened, pages, fingerprints, pace)
        except CallFailed as failed:
            raise ListFailed(f"Plivo's subaccounts cannot be read: {failed}") from None


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
