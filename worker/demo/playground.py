"""Directions for after the demo: the commands to try, and the settings that lead to its parts."""

import asyncio
import os
import shlex
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
from pydantic_core import to_json

from contracts.envelope import CloudEvent
from worker.service.consume import consume
from worker.service.signals import stop_signal
from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.telemetry.logs import configure_logging

PROGRAM = "provisioner"
POLL_SECONDS = 0.05
DRAIN = "10m"
"""Longer than all clearing away takes: at the end of this time the process would end at once."""


@asynccontextmanager
async def worker_until_stopped(
    environ: Mapping[str, str], http: aiohttp.ClientSession
) -> AsyncIterator[Awaitable[object]]:
    """Runs what `provisioner run` runs. The block begins when it is ready.

    The yielded coroutine returns after Ctrl-C or SIGTERM, and raises the worker's own error.
    """
    settings = load(WorkerSettings, {**environ, "PROVISIONER_DRAIN": DRAIN})
    configure_logging("console", "info")
    worker = asyncio.create_task(consume(settings, environ))
    try:
        await _ready(worker, http, f"http://{settings.http.host}:{settings.http.port}/readyz")
        yield worker
    finally:
        stop_signal(lambda: None)  # what follows is short: another Ctrl-C must not leave a part of it behind
        configure_logging("console", "error")


async def _ready(worker: "asyncio.Task[bool]", http: aiohttp.ClientSession, url: str) -> None:
    """Returns once the worker is ready or has ended."""
    while not worker.done():
        with suppress(aiohttp.ClientError):
            async with http.get(url) as response:
                if response.ok:
                    return
        await asyncio.sleep(POLL_SECONDS)


def free_address() -> str:
    """A loopback address with a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def exports(settings: Mapping[str, str]) -> list[str]:
    """Lines for a shell: the settings, and before them the PATH if it lacks the command."""
    folder = Path(sys.executable).parent
    missing = not shutil.which(PROGRAM) and (folder / PROGRAM).exists()
    path = [f'export PATH={shlex.quote(str(folder))}:"$PATH"'] if missing else []
    return path + [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]


async def existing_subaccount(environ: Mapping[str, str], http: aiohttp.ClientSession) -> str:
    """Makes a subaccount at the sandbox as a person would, and returns its auth id."""
    account = environ["PLIVO_AUTH_ID"]
    authorization = aiohttp.encode_basic_auth(account, environ["PLIVO_AUTH_TOKEN"])
    async with http.post(
        f"{environ['PLIVO_API_URL']}/v1/Account/{account}/Subaccount/",
        json={"name": "Warehouse", "enabled": True},
        headers={"Authorization": authorization},
        raise_for_status=True,
    ) as response:
        return str((await response.json())["auth_id"])


def write_adoption(folder: Path, auth_id: str) -> Path:
    """Writes a file for `provisioner adopt`, and returns its path."""
    file = folder / "existing.csv"
    file.write_text(f"department_id,auth_id\nwarehouse,{auth_id}\n", encoding="utf-8")
    return file


def write_event(folder: Path, event: CloudEvent) -> Path:
    """Writes an event for `provisioner plan`, and returns its path."""
    file = folder / "event.json"
    file.write_bytes(to_json(event, exclude_none=True))
    return file


def things_to_try(http: str, adoption: Path, event: Path, protected: str) -> list[tuple[str, str]]:
    """Commands for another terminal, and what each shows."""
    return [
        (f"{PROGRAM} emit created --id mine --name Mine --wait", "your first event, and its answer"),
        (f"{PROGRAM} results --follow", "every result as it comes"),
        (f"{PROGRAM} departments list", "who has which subaccount"),
        (f"{PROGRAM} emit removed --id {protected} --wait", "a removal that is held, and exit 1"),
        (f"{PROGRAM} holds list", "removals that wait for a person: approve or reject them"),
        (f"{PROGRAM} plan --file {shlex.quote(str(event))}", "what a removal would do"),
        (f"{PROGRAM} sweep", "how Plivo differs from the ledger"),
        (f"{PROGRAM} adopt --from {shlex.quote(str(adoption))}", "what it would adopt; --apply does it"),
        (f"{PROGRAM} dead-letters list", "what failed, and why"),
        (f"curl -s http://{http}/readyz", "whether the worker takes messages, or why not"),
    ]


def next_steps() -> list[tuple[str, str]]:
    """Commands for after the demo, and what each is for."""
    program = shown_program()
    return [
        (f"{program} demo --stay", "keeps all of this running, to try it by hand"),
        (f"{program} --help", "lists every command"),
    ]


def shown_program() -> str:
    """The way in which the reader can start `provisioner`: its name, or its path if the PATH lacks it."""
    if shutil.which(PROGRAM):
        return PROGRAM
    called = Path(sys.argv[0])
    if called.name != PROGRAM:
        return f"{shlex.quote(sys.executable)} -m worker"
    path, here = called.absolute(), Path.cwd()
    return shlex.quote(os.path.relpath(path, here) if path.is_relative_to(here) else str(path))
