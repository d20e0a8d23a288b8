"""Which arguments of a queue lose messages, by version of RabbitMQ.

A policy counts like an argument. Sources: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling,
https://www.rabbitmq.com/docs/ttl, https://www.rabbitmq.com/docs/maxlength, and
https://www.rabbitmq.com/docs/quorum-queues#dead-lettering. -1 as limit of 3.x was measured.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from contracts.topology import BrokerVersion, Queue

PASSED_ON = {
    "x-dead-letter-strategy": ("at-least-once", "a restart of the broker may lose what it passes on"),
    "x-overflow": ("reject-publish", "it passes messages on without a confirm and may lose them"),
}
"""The arguments that a queue which passes messages on must have, and the loss without them."""

_SMALLEST_WINS = frozenset({"x-expires", "x-max-length", "x-max-length-bytes", "x-message-ttl"})
_LIMIT = "x-delivery-limit"


def losses(wanted: Queue, given: Mapping[str, Any], broker: BrokerVersion) -> list[str]:
    """A line for each argument in `given` with which the queue may lose messages; empty if there is none.

    `given` holds what is in effect; `wanted` is the queue as the project declares it.
    """
    passes_on = "x-dead-letter-exchange" in wanted.arguments
    return [
        *_delivery_limit(given, broker),
        *_expiry(given, waits=passes_on),
        *_length(wanted, given),
        *(_return(wanted, given) if passes_on else ()),
    ]


def in_effect(
    arguments: Mapping[str, Any], policy: Mapping[str, Any], broker: BrokerVersion
) -> dict[str, Any]:
    """A queue's arguments together with one policy; its keys have no `x-`.

    Of two numbers the smaller one counts, except for a negative delivery limit from RabbitMQ 4.0 on. Of
    anything else the argument counts.
    """
    whole = dict(arguments)
    for key, value in policy.items():
        name = f"x-{key}"
        if name not in whole:
            whole[name] = value
        elif name in _SMALLEST_WINS:
            whole[name] = min(whole[name], value)
        elif name == _LIMIT:
            lifted = broker >= (4, 0) and min(whole[name], value) < 0
            whole[name] = max(whole[name], value) if lifted else min(whole[name], value)
    return whole


def _delivery_limit(given: Mapping[str, Any], broker: BrokerVersion) -> Iterator[str]:
    if given.get("x-queue-type", "classic") != "quorum":
        return
    limit = given.get(_LIMIT)
    if broker < (4, 0) and limit is not None:
        when = f"after {limit} returns" if limit > 0 else "at its first return, on RabbitMQ 3"
        yield f"{_LIMIT} {limit} drops a message {when}"
    elif broker >= (4, 0) and limit is None:
        yield f"without {_LIMIT} -1, RabbitMQ 4 drops a message after 20 returns"
    elif broker >= (4, 0) and limit is not None and limit >= 0:
        yield f"{_LIMIT} {limit} drops a message after {limit} returns"


def _expiry(given: Mapping[str, Any], *, waits: bool) -> Iterator[str]:
    if "x-expires" in given:
        yield f"x-expires {given['x-expires']} deletes the queue with its messages while nobody reads it"
    if "x-message-ttl" in given and not waits:
        yield f"x-message-ttl {given['x-message-ttl']} drops a message after that many milliseconds"
    if "x-message-ttl" not in given and waits:
        yield "without x-message-ttl its messages never come back"


def _length(wanted: Queue, given: Mapping[str, Any]) -> Iterator[str]:
    if given.get("x-overflow", "drop-head") == "reject-publish":
        return  # the publisher learns of it and keeps the message
    for name in ("x-max-length", "x-max-length-bytes"):
        if name in given and given[name] < wanted.arguments.get(name, given[name] + 1):
            yield f"{name} {given[name]} drops the oldest messages beyond it"


def _return(wanted: Queue, given: Mapping[str, Any]) -> Iterator[str]:
    back = wanted.arguments["x-dead-letter-exchange"]
    if given.get("x-dead-letter-exchange") != back:
        yield f"its messages go to exchange {given.get('x-dead-letter-exchange', '(none)')} instead of {back}"
    for name, (needed, otherwise) in PASSED_ON.items():
        if given.get(name) != needed:
            yield f"without {name} {needed}, {otherwise}"
    if given.get("x-queue-type", "classic") != "quorum":
        yield "only a quorum queue passes messages on without loss"
