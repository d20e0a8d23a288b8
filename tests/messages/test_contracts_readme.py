"""The README agrees with the code: its tables are compared and its code is run."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import aio_pika
import pytest
from pydantic import BaseModel

import contracts
from contracts import json_schema
from contracts.asyncapi import CONTRACT_VERSION
from contracts.departments import SEQUENCE_DIGITS, Created, Removed, Renamed, department_event
from contracts.encoding import MAX_DECODED_BYTES, MAX_DEPTH
from contracts.envelope import CloudEvent, Message, read
from contracts.reissues import REISSUE, ReissueWish
from contracts.subaccounts import (
    CredentialsMessage,
    DeadReason,
    ResultKind,
    SubaccountResult,
    result_type,
    routing_key,
)
from contracts.text import ATTRIBUTE_LENGTH, IDENTIFIER_LENGTH, NAME_LENGTH
from contracts.topology import DEPARTMENTS, WORK_QUEUE, BrokerVersion, topology
from tests.messages.test_examples import EXAMPLES
from worker.adapters.memory.broker import MemoryBroker
from worker.core.decide import CLOCK_TOLERANCE
from worker.core.messages import Outgoing
from worker.core.reissue import REISSUE_PAUSE

README = (Path(contracts.__file__).parent / "README.md").read_text(encoding="utf-8")
BROKER = BrokerVersion(3, 10)


def code(name: str) -> str:
    block = re.search(rf"```python {name}\n(.*?)```", README, re.DOTALL)
    assert block is not None
    return block[1]


def table(*header: str) -> list[list[str]]:
    """Returns the rows of the only table with these first headers, without backticks."""
    lines = README.splitlines()
    starts = [at for at, line in enumerate(lines) if tuple(cells(line)[: len(header)]) == header]
    assert len(starts) == 1, f"{len(starts)} tables begin with {header}"
    rows = []
    for line in lines[starts[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return rows


def cells(line: str) -> list[str]:
    return (
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")] if line.startswith("|") else []
    )


class ChannelInMemory:
    """The part of aio-pika that the producer uses, over the broker in memory."""

    def __init__(self, broker: MemoryBroker, name: str = "") -> None:
        self.broker = broker
        self.name = name

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def channel(self, *, on_return_raises: bool) -> "ChannelInMemory":
        assert on_return_raises
        return self

    async def get_exchange(self, name: str, *, ensure: bool) -> "ChannelInMemory":
        assert not ensure, "a producer may have no right to declare"
        return ChannelInMemory(self.broker, name)

    async def publish(self, message: aio_pika.Message, routing_key: str) -> None:
        assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        sent = Message(message.body, message.content_type, dict(message.headers))
        await self.broker.publish(Outgoing(self.name, routing_key, sent))


def test_the_producer_sends_an_event_that_the_worker_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = MemoryBroker()
    broker.declare(topology(BROKER))

    async def connect(url: str) -> ChannelInMemory:
        assert url.startswith("amqp://")
        return ChannelInMemory(broker)

    monkeypatch.setattr(aio_pika, "connect", connect)
    exec(compile(code("producer"), "README.md", "exec"), {})  # noqa: S102 - our own
    (waiting,) = broker.ready(WORK_QUEUE)
    assert waiting.exchange == DEPARTMENTS
    event = department_event(read(waiting.message))
    assert (event.data.department_id, event.data.name) == ("ENG-042", "Engineering")


def test_the_consumer_reads_the_messages_of_the_worker(capsys: pytest.CaptureFixture[str]) -> None:
    defined: dict[str, Any] = {}
    exec(compile(code("consumer"), "README.md", "exec"), defined)  # noqa: S102 - our own
    for kind in ResultKind:
        defined["on_result"](json.dumps(EXAMPLES[f"result-{kind}"]))
        assert f" {kind} " in capsys.readouterr().out
    stored: list[tuple[str, str]] = []
    defined["on_credentials"](
        json.dumps(EXAMPLES["credentials-issued"]), lambda auth_id, token: stored.append((auth_id, token))
    )
    data = EXAMPLES["credentials-issued"]["data"]
    assert stored == [(data["auth_id"], data["auth_token"])]


def test_events() -> None:
    rows = {row[0]: row for row in table("Type", "Routing key", "data")}
    models: dict[str, type[BaseModel]] = {
        "department.created.v1": Created,
        "department.renamed.v1": Renamed,
        "department.removed.v1": Removed,
    }
    assert rows.keys() == models.keys()
    for type_, model in models.items():
        fields = [name + ("" if field.is_required() else "?") for name, field in model.model_fields.items()]
        assert rows[type_][1:] == [type_.removesuffix(".v1"), ", ".join(fields)]


def test_data() -> None:
    named = {name for row in table("In data") for name in row[0].split(", ")}
    assert named == {*Created.model_fields, *Renamed.model_fields, *Removed.model_fields}


def test_attributes_of_events() -> None:
    rows = {name: row[1] for row in table("Attribute", "", "Rule") for name in row[0].split(", ")}
    assert rows.keys() == CloudEvent.model_fields.keys() - {"data"}
    required = set(json_schema.document("department.created.v1")["required"]) - {"data"}
    assert {name for name, need in rows.items() if need == "required"} == required
    assert set(rows.values()) == {"required", "optional"}


def test_attributes_of_outbound_messages() -> None:
    rows = {name for row in table("Attribute", "Meaning") for name in row[0].split(", ")}
    properties = json_schema.document("subaccount.result.v1")["properties"]
    assert rows == properties.keys() - {"specversion", "dataschema", "data"}


def test_results() -> None:
    rows = [row[:3] for row in table("Type", "Routing key", "Final")]
    not_final = {ResultKind.HELD, ResultKind.FAILED}
    assert rows == [
        [result_type(kind), routing_key(result_type(kind)), "no" if kind in not_final else "yes"]
        for kind in ResultKind
    ]


def test_data_of_results_and_credentials() -> None:
    for model, example in ((SubaccountResult, "result-created"), (CredentialsMessage, "credentials-issued")):
        data = model.model_fields["data"].annotation
        assert data is not None
        fields = [name + ("" if field.is_required() else "?") for name, field in data.model_fields.items()]
        listed = "{" + ", ".join(fields).replace(", event", ", event: {source, id, type}") + "}"
        assert f"`{listed}`" in README
        assert EXAMPLES[example]["data"].keys() <= data.model_fields.keys()


def test_credentials() -> None:
    rows = [row[:2] for row in table("Type", "Routing key", "When")]
    assert rows == [[type_, routing_key(type_)] for type_ in (json_schema.ISSUED, json_schema.REISSUED)]


def test_requests() -> None:
    fields = [name + ("" if one.is_required() else "?") for name, one in ReissueWish.model_fields.items()]
    rows = [row[:3] for row in table("Request", "Routing key of a request", "Its data")]
    assert rows == [[REISSUE, REISSUE.removesuffix(".v1"), ", ".join(fields)]]
    assert f"less than {REISSUE_PAUSE.seconds} seconds ago" in README


def test_reasons() -> None:
    assert [row[0] for row in table("Reason")] == list(DeadReason)


def test_headers_of_dead_letters() -> None:
    headers = {name for row in table("Header") for name in row[0].split(", ")}
    assert headers == {
        "x-dead-reason",
        "x-dead-detail",
        "x-dead-at",
        "x-attempts",
        "x-event-id",
        "x-department-id",
        "x-left-out",
    }


def test_broker_objects() -> None:
    wholes = topology(BROKER), topology(BROKER, recipients=["RECIPIENT"])
    bindings = {(each.queue, each.exchange, each.routing_key) for whole in wholes for each in whole.bindings}
    assert {tuple(row[:3]) for row in table("Queue", "Bound to", "With")} == bindings
    assert all(f"`{exchange.name}`" in README for exchange in wholes[0].exchanges)


def test_numbers() -> None:
    minutes = CLOCK_TOLERANCE // timedelta(minutes=1)
    assert f"at most {minutes} minutes ahead of the worker's clock" in README
    assert f"1 to {IDENTIFIER_LENGTH} characters, none of them a control" in README
    assert f"1 to {NAME_LENGTH} characters" in README
    assert f"1 to {ATTRIBUTE_LENGTH:,} characters" in README
    assert f"at most {SEQUENCE_DIGITS} digits" in README
    assert f"at most {MAX_DEPTH} levels deep" in README
    assert f"up to {MAX_DECODED_BYTES >> 20} MiB" in README


def test_changes_end_at_the_version_of_the_document() -> None:
    assert table("Version", "Date")[-1][:2] == [CONTRACT_VERSION, "2026-11-21"]


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in README.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("https://"):
            assert (Path(contracts.__file__).parent / target).exists()
