"""A gateway before the provider refuses everything for a while: that is no message's fault."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from contracts import topology as names
from tests.support.gateway import Gateway, Refusal, gateway
from tests.support.real import EVENT, Listener, RealSystem
from worker.bootstrap.running import running_worker
from worker.service.probes import Probes, serving
from worker.settings.parse import Address
from worker.telemetry.events import Telemetry

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(120)]

CREATES = 100
CONCURRENCY = 50
HASTY = {
    "PROVISIONER_SETTLE_WINDOW": "1s",
    "PROVISIONER_API_TIMEOUT": "500ms",
    "PROVISIONER_RETRY_BUDGET": "300ms",
    "PROVISIONER_RETRY_DELAYS": "500ms",
    "PROVISIONER_MAX_ATTEMPTS": "3",
}
OWN = json.dumps({"api_id": "1", "error": "bad request"})
# One of each kind; `tests/pipeline/test_circuit.py` and `tests/conformance/test_plivo.py` have all statuses.
REFUSED_CREATES = [Refusal(400), Refusal(400, OWN, "application/json"), Refusal(451), Refusal(200)]
REFUSED_RENAMES = [Refusal(407), Refusal(405), Refusal(404, OWN, "application/json")]


def event(kind: str, department: str, sequence: int | None = 1, **more: Any) -> bytes:
    told = {"department_id": department, "name": f"{kind} {department}"}
    own: dict[str, Any] = {"id": f"{department}-{kind}", "type": f"department.{kind}.v1", "data": told}
    own |= {} if sequence is None else {"sequence": sequence}
    return json.dumps(EVENT | own | more).encode()


class Probed:
    """A worker behind a gateway, with its probes."""

    def __init__(self, system: RealSystem, way: Gateway, http: aiohttp.ClientSession, url: str) -> None:
        self.system, self.way, self.http, self.url = system, way, http, url
        self.results = Listener()
        self.dead = Listener()

    async def ready(self) -> list[str] | None:
        """None if it is ready, else why not."""
        async with self.http.get(f"{self.url}/readyz") as answer:
            wrong = (await answer.json())["wrong"]
            return wrong if answer.status == 503 else None

    async def until_ready(self) -> None:
        async with asyncio.timeout(30):
            while await self.ready() is not None:  # noqa: ASYNC110 - the worker has no event for it
                await asyncio.sleep(0.02)

    async def until_wrong(self, words: str) -> str:
        """The reason of /readyz that has these words."""
        async with asyncio.timeout(30):
            while True:
                for line in await self.ready() or []:
                    if words in line:
                        return line
                await asyncio.sleep(0.02)

    def outcomes(self) -> dict[str, str]:
        """The newest outcome of each event, by its id."""
        return {one["data"]["event"]["id"]: one["data"]["outcome"] for one in self.results.documents}

    async def answered(self, kind: str, departments: int) -> None:
        """All departments got their result of this kind, and none `failed`."""
        ids = {f"d{number}-{kind}" for number in range(departments)}
        await self.results.until(lambda _: ids <= self.outcomes().keys())
        assert {self.outcomes()[one] for one in ids} == {kind}
        assert self.dead.messages == []


@asynccontextmanager
async def behind_a_gateway(system: RealSystem, refusal: Refusal | None = None) -> AsyncIterator[Probed]:
    system.environ |= HASTY
    async with gateway(system.sandbox.url) as way, aiohttp.ClientSession() as http:
        way.refusal = refusal
        system.environ["PLIVO_API_URL"] = way.url
        telemetry = Telemetry()
        probes = Probes(telemetry, system.settings.signing_key_path)
        async with (
            serving(probes, Address("127.0.0.1", 0)) as address,
            running_worker(system.settings, telemetry) as running,
        ):
            probed = Probed(system, way, http, f"http://127.0.0.1:{address.port}")
            probed.results = await system.listen(names.RESULTS)
            probed.dead = await system.listen(names.DEAD_LETTERS)
            with probes.watching(running):
                yield probed
                assert await running.drain()


def told(refusal: Refusal) -> str:
    return "Plivo" if refusal.status == 200 else f"Plivo answered {refusal.status}"


@pytest.mark.parametrize("refusal", REFUSED_CREATES, ids=lambda one: f"{one.status} {one.content_type}")
async def test_a_gateway_that_refuses_everything_only_delays_creates(system: RealSystem, refusal: Refusal):
    async with behind_a_gateway(system) as probed:
        await probed.until_ready()
        await system.send(event("created", "d0"))
        await probed.answered("created", 1)
        probed.way.refusal = refusal
        for number in range(1, CREATES):
            await system.send(event("created", f"d{number}"))
        reason = await probed.until_wrong("circuit open: ")
        assert told(refusal) in reason
        assert probed.way.refused["POST"] <= CONCURRENCY
        await asyncio.sleep(1)  # longer than the retry budget
        assert await probed.ready() is not None
        probed.way.refusal = None
        await probed.answered("created", CREATES)
        await probed.until_ready()
        assert len(system.sandbox.subaccounts()) == CREATES


@pytest.mark.parametrize("refusal", REFUSED_RENAMES, ids=lambda one: f"{one.status} {one.content_type}")
async def test_a_gateway_that_refuses_everything_only_delays_renames(system: RealSystem, refusal: Refusal):
    """By default a message would be given up after some hours."""
    async with behind_a_gateway(system) as probed:
        for number in range(3):
            await system.send(event("created", f"d{number}"))
        await probed.answered("created", 3)
        probed.way.refusal = refusal
        for number in range(3):
            await system.send(event("renamed", f"d{number}", 2))
        assert told(refusal) in await probed.until_wrong("circuit open: ")
        await asyncio.sleep(3)  # longer than three attempts
        assert await probed.ready() is not None
        probed.way.refusal = None
        await probed.answered("renamed", 3)
        await probed.until_ready()


@pytest.mark.parametrize("refusal", [Refusal(400), Refusal(401, OWN, "application/json")], ids=str)
async def test_a_worker_that_is_refused_from_the_start_is_never_ready(system: RealSystem, refusal: Refusal):
    async with behind_a_gateway(system, refusal) as probed:
        assert told(refusal) in await probed.until_wrong("circuit open: ")  # before any event
        await system.send(event("created", "d0"))
        for _ in range(20):
            assert await probed.ready() is not None
            await asyncio.sleep(0.1)
        probed.way.refusal = None
        await probed.answered("created", 1)
        await probed.until_ready()


async def test_a_list_that_fails_while_probes_pass_makes_a_new_ledger_not_ready(system: RealSystem):
    """It must be read before the first create."""
    async with behind_a_gateway(system) as probed:
        probed.way.refusal = Refusal(500, only="limit=20")
        await system.send(event("created", "d0"))
        assert "to list" in await probed.until_wrong("circuit open: ")
        probed.way.refusal = None
        await probed.answered("created", 1)
        await probed.until_ready()


async def test_a_refusal_of_one_department_stays_its_own(system: RealSystem):
    """The probe passes: its message is rejected, and the others go on."""
    async with behind_a_gateway(system) as probed:
        await probed.until_ready()
        probed.way.refusal = Refusal(400, OWN, "application/json", only="POST")
        await system.send(event("created", "d0"))
        await probed.dead.count(1)
        assert probed.dead.messages[0].headers["x-dead-reason"] == "rejected"
        assert await probed.ready() is None
        probed.way.refusal = None
        await system.send(event("created", "d1"))
        await probed.results.until(lambda heard: len(heard.messages) == 2)


async def test_a_long_retry_after_makes_it_not_ready_until_it_has_run_out(system: RealSystem):
    async with behind_a_gateway(system) as probed:
        await probed.until_ready()
        limited = json.dumps({"api_id": "1", "error": "too many requests"})
        probed.way.refusal = Refusal(429, limited, "application/json", retry_after=8)
        await system.send(event("created", "d0"))
        reason = await probed.until_wrong("wants no call before")
        assert "Plivo answered 429 to" in reason
        asked = probed.way.refused.total()
        probed.way.refusal = None
        begun = asyncio.get_running_loop().time()
        await probed.until_ready()
        assert asyncio.get_running_loop().time() - begun > 6
        assert asked == 1
        await probed.answered("created", 1)


def ahead(minutes: float) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()


@pytest.mark.parametrize("minutes", [11, -11])
async def test_a_wrong_clock_dead_letters_nothing(system: RealSystem, minutes: float):
    async with behind_a_gateway(system) as probed:
        await probed.until_ready()
        probed.way.dated = timedelta(minutes=minutes)
        await system.send(event("created", "d1"))  # its call shows the other clock
        reason = await probed.until_wrong("the worker's clock is ")
        assert re.search(r" 6(5[89]|6[01]) s " + ("behind" if minutes > 0 else "ahead"), reason)
        await system.send(event("created", "d0", None, time=ahead(10.05)))
        await asyncio.sleep(5)
        assert probed.dead.messages == []
        probed.way.dated = timedelta(0)
        await probed.answered("created", 2)
        await probed.until_ready()


async def test_an_event_ahead_of_a_right_clock_is_invalid(system: RealSystem):
    for dated in (timedelta(0), None):
        async with behind_a_gateway(system) as probed:
            probed.way.dated = dated
            await system.send(event("created", f"d-{dated}", None, time=ahead(60)))
            await probed.dead.count(1)
            assert probed.dead.messages[0].headers["x-dead-reason"] == "invalid"
            await probed.until_ready()
