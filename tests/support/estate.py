"""Departments of a real system as its neighbours see them: events, answers, credentials and commands."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from contracts import topology as names
from tests.soak.worker_process import WorkerProcess, worker_process
from tests.support.commands import CommandOutput, in_process
from tests.support.real import Listener, RealSystem
from worker.sandbox import Subaccount
from worker.sandbox.journal import Entry

SOURCE = "/test/hr"


@dataclass
class Estate:
    """The events of departments in the order in which they are sent, and what comes of them."""

    system: RealSystem
    results: Listener = field(default_factory=Listener)
    secrets: Listener = field(default_factory=Listener)
    began: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(hours=1))
    _sent: int = 0

    @asynccontextmanager
    async def worker(self, **settings: str) -> AsyncIterator[WorkerProcess]:
        """`provisioner run` with these settings beside the system's, which stay after it."""
        self.system.environ |= {f"PROVISIONER_{name}": value for name, value in settings.items()}
        async with worker_process(self.system.environ) as running:
            if not self.results.messages and not self.secrets.messages:
                self.results = await self.system.listen(names.RESULTS)
                self.secrets = await self.system.listen(names.SECRETS)
            yield running

    def event(self, kind: str, department: str, tenant: str = "default", **data: Any) -> dict[str, Any]:
        """An event newer than all before; without a name, that of the department is its id."""
        self._sent = number = self._sent + 1
        named = {} if kind == "removed" else {"name": department.title()}
        return {
            "specversion": "1.0",
            "id": f"{kind}-{department}-{number}",
            "source": SOURCE,
            "type": f"department.{kind}.v1",
            "time": (self.began + timedelta(seconds=number)).isoformat(),
            "tenant": tenant,
            "data": {"department_id": department} | named | data,
        }

    async def send(self, event: dict[str, Any]) -> str:
        """Publishes it; returns its id."""
        await self.system.send(json.dumps(event).encode(), event["type"].removesuffix(".v1"))
        event_id: str = event["id"]
        return event_id

    async def say(self, kind: str, department: str, tenant: str = "default", **data: Any) -> str:
        """Publishes a new event; returns its id."""
        return await self.send(self.event(kind, department, tenant, **data))

    async def create(self, tenant: str, *departments: str) -> list[str]:
        """Creates them; returns their auth ids."""
        sent = [await self.say("created", one, tenant) for one in departments]
        return [(await self.answer(one))["data"]["auth_id"] for one in sent]

    async def answer(self, event_id: str, outcome: str | None = None) -> dict[str, Any]:
        """The first result of an event, or the one with this outcome."""
        await self.results.until(lambda _: bool(self.answers(event_id, outcome)))
        return self.answers(event_id, outcome)[0]

    async def outcome(self, event_id: str) -> tuple[str, str]:
        """Outcome and code of the first result of an event."""
        data = (await self.answer(event_id))["data"]
        return data["outcome"], data["code"]

    def answers(self, event_id: str, outcome: str | None = None) -> list[dict[str, Any]]:
        """The different results of an event so far; one that is published again counts once."""
        found = {
            one["id"]: one
            for one in self.results.documents
            if one.get("causationid") == event_id and outcome in {None, one["data"]["outcome"]}
        }
        return list(found.values())

    def outcomes(self, event_id: str) -> list[str]:
        """The outcomes of an event so far, in order."""
        return [one["data"]["outcome"] for one in self.answers(event_id)]

    def credentials(self, department: str) -> list[dict[str, Any]]:
        """The credentials messages of a department, in order."""
        return [one for one in self.secrets.documents if one["subject"] == department]

    async def command(self, *arguments: str) -> CommandOutput:
        """Runs a command with the system's settings."""
        return await in_process(self.system.environ, *arguments)

    async def shown(self, department: str, tenant: str = "default") -> dict[str, Any]:
        """`departments show --json`."""
        shown: dict[str, Any] = (
            await self.command("departments", "show", department, "--tenant", tenant, "--json")
        ).json
        return shown

    async def holds(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """`holds list --json` by department id; the newest hold of each."""
        listed = (await self.command("holds", "list", "--json", *arguments)).json
        return {one["department_id"]: one for one in listed}

    async def until_held(self, department: str, reason: str, within_seconds: float = 20) -> dict[str, Any]:
        """The waiting hold of a department, once there is one of this reason."""
        limit = time.monotonic() + within_seconds
        while time.monotonic() < limit:
            hold = (await self.holds()).get(department)
            if hold is not None and hold["reason"] == reason:
                return hold
            await asyncio.sleep(0.1)  # another process makes it
        raise AssertionError(f"{department} is not held for {reason}: {await self.holds('--all')}")

    def at_plivo(self, auth_id: str) -> Subaccount | None:
        """The subaccount as the sandbox has it."""
        return next((one for one in self.system.sandbox.subaccounts() if one.auth_id == auth_id), None)

    def deletions(self, auth_id: str) -> list[Entry]:
        """The DELETE calls for a subaccount."""
        calls = self.system.sandbox.calls("delete_subaccount")
        return [one for one in calls if auth_id in one.path]
