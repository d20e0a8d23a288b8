"""Receives results or credentials with aio-pika: stores each message, then acks it.

Settings: AMQP_URL, QUEUE, DATABASE; for sealed credentials PRIVATE_KEYS, WORKER_KEYS and RECIPIENT.
"""

import asyncio
import os

import aio_pika
from inbox import Inbox


async def main() -> None:
    """Runs until it is stopped. A message not acked by then is delivered again."""
    inbox = Inbox(os.environ.get("DATABASE", "inbox.db"))
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=50)
        queue = await channel.get_queue(os.environ.get("QUEUE", "provisioner.secrets"))
        async with queue.iterator() as messages:
            async for message in messages:
                print(inbox.keep(message.body), flush=True)  # if it raises, the message is not acked
                await message.ack()


asyncio.run(main())
