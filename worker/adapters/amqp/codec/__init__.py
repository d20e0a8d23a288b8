"""AMQP 0-9-1 as bytes: frames, field tables and message properties.

Nothing here does IO, knows asyncio or the client library: an import-linter contract holds that. Bytes go in
and come out; who reads and writes sockets is one folder up. The specification is
https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, and where RabbitMQ departs from it
https://www.rabbitmq.com/amqp-0-9-1-errata the errata count.
"""
