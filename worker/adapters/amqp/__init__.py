"""RabbitMQ over AMQP 0-9-1. README.md says which part is the client library's and what is assumed of it."""
