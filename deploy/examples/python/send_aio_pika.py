"""Sends a department event with aio-pika: mandatory, persistent and confirmed."""

import asyncio
import os

import aio_pika
import department_event


async def main() -> None:
    """Returns once RabbitMQ has the event on disk, in at least one queue. Raises otherwise."""
    event_id, routing_key, body = department_event.from_command_line()
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
    async with await aio_pika.connect(url) as connection:
        # Channels of aio-pika have confirms. Without on_return_raises an event that no queue takes is lost.
        channel = await connection.channel(on_return_raises=True)
        exchange = await channel.get_exchange("departments", ensure=False)
        message = aio_pika.Message(
            body,
            content_type="application/cloudevents+json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await exchange.publish(message, routing_key, mandatory=True)
    print("sent", event_id)


asyncio.run(main())
