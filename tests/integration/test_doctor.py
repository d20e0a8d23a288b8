"""`provisioner doctor` finds each misconfiguration of real parts, says what to do, and changes nothing."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import aiohttp
import psycopg
import pytest
import yaml
from aiohttp import web
from yarl import URL

from contracts import topology as names
from contracts.envelope import Message
from contracts.topology import BrokerVersion, Namespace, topology
from tests.support.builders import SALES, an_entry
from tests.support.certificates import Authority
from tests.support.commands import CommandOutput, in_process, provisioner
from tests.support.management import delete, put
from tests.support.nodes import running_node
from tests.support.pooler import pooler
from tests.support.secrets_keys import fresh_sealing_key, write_keys
from worker.adapters.amqp import connect
from worker.adapters.amqp.errors import BrokerRefuses
from worker.adapters.amqp.owner import OwnerLease
from worker.adapters.amqp.topology import apply
from worker.adapters.brokers import open_connection, open_publisher
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.adapters.system import SystemClock
from worker.bootstrap import doctor
from worker.bootstrap.running import running_worker
from worker.core.messages import Outgoing
from worker.core.naming import NameTemplate, department_tag
from worker.demo.private_node import PrivateNode, private_node
from worker.sandbox import Rule, Sandbox, fault, running_sandbox
from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.telemetry.events import Telemetry

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

SECRET = "s3cr3t-0123456789"
NUMBERS = count(1)
FULL = {"configure": ".*", "write": ".*", "read": ".*"}
ACME = {
    "id": "item.id",
    "name": "item.name",
    "time": "item.at",
    "samples": [
        {
            "body": {"id": "1", "name": "Sales", "at": "2026-11-01T08:30:00Z"},
            "events": [{"type": "department.created.v1", "department_id": "1", "name": "Sales"}],
        }
    ],
}
"""A profile, but for its proof."""
WORKER = {
    "configure": r"^provisioner\.owner$",
    "write": r"^provisioner\.(secrets|results|retry|dead-letters|owner)$",
    "read": r"^provisioner\.(departments|owner)$",
}


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A sandbox, and a ledger that does not exist yet."""

    sandbox: Sandbox
    environ: dict[str, str]
    http: aiohttp.ClientSession

    @property
    def ledger(self) -> Path:
        return Path(self.environ["LEDGER_URL"].removeprefix("sqlite:///"))

    async def subaccount(self, name: str) -> str:
        """Makes a subaccount at the sandbox; its auth id."""
        login = aiohttp.encode_basic_auth(self.sandbox.auth_id, self.sandbox.auth_token)
        url = f"{self.sandbox.url}/v1/Account/{self.sandbox.auth_id}/Subaccount/"
        async with self.http.post(url, json={"name": name}, headers={"Authorization": login}) as made:
            return str((await made.json())["auth_id"])

    async def output(self, *options: str, **more: str) -> CommandOutput:
        ended = await in_process(self.environ | more, "doctor", *options)
        shown = ended.out + ended.err
        assert SECRET not in shown
        assert "Traceback" not in shown
        return ended

    async def checks(self, **more: str) -> list[dict[str, str]]:
        """All checks; the exit code goes with them."""
        ended = await self.output("--json", **more)
        found: list[dict[str, str]] = ended.json
        assert all([*one] == ["check", "status", "detail", "hint"] for one in found)
        assert all(bool(one["hint"]) == (one["status"] != "ok") for one in found), found
        assert ended.code == (1 if "fail" in {one["status"] for one in found} else 0)
        return found

    async def finds(self, check: str, status: str, detail: str, hint: str, **more: str) -> None:
        """One of the checks has this status, and these words."""
        found = await self.checks(**more)
        fitting = [one for one in found if (one["check"], one["status"]) == (check, status)]
        well = any(detail in one["detail"] and hint in one["hint"] for one in fitting)
        assert well, "\n".join(map(str, fitting or found))


@dataclass(frozen=True, kw_only=True)
class Place(Installation):
    """With a virtual host of RabbitMQ and a user, both of its own."""

    node: PrivateNode
    vhost: str

    @property
    def as_guest(self) -> str:
        return f"{self.node.url}{self.vhost}"

    async def definitions(self) -> Any:
        """Everything in the virtual host."""
        url = f"{self.node.management_url}/api/definitions/{self.vhost}"
        async with self.http.get(url) as response:
            return await response.json()

    async def grant(self, rights: dict[str, str]) -> None:
        await put(self.node, f"permissions/{self.vhost}/{self.vhost}", **rights)

    async def policy(self, pattern: str, **definition: Any) -> None:
        body = {"pattern": pattern, "definition": definition, "apply-to": "queues"}
        await put(self.node, f"policies/{self.vhost}/test", **body)

    async def apply(self, *recipients: str) -> None:
        async with open_connection([self.as_guest]) as connection:
            version = BrokerVersion.parse(connection.server_version)
            await apply(connection, topology(version, recipients=recipients))

    async def declared(self, kind: str, name: str, **properties: Any) -> None:
        await put(self.node, f"{kind}/{self.vhost}/{name}", durable=True, **properties)

    async def unbind(self, exchange: str, queue: str, key: str) -> None:
        await delete(self.node, f"bindings/{self.vhost}/e/{exchange}/q/{queue}/{key}")


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateNode]:
    with running_node(private_node(management=True)) as (node, _):
        yield node


@pytest.fixture
async def apart(tmp_path: Path) -> AsyncIterator[Installation]:
    """Its broker is away, which takes less time to find out than all that is right about one."""
    async with running_sandbox(auth_token=f"token-{SECRET}") as sandbox, aiohttp.ClientSession() as http:
        environ = {
            "AMQP_URL": "amqp://127.0.0.1:1/",
            "PLIVO_AUTH_ID": sandbox.auth_id,
            "PLIVO_AUTH_TOKEN": sandbox.auth_token,
            "PLIVO_API_URL": sandbox.url,
            "LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        }
        yield Installation(sandbox=sandbox, environ=environ, http=http)


@pytest.fixture
async def place(apart: Installation, node: PrivateNode) -> AsyncIterator[Place]:
    """Nothing is declared yet; the user may do everything."""
    vhost = f"doctor-{next(NUMBERS)}"
    login = f"{vhost}:{SECRET}"
    urls = {
        "AMQP_URL": node.url.replace("guest:guest", login) + vhost,
        "PROVISIONER_MANAGEMENT_URL": str(node.management_url).replace("guest:guest", login),
    }
    made = Place(sandbox=apart.sandbox, environ=apart.environ | urls, http=apart.http, node=node, vhost=vhost)
    await put(node, f"vhosts/{vhost}")
    await put(node, f"permissions/{vhost}/guest", **FULL)
    await put(node, f"users/{vhost}", password=SECRET, tags="management")
    await made.grant(FULL)
    yield made
    await delete(node, f"vhosts/{vhost}")
    await delete(node, f"users/{vhost}")


class TestAnInstallation:
    async def test_that_is_well_passes_and_is_left_as_it_was(self, place: Place):
        await place.apply()
        await place.grant(WORKER)
        async with sqlite_ledger(place.ledger) as ledger:
            await ledger.bind("default", place.sandbox.auth_id)
        before = await place.definitions()
        content = place.ledger.read_bytes()
        found = await place.checks(PROVISIONER_TOPOLOGY="assume")
        assert {one["status"] for one in found} <= {"ok", "warn"}
        refused = [one for one in found if one["status"] == "warn"]
        assert all("no configure right" in one["detail"] for one in refused), refused
        assert await place.definitions() == before
        assert place.ledger.read_bytes() == content

    async def test_that_is_new_is_one_that_the_worker_will_set_up(self, place: Place):
        before = await place.definitions()
        await place.finds("topology", "warn", "missing: exchange departments", "nothing: `provisioner run`")
        await place.finds("ledger", "warn", "there is no ledger at", "nothing: `provisioner run`")
        assert (await place.output()).code == 0
        assert await place.definitions() == before
        assert [*place.ledger.parent.iterdir()] == []

    async def test_is_shown_at_80_columns_without_a_broken_word(self, place: Place):
        shown = await place.output(COLUMNS="80", PLIVO_AUTH_TOKEN="wrong")
        assert all(len(line) <= 80 or " " not in line.strip() for line in shown.out.splitlines())
        assert "provider" in shown.out
        assert shown.out.splitlines()[-1] == "1 fail, 2 warn"

    async def test_with_wrong_settings_fails_with_a_line_for_each(self, place: Place):
        wrong = {"PROVISIONER_PREFETCH": "many", "PLIVO_AUTH_ID": "", "PROVISIONER_OWNRE": "x"}
        found = await place.checks(**wrong)
        assert [(one["check"], one["status"], one["detail"].split()[0]) for one in found] == [
            ("settings", "fail", "PLIVO_AUTH_ID"),
            ("settings", "fail", "PROVISIONER_PREFETCH"),
            ("other checks", "warn", "not"),
            ("settings", "warn", "PROVISIONER_OWNRE"),
        ]

    async def test_misused_command_line_exits_2(self, place: Place):
        assert (await place.output("--nope")).code == 2

    async def test_as_a_process(self, place: Place):
        ended = await provisioner(place.environ, "doctor", "--json")
        assert (ended.code, ended.err) == (0, "")
        assert {"broker", "provider", "ledger"} <= {one["check"] for one in ended.json}


class TestTheBroker:
    async def test_without_the_virtual_host(self, place: Place):
        url = place.environ["AMQP_URL"].replace(place.vhost, "nowhere").replace("nowhere:", f"{place.vhost}:")
        hint = "correct the path of AMQP_URL"
        await place.finds("broker", "fail", "there is no virtual host nowhere", hint, AMQP_URL=url)

    async def test_that_refuses_the_password(self, place: Place):
        url = place.environ["AMQP_URL"].replace(SECRET, f"{SECRET}-wrong")
        hint = "correct the login"
        await place.finds("broker", "fail", "wrong user or password", hint, AMQP_URL=url)

    async def test_whose_virtual_host_is_closed_to_the_user(self, place: Place):
        await delete(place.node, f"permissions/{place.vhost}/{place.vhost}")
        await place.finds("broker", "fail", "no right to virtual host", "set_permissions")

    async def test_that_is_away(self, place: Place):
        url = f"amqp://u:{SECRET}@127.0.0.1:1/"
        await place.finds("broker", "fail", "connection refused", "start RabbitMQ", AMQP_URL=url)

    async def test_of_which_one_host_is_away(self, place: Place):
        urls = f"amqp://u:{SECRET}@127.0.0.1:1/,{place.environ['AMQP_URL']}"
        await place.finds("broker", "warn", "127.0.0.1:1/ cannot be used", "start", AMQP_URL=urls)
        found = await place.checks(AMQP_URL=urls)
        assert "rights" in {one["check"] for one in found}

    async def test_that_says_nothing(self, place: Place, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(connect, "CONNECT_SECONDS", 0.3)
        async with silent_server() as port:
            url = f"amqp://127.0.0.1:{port}/"
            await place.finds("broker", "fail", "no answer within", "is that the host", AMQP_URL=url)

    async def test_of_an_old_version(self, place: Place):
        async with posing_as(place.node, "3.9") as port:
            url = URL(place.environ["AMQP_URL"]).with_port(port)
            await place.finds("broker version", "fail", "too old", "use 3.10 or newer", AMQP_URL=str(url))

    async def test_whose_clock_differs(self, place: Place, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(doctor, "SystemClock", Late)
        await place.finds("broker clock", "fail", "s behind the broker's", "set it right")

    async def test_whose_management_api_refuses_the_login(self, place: Place):
        url = place.environ["PROVISIONER_MANAGEMENT_URL"].replace(SECRET, f"{SECRET}-wrong")
        wrong = {"PROVISIONER_MANAGEMENT_URL": url}
        await place.finds("management", "fail", "Unauthorized", "correct PROVISIONER_MANAGEMENT_URL", **wrong)

    async def test_without_a_management_api(self, place: Place):
        hint = "set PROVISIONER_MANAGEMENT_URL"
        await place.finds("policies", "warn", "bindings and policies", hint, PROVISIONER_MANAGEMENT_URL="")


class Late(SystemClock):
    """A clock that is slow."""

    def now(self) -> datetime:
        return super().now() - timedelta(seconds=40)


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """A server that accepts connections and says nothing; its port."""
    closed = asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closed.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        closed.set()


@asynccontextmanager
async def posing_as(node: PrivateNode, version: str) -> AsyncIterator[int]:
    """A port of the node, which says there that it is of another version."""
    posed = f"{version}.{'1' * (len(node.version) - len(version) - 1)}"
    target = URL(node.url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(target.host, target.port)
        ours.write(await reader.read(8))
        greeting = await theirs.read(2**16)
        assert node.version.encode() in greeting
        writer.write(greeting.replace(node.version.encode(), posed.encode()))

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(2**16):
                sink.write(data)
            sink.close()

        await asyncio.gather(pass_on(reader, ours), pass_on(theirs, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


class TestRights:
    async def test_to_configure_are_missing_though_the_worker_declares(self, place: Place):
        await place.grant(FULL | {"configure": r"^provisioner\.owner$"})
        detail = "no configure right in virtual host"
        await place.finds("rights", "fail", detail, "rabbitmqctl set_permissions")
        await place.apply()
        await place.finds("rights", "fail", detail, "rabbitmqctl set_permissions")

    async def test_to_publish_are_missing(self, place: Place):
        await place.apply()
        await place.grant(WORKER | {"write": r"^provisioner\.(results|retry|dead-letters|owner)$"})
        detail = f"no write right in virtual host {place.vhost} on exchange provisioner.secrets"
        await place.finds("rights", "fail", detail, "grant it", PROVISIONER_TOPOLOGY="assume")

    async def test_to_consume_are_missing(self, place: Place):
        await place.apply()
        await place.grant(WORKER | {"read": r"^provisioner\.owner$"})
        detail = f"no read right in virtual host {place.vhost} on queue provisioner.departments"
        await place.finds("rights", "fail", detail, "grant it", PROVISIONER_TOPOLOGY="assume")

    async def test_to_bind_are_missing(self, place: Place):
        await place.apply()
        await place.grant(FULL | {"read": r"^provisioner\.(departments|owner)$"})
        await place.finds("rights", "fail", "no read right", "grant it")


class TestObjects:
    async def test_an_exchange_of_another_type(self, place: Place):
        await place.declared("exchanges", names.RESULTS, type="direct")
        detail = "exchange provisioner.results differs: it is of another type"
        await place.finds("exchange", "fail", detail, "delete it")
        await place.finds("exchange", "fail", detail, "delete it", PROVISIONER_TOPOLOGY="assume")

    async def test_an_exchange_that_loses_what_nobody_takes(self, place: Place):
        await place.declared("exchanges", names.DEPARTMENTS, type="topic")
        await place.finds("exchange", "fail", "no such alternate exchange", "delete it")

    async def test_a_queue_with_other_arguments(self, place: Place):
        arguments = {"x-queue-type": "quorum", "x-message-ttl": 1000}
        await place.declared("queues", names.WORK_QUEUE, arguments=arguments)
        detail = "x-message-ttl 1000 drops"
        await place.finds("queue", "fail", detail, "empty it, then delete it")
        await place.finds("queue", "fail", detail, "empty it", PROVISIONER_MANAGEMENT_URL="")

    async def test_objects_that_are_missing_and_not_declared(self, place: Place):
        await place.apply()
        await delete(place.node, f"queues/{place.vhost}/{names.DEAD_LETTER_QUEUE}")
        detail, hint = f"missing: queue {names.DEAD_LETTER_QUEUE}", "provisioner topology apply"
        assume = {"PROVISIONER_TOPOLOGY": "assume"}
        await place.finds("topology", "fail", detail, hint, **assume)
        await place.finds("topology", "fail", detail, hint, PROVISIONER_MANAGEMENT_URL="", **assume)

    async def test_a_binding_that_is_missing(self, place: Place):
        await place.apply()
        await place.unbind(names.DEPARTMENTS, names.WORK_QUEUE, "department.%23")
        detail = "missing: binding departments → provisioner.departments (department.#)"
        await place.finds("topology", "warn", detail, "nothing: `provisioner run` does it")
        await place.finds("topology", "fail", detail, "topology apply", PROVISIONER_TOPOLOGY="assume")

    async def test_a_recipients_queue_that_is_unbound(self, place: Place, tmp_path: Path):
        await place.apply("crm")
        queue = names.secrets_queue("crm")
        await place.unbind(names.SECRETS, queue, "subaccount.credentials.*.crm")
        keys = write_keys(tmp_path / "recipients.json", fresh_sealing_key())
        settings = {"PROVISIONER_RECIPIENTS": str(keys), "PROVISIONER_TOPOLOGY": "assume"}
        detail = f"missing: binding provisioner.secrets → {queue}"
        await place.finds("topology", "fail", detail, "topology apply", **settings)

    @pytest.mark.parametrize(
        ("pattern", "definition", "detail"),
        [
            ("^provisioner.secrets$", {"message-ttl": 1000}, "x-message-ttl 1000 drops"),
            ("^provisioner.dead-letters$", {"max-length": 5}, "x-max-length 5 drops the oldest"),
            ("^provisioner.departments$", {"delivery-limit": 3}, "x-delivery-limit 3 drops"),
            ("^provisioner.departments$", {"expires": 60000}, "x-expires 60000 deletes the queue"),
        ],
    )
    async def test_a_policy_that_contradicts(
        self, place: Place, pattern: str, definition: dict[str, Any], detail: str
    ):
        await place.apply()
        await place.policy(pattern, **definition)
        await place.finds("policy", "fail", detail, "remove these keys")

    async def test_a_policy_that_caps_the_work_queue_below_prefetch(self, place: Place):
        await place.apply()
        await place.policy("^provisioner.departments$", **{"max-length": 99, "overflow": "reject-publish"})
        detail = "holds at most 99 messages, below PROVISIONER_PREFETCH (1,000)"
        await place.finds("work queue", "fail", detail, "remove max-length")
        await place.finds("work queue", "warn", "at most 99", "remove", PROVISIONER_PREFETCH="50")

    async def test_a_message_may_wait_longer_than_the_consumer_timeout(self, place: Place):
        settings = {"PROVISIONER_SETTLE_WINDOW": "30m"}
        detail = "PROVISIONER_SETTLE_WINDOW is 30 min, and the broker's consumer timeout"
        await place.finds("consumer timeout", "fail", detail, "set PROVISIONER_SETTLE_WINDOW", **settings)

    async def test_a_worker_of_another_owner_reads_the_work_queue(self, place: Place):
        await place.apply()
        async with open_connection([place.as_guest]) as connection:
            await OwnerLease(Namespace(), "other").take(connection)
            await place.finds("owner", "fail", "workers of owner other read", "set PROVISIONER_NAMESPACE")
        async with open_connection([place.as_guest]) as connection:
            await OwnerLease(Namespace(), "default").take(connection)
            await place.finds("owner", "ok", "no worker of another owner", "")


class TestTheLedger:
    async def test_that_is_none(self, apart: Installation):
        apart.ledger.write_bytes(b"This is no database" * 100)
        await apart.finds("ledger", "fail", "file is not a database", "LEDGER_URL")

    async def test_whose_folder_is_missing(self, apart: Installation):
        url = f"sqlite:///{apart.ledger.parent}/nowhere/ledger.db"
        await apart.finds("ledger", "fail", "there is no folder", "make it", LEDGER_URL=url)

    async def test_of_another_owner(self, apart: Installation):
        async with sqlite_ledger(apart.ledger) as ledger:
            await ledger.bind("other", apart.sandbox.auth_id)
        await apart.finds("ledger owner", "fail", "belongs to owner other", "set PROVISIONER_OWNER")

    async def test_of_a_newer_version(self, apart: Installation):
        async with sqlite_ledger(apart.ledger) as ledger:
            await ledger.store.run(
                lambda one: one.execute("INSERT INTO migrations VALUES ('9999_later.sql', '')")
            )
        await apart.finds("ledger", "fail", "of a newer version", "use that one")

    async def test_of_an_older_version(self, apart: Installation):
        async with sqlite_ledger(apart.ledger) as ledger:
            forget = "DELETE FROM migrations WHERE name = (SELECT max(name) FROM migrations)"
            await ledger.store.run(lambda one: one.execute(forget))
        await apart.finds("ledger", "warn", "of an older version", "start `provisioner run`")

    async def test_that_is_behind_the_list(self, apart: Installation):
        tag = department_tag("default", SALES, 1)
        await apart.subaccount(NameTemplate().render("Sales", tag))
        await apart.finds("ledger age", "warn", "1 of the newest 1 subaccounts have a tag", "adopts its own")
        async with sqlite_ledger(apart.ledger) as ledger:
            await ledger.bind("default", apart.sandbox.auth_id)
        await apart.finds("ledger age", "warn", "1 of the newest 1 subaccounts have a tag", "adopts its own")

    async def test_beside_another_owner_on_the_account(self, apart: Installation):
        await apart.subaccount(NameTemplate().render("Sales", department_tag("other", SALES, 1)))
        ours = await apart.subaccount(NameTemplate().render("Sales", department_tag("default", SALES, 1)))
        async with sqlite_ledger(apart.ledger) as ledger:
            await ledger.bind("default", apart.sandbox.auth_id)
            await ledger.record(an_entry(auth_id=ours, revision=0))
        await apart.finds("owners", "warn", "another owner shares the account", "PROVISIONER_OWNER different")
        await apart.finds("ledger age", "ok", "not behind", "")

    async def test_on_a_disk_that_is_nearly_full(self, apart: Installation):
        room = SimpleNamespace(total=2**30, free=2**20, used=0)
        with patch.object(doctor.shutil, "disk_usage", lambda _folder: room):
            await apart.finds("disk", "fail", "nearly full: 1 MiB of 1,024 MiB", "make room")

    async def test_whose_credentials_were_sealed_before(self, apart: Installation):
        async with sqlite_ledger(apart.ledger) as ledger:
            await ledger.note_sealed("crm")
        await apart.finds("recipients", "fail", "has issued sealed", "set PROVISIONER_RECIPIENTS as it was")


class TestPostgres:
    async def test_that_is_well(self, apart: Installation, postgres_database: str):
        await apart.finds("ledger", "warn", "there is no ledger", "nothing", LEDGER_URL=postgres_database)
        tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        with psycopg.connect(postgres_database) as connection:
            assert connection.execute(tables).fetchall() == [(0,)]

    async def test_that_takes_no_writes(self, apart: Installation, postgres_database: str):
        name = URL(postgres_database).path.strip("/")
        with psycopg.connect(postgres_database, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        hint = "must name the primary"
        await apart.finds("ledger", "fail", "read-only", hint, LEDGER_URL=postgres_database)

    async def test_behind_a_pooler_of_transactions(self, apart: Installation, postgres_url: str):
        port = URL(postgres_url).port or 5432
        settings = "pool_mode = transaction\nignore_startup_parameters = options"
        async with pooler(port, settings) as address:
            url = f"postgresql://postgres@{address}/postgres"
            await apart.finds("ledger", "fail", "a pooler", "PostgreSQL itself", LEDGER_URL=url)

    async def test_whose_user_may_make_no_tables(self, apart: Installation, postgres_database: str):
        role = f"powerless_{next(NUMBERS)}"
        with psycopg.connect(postgres_database, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'")
        url = str(URL(postgres_database).with_user(role).with_password(SECRET))
        try:
            await apart.finds("ledger", "fail", "has not the rights", "let the user own", LEDGER_URL=url)
        finally:
            with psycopg.connect(postgres_database, autocommit=True) as connection:
                connection.execute(f"DROP ROLE {role}")

    async def test_without_the_database(self, apart: Installation, postgres_url: str):
        url = str(URL(postgres_url).with_path("/nowhere"))
        await apart.finds("ledger", "fail", "does not exist", "create the database", LEDGER_URL=url)


class TestTheProvider:
    @pytest.mark.parametrize(
        ("name", "status", "detail", "hint"),
        [
            ("unauthorized", "fail", "401", "set PLIVO_AUTH_ID and PLIVO_AUTH_TOKEN"),
            ("no-credit", "fail", "402", "add credit"),
            ("html", "fail", "502", "wait for Plivo"),
            ("too-many-requests", "warn", "429", "try again in a minute"),
            ("half-json", "fail", "cannot be read", "https://api.plivo.com, without a path"),
        ],
    )
    async def test_that_refuses(self, apart: Installation, name: str, status: str, detail: str, hint: str):
        apart.sandbox.set_rules(Rule("*", fault(name)))
        await apart.finds("provider", status, detail, hint)

    async def test_that_refuses_the_token(self, apart: Installation):
        hint = "set PLIVO_AUTH_ID"
        await apart.finds("provider", "fail", "401", hint, PLIVO_AUTH_TOKEN=f"{SECRET}-wrong")

    @pytest.mark.parametrize("status", [200, 404])
    async def test_at_a_wrong_url(self, apart: Installation, status: int):
        async def page(_request: web.BaseRequest) -> web.Response:
            return web.Response(text="<html>Welcome</html>", content_type="text/html", status=status)

        async with serving(web.Server(page)) as url:
            await apart.finds("provider", "fail", "Plivo", "set PLIVO_API_URL to", PLIVO_API_URL=url)

    async def test_that_is_not_trusted(self, apart: Installation, tmp_path: Path):
        async def nothing(_request: web.BaseRequest) -> web.Response:
            return web.Response()

        issued = Authority(tmp_path).issue("plivo", "127.0.0.1")
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(issued.certificate, issued.key)
        async with serving(web.Server(nothing), tls) as url:
            detail = "its TLS certificate is of an unknown authority"
            await apart.finds("provider", "fail", detail, "authorities of TLS", PLIVO_API_URL=url)

    async def test_that_says_nothing(self, apart: Installation):
        async with silent_server() as port:
            settings = {"PLIVO_API_URL": f"http://127.0.0.1:{port}", "PROVISIONER_API_TIMEOUT": "300ms"}
            await apart.finds("provider", "fail", "no response within 0.3 s", "PLIVO_API_URL", **settings)

    async def test_whose_clock_differs(self, apart: Installation, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(doctor, "SystemClock", Late)
        await apart.finds("provider clock", "fail", "s behind Plivo's", "set it right")


@asynccontextmanager
async def serving(server: web.Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serves HTTP on loopback; the URL."""
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


class TestSecrets:
    async def test_a_token_that_everybody_can_read(self, apart: Installation, tmp_path: Path):
        token = tmp_path / "token"
        token.write_text(apart.sandbox.auth_token)
        token.chmod(0o644)
        files = {"PLIVO_AUTH_TOKEN": "", "PLIVO_AUTH_TOKEN_FILE": str(token)}
        await apart.finds("exposure", "fail", "can be read by everybody", f"chmod 600 {token}", **files)

    async def test_recipients_that_everybody_can_add(self, apart: Installation, tmp_path: Path):
        keys = write_keys(tmp_path / "recipients.json", fresh_sealing_key())
        keys.chmod(0o646)
        settings = {"PROVISIONER_RECIPIENTS": str(keys)}
        await apart.finds("exposure", "fail", "make themselves a recipient", "chmod o-w", **settings)

    async def test_a_token_without_tls(self, apart: Installation):
        url = "http://plivo.invalid"
        await apart.finds("exposure", "fail", "PLIVO_API_URL has no TLS", "write https", PLIVO_API_URL=url)

    async def test_a_recipients_key_of_the_wrong_use(self, apart: Installation, tmp_path: Path):
        keys = tmp_path / "recipients.json"
        write_keys(keys, fresh_sealing_key() | {"use": "sig"})
        settings = {"PROVISIONER_RECIPIENTS": str(keys)}
        await apart.finds("recipients", "fail", "use is sig", "repair the file", **settings)

    async def test_a_signing_key_that_is_damaged(self, apart: Installation, tmp_path: Path):
        keys = write_keys(tmp_path / "recipients.json", fresh_sealing_key())
        signing = tmp_path / "ledger.db.signing-key.json"
        signing.write_text(json.dumps({"kty": "OKP", "d": SECRET}))
        signing.chmod(0o600)
        settings = {"PROVISIONER_RECIPIENTS": str(keys)}
        await apart.finds("signing key", "fail", "ledger.db.signing-key.json", "restore it", **settings)


class TestAnIntake:
    """Its settings have no account at the provider, so that nothing of a worker is looked at."""

    @pytest.fixture
    def intake(self, apart: Installation, tmp_path: Path) -> Installation:
        sources = tmp_path / "sources"
        sources.mkdir()
        environ = {"AMQP_URL": apart.environ["AMQP_URL"], "PROVISIONER_SOURCES": str(sources)}
        return replace(apart, environ=environ)

    def profile(self, intake: Installation, **auth: str) -> Path:
        path = Path(intake.environ["PROVISIONER_SOURCES"]) / "acme.yaml"
        path.write_text(yaml.safe_dump(ACME | {"auth": auth}))
        return path

    async def test_a_mistake_of_a_profile(self, intake: Installation):
        self.profile(intake, kind="none").write_text("auth: {kind: nothing}")
        await intake.finds("intake sources", "fail", "acme.yaml: auth", "provisioner intake check")

    async def test_a_folder_that_is_not_there(self, intake: Installation, tmp_path: Path):
        missing = {"PROVISIONER_SOURCES": str(tmp_path / "nowhere")}
        found = await intake.checks(**missing)
        assert any("nowhere" in one["detail"] and one["status"] == "fail" for one in found), found

    async def test_a_secret_that_is_missing_and_one_that_everybody_can_read(self, intake: Installation):
        path = self.profile(intake, kind="bearer", secret_file="acme.secret")
        await intake.finds("intake sources", "fail", "auth.secret_file", "provisioner intake check")
        secret = path.with_name("acme.secret")
        secret.write_text(f"{SECRET}\n")
        secret.chmod(0o644)
        await intake.finds("intake exposure", "fail", "can be read by everybody", f"chmod 600 {secret}")

    async def test_no_tokens_and_no_proof_beyond_loopback(self, intake: Installation, tmp_path: Path):
        beyond = {"PROVISIONER_INTAKE": "0.0.0.0:8082"}
        await intake.finds("intake settings", "fail", "PROVISIONER_INTAKE_TOKENS", "", **beyond)
        (tokens := tmp_path / "tokens").write_text(f"hr: {SECRET}\n")
        tokens.chmod(0o600)
        self.profile(intake, kind="none")
        beyond["PROVISIONER_INTAKE_TOKENS"] = str(tokens)
        await intake.finds("intake sources", "fail", "auth: none is for loopback", "use hmac", **beyond)

    async def test_a_broker_that_is_away(self, intake: Installation):
        await intake.finds("intake broker", "fail", "connection refused", "start RabbitMQ")
        assert {one["check"] for one in await intake.checks()} == {
            *("intake settings", "intake sources", "intake broker")
        }

    async def test_exchanges_rights_and_payloads_that_wait(self, intake: Installation, place: Place):
        broker = {"AMQP_URL": place.environ["AMQP_URL"]}
        detail = "exchange departments is missing"
        await intake.finds("intake broker", "fail", detail, "topology apply", **broker)
        await intake.finds("unmapped payloads", "fail", "is missing", "topology apply", **broker)
        await place.apply()
        await place.grant({"configure": "^$", "write": r"^provisioner\.intake\.unmapped$", "read": "^$"})
        await intake.finds("intake rights", "fail", "no write right", "set_permissions", **broker)
        await place.grant(
            {"configure": "^$", "write": r"^(departments|provisioner\.intake\.unmapped)$", "read": "^$"}
        )
        await intake.finds("intake rights", "ok", "our user may publish", "", **broker)
        async with open_publisher([place.as_guest], Telemetry(), names.NO_NAMESPACE) as publisher:
            await publisher.publish(Outgoing(names.UNMAPPED, "acme", Message(b"{}", None)))
        await intake.finds(
            "unmapped payloads", "warn", "could map them: 1", "provisioner intake remap", **broker
        )

    async def test_beside_a_worker(self, apart: Installation, tmp_path: Path):
        found = await apart.checks(PROVISIONER_SOURCES=str(tmp_path))
        assert {"provider", "ledger", "intake sources"} <= {one["check"] for one in found}


class TestTheStartOfAWorker:
    """It looks at the same things first, with the same words."""

    async def refusal(self, place: Place, **more: str) -> BrokerRefuses:
        settings = load(WorkerSettings, place.environ | {"PROVISIONER_TOPOLOGY": "assume"} | more)
        with pytest.raises(BrokerRefuses) as refused:
            async with running_worker(settings, Telemetry()):
                pytest.fail("the worker started")
        return refused.value

    async def test_without_a_right_to_publish(self, place: Place):
        await place.apply()
        await place.grant(WORKER | {"write": r"^provisioner\.(results|retry|dead-letters|owner)$"})
        refused = await self.refusal(place)
        checks = await place.checks(PROVISIONER_TOPOLOGY="assume")
        (found,) = [one for one in checks if one["check"] == "rights"]
        assert str(refused) == f"{found['detail']}: {found['hint']}"

    async def test_on_a_broker_that_is_too_old(self, place: Place):
        async with posing_as(place.node, "3.9") as port:
            url = URL(place.environ["AMQP_URL"]).with_port(port)
            refused = await self.refusal(place, AMQP_URL=str(url))
        assert refused.exit_code == 2
        assert str(refused).startswith("RabbitMQ 3.9 is too old: ")

    async def test_with_an_exchange_of_another_type(self, place: Place):
        await place.apply()
        await delete(place.node, f"exchanges/{place.vhost}/{names.RESULTS}")
        await place.declared("exchanges", names.RESULTS, type="direct")
        refused = await self.refusal(place)
        assert refused.exit_code == 2
        assert str(refused).startswith("exchange provisioner.results: it is of another type")
