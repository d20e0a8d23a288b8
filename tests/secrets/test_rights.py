"""The users of deploy/rabbitmq have the rights for their part of the main job and no others."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelClosed, PublishError
from yarl import URL

from contracts import topology as names
from contracts.envelope import Message
from tests.soak.worker_process import worker_process
from tests.support.commands import provisioner
from tests.support.management import delete, put
from tests.support.real import EVENT
from tests.support.secrets_keys import fresh_sealing_key, write_keys
from tests.support.secured import DEFINITIONS, PASSWORD, Secured
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.errors import BrokerRefuses
from worker.adapters.amqp.intake import intake_publisher
from worker.adapters.amqp.listener import listening
from worker.adapters.amqp.setup import wanted_topology
from worker.adapters.brokers import open_connection, open_publisher
from worker.adapters.jose.key_files import public_jwks, write_new
from worker.adapters.ledgers import open_ledger
from worker.adapters.system import SystemClock
from worker.bootstrap.running import running_worker
from worker.cli.open import Keys, open_queue
from worker.core.messages import Outgoing
from worker.sandbox import Sandbox, running_sandbox
from worker.settings.ledger_url import parse_ledger_url
from worker.settings.load import load
from worker.settings.model import BrokerSettings, IntakeSettings, TopologySettings, WorkerSettings
from worker.telemetry.events import Telemetry

pytestmark = [pytest.mark.xdist_group("secured"), pytest.mark.timeout(120)]

TOPOLOGY, WORKER, INTAKE, PRODUCER, CRM, REPLAYER, SCALER = (
    "provisioner-topology",
    "provisioner-worker",
    "provisioner-intake",
    "provisioner-producer",
    "provisioner-recipient-crm",
    "provisioner-replayer",
    "provisioner-scaler",
)

ISSUED_TO_CRM = "subaccount.credentials.issued.crm"
QUEUES = (
    names.WORK_QUEUE,
    names.DEAD_LETTER_QUEUE,
    names.UNROUTED_QUEUE,
    names.UNMAPPED_QUEUE,
    names.secrets_queue("crm"),
    names.secrets_queue("billing"),
    names.retry_queue(names.DEFAULT_RETRY_DELAYS[0]),
)
PUBLISHES = (
    (names.DEPARTMENTS, "department.created"),
    (names.DEPARTMENTS, "subaccount.credentials.reissue.crm"),
    (names.SECRETS, ISSUED_TO_CRM),
    (names.SECRETS, "subaccount.credentials.reissued.crm"),
    (names.SECRETS, "anything.else"),
    (names.RESULTS, "subaccount.created"),
    (names.RESULTS, ISSUED_TO_CRM),
    (names.RETRY, "30s"),
    (names.DEAD_LETTERS, "department.created"),
    (names.REPLAY, "department.created"),
    (names.UNROUTED, "department.created"),
    (names.UNMAPPED, "acme-hr"),
    ("", names.WORK_QUEUE),
    ("", names.UNMAPPED_QUEUE),
    ("", names.secrets_queue("crm")),
)
ALLOWED = {
    WORKER: {
        f"publish {names.SECRETS} {ISSUED_TO_CRM}",
        f"publish {names.SECRETS} subaccount.credentials.reissued.crm",
        f"publish {names.RESULTS} subaccount.created",
        f"publish {names.RETRY} 30s",
        f"publish {names.DEAD_LETTERS} department.created",
        f"read {names.WORK_QUEUE}",
        f"purge {names.WORK_QUEUE}",
    },
    INTAKE: {f"publish {names.DEPARTMENTS} department.created", f"publish {names.UNMAPPED} acme-hr"},
    PRODUCER: {f"publish {names.DEPARTMENTS} department.created"},
    CRM: {f"read {names.secrets_queue('crm')}", f"purge {names.secrets_queue('crm')}"},
    SCALER: set(),
    REPLAYER: {
        f"publish {names.REPLAY} department.created",
        f"publish {names.DEPARTMENTS} department.created",
        f"read {names.DEAD_LETTER_QUEUE}",
        f"purge {names.DEAD_LETTER_QUEUE}",
        f"read {names.UNROUTED_QUEUE}",
        f"purge {names.UNROUTED_QUEUE}",
        f"read {names.UNMAPPED_QUEUE}",
        f"purge {names.UNMAPPED_QUEUE}",
    },
}

TAGS = {SCALER: ["management"]}

Act = Callable[[AbstractChannel], Awaitable[object]]


def acts() -> dict[str, Act]:
    """Every operation on the broker objects of the project, by name."""
    every: dict[str, Act] = {
        "declare a queue": lambda channel: channel.declare_queue("provisioner.own", durable=True),
        "declare an exclusive queue": lambda channel: channel.declare_queue(exclusive=True),
        "declare an exchange": lambda channel: channel.declare_exchange("provisioner.own", "topic"),
    }
    for exchange, key in PUBLISHES:
        every[f"publish {exchange} {key}".replace("  ", " ")] = _publishing(exchange, key)
    for queue in QUEUES:
        every[f"read {queue}"] = _reading(queue)
        every[f"purge {queue}"] = _purging(queue)
        every[f"delete {queue}"] = _deleting(queue)
        every[f"bind {queue}"] = _binding(queue)
    return every


def _publishing(exchange: str, key: str) -> Act:
    async def publish(channel: AbstractChannel) -> None:
        target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
        try:
            await target.publish(aio_pika.Message(b"{}"), key)
        except PublishError:
            return  # allowed, but no queue is bound

    return publish


def _reading(name: str) -> Act:
    async def read(channel: AbstractChannel) -> None:
        queue = await channel.get_queue(name, ensure=False)
        await queue.cancel(await queue.consume(_ignore))

    return read


async def _ignore(_message: object) -> None:
    return None


def _purging(name: str) -> Act:
    async def purge(channel: AbstractChannel) -> None:
        await (await channel.get_queue(name, ensure=False)).purge()

    return purge


def _deleting(name: str) -> Act:
    return lambda channel: channel.queue_delete(name)


def _binding(name: str) -> Act:
    async def bind(channel: AbstractChannel) -> None:
        await (await channel.get_queue(name, ensure=False)).bind(names.SECRETS, "#")

    return bind


@pytest.fixture
async def users(secured: Secured, tmp_path: Path) -> AsyncIterator[Callable[[str], str]]:
    """The URL of each user; the topology user has declared the topology."""
    for user in (TOPOLOGY, *ALLOWED):
        await put(secured.node, f"users/{user}", password=PASSWORD, tags="".join(TAGS.get(user, [])))
    recipients = write_keys(
        tmp_path / "both.json", fresh_sealing_key("crm.1"), fresh_sealing_key("billing.1")
    )
    settings = load(
        TopologySettings,
        {"AMQP_URL": secured.url_of(TOPOLOGY), "PROVISIONER_RECIPIENTS": str(recipients)},
    )
    async with open_connection(settings.amqp_url) as there:
        wanted = wanted_topology(there, settings)
        await rabbitmq_topology.apply(there, wanted)
        yield secured.url_of
        async with there.channel() as channel:
            for queue in wanted.queues:
                await channel.objects.queue_delete(queue.name)


def test_the_definitions_contain_only_the_known_users():
    document = json.loads(DEFINITIONS.read_text())
    users = {user["name"] for user in document["users"]}
    assert users == {TOPOLOGY, *ALLOWED}
    assert {entry["user"] for entry in document["permissions"]} == users
    assert all(
        user["password_hash"] == "" and user["tags"] == TAGS.get(user["name"], [])
        for user in document["users"]
    )


def test_the_definitions_contain_the_exchanges_of_their_topic_permissions():
    """RabbitMQ from 4.3 imports no permission without its exchange; one that differs refuses the worker."""
    document = json.loads(DEFINITIONS.read_text())
    version = names.BrokerVersion(4, 1)
    ours = names.definitions(names.topology(version), version)["exchanges"]
    named = {entry["exchange"] for entry in document["topic_permissions"]}
    there = sorted(document["exchanges"], key=lambda one: str(one["name"]))
    assert there == sorted((one for one in ours if one["name"] in named), key=lambda one: str(one["name"]))


async def test_a_user_without_a_password_cannot_log_in_with_one(secured: Secured):
    await put(secured.node, f"users/{PRODUCER}", password_hash="", tags="")
    for password in ("", "guest", PASSWORD):
        url = secured.url_of(PRODUCER).replace(PASSWORD, password)
        with pytest.raises(aio_pika.exceptions.AMQPConnectionError):
            await aio_pika.connect(url)


@pytest.mark.parametrize("user", ALLOWED)
async def test_each_user_can_do_its_part_and_nothing_else(users: Callable[[str], str], user: str):
    done, odd = set(), {}
    async with await aio_pika.connect(users(user)) as there:
        for name, act in acts().items():
            channel = await there.channel(on_return_raises=True)  # a refusal closes the channel
            try:
                await asyncio.wait_for(act(channel), 10)
                done.add(name)
            except ChannelClosed as error:
                if "ACCESS_REFUSED" not in str(error):
                    odd[name] = error
            finally:
                await channel.close()
    assert odd == {}
    assert done == ALLOWED[user]


async def test_the_intake_publishes_with_the_rights_of_its_user(users: Callable[[str], str]):
    """It also asks for each exchange and each right before it is ready."""
    settings = load(IntakeSettings, {"AMQP_URL": users(INTAKE)})
    exchanges = (names.DEPARTMENTS, names.UNMAPPED)
    async with intake_publisher(settings, lambda: exchanges, SystemClock(), Telemetry()) as publisher:
        async with asyncio.timeout(10):
            while True:
                if not await publisher.problems():
                    break
                await asyncio.sleep(0.05)
        await publisher.publish(Outgoing(names.DEPARTMENTS, "department.created", Message(b"{}", None)))
        await publisher.publish(Outgoing(names.UNMAPPED, "acme-hr", Message(b"{}", None)))


async def test_a_list_is_applied_with_the_rights_of_a_producer(users: Callable[[str], str], tmp_path: Path):
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    async with open_ledger(parse_ledger_url(ledger)):
        pass
    (tmp_path / "list.csv").write_text("department_id,name\n1,Sales\n2,Legal\n")
    environ = {"AMQP_URL": users(PRODUCER), "LEDGER_URL": ledger}
    list_, plan = str(tmp_path / "list.csv"), str(tmp_path / "plan.json")
    planned = await provisioner(environ, "snapshot", "plan", list_, "--source", "hr", "--plan", plan)
    assert planned.code == 0, planned.err
    refused = await provisioner(environ | {"AMQP_URL": users(CRM)}, "snapshot", "apply", plan)
    assert refused.code == 1
    assert names.DEPARTMENTS in refused.err.splitlines()[-1]
    applied = await provisioner(environ, "snapshot", "apply", plan, "--json")
    assert (applied.code, applied.json["sent"]) == (0, 2), applied.err


async def test_a_payload_is_kept_and_remapped_with_the_rights_of_two_users(
    users: Callable[[str], str], tmp_path: Path
):
    """The intake's own user keeps it; the one that replays sends it through the corrected profile."""
    sample = {"body": {"id": "1", "name": "Sales"}, "events": [{"department_id": "1"}]}
    profile = {"auth": {"kind": "none"}, "id": "item.id", "name": "item.name", "samples": [sample]}
    (tmp_path / "acme.yaml").write_text(json.dumps(profile))
    environ = {
        "AMQP_URL": users(INTAKE),
        "PROVISIONER_INTAKE": "127.0.0.1:0",
        "PROVISIONER_SOURCES": str(tmp_path),
    }
    async with worker_process(environ, ("worker", "intake"), "intake_started") as intake:
        (started,) = (line for line in intake.log if line["event"] == "intake_started")
        async with aiohttp.ClientSession(f"http://{started['http']}") as http, asyncio.timeout(30):
            status, told = 503, {}
            while status == 503:
                async with http.post("/in/acme", json={"id": "7", "title": "Legal"}) as response:
                    status, told = response.status, await response.json()
            assert (status, told["unmapped"]) == (202, 1)
        assert await intake.stop() == 0
    (tmp_path / "acme.yaml").write_text(json.dumps(profile | {"name": "item.name || item.title"}))
    done = await provisioner(environ | {"AMQP_URL": users(REPLAYER)}, "intake", "remap", "--yes", "--json")
    assert (done.code, done.json["remapped"], done.json["events"]) == (0, 1, 1), done.err


async def test_the_topology_user_cannot_publish_credentials(users: Callable[[str], str]):
    async with await aio_pika.connect(users(TOPOLOGY)) as there:
        channel = await there.channel(on_return_raises=True)
        with pytest.raises(ChannelClosed, match="ACCESS_REFUSED"):
            await _publishing(names.SECRETS, ISSUED_TO_CRM)(channel)


async def test_the_scaler_sees_the_length_of_a_queue_and_changes_nothing(
    users: Callable[[str], str], secured: Secured
):
    """As KEDA asks. Over AMQP, RabbitMQ from 4.3 wants the right to configure the queue."""
    users(SCALER)
    there = URL(f"{secured.node.management_url}/api/queues/%2F/{names.WORK_QUEUE}", encoded=True)
    queue = there.with_user(SCALER).with_password(PASSWORD)
    async with aiohttp.ClientSession() as http:
        async with http.get(queue) as seen:
            assert seen.status == 200
            assert (await seen.json())["name"] == names.WORK_QUEUE
        async with http.delete(queue) as refused:
            assert refused.status in {400, 401, 403}


async def test_the_definitions_of_its_version_make_the_whole_topology(secured: Secured, tmp_path: Path):
    """They are imported in place of `topology apply`."""
    async with open_connection([secured.node.url]) as there:
        version = names.BrokerVersion.parse(there.server_version)
    file = DEFINITIONS.with_name(f"definitions-{version.major}.x.json")
    await secured.node.rabbitmqctl("import_definitions", str(file))
    await put(secured.node, f"users/{TOPOLOGY}", password=PASSWORD, tags="")
    recipients = write_keys(tmp_path / "crm.json", fresh_sealing_key("crm.1"))
    settings = {"AMQP_URL": secured.url_of(TOPOLOGY), "PROVISIONER_RECIPIENTS": str(recipients)}
    checked = await provisioner(settings, "topology", "check")
    assert checked.code == 0, checked.out + checked.err
    async with await aio_pika.connect(secured.node.url) as administrator:
        channel = await administrator.channel()
        for queue in names.topology(version, recipients=("crm",)).queues:
            await channel.queue_delete(queue.name)


@pytest.mark.parametrize("recipient", ["billing", "nobody"])
async def test_opening_a_forbidden_or_missing_object_is_one_line(users: Callable[[str], str], recipient: str):
    keys = Keys(recipient, [], [])
    broker = load(BrokerSettings, {"AMQP_URL": users(CRM)})
    with pytest.raises(BrokerRefuses, match=f"^the queue provisioner.secrets.{recipient} cannot be read: "):
        await open_queue(broker, keys, take=False, as_json=False)


@pytest.mark.parametrize("command", ["results", "emit created --id sales --name Sales --wait"])
async def test_listening_without_the_rights_is_one_line(users: Callable[[str], str], command: str):
    ended = await provisioner({"AMQP_URL": users(PRODUCER)}, *command.split())
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert line.startswith(
        "the user in AMQP_URL may not listen to provisioner.results: that takes all rights on queues named"
        " provisioner.listener.* and read on the exchange ("
    )


async def test_the_documented_rights_are_enough_to_listen(users: Callable[[str], str], secured: Secured):
    document = (DEFINITIONS.parent / "README.md").read_text()
    rights = re.search(r"set_permissions (\S+) '(.*?)' '(.*?)' '(.*?)'", document)
    assert rights is not None
    user, configure, write, read = rights.groups()
    await put(secured.node, f"users/{user}", password=PASSWORD, tags="")
    await put(secured.node, f"permissions/%2F/{user}", configure=configure, write=write, read=read)
    try:
        async with listening([users(user)], names.NO_NAMESPACE) as listener:
            async with open_publisher([users(TOPOLOGY)], Telemetry(), names.NO_NAMESPACE) as publisher:
                await publisher.publish(Outgoing(names.RESULTS, "subaccount.created", Message(b"{}", None)))
            assert (await listener.next()).message.body == b"{}"
    finally:
        await delete(secured.node, f"users/{user}")


class TestTheMainJob:
    """Each part has only the rights of its user; the worker logs in with its certificate."""

    @pytest.fixture
    def private(self) -> dict[str, Any]:
        return fresh_sealing_key("crm.1")

    @pytest.fixture
    async def sandbox(self) -> AsyncIterator[Sandbox]:
        async with running_sandbox(rate_limit="off") as sandbox:
            yield sandbox

    def environ(self, secured: Secured, sandbox: Sandbox, folder: Path, private: Any) -> dict[str, str]:
        return {
            "AMQP_URL": secured.tls_url(secured.worker),
            "PLIVO_AUTH_ID": sandbox.auth_id,
            "PLIVO_AUTH_TOKEN": sandbox.auth_token,
            "PLIVO_API_URL": sandbox.url,
            "LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
            "PROVISIONER_RECIPIENTS": str(write_keys(folder / "recipients.json", private)),
            "PROVISIONER_TOPOLOGY": "assume",
        }

    async def test_events_end_in_sealed_credentials_and_dead_letters(
        self,
        secured: Secured,
        users: Callable[[str], str],
        sandbox: Sandbox,
        tmp_path: Path,
        private: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
    ):
        settings = load(WorkerSettings, self.environ(secured, sandbox, tmp_path, private))
        async with running_worker(settings, Telemetry()) as running:
            await publish(users(PRODUCER), names.DEPARTMENTS, json.dumps(EVENT).encode())
            await publish(users(PRODUCER), names.DEPARTMENTS, b"not an event")
            await sandbox.called("create_subaccount")
            await replay_one(users(REPLAYER))
            async with waiting(users(CRM), names.secrets_queue("crm")):
                await running.worker.lanes.idle()
            assert await running.drain()
        write_new(tmp_path / "crm.private.json", [private])
        write_keys(tmp_path / "worker.json", *public_jwks(settings.signing_key_path)["keys"])
        keys = Keys.read(tmp_path / "crm.private.json", tmp_path / "worker.json")
        broker = load(BrokerSettings, {"AMQP_URL": users(CRM)})
        assert await open_queue(broker, keys, take=False, as_json=False)
        assert await open_queue(broker, keys, take=True, as_json=True)
        assert await open_queue(broker, keys, take=True, as_json=True), "and then the queue is empty"
        (held,) = sandbox.subaccounts()
        shown, printed = capsys.readouterr().out.rstrip().rsplit("\n", 1)
        assert held.auth_token not in shown
        assert json.loads(printed)["auth_token"] == held.auth_token


async def publish(url: str, exchange: str, body: bytes) -> None:
    async with await aio_pika.connect(url) as there:
        channel = await there.channel(on_return_raises=True)
        target = await channel.get_exchange(exchange, ensure=False)
        message = aio_pika.Message(body, content_type="application/cloudevents+json", delivery_mode=2)
        await target.publish(message, "department.created")


async def replay_one(url: str) -> None:
    """Replays the dead letter, which the worker dead-letters again."""
    async with waiting(url, names.DEAD_LETTER_QUEUE) as message:
        await publish(url, names.REPLAY, message.body)
        await message.ack()


@asynccontextmanager
async def waiting(url: str, queue: str) -> AsyncIterator[aio_pika.abc.AbstractIncomingMessage]:
    """Waits for the first message of the queue; it stays there unless it is acked."""
    arrived: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()

    async def file(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        arrived.put_nowait(message)

    async with await aio_pika.connect(url) as there:
        channel = await there.channel()
        await channel.set_qos(1)
        await (await channel.get_queue(queue, ensure=False)).consume(file)
        yield await asyncio.wait_for(arrived.get(), 30)
