"""A running Prometheus for the tests, and the folder of its programs."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.debian import debian_program

START_SECONDS = 30.0


def prometheus_folder() -> Path:
    """The folder with the programs. Skips the test where there is none; in CI that is a failure."""
    return debian_program("promtool", "prometheus", "bookworm").parent


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    http: aiohttp.ClientSession

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now. Raises `ValueError` if Prometheus refuses it."""
        return await self._ask("query", {"query": expression})

    async def query_range(
        self, expression: str, start: float, end: float, step_seconds: float
    ) -> list[dict[str, Any]]:
        """The series of an expression over a time."""
        times = {"start": str(start), "end": str(end), "step": str(step_seconds)}
        return await self._ask("query_range", {"query": expression, **times})

    async def _ask(self, path: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        async with self.http.get(f"/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise ValueError(f"{parameters['query']}: {answer['error']}")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


@asynccontextmanager
async def running_prometheus(
    folder: Path, targets: Sequence[str], rules: Path | None = None
) -> AsyncIterator[Prometheus]:
    """Scrapes the targets, such as `127.0.0.1:8080`, each second, as the job `provisioner`."""
    program = prometheus_folder() / "prometheus"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [{"job_name": "provisioner", "static_configs": [{"targets": list(targets)}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession(f"http://{address}") as http:
            await _ready(http)
            yield Prometheus(http)
    finally:
        process.terminate()
        await process.wait()


async def _ready(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                async with http.get("/-/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
