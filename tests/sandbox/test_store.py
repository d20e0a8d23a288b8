"""A state file keeps every answered change, however the process ends."""

import asyncio
import json
import os
import signal
import sqlite3
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from worker.sandbox import StoreError

MESSAGE = {"src": "14155550100", "dst": "14155550101", "text": "hello"}


async def test_everything_survives_a_restart(start, tmp_path):
    file = tmp_path / "state.db"
    async with start(state=file, start=datetime(2026, 1, 31, tzinfo=UTC)) as world:
        gone, kept = await world.subaccount("gone"), await world.subaccount("kept")
        await world.api.post("Application/", {"app_name": "a", "answer_url": "http://127.0.0.1/"})
        await world.api.as_subaccount(kept).post(
            "Endpoint/", {"username": "u", "password": "12345", "alias": "a"}
        )
        await world.api.post("PhoneNumber/18005550000/", {})
        await world.api.as_subaccount(kept).post("Message/", MESSAGE)
        await world.api.delete(f"Subaccount/{gone.auth_id}/")
        await world.api.post(f"Subaccount/{kept.auth_id}/", {"name": "renamed"})
        world.sandbox.set_auto_recharge("5", "30")
        world.sandbox.advance(timedelta(days=1))
        before = await _snapshot(world)
    async with start(state=file) as world:
        after = await _snapshot(world)
        new = await world.subaccount("new")

    assert after == before
    assert after["subaccounts"][0].name == "renamed"
    assert after["account"].month == "2026-02"
    assert new.auth_id not in (gone.auth_id, kept.auth_id)


async def _snapshot(world):
    state = world.sandbox.service.state
    lists = [
        (await world.api.get(f"{path}/")).body["objects"]
        for path in ("Subaccount", "Application", "Endpoint", "Number", "Message")
    ]
    return {
        "account": state.account,
        "subaccounts": world.sandbox.subaccounts(),
        "lists": lists,
        "invoices": world.sandbox.invoices(),
        "date": world.sandbox.now().date(),
    }


async def test_idempotency_keys_survive_a_restart(start, tmp_path):
    made = []
    for _ in range(2):
        async with start(state=tmp_path / "state.db") as world:
            world.sandbox.assume(idempotency_keys="honoured")
            response = await world.api.post("Subaccount/", {"name": "x"}, headers={"Idempotency-Key": "k"})
            made.append(response.body["auth_id"])

    assert made[0] == made[1]


async def test_the_order_of_creation_survives(start, tmp_path):
    file = tmp_path / "state.db"
    async with start(state=file) as world:
        first = [await world.subaccount(f"{number}") for number in range(4)]
        await world.api.delete(f"Subaccount/{first[3].auth_id}/")
    async with start(state=file) as world:
        await world.subaccount("4")
        names = [each.name for each in world.sandbox.subaccounts()]

    assert names == ["4", "2", "1", "0"]


async def test_a_file_of_another_account_is_refused(start, tmp_path):
    file = tmp_path / "state.db"
    async with start(state=file):
        pass
    with pytest.raises(StoreError, match="belongs to the main account MASANDBOX00000000000"):
        async with start(state=file, auth_id="MAOTHER0000000000000"):
            pass


async def test_two_sandboxes_do_not_share_a_file(start, tmp_path):
    async with start(state=tmp_path / "state.db"):
        with pytest.raises(StoreError, match="locked"):
            async with start(state=tmp_path / "state.db"):
                pass


async def test_a_file_that_is_not_a_state_is_refused_and_not_changed(start, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("not a database, and longer than its header would be")
    with pytest.raises(StoreError, match="not a database"):
        async with start(state=file):
            pass
    assert file.read_text().startswith("not a database")


async def test_a_file_of_another_version_is_refused(start, tmp_path):
    file = tmp_path / "state.db"
    async with start(state=file) as world:
        await world.subaccount()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE record SET body = '{}' WHERE kind = 'Subaccount'")
    connection.close()
    with pytest.raises(StoreError, match="another version wrote it"):
        async with start(state=file):
            pass


async def test_reset_empties_the_file_too(start, tmp_path):
    async with start(state=tmp_path / "state.db") as world:
        await world.subaccount()
        world.sandbox.reset()
    async with start(state=tmp_path / "state.db") as world:
        assert world.sandbox.subaccounts() == []


async def _program(file: Path):
    """Start the sandbox as a process; return it and its URL."""
    arguments = ("-m", "worker.sandbox", "--port", "0", "--rate-limit", "off", "--state", str(file))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if line.startswith(b"listening on "):
            return process, line.split()[2].decode().rstrip(",")
    raise AssertionError("the sandbox did not start")


async def test_answered_changes_survive_sigkill(tmp_path):
    answered = set()

    enough = asyncio.Event()

    async def create(session: aiohttp.ClientSession, path: str) -> None:
        while True:
            async with session.post(path, json={"name": "x"}) as response:
                answered.add((await response.json())["auth_id"])
            if len(answered) >= 200:
                enough.set()

    process, url = await _program(tmp_path / "state.db")
    path = f"{url}/v1/Account/MASANDBOX00000000000/Subaccount/"
    headers = {"Authorization": aiohttp.encode_basic_auth("MASANDBOX00000000000", "sandbox")}
    async with aiohttp.ClientSession(headers=headers) as session:
        clients = [asyncio.create_task(create(session, path)) for _ in range(8)]
        await enough.wait()
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await asyncio.gather(*clients, return_exceptions=True)

        process, url = await _program(tmp_path / "state.db")
        path = f"{url}/v1/Account/MASANDBOX00000000000/Subaccount/"
        found, offset = set(), 0
        page: dict[str, Any] = {}
        while not offset or page["objects"]:
            async with session.get(path, params={"offset": offset}) as response:
                page = json.loads(await response.read())
            found |= {each["auth_id"] for each in page["objects"]}
            offset += 20
        process.terminate()
        status = await process.wait()

    assert answered <= found
    assert len(found) - len(answered) <= 8
    assert status == os.EX_OK
