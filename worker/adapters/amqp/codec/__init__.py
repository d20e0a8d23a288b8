"""AMQP 0-9-1 as bytes: frames, field tables and message properties.

No module here does IO or imports asyncio or the client library: an import-linter contract checks that. The
folder above reads and writes the sockets. The specification is
https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, and where RabbitMQ departs from it the
errata apply: https://www.rabbitmq.com/amqp-0-9-1-errata
"""
