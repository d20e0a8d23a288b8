"""Latency from an event to its credentials on an idle system."""

import asyncio
import time
from functools import partial

import aiohttp
from aio_pika.abc import AbstractIncomingMessage

from contracts import topology as names
from tests.benchmarks.events import one_each
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.processes import provider
from tests.benchmarks.stage import BenchmarkSetup, Load, Side
from worker.sandbox import AUTH_ID, AUTH_TOKEN

EVENTS = 50
MOST_MILLISECONDS = 10


async def measure(stage: BenchmarkSetup, _scale: Scale) -> list[Figure]:
    """Subtracts the provider's own latency, measured by one direct create per event."""
    figures = []
    for name, side, goal in (("worker", stage.worker, MOST_MILLISECONDS), ("bare loop", stage.bare, None)):
        beyond = await beyond_the_provider(stage, side)
        figures.append(Figure(f"{name}: idle, event to credentials", "ms", beyond, at_most=goal))
    return figures


async def beyond_the_provider(stage: BenchmarkSetup, side: Side, prefetch: int = 200) -> list[float]:
    """Milliseconds from an event to its credentials, without the provider's part."""
    return await stage.repeated(partial(_beyond_the_provider, stage, side, prefetch))


async def _beyond_the_provider(stage: BenchmarkSetup, side: Side, prefetch: int) -> list[float]:
    await stage.set([])
    async with provider() as there, side(Load(there.url, prefetch)), _caller() as session:
        heard = await _credentials(stage)
        milliseconds = []
        for event in one_each(EVENTS):
            straight = await _straight_create(session, there.url)
            begun = time.monotonic()
            await stage.send([event])
            milliseconds.append((await asyncio.wait_for(heard.get(), 30) - begun - straight) * 1000)
    return milliseconds[EVENTS // 10 :]  # the first events warm up the worker


def _caller() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"Authorization": aiohttp.encode_basic_auth(AUTH_ID, AUTH_TOKEN)})


async def _straight_create(session: aiohttp.ClientSession, url: str) -> float:
    begun = time.monotonic()
    async with session.post(f"{url}/v1/Account/{AUTH_ID}/Subaccount/", json={"name": "straight"}) as response:
        await response.read()
    return time.monotonic() - begun


async def _credentials(stage: BenchmarkSetup) -> "asyncio.Queue[float]":
    """Arrival times of the credentials messages."""
    heard: asyncio.Queue[float] = asyncio.Queue()

    async def hear(_message: AbstractIncomingMessage) -> None:
        heard.put_nowait(time.monotonic())

    queue = await stage.channel.declare_queue(exclusive=True)
    await queue.bind(names.SECRETS, "#")
    await queue.consume(hear, no_ack=True)
    return heard
