"""The baseline of the intake: a bare aiohttp handler that publishes with confirms, on plain aio-pika.

It checks nothing: `python -m tests.benchmarks.bare_intake JSON`
"""

import asyncio
import json
import signal
import sys
import uuid
from typing import Any

import aio_pika
from aiohttp import web

from contracts import topology as names
from contracts.intake import EVENTS_PATH
from tests.benchmarks.processes import run_on_the_fastest_loop, say

LISTENING = "listening"


async def main(asked: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connection = await aio_pika.connect(asked["amqp_url"])
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(names.DEPARTMENTS, ensure=False)

        async def take(request: web.Request) -> web.Response:
            event = json.loads(await request.read())
            message = aio_pika.Message(
                json.dumps(event).encode(),
                content_type="application/cloudevents+json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=uuid.uuid4().hex,
            )
            await exchange.publish(message, "department.created", mandatory=True)
            told = {"id": event["id"], "type": event["type"]}
            return web.json_response({"accepted": [told]}, status=202)

        app = web.Application()
        app.router.add_post(EVENTS_PATH, take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", asked["port"]).start()
        say(LISTENING)
        await stop.wait()
        await runner.cleanup()


if __name__ == "__main__":
    run_on_the_fastest_loop(main(json.loads(sys.argv[1])))
