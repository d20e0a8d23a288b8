"""Fixtures: a sandbox in the event loop of the test or in a thread, and a small client."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import pytest

from worker.sandbox import Sandbox, Subaccount, running_sandbox

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any
    headers: Any
    raw: bytes


@dataclass(frozen=True)
class Api:
    """Sends requests to the path of one account with its credentials."""

    session: aiohttp.ClientSession
    url: str
    auth_id: str
    auth_token: str

    def as_subaccount(self, subaccount: Subaccount) -> "Api":
        return Api(self.session, self.url, subaccount.auth_id, subaccount.auth_token)

    def headers(self) -> dict[str, str]:
        return {"Authorization": aiohttp.encode_basic_auth(self.auth_id, self.auth_token)}

    async def send(self, method: str, path: str, **options: Any) -> Reply:
        """Sends a request to `path`, relative to the account or, with a leading slash, absolute."""
        where = path if path.startswith("/") else f"/v1/Account/{self.auth_id}/{path}"
        headers = {**self.headers(), **options.pop("headers", {})}
        async with self.session.request(method, self.url + where, headers=headers, **options) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json" and raw
            return Reply(response.status, json.loads(raw) if is_json else None, response.headers, raw)

    async def get(self, path: str = "", **options: Any) -> Reply:
        return await self.send("GET", path, **options)

    async def post(self, path: str = "", body: Any = None, **options: Any) -> Reply:
        return await self.send("POST", path, json=body, **options)

    async def delete(self, path: str, **options: Any) -> Reply:
        return await self.send("DELETE", path, **options)


@dataclass(frozen=True)
class World:
    sandbox: Sandbox
    api: Api

    async def subaccount(self, name: str = "Sales", *, enabled: bool = True) -> Subaccount:
        created = await self.api.post("Subaccount/", {"name": name, "enabled": enabled})
        assert created.status == 201, created
        found = self.find(created.body["auth_id"])
        assert found is not None
        return found

    def find(self, auth_id: str) -> Subaccount | None:
        return next((each for each in self.sandbox.subaccounts() if each.auth_id == auth_id), None)


@asynccontextmanager
async def started(**options: Any) -> AsyncIterator[World]:
    async with (
        running_sandbox(**options) as sandbox,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
    ):
        yield World(sandbox, Api(session, sandbox.url, sandbox.auth_id, sandbox.auth_token))


@pytest.fixture
def start() -> Callable[..., Any]:
    """Starts sandboxes with the given options."""
    return started


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with started(rate_limit="off") as running:
        yield running


class ThreadedSandbox:
    """A sandbox in another thread, for blocking clients."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._loop = loop

    def do(self, action: Callable[[Sandbox], T]) -> T:
        """Run something on the sandbox in its own thread."""

        async def run() -> T:
            return action(self.sandbox)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=10)


@contextmanager
def in_a_thread(**options: Any) -> Iterator[ThreadedSandbox]:
    ready: list[ThreadedSandbox] = []
    began, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with running_sandbox(**options) as sandbox:
            ready.append(ThreadedSandbox(asyncio.get_running_loop(), sandbox))
            began.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert began.wait(10)
    try:
        yield ready[0]
    finally:
        ready[0]._loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def threaded() -> Callable[..., Any]:
    """Starts sandboxes in a thread with the given options."""
    return in_a_thread


@pytest.fixture
def threaded_sandbox() -> Iterator[ThreadedSandbox]:
    with in_a_thread(rate_limit="off") as running:
        yield running
