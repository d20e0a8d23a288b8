"""Receives results or credentials with pika: stores each message, then acks it.

Settings: AMQP_URL, QUEUE, DATABASE; for sealed credentials PRIVATE_KEYS, WORKER_KEYS and RECIPIENT.
"""

import os

import pika
from inbox import Inbox


def main() -> None:
    """Runs until it is stopped. A message not acked by then is delivered again."""
    inbox = Inbox(os.environ.get("DATABASE", "inbox.db"))
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=50)
        for method, _, body in channel.consume(os.environ.get("QUEUE", "provisioner.secrets")):
            print(inbox.keep(body), flush=True)  # if it raises, the message is not acked
            channel.basic_ack(method.delivery_tag)


main()
