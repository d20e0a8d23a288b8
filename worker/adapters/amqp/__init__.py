"""RabbitMQ over AMQP 0-9-1. README.md lists the parts of the client library and our assumptions about it."""
