"""An intake that is stopped or killed again and again, under load: `python -m tests.soak.intake --seed 7`.

Senders post events until each is accepted, as a system with retries does, and a worker carries them out. A
process that gets SIGTERM has to end with exit code 0; the others get SIGKILL. At the end each event that was
accepted has exactly one result, and its department one subaccount. If a rule is broken, the exit code is 1.
"""

import argparse
import asyncio
import json
import random
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from contracts.intake import EVENTS_PATH
from contracts.topology import BrokerVersion, topology
from tests.soak.result_log import ResultLog, result_log
from tests.soak.worker_process import WorkerProcess, start, worker_process
from worker.adapters.amqp import topology as rabbitmq_topology
from worker.adapters.brokers import open_connection
from worker.demo.private_node import private_node
from worker.sandbox import Sandbox, running_sandbox
from worker.settings.load import load
from worker.settings.model import TopologySettings

INTAKE = ("worker", "intake")
SENDERS = 8
TOKEN = "token-of-the-soak"
PAUSE_SECONDS = 0.02
ANSWER_SECONDS = 60


@dataclass
class IntakeSoak:
    """A number of stops and kills, and what the senders saw."""

    amqp_url: str
    folder: Path
    terms: int
    kills: int
    seed: int
    accepted: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    _answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> list[str]:
        """Returns a line for each rule that was broken."""
        async with AsyncExitStack() as stack:
            sandbox = await stack.enter_async_context(running_sandbox(seed=self.seed, rate_limit="off"))
            results = await stack.enter_async_context(
                result_log(
                    load(TopologySettings, {"AMQP_URL": self.amqp_url}), lambda _: self._answered.set()
                )
            )
            await stack.enter_async_context(worker_process(self._of_worker(sandbox)))
            await self._send_all()
            await self._all_answered(results)
            return [*self.wrong, *self._not_once(results, sandbox)]

    async def _send_all(self) -> None:
        """Sends while processes come and go; returns when each event is accepted."""
        environ = self._of_intake()
        port = environ["PROVISIONER_INTAKE"].rpartition(":")[2]
        ended = asyncio.Event()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            senders = [asyncio.create_task(self._send(session, each, ended)) for each in range(SENDERS)]
            await self._end_processes(environ)
            ended.set()
            last = await start(environ, INTAKE)
            try:
                await asyncio.gather(*senders)
            finally:
                await last.stop()

    async def _end_processes(self, environ: Mapping[str, str]) -> None:
        chance = random.Random(self.seed)
        endings = ["term"] * self.terms + ["kill"] * self.kills
        chance.shuffle(endings)
        for ending in endings:
            process = await start(environ, INTAKE)
            await process.logged("intake_accepted", times=chance.randint(1, 40))
            if ending == "kill":
                await process.kill()
            else:
                await self._stop(process)

    async def _stop(self, process: WorkerProcess) -> None:
        code = await process.stop()
        if code != 0 or not process.count("intake_stopped"):
            self.wrong.append(f"SIGTERM ended with {code}: {process.log[-6:]}")

    async def _send(self, session: aiohttp.ClientSession, sender: int, ended: asyncio.Event) -> None:
        """Posts events one after another, each until it is accepted."""
        number = 0
        while not ended.is_set():
            number += 1
            id_ = f"{sender}-{number}"
            while not await self._accepted(session, id_):  # noqa: ASYNC110 - it is a pause between tries
                await asyncio.sleep(PAUSE_SECONDS)
            self.accepted.add(id_)

    async def _accepted(self, session: aiohttp.ClientSession, id_: str) -> bool:
        headers = {"Content-Type": "application/cloudevents+json", "Authorization": f"Bearer {TOKEN}"}
        try:
            async with session.post(EVENTS_PATH, data=event(id_), headers=headers) as response:
                await response.read()
        except (aiohttp.ClientError, ConnectionError):
            self.refused += 1
            return False
        if response.status not in {202, 503}:
            self.wrong.append(f"{id_} was answered {response.status}")
        self.refused += response.status != 202
        return response.status == 202

    async def _all_answered(self, results: ResultLog) -> None:
        """Waits for the results; returns as well when none comes any more."""
        while self.accepted - results.answered:
            self._answered.clear()
            try:
                await asyncio.wait_for(self._answered.wait(), ANSWER_SECONDS)
            except TimeoutError:
                return

    def _not_once(self, results: ResultLog, sandbox: Sandbox) -> Iterator[str]:
        found = Counter(one["data"]["event"]["id"] for one in results.results)
        made = Counter(one.name for one in sandbox.subaccounts())
        for id_ in sorted(self.accepted - found.keys()):
            yield f"{id_} was accepted and is lost"
        for id_, count in found.items():
            if count != 1 or id_ not in self.accepted:
                yield f"{id_} was answered {count} times"
        for name, count in made.items():
            if count != 1:
                yield f"{name} was made {count} times"
        if len(made) != len(self.accepted):
            yield f"{len(made)} subaccounts for {len(self.accepted)} departments"

    def _of_worker(self, sandbox: Sandbox) -> dict[str, str]:
        return {
            "AMQP_URL": self.amqp_url,
            "PLIVO_AUTH_ID": sandbox.auth_id,
            "PLIVO_AUTH_TOKEN": sandbox.auth_token,
            "PLIVO_API_URL": sandbox.url,
            "LEDGER_URL": f"sqlite:///{self.folder / 'ledger.db'}",
            "PROVISIONER_PLAINTEXT_SECRETS": "true",
            "PROVISIONER_RATE_LIMIT": "100000/1s",
        }

    def _of_intake(self) -> dict[str, str]:
        tokens = self.folder / "tokens"
        tokens.write_text(f"soak: {TOKEN}\n")
        tokens.chmod(0o600)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return {
            "AMQP_URL": self.amqp_url,
            "PROVISIONER_INTAKE": f"127.0.0.1:{port}",
            "PROVISIONER_INTAKE_TOKENS": str(tokens),
            "PROVISIONER_INTAKE_RATE": "1000000/1s",
        }


def event(id_: str) -> bytes:
    """A created event of a department with the same id, as JSON."""
    event = {
        "specversion": "1.0",
        "id": id_,
        "source": "/soak",
        "type": "department.created.v1",
        "time": "2026-11-01T08:30:00Z",
        "data": {"department_id": id_, "name": "Sales"},
    }
    return json.dumps(event).encode()


async def declare(url: str) -> None:
    """Makes the topology, as a worker does."""
    async with open_connection([url]) as connection:
        version = BrokerVersion.parse(connection.server_version)
        await rabbitmq_topology.apply(connection, topology(version))


async def soak(terms: int, kills: int, seed: int) -> list[str]:
    """Runs on a private node."""
    with tempfile.TemporaryDirectory() as folder:
        async with private_node() as node:
            run = IntakeSoak(node.url, Path(folder), terms, kills, seed)
            wrong = await run.run()
            sys.stdout.write(
                f"seed {seed}: {terms} SIGTERM, {kills} SIGKILL; {len(run.accepted):,} events accepted,"
                f" {run.refused:,} tries refused or cut off, {len(wrong)} rules broken\n"
            )
            return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.intake", description=__doc__)
    parser.add_argument("--terms", type=int, default=100)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    asked = parser.parse_args(arguments)
    wrong = asyncio.run(soak(asked.terms, asked.kills, asked.seed))
    for line in wrong:
        sys.stdout.write(f"{line}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
