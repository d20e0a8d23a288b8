"""The baseline: the same job without a ledger, on plain aio-pika and aiohttp.

It makes one POST for each message, publishes credentials and result concurrently, waits for the confirms,
and acks. Without calls it publishes the result, waits for the confirm, and acks. Without a ledger, a crash or
a duplicate creates a second subaccount. `python -m tests.benchmarks.bare JSON`
"""

import asyncio
import json
import signal
import sys
import uuid
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import aio_pika
import aiohttp
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

from contracts import topology as names
from tests.benchmarks.processes import CONSUMING, run_on_the_fastest_loop, say


class CallLimiter(AbstractAsyncContextManager[None]):
    """At most `calls` in every window, counted from the response, so the provider never counts more."""

    def __init__(self, calls: int, window_seconds: float) -> None:
        self._free = asyncio.Semaphore(calls)
        self._window_seconds = window_seconds

    async def __aenter__(self) -> None:
        await self._free.acquire()

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().call_later(self._window_seconds, self._free.release)


@dataclass
class BareWorker:
    """Handles messages without a ledger, retries or deduplication."""

    session: aiohttp.ClientSession
    url: str
    secrets: AbstractExchange
    results: AbstractExchange
    pace: AbstractAsyncContextManager[None]

    async def answer(self, message: AbstractIncomingMessage) -> None:
        """Makes no call: the answer to an event that changes nothing."""
        event = json.loads(message.body)
        about = {"tenant": "default", "department_id": event["data"]["department_id"]}
        caused_by = {name: event[name] for name in ("source", "id", "type")}
        result = about | {"name": event["data"]["name"], "outcome": "unchanged", "event": caused_by}
        await publish(self.results, "subaccount.unchanged", result, event)
        await message.ack()

    async def carry(self, message: AbstractIncomingMessage) -> None:
        event = json.loads(message.body)
        async with self.pace, self.session.post(self.url, json={"name": event["data"]["name"]}) as response:
            made = await response.json()
        about = {"tenant": "default", "department_id": event["data"]["department_id"]}
        about |= {"name": event["data"]["name"], "auth_id": made["auth_id"]}
        credentials = about | {"auth_token": made["auth_token"], "generation": 1}
        caused_by = {name: event[name] for name in ("source", "id", "type")}
        result = about | {"outcome": "created", "event": caused_by}
        await asyncio.gather(
            publish(self.secrets, "subaccount.credentials.issued", credentials, event),
            publish(self.results, "subaccount.created", result, event),
        )
        await message.ack()


async def publish(exchange: AbstractExchange, key: str, data: dict[str, Any], event: dict[str, Any]) -> None:
    document = event | {
        "id": str(uuid.uuid4()),
        "type": f"{key}.v1",
        "subject": data["department_id"],
        "causationid": event["id"],
        "data": data,
    }
    message = aio_pika.Message(
        json.dumps(document).encode(),
        content_type="application/cloudevents+json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=uuid.uuid4().hex,
    )
    await exchange.publish(message, key, mandatory=True)


async def main(asked: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await aio_pika.connect(asked["amqp_url"]))
        connection.close_callbacks.add(lambda *_: stop.set())  # without a broker there is nothing to measure
        login = aiohttp.BasicAuth(asked["auth_id"], asked["auth_token"])
        connector = aiohttp.TCPConnector(limit=asked["concurrency"])
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, auth=login))
        publishing = await connection.channel(publisher_confirms=True, on_return_raises=True)
        bare = BareWorker(
            session,
            f"{asked['provider_url']}/v1/Account/{asked['auth_id']}/Subaccount/",
            await publishing.get_exchange(names.SECRETS, ensure=False),
            await publishing.get_exchange(names.RESULTS, ensure=False),
            CallLimiter(*asked["pace"]) if asked["pace"] else nullcontext(),
        )
        channel = await connection.channel(publisher_confirms=False)
        await channel.set_qos(asked["prefetch"])
        queue = await channel.get_queue(names.WORK_QUEUE, ensure=False)
        await queue.consume(bare.carry if asked["calls"] else bare.answer)
        say(CONSUMING)
        await stop.wait()


if __name__ == "__main__":
    run_on_the_fastest_loop(main(json.loads(sys.argv[1])))
