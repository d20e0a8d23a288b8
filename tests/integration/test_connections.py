"""Consuming and publishing over a failing network: no message is lost, and each link recovers."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiormq
import pytest
from yarl import URL

from contracts.envelope import STRUCTURED, Message
from contracts.topology import DEPARTMENTS, REPLAY, RESULTS, WORK_QUEUE, BrokerVersion, Namespace, topology
from tests.conformance.brokers import Inbox, rabbit_bench
from tests.soak.broker_faults import allow_holding
from tests.support.fault_proxy import BrokerProxy, fault_proxy
from worker.adapters.amqp import connect as connecting
from worker.adapters.amqp import consumer as rabbitmq_consumer
from worker.adapters.amqp import link as rabbitmq_link
from worker.adapters.amqp import publisher as rabbitmq_publisher
from worker.adapters.amqp import seam
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.channel import CANCELLED, RabbitDelivery
from worker.adapters.amqp.connect import connect, connected
from worker.adapters.amqp.consumer import RabbitConsumer
from worker.adapters.amqp.errors import BrokerUnavailable, explain
from worker.adapters.amqp.link import Link, Retries
from worker.adapters.amqp.owner import OwnerLease, OwnerUnseen
from worker.adapters.amqp.publisher import Prepare, RabbitPublisher, no_preparation
from worker.adapters.amqp.seam import BROKER_ERRORS, Channel, Connection
from worker.adapters.amqp.setup import BrokerSetup
from worker.adapters.amqp.start import Look
from worker.adapters.system import SystemClock
from worker.core.messages import Outgoing
from worker.demo.private_node import private_node
from worker.ports import Delivery, PublishFailed
from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.telemetry.events import Telemetry

pytestmark = pytest.mark.xdist_group("broker")


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch):
    """Shortens the connection's timeouts."""
    monkeypatch.setattr(rabbitmq_publisher, "CONFIRM_SECONDS", 1.0)
    monkeypatch.setattr(rabbitmq_link, "PULSE_SECONDS", 0.1)
    monkeypatch.setattr(rabbitmq_link, "PULSE_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(connecting, "CLOSE_SECONDS", 0.5)


@pytest.fixture
async def proxy(clean_broker: str) -> AsyncIterator[BrokerProxy]:
    async with await connect(clean_broker, "test") as connection:
        await declare(connection)
    async with fault_proxy(clean_broker) as running:
        yield running


async def declare(connection: Connection) -> None:
    await rabbitmq_topology.apply(connection, topology(BrokerVersion.parse(connection.server_version)))


def link(*urls: str) -> Link:
    return Link("test", urls, SystemClock(), Telemetry())


@asynccontextmanager
async def consuming(
    url: str, inbox: Inbox, prepare: Prepare = no_preparation, maintain: Prepare = no_preparation
) -> AsyncIterator[RabbitConsumer]:
    consumer = RabbitConsumer(WORK_QUEUE, 10, inbox, prepare, Telemetry(), maintain=maintain)
    async with consumer.running(link(url)):
        yield consumer


@asynccontextmanager
async def publishing(url: str) -> AsyncIterator[RabbitPublisher]:
    async with RabbitPublisher.running(link(url)) as publisher:
        yield publisher


def event(body: bytes, exchange: str = DEPARTMENTS) -> Outgoing:
    return Outgoing(exchange, "department.x", Message(body, STRUCTURED, {}))


async def publish(publisher: RabbitPublisher, body: bytes, exchange: str = DEPARTMENTS) -> None:
    """Publishes until the broker confirms, as the pipeline does."""
    while True:
        try:
            return await publisher.publish(event(body, exchange))
        except PublishFailed:
            await asyncio.sleep(0.05)


async def reset(proxy: BrokerProxy) -> None:
    proxy.reset()


async def refuse(proxy: BrokerProxy) -> None:
    proxy.refuse()
    proxy.reset()
    await asyncio.sleep(0.5)
    await proxy.listen()


async def black_hole(proxy: BrokerProxy) -> None:
    """Affects existing connections and new ones."""
    async with proxy.connected_anew():
        proxy.black_hole()
    proxy.heal()


@pytest.mark.parametrize("fault", [reset, refuse, black_hole])
async def test_a_consumer_reconnects_after_a_network_fault(
    proxy, clean_broker, fault: Callable[[BrokerProxy], Awaitable[None]]
):
    inbox = Inbox()
    async with consuming(proxy.url, inbox) as consumer, publishing(clean_broker) as publisher:
        await publish(publisher, b"before")
        (first,) = await inbox.holds(1)
        await fault(proxy)
        await publish(publisher, b"after")
        await inbox.holds(3)
        assert consumer.consuming
        assert not first.live
        await first.ack()
    assert inbox.bodies == [b"before", b"before", b"after"]


class Timed(Telemetry):
    """Notes when the consumer was lost and when it was there again, and why."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[float] = []
        self.begun: asyncio.Queue[float] = asyncio.Queue()
        self.reasons: list[str] = []

    def consuming(self, queue: str, prefetch: int) -> None:
        self.begun.put_nowait(time.monotonic())
        super().consuming(queue, prefetch)

    def consuming_ended(self) -> None:
        self.ended.append(time.monotonic())
        super().consuming_ended()

    def broker_lost(self, link: str, detail: str) -> None:
        self.reasons.append(detail)
        super().broker_lost(link, detail)


@pytest.mark.usefixtures("rabbitmq_server")
async def test_a_consumer_that_holds_a_message_too_long_consumes_again_at_once():
    """RabbitMQ before 4.3 closes its channel; from 4.3 it cancels the consumer."""
    inbox, timed = Inbox(), Timed()
    async with private_node() as node:
        await allow_holding(node, milliseconds=500, tick_milliseconds=200)
        async with await connect(node.url, "test") as connection:
            await declare(connection)
            cancels = BrokerVersion.parse(connection.server_version) >= (4, 3)
            consumer = RabbitConsumer(WORK_QUEUE, 10, inbox, no_preparation, timed)
            keeping = Link("test", [node.url], SystemClock(), timed)
            async with publishing(node.url) as publisher, consumer.running(keeping):
                await publish(publisher, b"slow")
                first, second = (await inbox.holds(2))[:2]
                await second.ack()
                await timed.begun.get()
                seconds = await timed.begun.get() - timed.ended[0]
                assert not first.live
                assert consumer.consuming
            state = await rabbitmq_topology.state_of(connection, WORK_QUEUE)
    assert seconds < 3
    assert (
        timed.reasons[0] == CANCELLED
        if cancels
        else "delivery acknowledgement on channel" in timed.reasons[0]
    )
    assert state is not None
    assert state.messages == 0


async def test_a_failing_receive_callback_does_not_affect_other_messages(proxy, clean_broker):
    """The callback runs in the task that reads all frames, so it must not raise there."""
    inbox = Inbox()

    class Choosy(Inbox):
        def __call__(self, delivery: Delivery) -> None:
            if delivery.original.message.body == b"odd":
                raise RuntimeError("a fault of ours")
            inbox(delivery)

    async with consuming(proxy.url, Choosy()) as consumer, publishing(clean_broker) as publisher:
        for body in (b"one", b"odd", b"two"):
            await publish(publisher, body)
        await inbox.holds(2)
        assert consumer.consuming
    assert inbox.bodies == [b"one", b"two"]


async def settled(consumer: RabbitConsumer) -> None:
    """Returns once the consumer is connected and has prepared its channel."""
    while True:
        async with consumer._changing:
            if consumer._connection is not None:
                return
        await asyncio.sleep(0.01)


async def test_a_paused_consumer_stays_paused_after_reconnecting(proxy, clean_broker):
    inbox = Inbox()
    async with consuming(proxy.url, inbox) as consumer, rabbit_bench(clean_broker) as bench:
        await consumer.pause()
        async with proxy.connected_anew():
            proxy.reset()
        await settled(consumer)
        await publish(bench.publisher, b"one")
        assert await bench.ready(WORK_QUEUE) == 1
        await consumer.resume()
        await inbox.holds(1)


async def test_an_ack_during_a_release_keeps_the_connection(proxy, clean_broker):
    inbox = Inbox()
    async with consuming(proxy.url, inbox) as consumer, publishing(clean_broker) as publisher:
        for number in range(1, 6):
            await publish(publisher, str(number).encode())
            held = list(await inbox.holds(2 * number - 1))
            await consumer.pause()
            connection = consumer._connection
            await asyncio.gather(
                *(delivery.ack() for delivery in held), consumer.release(), *(d.ack() for d in held)
            )
            await consumer.resume()
            await publish(publisher, b"more")
            await inbox.holds(len(held) + 1)
            assert consumer._connection is connection


async def test_a_pause_without_a_connection_takes_effect_after_connecting(proxy, clean_broker):
    inbox = Inbox()
    async with consuming(proxy.url, inbox) as consumer, publishing(clean_broker) as publisher:
        proxy.refuse()
        proxy.reset()
        await consumer.pause()
        await consumer.release()
        await publish(publisher, b"one")
        async with proxy.connected_anew():
            await proxy.listen()
        assert inbox.bodies == []
        await consumer.resume()
        await inbox.holds(1)


async def test_a_consumer_connects_to_a_slow_broker(proxy):
    """Each round trip takes longer than the pulse interval of the link."""
    proxy.delay(0.6)
    async with publishing(proxy.url) as publisher:
        proxy.heal()
        await publish(publisher, b"one")


async def test_a_missing_confirm_closes_the_connection(proxy):
    async with publishing(proxy.url) as publisher:
        proxy.withhold_confirms()
        async with proxy.connected_anew():
            with pytest.raises(PublishFailed, match="no confirm in time"):
                await publisher.publish(event(b"one"))
        assert await publisher.problems()
        proxy.heal()
        await publish(publisher, b"one")
        assert await publisher.problems() == []


async def test_an_unrequested_cancellation_counts_as_a_lost_connection(proxy):
    served, begun, over = 0, asyncio.Event(), asyncio.Event()

    async def serve(_connection: Connection) -> None:
        nonlocal served
        served += 1
        begun.set()
        if served == 1:
            raise asyncio.CancelledError
        over.set()
        await asyncio.Event().wait()

    async with link(proxy.url).kept(serve, begun):
        await over.wait()


async def test_links_recover_after_the_client_library_cancels_all_waiters(proxy):
    inbox = Inbox()
    async with consuming(proxy.url, inbox) as consumer, publishing(proxy.url) as publisher:
        await publish(publisher, b"one")
        (first,) = await inbox.holds(1)
        proxy.black_hole()
        waiting = [
            asyncio.create_task(work)
            for work in (publisher.publish(event(b"two")), consumer.pause(), first.ack())
        ]
        await asyncio.sleep(0)
        for port in (consumer, publisher):
            assert port._connection is not None
            library = port._connection._library
            assert isinstance(library, aiormq.Connection)
            library._reader_task.cancel()
        failed, *ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(failed, PublishFailed)
        assert ended == [None, None]
        proxy.heal()
        await consumer.resume()
        await publish(publisher, b"three")
        await inbox.holds(2)


async def test_an_unreachable_host_makes_the_link_try_the_next_host(proxy, clean_broker):
    inbox = Inbox()
    async with fault_proxy(clean_broker) as other:
        consumer = RabbitConsumer(WORK_QUEUE, 10, inbox, no_preparation, Telemetry())
        hosts = {proxy.url: proxy, other.url: other}
        async with consumer.running(link(*hosts)), publishing(clean_broker) as publisher:
            for host, next_host in ((proxy, other), (other, proxy)):
                async with next_host.connected_anew():
                    host.refuse()
                    host.reset()
                    next_host.reset()
                await host.listen()
            await publish(publisher, b"one")
            await inbox.holds(1)


async def test_a_deleted_queue_is_declared_again_with_its_bindings(proxy, clean_broker):
    inbox = Inbox()
    async with consuming(proxy.url, inbox, declare), publishing(clean_broker) as publisher:
        async with await connect(clean_broker, "test") as connection, proxy.connected_anew():
            await (await connection.open_channel()).objects.queue_delete(WORK_QUEUE)
        # Until the queue is bound again the alternate exchange takes an event. `REPLAY` has none.
        await publish(publisher, b"one", REPLAY)
        await inbox.holds(1)
        await publish(publisher, b"two")
        await inbox.holds(2)


async def test_with_an_assumed_topology_a_missing_queue_is_awaited_and_logged(proxy, clean_broker):
    inbox = Inbox()
    async with (
        consuming(proxy.url, inbox) as consumer,
        publishing(clean_broker) as publisher,
        await connect(clean_broker, "test") as connection,
    ):
        async with proxy.connected_anew(3):
            await (await connection.open_channel()).objects.queue_delete(WORK_QUEUE)
        (problem,) = await consumer.problems()
        assert "no queue 'provisioner.departments'" in problem
        await declare(connection)
        await publish(publisher, b"one")
        await inbox.holds(1)


async def test_a_deleted_exchange_is_declared_again_on_publish(proxy, clean_broker):
    async with RabbitPublisher.running(link(proxy.url), declare) as publisher:
        async with await connect(clean_broker, "test") as connection:
            await (await connection.open_channel()).objects.exchange_delete(DEPARTMENTS)
        await publish(publisher, b"one")


async def test_a_deleted_inbound_exchange_is_declared_again(proxy, clean_broker, monkeypatch):
    """Without the exchange the consumer stays connected, but producers are refused."""
    monkeypatch.setattr(rabbitmq_consumer, "MAINTAIN_SECONDS", 0.1)
    inbox = Inbox()
    async with (
        consuming(proxy.url, inbox, declare, declare) as consumer,
        publishing(clean_broker) as publisher,
        await connect(clean_broker, "test") as connection,
    ):
        await (await connection.open_channel()).objects.exchange_delete(DEPARTMENTS)
        await publish(publisher, b"one")
        await inbox.holds(1)
        assert await consumer.problems() == []


async def test_a_topology_refused_after_the_start_stops_nothing(proxy, clean_broker, monkeypatch):
    monkeypatch.setattr(rabbitmq_consumer, "MAINTAIN_SECONDS", 0.05)
    settings = load(
        WorkerSettings, {"AMQP_URL": clean_broker, "PLIVO_AUTH_ID": "MA", "PLIVO_AUTH_TOKEN": "t"}
    )
    lease = OwnerLease(settings.namespace, settings.owner)
    setup = BrokerSetup(settings, Look(), lease, Telemetry())
    inbox, refused = Inbox(), asyncio.Event()
    monkeypatch.setattr(setup.telemetry, "topology_refused", lambda _detail: refused.set())
    async with (
        consuming(proxy.url, inbox, setup.before_consuming, setup.while_consuming) as consumer,
        publishing(clean_broker) as publisher,
        await connect(clean_broker, "test") as connection,
    ):
        async with connection.channel() as channel:
            await channel.objects.exchange_delete(RESULTS)
            await channel.objects.declare_exchange(RESULTS, "direct")
        await refused.wait()
        await publish(publisher, b"one")
        await inbox.holds(1)
        assert await consumer.problems() == []
        async with connection.channel() as channel:
            await channel.objects.exchange_delete(RESULTS)


async def test_a_lease_held_before_may_get_no_answer(proxy, monkeypatch):
    monkeypatch.setattr(seam, "ANSWER_SECONDS", 0.2)
    lease = OwnerLease(Namespace(), "default")
    async with connected(proxy.url, "first") as first, connected(proxy.url, "second") as second:
        proxy.black_hole()
        with pytest.raises(TimeoutError):
            await lease.take(first)
        proxy.heal()
        await lease.take(first)
        proxy.black_hole()
        with pytest.raises(OwnerUnseen, match="no answer in time"):
            await lease.take(second)
        proxy.heal()


async def test_a_loss_is_noticed_while_maintenance_gets_no_answer(proxy, clean_broker):
    maintaining = asyncio.Semaphore(0)

    async def maintain(_connection: Connection) -> None:
        maintaining.release()
        await asyncio.Event().wait()

    inbox = Inbox()
    async with consuming(proxy.url, inbox, declare, maintain), publishing(clean_broker) as publisher:
        await maintaining.acquire()
        async with await connect(clean_broker, "test") as connection, proxy.connected_anew():
            await (await connection.open_channel()).objects.queue_delete(WORK_QUEUE)
        await maintaining.acquire()
        await publish(publisher, b"one", REPLAY)
        await inbox.holds(1)


async def test_an_idle_consumer_subscribes_anew(proxy, clean_broker, monkeypatch):
    """A node that is cut off from its cluster does not answer that. The queue has a consumer all the time."""
    monkeypatch.setattr(rabbitmq_consumer, "RENEW_SECONDS", 0.02)
    inbox, tags = Inbox(), set[str | None]()
    async with (
        consuming(proxy.url, inbox) as consumer,
        publishing(clean_broker) as publisher,
        await connect(clean_broker, "test") as connection,
        connection.channel() as channel,
    ):
        await publish(publisher, b"held")
        (held,) = await inbox.holds(1)
        while len(tags) < 5:
            assert (await channel.objects.queue_state(WORK_QUEUE)).consumers >= 1
            assert consumer._channel is not None
            tags.add(consumer._channel._tag)
        await publish(publisher, b"next")
        (_, following) = await inbox.holds(2)
        await held.ack()
        await following.ack()
        await consumer.pause()
        await publish(publisher, b"paused")
        await asyncio.sleep(0.2)
        assert inbox.bodies == [b"held", b"next"]
        await consumer.resume()
        await inbox.holds(3)


async def test_a_consumer_that_holds_all_it_may_does_not_subscribe_anew(proxy, clean_broker, monkeypatch):
    """Each subscription has a prefetch of its own, so the worker would hold more and more."""
    monkeypatch.setattr(rabbitmq_consumer, "RENEW_SECONDS", 0.02)
    inbox = Inbox()
    async with consuming(proxy.url, inbox), publishing(clean_broker) as publisher:
        for number in range(40):
            await publish(publisher, b"%d" % number)
        await inbox.holds(10)
        await asyncio.sleep(0.3)
        assert len(inbox.bodies) < 20


async def test_an_idle_consumer_without_an_answer_connects_again(proxy, clean_broker, monkeypatch):
    monkeypatch.setattr(rabbitmq_consumer, "RENEW_SECONDS", 0.05)
    real, unanswered = Channel.consume, list[str]()

    async def consume(self: Channel, queue: str, tag: str | None = None) -> str:
        if len(unanswered) == 1:
            unanswered.append(queue)
            raise TimeoutError
        unanswered.append(queue)
        return await real(self, queue, tag)

    inbox = Inbox()
    monkeypatch.setattr(Channel, "consume", consume)
    async with consuming(proxy.url, inbox), publishing(clean_broker) as publisher:
        async with proxy.connected_anew():
            pass
        await publish(publisher, b"one")
        await inbox.holds(1)


async def test_a_channel_closed_by_the_broker_is_reopened(proxy, clean_broker):
    inbox = Inbox()
    async with consuming(proxy.url, inbox), publishing(clean_broker) as publisher:
        await publish(publisher, b"one")
        (first,) = await inbox.holds(1)
        assert isinstance(first, RabbitDelivery)
        async with proxy.connected_anew():
            first._channel.ack(4711)  # an unknown delivery tag: 406, as after a consumer timeout
        await publish(publisher, b"two")
        await inbox.holds(3)
        assert not first.live
    assert set(inbox.bodies[1:]) == {b"one", b"two"}


async def test_a_link_cancelled_while_connecting_ends(clean_broker, monkeypatch):
    """A link that ignored the cancellation kept a worker from ending."""
    made, real = [], aiormq.connect

    async def connect_and_be_cancelled(*given, **named):
        made.append(await real(*given, **named))
        asyncio.get_running_loop().call_soon(staying.cancel)
        return made[0]

    async def connect_and_stay() -> None:
        await connect(clean_broker, "test")
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(aiormq, "connect", connect_and_be_cancelled)
        staying = asyncio.create_task(connect_and_stay())
        await asyncio.wait([staying], timeout=5)
    assert staying.cancelled()
    await made[0].close()


async def test_a_refused_virtual_host_and_forbidden_objects_are_explained(clean_broker):
    with pytest.raises(BrokerUnavailable, match="/nowhere cannot be used: there is no virtual host nowhere:"):
        await connect(str(URL(clean_broker).with_path("/nowhere")), "test")
    connection = await connect(clean_broker, "test")
    channel = await connection.open_channel()
    await channel.close()
    with pytest.raises(BROKER_ERRORS) as raised:
        await channel.consume(WORK_QUEUE)
    assert explain(raised.value) == "the channel was closed"
    await connection.close()
    with pytest.raises(BROKER_ERRORS) as raised:
        await connection.open_channel()
    assert explain(raised.value) == "the connection was closed"


@pytest.mark.parametrize("hosts", [1, 3])
def test_a_refused_connect_is_retried_at_short_intervals(hosts):
    retries = Retries(hosts)
    pauses = [retries.longest_pause(refused=True, served_seconds=0) for _ in range(30)]
    assert max(pauses) <= 0.5


def test_a_connection_lost_early_is_retried_at_growing_intervals():
    retries = Retries(1)

    def pause(served_seconds: float = 0.0) -> float:
        return retries.longest_pause(refused=False, served_seconds=served_seconds)

    growing = [pause() for _ in range(8)]
    assert growing == sorted(growing)
    assert growing[-1] == 5
    assert pause(served_seconds=5) == 5
    assert pause(served_seconds=60) == growing[0]
