"""`provisioner intake remap` against a real broker."""

import json
from datetime import UTC, datetime

import pytest

from contracts import topology as names
from tests.support.commands import provisioner
from tests.support.real import RealSystem
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.amqp.connect import connect
from worker.adapters.brokers import open_publisher
from worker.core.intake.parsing import parse_profile
from worker.core.intake.received import Received
from worker.core.intake.unmapped import unmapped
from worker.telemetry.events import Telemetry

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(180)]

AT = datetime(2026, 11, 1, 8, 30, tzinfo=UTC)
DOCUMENT = {
    "auth": {
        "kind": "hmac",
        "header": "X-S",
        "signed": "{id}.{body}",
        "id_header": "X-Id",
        "secret_file": "s",
    },
    "id": "item.id",
    "name": "item.name",
    "event_id": 'headers."x-id"',
    "samples": [{"headers": {"X-Id": "e"}, "body": {"id": 1, "name": "A"}, "events": [{"id": "e"}]}],
}


async def test_a_repaired_profile_maps_what_was_kept(system: RealSystem, tmp_path):
    """Byte for byte, with the id from a kept header; the rest stays in its order."""
    bodies = [b'{"id": 1, "name": "A"}', b"\xff no json", b'{"id": 2, "name": "B"}', b"also none"]
    async with await connect(system.url, "test") as connection:
        version = names.BrokerVersion.parse(connection.server_version)
        await rabbitmq_topology.apply(connection, names.topology(version))
    async with open_publisher((system.url,), Telemetry(), names.NO_NAMESPACE) as publisher:
        for number, body in enumerate(bodies):
            received = Received(body, {"x-id": f"e-{number}"}, AT)
            await publisher.publish(unmapped(parse_profile("acme", DOCUMENT), received, ["name: missing"]))
    (tmp_path / "acme.yaml").write_text(json.dumps(DOCUMENT))
    environ = system.environ | {"PROVISIONER_SOURCES": str(tmp_path)}

    planned = await provisioner(environ, "intake", "remap", "--dry-run", "--json")
    assert (planned.code, planned.json["remapped"], planned.json["dry_run"]) == (1, 2, True)
    assert await system.depth(names.UNMAPPED_QUEUE) == 4

    done = await provisioner(environ, "intake", "remap")
    assert done.code == 1
    assert "2 of 4 payloads remapped: 2 events\n" in done.out
    assert "body: not UTF-8" in done.out
    again = await provisioner(environ, "intake", "remap", "--profile", "acme", "--json")
    assert (again.json["seen"], again.json["remapped"]) == (4 - 2, 0)

    work = await system.channel.get_queue(names.WORK_QUEUE, ensure=False)
    events = [json.loads((await work.get(no_ack=True)).body) for _ in range(2)]
    assert [(event["id"], event["source"], event["time"]) for event in events] == [
        ("e-0", "/in/acme", "2026-11-01T08:30:00Z"),
        ("e-2", "/in/acme", "2026-11-01T08:30:00Z"),
    ]
    kept = await system.channel.get_queue(names.UNMAPPED_QUEUE, ensure=False)
    left = [await kept.get(no_ack=True) for _ in range(2)]
    assert [message.body for message in left] == [bodies[1], bodies[3]]
    assert left[0].headers["x-profile"] == "acme"
    assert left[0].headers["x-received-at"] == "2026-11-01T08:30:00Z"
