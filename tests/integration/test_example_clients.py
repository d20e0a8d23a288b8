"""The programs of deploy/examples, each against a real broker."""

import asyncio
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest

import contracts
from contracts import topology as names
from tests.messages.test_examples import EXAMPLES
from tests.support.builders import AUTH_ID
from tests.support.npm import installed
from tests.support.real import RealSystem
from tests.support.secrets_keys import PAIRS, TOKEN, jwks, sealed, sealing_key, signing_key

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(180)]

FOLDER = Path(__file__).parents[2] / "deploy" / "examples"
PACKAGES = ("amqplib@2.3.1", "jose@6.2.17")
SENDERS = ("python/send_aio_pika.py", "python/send_pika.py", "node/send.mjs")
RECEIVERS = ("python/receive_aio_pika.py", "python/receive_pika.py", "node/receive.mjs")
INBOX = "test.inbox"


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of the folder, with the packages that the programs for Node need."""
    copied = tmp_path / "examples"
    shutil.copytree(FOLDER, copied, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    return copied


@asynccontextmanager
async def running(
    examples: Path, program: str, *arguments: str, **environ: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a program of the examples; it is killed at the end of the block if it still runs."""
    modules = examples / "node" / "node_modules"
    if program.endswith(".mjs") and not await asyncio.to_thread(modules.exists):
        modules.symlink_to(await asyncio.to_thread(installed, *PACKAGES))
    process = await asyncio.create_subprocess_exec(
        *(["node"] if program.endswith(".mjs") else [sys.executable]),
        str(examples / program),
        *arguments,
        env=dict(os.environ) | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=examples,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdout
    return [(await process.stdout.readline()).decode().strip() for _ in range(count)]


@pytest.mark.parametrize(("sender", "receiver"), list(zip(SENDERS, RECEIVERS, strict=True)))
async def test_an_event_is_sent_and_its_credentials_are_received(
    system: RealSystem, examples: Path, sender: str, receiver: str
):
    async with system.worker(), running(examples, receiver, AMQP_URL=system.url) as receiving:
        async with running(examples, sender, "created", "ENG-042", "Büro", AMQP_URL=system.url) as sending:
            _, errors = await sending.communicate()
            assert sending.returncode == 0, errors.decode()
        assert await lines(receiving, 1) == ["stored credentials of ENG-042, generation 1"]
    (subaccount,) = system.sandbox.subaccounts()
    assert subaccount.name.startswith("Büro [")


@pytest.mark.parametrize("sender", SENDERS)
async def test_a_sender_fails_if_no_queue_takes_the_event(system: RealSystem, examples: Path, sender: str):
    await system.channel.declare_exchange(names.DEPARTMENTS, "topic", durable=True)
    async with running(examples, sender, "created", "ENG-042", "Sales", AMQP_URL=system.url) as sending:
        _, errors = await sending.communicate()
    assert sending.returncode != 0
    assert re.search(b"NO_ROUTE|Unroutable|no queue takes", errors, re.IGNORECASE), errors


def credentials(id_: str, generation: int) -> dict[str, Any]:
    document = EXAMPLES["credentials-issued"]
    return document | {"id": id_, "data": document["data"] | {"generation": generation}}


def stored(examples: Path, receiver: str) -> tuple[int, int, list[str]]:
    """The generation on record, the number of credentials, and the outcomes."""
    if receiver.endswith(".mjs"):
        state = json.loads((examples / "inbox").read_text())
        (kept,) = state["credentials"].values()
        return kept["generation"], len(state["credentials"]), [one["outcome"] for one in state["outcomes"]]
    with sqlite3.connect(examples / "inbox") as database:
        kept = database.execute("SELECT generation FROM credentials").fetchall()
        outcomes = [row[0] for row in database.execute("SELECT outcome FROM outcomes ORDER BY rowid")]
    return kept[0][0], len(kept), outcomes


@pytest.mark.parametrize("receiver", RECEIVERS)
async def test_a_receiver_stores_then_acks_and_drops_duplicates(
    system: RealSystem, examples: Path, receiver: str
):
    await system.channel.declare_queue(INBOX, durable=True)
    unattributed = EXAMPLES["result-failed"] | {"id": "no event"}
    unattributed["data"] = unattributed["data"] | {"event": None}
    sent = [
        *(credentials("one", 1), credentials("one", 1), credentials("two", 2), credentials("late", 1)),
        *(EXAMPLES["result-created"], unattributed),
    ]
    try:
        await _publish(system, *sent)
        environ = {"AMQP_URL": system.url, "QUEUE": INBOX, "DATABASE": "inbox"}
        department = EXAMPLES["credentials-issued"]["data"]["department_id"]
        async with running(examples, receiver, **environ) as receiving:
            assert await lines(receiving, len(sent)) == [
                f"stored credentials of {department}, generation 1",
                "duplicate one",
                f"stored credentials of {department}, generation 2",
                f"dropped older credentials of {department}, generation 1",
                f"stored created of {EXAMPLES['result-created']['data']['event']['id']}",
                f"stored failed of {'null' if receiver.endswith('.mjs') else 'None'}",
            ]
        assert await asyncio.to_thread(stored, examples, receiver) == (2, 1, ["created", "failed"])
        await _publish(system, sent[2])
        async with running(examples, receiver, **environ) as again:
            assert (await lines(again, 1))[0].startswith("duplicate ")
    finally:
        await system.channel.queue_delete(INBOX)


@pytest.mark.parametrize("receiver", RECEIVERS)
async def test_a_receiver_opens_seals_and_acks_nothing_that_it_cannot_open(
    system: RealSystem, examples: Path, tmp_path: Path, receiver: str
):
    sealing, signing = PAIRS[0]
    ours, worker = sealing_key(sealing, "crm.2"), signing_key(signing)
    body = sealed(tmp_path, ours, worker).body
    environ = {"AMQP_URL": system.url, "QUEUE": INBOX, "DATABASE": "inbox", "RECIPIENT": "crm"}
    for name, keys in (("PRIVATE_KEYS", {"keys": [ours]}), ("WORKER_KEYS", jwks(worker))):
        file = tmp_path / f"{name}.json"
        await asyncio.to_thread(file.write_text, json.dumps(keys))
        environ[name] = str(file)
    await system.channel.declare_queue(INBOX, durable=True)
    try:
        await _publish(system, json.loads(body))
        async with running(examples, receiver, **environ) as receiving:
            (line,) = await lines(receiving, 1)
            assert line.startswith("stored credentials of ")
        await _publish(system, json.loads(body) | {"id": "moved to another message"})
        async with running(examples, receiver, **environ) as receiving:
            out, errors = await receiving.communicate()
        assert receiving.returncode != 0
        assert b"stored" not in out
        assert b"sealed for another message" in errors or b"claim" in errors
        left = await system.channel.get_queue(INBOX)
        async with left.iterator(timeout=30) as messages:  # a fresh delivery: what was not acked comes back
            assert b"moved to another message" in (await anext(messages)).body
    finally:
        await system.channel.queue_delete(INBOX)
    content = (await asyncio.to_thread((examples / "inbox").read_bytes)).decode(errors="replace")
    assert AUTH_ID in content
    assert TOKEN in content


async def _publish(system: RealSystem, *documents: Mapping[str, Any]) -> None:
    for document in documents:
        await system.channel.default_exchange.publish(
            aio_pika.Message(json.dumps(document).encode(), content_type="application/cloudevents+json"),
            INBOX,
        )


@pytest.mark.parametrize(
    ("file", "language"), [("python/open_sealed.py", "python"), ("node/open-sealed.mjs", "javascript")]
)
def test_the_seal_is_opened_by_the_code_of_the_contract(file: str, language: str):
    document = (Path(contracts.__file__).parent / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"```{language} open\n(.*?)```", document, re.DOTALL)
    assert block is not None
    assert (FOLDER / file).read_text(encoding="utf-8").endswith(block[1])


def test_the_readme_of_the_examples_names_every_file():
    named = set(re.findall(r"\]\(([^)]+)\)", (FOLDER / "README.md").read_text()))
    programs = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.[pm]*") if path.suffix != ".md"}
    assert named == {path for path in programs if "__pycache__" not in path} - {"python/department_event.py"}
