"""A worker process for tests that kill it: start, follow the log, stop or kill."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

LOG_TIMEOUT_SECONDS = 60
WORKER = ("worker", "run")
OUR_SETTINGS = ("PROVISIONER_", "PLIVO_", "AMQP_", "LEDGER_")


class WorkerEnded(AssertionError):
    """The worker ended before the awaited log line; the message contains the end of its log."""


class WorkerProcess:
    """A running worker process and its parsed log."""

    def __init__(self, process: Process) -> None:
        self.log: list[dict[str, Any]] = []
        self._process = process
        self._log_ended = False
        self._grown = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def logged(self, event: str, times: int = 1) -> None:
        """Waits until the log has this many lines of the event; raises `WorkerEnded` or `TimeoutError`."""
        try:
            async with asyncio.timeout(LOG_TIMEOUT_SECONDS), self._grown:
                await self._grown.wait_for(lambda: self.count(event) >= times or self._log_ended)
        except TimeoutError:
            raise TimeoutError(f"no {event} within {LOG_TIMEOUT_SECONDS} s: {self.log[-5:]}") from None
        if self.count(event) < times:
            raise WorkerEnded(f"the worker ended before {event}: {self.log[-5:]}")

    def count(self, event: str) -> int:
        return sum(line["event"] == event for line in self.log)

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.returncode is not None

    async def kill(self) -> None:
        """Sends SIGKILL and waits for the end."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def stop(self) -> int:
        """Sends SIGTERM; returns the exit code."""
        self._process.terminate()
        code = await self._process.wait()
        await self._reading
        return code

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            async with self._grown:
                self.log.append(_parsed(line))
                self._grown.notify_all()
        async with self._grown:
            self._log_ended = True
            self._grown.notify_all()


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"event": "not a log line", "text": line.decode(errors="replace").rstrip()}
    return parsed


async def start(environ: Mapping[str, str], module: Sequence[str] = WORKER) -> WorkerProcess:
    """Starts a worker with these settings only, without those of the caller's environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OUR_SETTINGS)}
    own = {"PROVISIONER_HTTP": "127.0.0.1:0", "PROVISIONER_LOG_FORMAT": "json"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *module,
        env=inherited | own | dict(environ),
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
        limit=2**20,
    )
    return WorkerProcess(process)


@asynccontextmanager
async def worker_process(
    environ: Mapping[str, str], module: Sequence[str] = WORKER, begun: str = "consuming"
) -> AsyncIterator[WorkerProcess]:
    """Yields a worker that consumes, or has logged `begun`; kills it at the end if it still runs."""
    worker = await start(environ, module)
    try:
        await worker.logged(begun)
        yield worker
    finally:
        await worker.kill()
