"""Sends a department event with pika: mandatory, persistent and confirmed."""

import os

import department_event
import pika


def main() -> None:
    """Returns once RabbitMQ has the event on disk, in at least one queue. Raises otherwise."""
    event_id, routing_key, body = department_event.from_command_line()
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()  # from now on basic_publish waits, and raises UnroutableError or NackError
        properties = pika.BasicProperties(
            content_type="application/cloudevents+json", delivery_mode=pika.DeliveryMode.Persistent
        )
        channel.basic_publish("departments", routing_key, body, properties, mandatory=True)
    print("sent", event_id)


main()
