"""The conformance suite of every provider.

They are: memory, also behind the circuit breaker; simulated; and Plivo's API as served by the sandbox, under
its usual assumptions and under others.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol

import pytest
from pydantic import SecretStr

from tests.simulation.chance import PROFILES, Chance
from tests.simulation.history import History
from tests.simulation.process import Process
from tests.simulation.provider import ProviderServer, Resource, SimulatedProvider
from tests.support import one_call
from worker.adapters.memory.provider import MemoryProvider, StoredResource
from worker.adapters.plivo.client import PlivoAccount, plivo_provider
from worker.adapters.system import SystemClock
from worker.core.inventory import NOTHING, Counts, ResourceKind, owned_by
from worker.core.judge import FaultKind, Transient, Unavailable, classify, told
from worker.flow.gate import Gate
from worker.flow.waiting import WaitingRoom
from worker.ports import CallFailed, NewSubaccount, ProvidedSubaccount, Provider, RateLimit
from worker.provider.circuit import Circuit
from worker.provider.inventories import Inventories
from worker.provider.pages import MAX_PAGE_TRIES, PageReader
from worker.sandbox import Assumptions, Rule, Sandbox, fault, running_sandbox
from worker.sandbox.records import Application, Endpoint, Number
from worker.settings.rotation import Rotating
from worker.telemetry.events import Telemetry

UNKNOWN = "SAZZZZZZZZZZZZZZZZZZ"
OPERATIONS = {
    **{f"{name}_subaccount": name for name in ("create", "update", "delete", "get")},
    "list_subaccounts": "list",
}
"""The sandbox's names of the worker's operations; all other calls of the worker are counts."""


class Bench(Protocol):
    """A provider, and the calls that its server received."""

    @property
    def provider(self) -> Provider: ...

    def keys(self) -> list[tuple[str, str | None]]:
        """The operation and the idempotency key of each call so far."""

    def shown(self) -> Sequence[ProvidedSubaccount]:
        """The existing subaccounts, newest first."""

    def seed(self, kind: ResourceKind, id_: str, owner: str | None) -> None:
        """Gives a resource to a subaccount, or to the main account (None)."""

    def owners(self, kind: ResourceKind) -> Mapping[str, str | None]:
        """The owner of each existing resource of a kind."""


@dataclass(frozen=True)
class MemoryBench:
    provider: Provider
    memory: MemoryProvider

    def keys(self) -> list[tuple[str, str | None]]:
        return [(operation, key) for operation, _, key in self.memory.calls]

    def shown(self) -> Sequence[ProvidedSubaccount]:
        return [
            ProvidedSubaccount(held.auth_id, held.name, held.enabled, held.created, held.auth_token)
            for held in self.memory.subaccounts
        ]

    def seed(self, kind: ResourceKind, id_: str, owner: str | None) -> None:
        self.memory.owned.append(StoredResource(kind, id_, owner))

    def owners(self, kind: ResourceKind) -> Mapping[str, str | None]:
        return {one.id: one.sub_account for one in self.memory.owned if one.kind is kind}


@dataclass(frozen=True)
class PlivoBench:
    provider: Provider
    sandbox: Sandbox

    def keys(self) -> list[tuple[str, str | None]]:
        return [
            (OPERATIONS.get(entry.operation or "", "count"), entry.headers.get("Idempotency-Key"))
            for entry in self.sandbox.requests
        ]

    def shown(self) -> Sequence[ProvidedSubaccount]:
        return [
            ProvidedSubaccount(
                found.auth_id,
                found.name,
                found.enabled,
                date.fromisoformat(found.created),
                SecretStr(found.auth_token),
            )
            for found in self.sandbox.subaccounts()
        ]

    def seed(self, kind: ResourceKind, id_: str, owner: str | None) -> None:
        record: Number | Application | Endpoint
        match kind:
            case ResourceKind.NUMBERS:
                record = Number(id_, "local", owner, None, None, "2026-11-21")
            case ResourceKind.APPLICATIONS:
                settings = {"default_number_app": False}
                record = Application(id_, "app", owner, tuple(settings.items()))
            case ResourceKind.ENDPOINTS:
                record = Endpoint(id_, "user", "alias", owner, None)
        self.sandbox.service.state.put(record)

    def owners(self, kind: ResourceKind) -> Mapping[str, str | None]:
        state = self.sandbox.service.state
        match kind:
            case ResourceKind.NUMBERS:
                return {one.number: one.sub_account for one in state.numbers}
            case ResourceKind.APPLICATIONS:
                return {one.app_id: one.sub_account for one in state.applications}
            case ResourceKind.ENDPOINTS:
                return {one.endpoint_id: one.sub_account for one in state.endpoints}


@asynccontextmanager
async def plivo_bench(**assumptions: Any) -> AsyncIterator[PlivoBench]:
    async with running_sandbox(rate_limit="off", assumptions=Assumptions(**assumptions)) as sandbox:
        account = PlivoAccount(
            url=sandbox.url,
            auth_id=sandbox.auth_id,
            auth_token=Rotating(SecretStr(sandbox.auth_token)),
            timeout=timedelta(seconds=30),
            concurrency=10,
            rate=RateLimit(10_000, timedelta(seconds=1)),
        )
        async with plivo_provider(account, SystemClock(), asyncio.Event()) as provider:
            yield PlivoBench(provider, sandbox)


@dataclass(frozen=True)
class SimulatedBench:
    """The provider of the simulation, without its faults."""

    provider: Provider
    server: ProviderServer

    def keys(self) -> list[tuple[str, str | None]]:
        return list(self.server.keys)

    def shown(self) -> Sequence[ProvidedSubaccount]:
        return [self.server.get(one.auth_id) for one in self.server.subaccounts]

    def seed(self, kind: ResourceKind, id_: str, owner: str | None) -> None:
        self.server.resources.append(Resource(kind, id_, owner))

    def owners(self, kind: ResourceKind) -> Mapping[str, str | None]:
        return {one.id: one.sub_account for one in self.server.resources if one.kind is kind}


def simulated_bench() -> SimulatedBench:
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    chance = Chance(PROFILES["calm"], 0)
    server = ProviderServer(loop, chance, History(loop.time), clock.now, page_size=20)
    server.subaccounts.clear()  # subaccounts of others
    return SimulatedBench(SimulatedProvider(server, Process(loop)), server)


@asynccontextmanager
async def circuit_bench() -> AsyncIterator[Bench]:
    clock, telemetry, memory = SystemClock(), Telemetry(), MemoryProvider()
    waiting = WaitingRoom(clock, 10)
    circuit = Circuit(memory, Gate(clock, telemetry, waiting), waiting, clock, telemetry)
    yield MemoryBench(circuit, memory)
    await circuit.close()


OTHER_ASSUMPTIONS = {
    "subaccount_filter": "ignored",
    "sub_account_form": "uri",
    "cascade_in": "query",
    "string_booleans": "refused",
}


@pytest.fixture(params=["memory", "circuit", "simulated", "plivo", "another plivo"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    match request.param:
        case "memory":
            yield MemoryBench(memory := MemoryProvider(), memory)
        case "simulated":
            yield simulated_bench()
        case "circuit":
            async with circuit_bench() as running:
                yield running
        case _:
            async with plivo_bench(**OTHER_ASSUMPTIONS if request.param != "plivo" else {}) as served:
                yield served


def token_of(made: NewSubaccount) -> str:
    assert made.auth_token is not None
    return made.auth_token.get_secret_value()


async def test_a_created_subaccount_is_enabled_and_has_credentials(bench):
    made = await one_call.create(bench.provider, "Sales [TAG]", "key-1")
    assert re.fullmatch(r"SA[A-Z0-9]{18}", made.auth_id)
    assert token_of(made)
    (shown,) = bench.shown()
    assert (shown.auth_id, shown.name, shown.enabled) == (made.auth_id, "Sales [TAG]", True)
    assert shown.auth_token == made.auth_token


async def test_a_subaccount_can_be_created_disabled(bench):
    made = await one_call.create(bench.provider, "Sales [TAG]", "key-1", enabled=False)
    assert [(shown.auth_id, shown.enabled) for shown in bench.shown()] == [(made.auth_id, False)]


async def test_each_subaccount_has_its_own_id_and_token(bench):
    made = [await one_call.create(bench.provider, "Sales", f"key-{number}") for number in range(3)]
    assert len({one.auth_id for one in made}) == 3
    assert len({token_of(one) for one in made}) == 3


async def test_any_name_is_stored(bench):
    name = 'Ärzte & Söhne "🏥" \\ 日本 [0123456789]'
    made = await one_call.create(bench.provider, name, "key-1")
    assert (await one_call.get(bench.provider, made.auth_id)).name == name


async def test_get_returns_the_complete_subaccount(bench):
    made = await one_call.create(bench.provider, "Sales", "key-1")
    assert await one_call.get(bench.provider, made.auth_id) == bench.shown()[0]


async def test_name_and_enabled_can_change_separately(bench):
    made = await one_call.create(bench.provider, "Sales", "key-1")
    await one_call.update(bench.provider, made.auth_id, "key-2", name="Marketing")
    assert names_and_states(bench) == [("Marketing", True)]
    await one_call.update(bench.provider, made.auth_id, "key-3", enabled=False)
    assert names_and_states(bench) == [("Marketing", False)]
    await one_call.update(bench.provider, made.auth_id, "key-4", name="Sales")
    assert names_and_states(bench) == [("Sales", False)]


async def test_name_and_enabled_can_change_in_one_call(bench):
    made = await one_call.create(bench.provider, "Sales", "key-1")
    await one_call.update(bench.provider, made.auth_id, "key-2", enabled=False)
    await one_call.update(bench.provider, made.auth_id, "key-3", name="Marketing", enabled=True)
    assert names_and_states(bench) == [("Marketing", True)]


async def test_a_change_keeps_id_and_token(bench):
    made = await one_call.create(bench.provider, "Sales", "key-1")
    await one_call.update(bench.provider, made.auth_id, "key-2", name="Marketing", enabled=False)
    seen = await one_call.get(bench.provider, made.auth_id)
    assert (seen.auth_id, seen.auth_token) == (made.auth_id, made.auth_token)


async def test_a_deleted_subaccount_is_gone(bench):
    made = await one_call.create(bench.provider, "Sales", "key-1")
    await one_call.delete(bench.provider, made.auth_id, "key-2")
    assert bench.shown() == []
    with pytest.raises(CallFailed) as failure:
        await one_call.get(bench.provider, made.auth_id)
    assert failure.value.fault.kind is FaultKind.NOT_FOUND


@pytest.mark.parametrize("operation", ["update", "delete", "get"])
async def test_an_unknown_subaccount_is_not_found(bench, operation):
    calls = {
        "update": lambda: one_call.update(bench.provider, UNKNOWN, "key-1", name="Sales"),
        "delete": lambda: one_call.delete(bench.provider, UNKNOWN, "key-1"),
        "get": lambda: one_call.get(bench.provider, UNKNOWN),
    }
    with pytest.raises(CallFailed) as failure:
        await calls[operation]()
    fault = failure.value.fault
    assert (fault.operation, fault.kind) == (operation, FaultKind.NOT_FOUND)
    assert told(fault).splitlines() == [str(failure.value)]


async def test_pages_hold_twenty_subaccounts_newest_first(bench):
    made = [
        await one_call.create(bench.provider, f"Department {number}", f"key-{number}") for number in range(45)
    ]
    newest_first = [one.auth_id for one in reversed(made)]
    for offset in (0, 19, 20, 39, 40, 44):
        page = await one_call.page(bench.provider, offset)
        assert [one.auth_id for one in page] == newest_first[offset : offset + 20]
    assert await one_call.page(bench.provider, 0) == bench.shown()[:20]


async def test_a_page_past_the_end_is_empty(bench):
    assert list(await one_call.page(bench.provider, 0)) == []
    await one_call.create(bench.provider, "Sales", "key-1")
    assert list(await one_call.page(bench.provider, 1)) == []
    assert list(await one_call.page(bench.provider, 1000)) == []


async def ours(bench: Bench, kind: ResourceKind, auth_id: str, offset: int = 0) -> list[str]:
    return owned_by(auth_id, await one_call.resources(bench.provider, kind, auth_id, offset))


every_kind = pytest.mark.parametrize("kind", ResourceKind)


@every_kind
async def test_the_resources_of_a_subaccount_are_listed_by_kind(bench, kind):
    made, other = [await one_call.create(bench.provider, name, name) for name in ("Sales", "Other")]
    for each in ResourceKind:
        bench.seed(each, f"1 {each}", made.auth_id)
        bench.seed(each, f"2 {each}", other.auth_id)
        bench.seed(each, f"3 {each}", None)
    assert await ours(bench, kind, made.auth_id) == [f"1 {kind}"]
    assert await ours(bench, kind, other.auth_id) == [f"2 {kind}"]


@every_kind
async def test_resources_come_in_pages_of_twenty(bench, kind):
    made = await one_call.create(bench.provider, "Sales", "key-1")
    assert list(await one_call.resources(bench.provider, kind, made.auth_id)) == []
    ids = [f"{number:02d}" for number in range(45)]
    for one in ids:
        bench.seed(kind, one, made.auth_id)
    pages = [await ours(bench, kind, made.auth_id, offset) for offset in (0, 20, 40, 44, 45, 1000)]
    assert [len(page) for page in pages] == [20, 20, 5, 1, 0, 0]
    assert sorted(pages[0] + pages[1] + pages[2]) == ids
    assert pages[3] == pages[2][-1:]


async def test_the_inventory_of_a_subaccount_is_complete(bench):
    made, other = [await one_call.create(bench.provider, name, name) for name in ("Sales", "Other")]
    for number in range(45):
        bench.seed(ResourceKind.NUMBERS, f"{number:02d}", (made, other)[number % 2].auth_id)
    bench.seed(ResourceKind.ENDPOINTS, "endpoint", made.auth_id)
    inventory = await inventories(bench).of(made.auth_id)
    assert sorted(inventory.numbers) == [f"{number:02d}" for number in range(0, 45, 2)]
    assert inventory.counts == Counts(numbers=23, applications=0, endpoints=1)
    assert await inventories(bench).of(UNKNOWN) == NOTHING


class HastyClock(SystemClock):
    """The waits before a page is tried again take no time."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.0))


def inventories(bench: Bench) -> Inventories:
    return Inventories(bench.provider, PageReader(HastyClock(), asyncio.Event()))


@pytest.mark.parametrize("cascade", [False, True])
async def test_a_deletion_moves_the_resources_or_with_cascade_deletes_them(bench, cascade):
    made, other = [await one_call.create(bench.provider, name, name) for name in ("Sales", "Other")]
    for kind in ResourceKind:
        for owner in (made.auth_id, other.auth_id, None):
            bench.seed(kind, f"of {owner}", owner)
    await one_call.delete(bench.provider, made.auth_id, "key-3", cascade=cascade)
    kept = {f"of {other.auth_id}": other.auth_id, "of None": None}
    moved = {} if cascade else {f"of {made.auth_id}": None}
    for kind in ResourceKind:
        assert bench.owners(kind) == kept | moved
    assert [one.auth_id for one in bench.shown()] == [other.auth_id]


async def test_only_changes_have_an_idempotency_key(bench):
    made = await one_call.create(bench.provider, "Sales", "key-1")
    await one_call.update(bench.provider, made.auth_id, "key-2", name="Marketing")
    await one_call.get(bench.provider, made.auth_id)
    await one_call.page(bench.provider, 0)
    for kind in ResourceKind:
        await one_call.resources(bench.provider, kind, made.auth_id)
    await one_call.delete(bench.provider, made.auth_id, "key-3")
    assert bench.keys() == [
        ("create", "key-1"),
        ("update", "key-2"),
        ("get", None),
        ("list", None),
        *[("count", None)] * 3,
        ("delete", "key-3"),
    ]


async def test_no_repr_shows_a_token(bench):
    made = await one_call.create(bench.provider, "Sales", "key-1")
    seen = await one_call.get(bench.provider, made.auth_id)
    page = await one_call.page(bench.provider, 0)
    token = token_of(made)
    assert token not in f"{made!r} {seen!r} {page!r} {made} {seen} {page}"


async def counting_fails(bench: Bench, auth_id: str) -> FaultKind:
    with pytest.raises(CallFailed) as failure:
        await inventories(bench).of(auth_id)
    fault = failure.value.fault
    assert fault.operation == "count"
    assert isinstance(classify(fault), Transient | Unavailable)
    return fault.kind


@pytest.mark.parametrize("place", [0, 1, 5, 19, 20, 30, 44])
@pytest.mark.parametrize("others", [20, 44])
async def test_a_filter_on_each_page_is_noticed_wherever_a_resource_is(place, others):
    """Else a subaccount whose numbers are on a later page would look empty."""
    async with plivo_bench(subaccount_filter="page") as bench:
        made = await one_call.create(bench.provider, "Sales", "key")
        for number in range(others + 1):
            owner = made.auth_id if number == min(place, others) else None
            bench.seed(ResourceKind.NUMBERS, f"{number:02d}", owner)
        assert await counting_fails(bench, made.auth_id) is FaultKind.UNEXPECTED


@pytest.mark.parametrize(("answer", "kind"), [("400", FaultKind.REJECTED), ("error", FaultKind.NO_ANSWER)])
async def test_an_unknown_subaccount_has_no_inventory_if_plivo_refuses_its_lists(answer, kind):
    async with plivo_bench(unknown_filter=answer) as bench:
        assert await counting_fails(bench, UNKNOWN) is kind


@pytest.mark.parametrize("name", ["error", "html", "half-json", "cut-off", "lost-answer", "unauthorized"])
@every_kind
async def test_a_list_of_resources_that_plivo_fails_to_send_is_no_inventory(kind, name):
    async with plivo_bench() as bench:
        made = await one_call.create(bench.provider, "Sales", "key")
        rule = Rule(f"list_{kind}", fault(name), times=MAX_PAGE_TRIES)
        bench.sandbox.set_rules(rule)
        await counting_fails(bench, made.auth_id)
        assert [entry.fault for entry in bench.sandbox.calls(f"list_{kind}")] == [name] * MAX_PAGE_TRIES


async def test_what_moves_late_is_counted_until_it_has_moved():
    async with plivo_bench(resources_lag_seconds=60) as bench:
        made = await one_call.create(bench.provider, "Sales", "key")
        bench.seed(ResourceKind.NUMBERS, "1", made.auth_id)
        await one_call.delete(bench.provider, made.auth_id, "key-2")
        assert (await inventories(bench).of(made.auth_id)).numbers == ("1",)
        bench.sandbox.advance(timedelta(seconds=60))
        assert await inventories(bench).of(made.auth_id) == NOTHING


async def test_plivo_gets_only_the_changed_fields():
    """A rename must not enable a disabled subaccount, and enabling must not rename."""
    async with plivo_bench() as bench:
        made = await one_call.create(bench.provider, "Sales", "key-1")
        await one_call.update(bench.provider, made.auth_id, "key-2", name="Marketing")
        await one_call.update(bench.provider, made.auth_id, "key-3", enabled=False)
        await one_call.update(bench.provider, made.auth_id, "key-4", name="Sales", enabled=True)
        await one_call.delete(bench.provider, made.auth_id, "key-5")
        assert [(entry.method, entry.body) for entry in bench.sandbox.requests] == [
            ("POST", {"name": "Sales", "enabled": True}),
            ("POST", {"name": "Marketing"}),
            ("POST", {"enabled": False}),
            ("POST", {"name": "Sales", "enabled": True}),
            ("DELETE", {}),
        ]


def names_and_states(bench: Bench) -> list[tuple[str, bool]]:
    return [(one.name, one.enabled) for one in bench.shown()]
