"""Publishing with confirms straight on the client library's channel, in one go.

The library's own publish takes three times the CPU: it waits for each message to be written, one at a time. Here
a message takes its number and its place in the queue to the socket in one step, so that nothing can come between,
and what is published meanwhile is written together. Confirms, returns and lost channels reach the future through
the library as ever.
"""

import asyncio

from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from aiormq.exceptions import ChannelInvalidStateError
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader


async def publish_confirmed(
    channel: Channel, exchange: str, routing_key: str, properties: Basic.Properties, body: bytes
) -> None:
    """Returns once the broker has confirmed; raises `PublishError` if it returns the message.

    The channel must have been opened with `publisher_confirms` and `on_return_raises`, and nobody else may publish
    on it. `properties.message_id` must be unique: returns are told apart by it.
    """
    frame = ChannelFrame.marshall(
        channel_number=channel.number,
        frames=[
            Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True),
            ContentHeader(properties=properties, body_size=len(body)),
            *(ContentBody(part) for part in _parts(body, channel.max_content_size)),
        ],
    )
    while channel.write_queue.full():
        await channel.write_queue.join()
    message_id = properties.message_id or ""
    confirmed = _enqueued(channel, frame, message_id)
    try:
        await confirmed
    finally:
        channel.message_id_delivery_tag.pop(message_id, None)


def _enqueued(channel: Channel, frame: ChannelFrame, message_id: str) -> "asyncio.Future[object]":
    if channel.is_closed:
        raise ChannelInvalidStateError("the channel is closed")
    channel.write_queue.put_nowait(frame)
    channel.delivery_tag += 1
    confirmed = channel.create_future()
    channel.confirmations[channel.delivery_tag] = confirmed
    channel.message_id_delivery_tag[message_id] = channel.delivery_tag
    return confirmed


def _parts(body: bytes, longest: int) -> list[bytes]:
    return [body[first : first + longest] for first in range(0, len(body), longest)]
