"""The processes of a benchmark: start, read output, measure through /proc, stop."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONSUMING = '"consuming"'
START_SECONDS = 30
END_SECONDS = 30
POLL_SECONDS = 0.01


def run_on_the_fastest_loop(work: Coroutine[Any, Any, None]) -> None:
    """Runs on uvloop if it is installed, as the worker's command line does."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        asyncio.run(work)
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner, suppress(KeyboardInterrupt):
        runner.run(work)


async def standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def say(line: str) -> None:
    """Writes a line to the parent process."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class SideEnded(Exception):
    """The process that is measured has ended by itself."""


@dataclass(frozen=True)
class Consuming:
    """A process that consumes from the work queue."""

    pid: int
    started_in_seconds: float

    @property
    def cpu_seconds(self) -> float:
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            raise SideEnded(f"process {self.pid} has ended") from None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_megabytes(self) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise SystemExit(f"no memory figure for process {self.pid}")


@asynccontextmanager
async def consuming(
    command: Sequence[str | Path], log: Path, environ: Mapping[str, str], begun_with: str = CONSUMING
) -> AsyncIterator[Consuming]:
    """Yields once the process logs that it consumes, or `begun_with`; stops it after the block."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=dict(os.environ) | dict(environ), stdout=output, stderr=output
        )
    try:
        async with asyncio.timeout(START_SECONDS):
            while begun_with not in (told := _text(log)):
                if process.returncode is not None:
                    raise SystemExit(told)
                await asyncio.sleep(POLL_SECONDS)
        yield Consuming(process.pid, loop.time() - begun)
    finally:
        await _ended(process)


def _text(log: Path) -> str:
    return log.read_text()


async def _ended(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@dataclass(frozen=True)
class Provider:
    """The sandbox process."""

    url: str
    _process: asyncio.subprocess.Process

    async def calls(self) -> list[tuple[float, int | None]]:
        """Response time and status of each call since the last request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        return [tuple(call) for call in json.loads(await self._process.stdout.readline())]


@asynccontextmanager
async def provider(rate: str = "off", latency_seconds: float = 0) -> AsyncIterator[Provider]:
    """The sandbox in a separate process, so that it does not share the worker's core."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.provider", rate, str(latency_seconds)),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=2**26,
    )
    assert process.stdout is not None
    try:
        yield Provider((await process.stdout.readline()).decode().strip(), process)
    finally:
        process.kill()
        await process.wait()
