"""Faults between a worker and its broker, injected into a private node and its network."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contracts import topology as names
from tests.soak.statements import Statement
from tests.support.fault_proxy import BrokerProxy
from worker.demo.private_node import PrivateNode
from worker.sandbox import Rule, Sandbox, fault

WATERMARK, NO_MEMORY = "0.4", "0.00001"
ALARM_SECONDS = 3.0
TIMEOUT_MILLISECONDS, USUAL_TIMEOUT_MILLISECONDS = 500, 1_800_000
TICK_MILLISECONDS, USUAL_TICK_MILLISECONDS = 200, 60_000
SLOW_SECONDS, SLOW_FOR_SECONDS = 0.05, 1.0


@dataclass(frozen=True)
class FaultTargets:
    """The parts that faults affect, and the producer.

    `send_to_work` and `send_again` are called after the queue was lost.
    """

    node: PrivateNode
    proxy: BrokerProxy
    sandbox: Sandbox
    rules: tuple[Rule, ...]
    send: Callable[[Statement], Awaitable[None]]
    send_to_work: Callable[[Statement], Awaitable[None]]
    send_again: Callable[[], Awaitable[None]]


BrokerFault = Callable[[FaultTargets], Awaitable[None]]


async def restart(targets: FaultTargets) -> None:
    """Stops and starts the broker."""
    await targets.node.stop()
    await targets.node.start()


async def forced_close(targets: FaultTargets) -> None:
    """Closes all connections at the broker."""
    async with targets.proxy.connected_anew(2):
        await targets.node.rabbitmqctl("close_all_connections", "to see who comes back")


async def queue_deleted(targets: FaultTargets) -> None:
    """Deletes the queue with its messages, which cancels the consumer."""
    async with targets.proxy.connected_anew():
        await targets.node.rabbitmqctl("delete_queue", names.WORK_QUEUE)
    # Once this is confirmed, the queue is there with its bindings. Events sent before are
    # unrouted; their producer sends them again.
    await targets.send_to_work(_new_department())
    await targets.node.rabbitmqctl("purge_queue", names.UNROUTED_QUEUE)
    await targets.send_again()


async def consumer_timeout(targets: FaultTargets) -> None:
    """Makes the broker close the channel of a consumer that holds a message too long, or cancel the consumer.

    A channel knows the time allowed from its beginning: hence the resets, before and after.
    """
    await allow_holding(targets.node, TIMEOUT_MILLISECONDS, TICK_MILLISECONDS)
    await reset(targets)
    async with targets.proxy.connected_anew():
        targets.sandbox.set_rules(Rule("create_subaccount", fault("no-answer"), times=1), *targets.rules)
        await targets.send(_new_department())
    targets.sandbox.set_rules(*targets.rules)
    await allow_holding(targets.node, USUAL_TIMEOUT_MILLISECONDS, USUAL_TICK_MILLISECONDS)
    await reset(targets)


async def memory_alarm(targets: FaultTargets) -> None:
    """Raises a memory alarm: publishes are blocked, acks continue."""
    await targets.node.rabbitmqctl("set_vm_memory_high_watermark", NO_MEMORY)
    await asyncio.sleep(ALARM_SECONDS)
    await targets.node.rabbitmqctl("set_vm_memory_high_watermark", WATERMARK)


async def reset(targets: FaultTargets) -> None:
    """Resets all TCP connections."""
    async with targets.proxy.connected_anew(2):
        targets.proxy.reset()


async def black_hole(targets: FaultTargets) -> None:
    """Holds up all data until the worker reconnects."""
    async with targets.proxy.connected_anew(2):
        targets.proxy.black_hole()
    targets.proxy.heal()


async def refusal(targets: FaultTargets) -> None:
    """Resets all connections and refuses new ones for a while."""
    targets.proxy.refuse()
    targets.proxy.reset()
    await asyncio.sleep(SLOW_FOR_SECONDS)
    async with targets.proxy.connected_anew(2):
        await targets.proxy.listen()


async def confirms_withheld(targets: FaultTargets) -> None:
    """Withholds publisher confirms until the worker reconnects."""
    async with targets.proxy.connected_anew():
        targets.proxy.withhold_confirms()
    targets.proxy.heal()


async def slow_network(targets: FaultTargets) -> None:
    """Delays all data for a while."""
    targets.proxy.delay(SLOW_SECONDS)
    await asyncio.sleep(SLOW_FOR_SECONDS)
    targets.proxy.heal()


BROKER_FAULTS: tuple[BrokerFault, ...] = (
    restart,
    forced_close,
    queue_deleted,
    consumer_timeout,
    memory_alarm,
    reset,
    black_hole,
    refusal,
    confirms_withheld,
    slow_network,
)


def _new_department() -> Statement:
    department = f"new-{secrets.token_hex(4)}"
    return Statement(department, "created", 1, f"{department} north")


async def allow_holding(node: PrivateNode, milliseconds: int, tick_milliseconds: int) -> None:
    """Sets how long a message may be held on channels opened from now on, and how often that is looked at."""
    await node.rabbitmqctl(
        "eval",
        f"application:set_env(rabbit, consumer_timeout, {milliseconds}),"
        f" application:set_env(rabbit, channel_tick_interval, {tick_milliseconds}).",
    )
