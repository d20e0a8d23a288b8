"""`provisioner keys check` finds recipients without a key by their queues at a real broker."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.topology import BrokerVersion, Namespace, secrets_queue, topology
from tests.support.secrets_keys import fresh_sealing_key, write_keys
from worker.adapters.amqp.topology import apply
from worker.adapters.brokers import open_connection
from worker.adapters.sqlite.ledger import sqlite_ledger
from worker.demo.private_node import private_node

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]


async def check(environ: dict[str, str]) -> tuple[int, dict[str, str], str]:
    """The exit code, the details by recipient, and standard error."""
    command = (sys.executable, "-m", "worker", "keys", "check", "--json")
    done = await asyncio.to_thread(
        subprocess.run, command, env=os.environ | environ, capture_output=True, text=True, check=False
    )
    rows = {row["for"]: row["detail"] for row in json.loads(done.stdout)}
    return done.returncode, rows, done.stderr


@pytest.mark.usefixtures("rabbitmq_server")
async def test_a_recipient_with_a_queue_needs_a_key(tmp_path: Path):
    keys = write_keys(tmp_path / "recipients.json", fresh_sealing_key("billing"))
    ledger = tmp_path / "ledger.db"
    async with sqlite_ledger(ledger) as opened:
        await opened.note_sealed("crm")
    async with private_node(management=True) as node:
        environ = {
            "AMQP_URL": node.url,
            "LEDGER_URL": f"sqlite:///{ledger}",
            "PROVISIONER_RECIPIENTS": str(keys),
            "PROVISIONER_NAMESPACE": "staging",
        }
        assert (await check(environ))[0] == 0, "crm was served before, and has no queue any more"

        async with open_connection([node.url]) as connection:
            for namespace, recipients in (("staging", ("billing", "crm", "hr")), ("", ("other",))):
                wanted = topology(
                    BrokerVersion.parse(node.version), recipients=recipients, namespace=Namespace(namespace)
                )
                await apply(connection, wanted)

        code, rows, errors = await check(environ)
        assert (code, "hr" in rows) == (1, False)
        assert rows["crm"] == f"no key bears its name; has the queue staging.{secrets_queue('crm')}"
        assert "not looked at: queues of recipients named nowhere else" in errors

        managed = environ | {"PROVISIONER_MANAGEMENT_URL": node.management_url or ""}
        code, rows, errors = await check(managed)
        assert (code, rows.keys(), errors) == (1, {"billing", "crm", "hr", "signing"}, "")
