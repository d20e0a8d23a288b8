"""A real pipeline on ports in memory, with assertions about the outcome.

Pipeline, lanes and actor are the production code. Time passes only when a test advances the clock. Every port
call is recorded in `witness.journal`, and a test can make any call fail or block.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr

from contracts.departments import Kind
from contracts.envelope import STRUCTURED, CloudEvent, Message, read
from contracts.topology import (
    DEAD_LETTER_QUEUE,
    DEPARTMENTS,
    REPLAY,
    RESULTS,
    SECRETS_QUEUE,
    WORK_QUEUE,
    BrokerVersion,
    retry_queue,
    topology,
)
from tests.support.builders import NOW, SALES, AnyDepartmentEvent, AnyEvent
from tests.support.port_tap import PortTap
from worker.adapters.jose.fingerprints import KeyedFingerprints
from worker.adapters.jose.seal import Unsealed
from worker.adapters.memory.broker import MemoryBroker
from worker.adapters.memory.clock import MemoryClock
from worker.adapters.memory.ledger import MemoryLedger
from worker.adapters.memory.locks import InProcessLocks
from worker.adapters.memory.provider import MemoryProvider, StoredSubaccount
from worker.adapters.plivo.status import kind_of
from worker.bootstrap.running import RunningWorker
from worker.bootstrap.wiring import Parts, Ports, Rules, assemble
from worker.core.capabilities import Capabilities
from worker.core.decide import Policy
from worker.core.inventory import ProvidedResource, ResourceKind
from worker.core.judge import CallFault, FaultKind, Operation, RetryPolicy
from worker.core.keeping import PurgeStep
from worker.core.limits import TenantCounts
from worker.core.messages import Outgoing
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.causes import Reference
from worker.core.model.credentials import ANY_RECIPIENT
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold, HoldReason
from worker.core.model.recollection import Recollection
from worker.core.model.wishes import Wish
from worker.core.naming import Names, NameTemplate
from worker.core.presence import WorkerSeen
from worker.operations.emit import inbound
from worker.ports import (
    NOTHING_BESIDE,
    UNBROKEN,
    Beside,
    Call,
    CallFailed,
    Confirmed,
    Delivery,
    Fence,
    Fingerprints,
    NewSubaccount,
    ProvidedSubaccount,
    Sealer,
)
from worker.provider.scan import Orphans
from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.telemetry.events import Telemetry
from worker.telemetry.spans import NO_SPANS, Spans

OWNER = "default"
SETTLE_WINDOW = timedelta(seconds=120)
PREFETCH = 50
RESULTS_QUEUE = "test.results"
TIME_LIMIT = timedelta(days=1)


def fault(operation: Operation, status: int | None = None, *, sent: bool = True, **more: Any) -> CallFailed:
    """The error of a provider call; without a status, the call got no response."""
    detail = f"Plivo answered {status} to {operation}" if status else f"no answer to {operation}"
    return CallFailed(CallFault(operation, kind_of_fault(status, sent=sent), detail, **more))


def kind_of_fault(status: int | None, *, sent: bool = True, own: bool = True) -> FaultKind:
    """Of the status of a response, which is Plivo's `own` or not; None: there was none."""
    if not sent:
        return FaultKind.NOT_SENT
    return FaultKind.NO_ANSWER if status is None else kind_of(status, own=own)


@dataclass(frozen=True)
class WatchedLedger:
    witness: PortTap
    ledger: MemoryLedger

    async def recall(self, department: Department, event: Reference) -> Recollection:
        return await self.witness.see("recall", lambda: self.ledger.recall(department, event))

    async def record(
        self, entry: Entry, answer: Answer | None = None, beside: Beside = NOTHING_BESIDE
    ) -> Entry:
        words = ["record", entry.status, *([answer.outcome] if answer else [])]
        words += ["confirmed"] if answer and answer.confirmed else []
        return await self.witness.see(" ".join(words), lambda: self.ledger.record(entry, answer, beside))

    async def record_answer(self, answer: Answer) -> None:
        words = ["record answer", answer.outcome, *(["confirmed"] if answer.confirmed else [])]
        await self.witness.see(" ".join(words), lambda: self.ledger.record_answer(answer))

    async def unsettled(self, since: datetime) -> int:
        return await self.ledger.unsettled(since)

    async def owing(self) -> int:
        return await self.ledger.owing()

    async def tenant_counts(self, tenant: str, since: Sequence[datetime]) -> TenantCounts:
        return await self.ledger.tenant_counts(tenant, since)

    async def hold(self, hold_id: str) -> Hold | None:
        return await self.ledger.hold(hold_id)

    async def holds(self, department: Department | None = None, *, all_: bool = False) -> Sequence[Hold]:
        return await self.ledger.holds(department, all_=all_)

    async def waiting_holds(self) -> Mapping[HoldReason, int]:
        return await self.ledger.waiting_holds()

    async def announce(self, worker: WorkerSeen) -> None:
        await self.ledger.announce(worker)

    async def leave(self, worker_id: str) -> None:
        await self.ledger.leave(worker_id)

    async def workers(self, within: timedelta) -> Sequence[WorkerSeen]:
        return await self.ledger.workers(within)

    async def count_by_status(self) -> Mapping[Status, int]:
        return await self.ledger.count_by_status()

    async def note_sweep(self, sweep_id: str, finished_at: datetime, report: str) -> None:
        await self.witness.see("note sweep", lambda: self.ledger.note_sweep(sweep_id, finished_at, report))

    async def sweep(self, sweep_id: str) -> str | None:
        return await self.ledger.sweep(sweep_id)

    async def last_sweep_at(self) -> datetime | None:
        return await self.ledger.last_sweep_at()

    async def calls(self, department: Department, limit: int = 50) -> Sequence[CallNote]:
        return await self.ledger.calls(department, limit)

    async def wish(self, *wishes: Wish) -> None:
        await self.ledger.wish(*wishes)

    async def wishes(self) -> Sequence[Wish]:
        return await self.ledger.wishes()

    async def is_open(self, wish_id: str) -> bool:
        return await self.ledger.is_open(wish_id)

    async def close_wish(self, wish_id: str) -> None:
        await self.witness.see("close wish", lambda: self.ledger.close_wish(wish_id))

    async def mark_poison(self, message: str) -> int:
        return await self.witness.see("mark_poison", lambda: self.ledger.mark_poison(message))

    async def clear_poison(self, message: str) -> None:
        await self.witness.see("clear_poison", lambda: self.ledger.clear_poison(message))

    async def bind(self, owner: str, provider_account: str) -> None:
        await self.witness.see("bind", lambda: self.ledger.bind(owner, provider_account))

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        return await self.witness.see("holders", lambda: self.ledger.holders(auth_ids))

    async def caught_up_at(self) -> datetime | None:
        return await self.witness.see("caught up", self.ledger.caught_up_at)

    async def note_caught_up(self, at: datetime | None) -> None:
        await self.witness.see("note caught up", lambda: self.ledger.note_caught_up(at))

    async def note_still_caught_up(self, at: datetime) -> None:
        await self.ledger.note_still_caught_up(at)

    async def sealed_for(self) -> frozenset[str]:
        return await self.ledger.sealed_for()

    async def note_sealed(self, recipient: str) -> None:
        await self.witness.see("note sealed", lambda: self.ledger.note_sealed(recipient))

    async def due(
        self, now: datetime, limit: int, deletable_before: datetime | None = None
    ) -> Sequence[Department]:
        return await self.ledger.due(now, limit, deletable_before)

    async def overdue(self, since: datetime) -> int:
        return await self.ledger.overdue(since)

    async def entries_after(
        self, last: Department | None, limit: int, tenant: str | None = None
    ) -> Sequence[Entry]:
        return await self.ledger.entries_after(last, limit, tenant)

    async def claimed(self) -> Sequence[Entry]:
        return await self.ledger.claimed()

    async def answers(self, department: Department) -> Sequence[Answer]:
        return await self.ledger.answers(department)

    async def answers_to(self, event_id: str) -> Sequence[Answer]:
        return await self.ledger.answers_to(event_id)

    async def purge(self, before: datetime, after: Department | None, limit: int) -> PurgeStep:
        return await self.ledger.purge(before, after, limit)

    async def purged_at(self) -> datetime | None:
        return await self.ledger.purged_at()

    async def note_purge(self, at: datetime) -> None:
        await self.ledger.note_purge(at)


@dataclass(frozen=True)
class WatchedProvider:
    """Records every call except successful probes."""

    witness: PortTap
    provider: MemoryProvider

    @property
    def capabilities(self) -> Capabilities:
        return self.provider.capabilities

    @asynccontextmanager
    async def permit(self, operation: Operation) -> AsyncIterator[Call]:
        async with self.provider.permit(operation):
            yield self

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        return await self.witness.see(
            "create", lambda: self.provider.create(name, idempotency_key, enabled=enabled)
        )

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> Confirmed:
        given = {"name": name, "enabled": enabled}
        words = ["update", *(field for field, value in given.items() if value is not None)]
        return await self.witness.see(
            " ".join(words),
            lambda: self.provider.update(auth_id, idempotency_key, name=name, enabled=enabled),
        )

    async def delete(self, auth_id: str, idempotency_key: str, *, cascade: bool = False) -> Confirmed:
        return await self.witness.see(
            "delete cascade" if cascade else "delete",
            lambda: self.provider.delete(auth_id, idempotency_key, cascade=cascade),
        )

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        return await self.witness.see("get", lambda: self.provider.get(auth_id))

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        return await self.witness.see("list", lambda: self.provider.page(offset))

    async def resources(self, kind: ResourceKind, auth_id: str, offset: int) -> Sequence[ProvidedResource]:
        return await self.witness.see(f"count {kind}", lambda: self.provider.resources(kind, auth_id, offset))

    async def probe(self) -> None:
        await self.witness.see("probe", self.provider.probe)


@dataclass(frozen=True)
class WatchedPublisher:
    witness: PortTap
    broker: MemoryBroker

    async def publish(self, outgoing: Outgoing) -> None:
        exchange = outgoing.exchange.removeprefix("provisioner.")
        await self.witness.see(
            f"publish {exchange} {outgoing.routing_key}", lambda: self.broker.publish(outgoing)
        )


@dataclass(frozen=True)
class WatchedDelivery:
    witness: PortTap
    delivery: Delivery

    @property
    def original(self) -> Outgoing:
        return self.delivery.original

    @property
    def live(self) -> bool:
        return self.delivery.live

    async def ack(self) -> None:
        await self.witness.see("ack", self.delivery.ack)


class NoOrphans(Orphans):
    """Finds no unknown subaccounts, and spares most tests the scan for them."""

    async def tags(self) -> AbstractSet[str]:
        return frozenset()


@dataclass
class World:
    """The parts that survive a worker: clock, ledger, provider and broker. `working` starts a worker."""

    policy: Policy = field(default_factory=Policy)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    clock: MemoryClock = field(default_factory=lambda: MemoryClock(NOW))
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    provider: MemoryProvider = field(default_factory=MemoryProvider)
    broker: MemoryBroker = field(init=False)
    witness: PortTap = field(default_factory=PortTap)
    names: Names = field(default_factory=lambda: Names(OWNER, NameTemplate()))
    orphans: type[Orphans] = NoOrphans
    earlier_deliveries: int = 0
    """The `x-delivery-count` of the messages sent: how often the broker delivered them before."""
    fence: Fence = UNBROKEN
    sealer: Sealer = field(default_factory=Unsealed)
    fingerprints: Fingerprints = field(default_factory=lambda: KeyedFingerprints(SecretStr("main token")))

    def __post_init__(self) -> None:
        self.ledger.now = self.clock.now
        self.broker = MemoryBroker(self.clock.sleep)
        recipients = sorted(self.policy.recipients - {ANY_RECIPIENT})
        self.broker.declare(topology(BrokerVersion(4, 1), self.retry.delays, recipients))
        self.broker.bind(RESULTS, RESULTS_QUEUE, "#")

    @asynccontextmanager
    async def working(self, spans: Spans = NO_SPANS) -> AsyncIterator[RunningWorker]:
        """Runs a worker during the block, and kills it at the end without a drain."""
        telemetry = Telemetry(spans=spans)
        ports = Ports(
            ledger=WatchedLedger(self.witness, self.ledger),
            locks=InProcessLocks(),
            provider=WatchedProvider(self.witness, self.provider),
            publisher=WatchedPublisher(self.witness, self.broker),
            sealer=self.sealer,
            fingerprints=self.fingerprints,
            clock=self.clock,
            fence=self.fence,
        )
        rules = Rules(
            owner=OWNER,
            account="MA1",
            template=self.names.template,
            policy=self.policy,
            retry=self.retry,
            prefetch=PREFETCH,
        )
        worker = assemble(ports, rules, telemetry, asyncio.Event(), Parts(orphans=self.orphans))

        def receive(delivery: Delivery) -> None:
            worker.handler.receive(WatchedDelivery(self.witness, delivery))

        async with self.broker.consumer(WORK_QUEUE, PREFETCH, receive) as consumer:
            controlling = asyncio.create_task(worker.gate.control(consumer))
            watching = asyncio.create_task(worker.ledger_watch.watch_fence())
            try:
                yield RunningWorker(
                    worker=worker,
                    consumer=consumer,
                    ledger=ports.ledger,
                    settings=_settings(),
                    telemetry=telemetry,
                )
            finally:
                controlling.cancel()
                watching.cancel()
                await worker.close()

    async def run_duties(self) -> None:
        """A worker carries out the duties that are due."""
        async with self.working() as running:
            await running.worker.scheduler.file_due()
            await running.worker.lanes.idle()

    async def handle(self, *events: AnyEvent) -> None:
        """A worker completes the waiting messages, then each event in turn, while the clock advances."""
        async with self.working():
            await self.run_until_done()
            for event in events:
                await self.send(event)
                await self.run_until_done()

    async def handle_all(self, *events: AnyEvent) -> None:
        """A worker gets all events at once, and the clock advances until all are completed."""
        async with self.working():
            await self.send(*events)
            await self.run_until_done()

    async def crash_before(self, call: str, *events: AnyEvent) -> None:
        """A worker gets these events, and dies right before its first port call of that kind."""
        reached = asyncio.Event()

        async def stop() -> None:
            reached.set()
            await asyncio.Event().wait()

        self.witness.before(call, stop)
        async with self.working():
            await self.send(*events)
            await reached.wait()

    async def send(self, *events: AnyEvent) -> None:
        for event in events:
            outgoing = inbound(event)
            if self.earlier_deliveries:
                headers = {**outgoing.message.headers, "x-delivery-count": self.earlier_deliveries}
                outgoing = replace(outgoing, message=replace(outgoing.message, headers=headers))
            await self.broker.publish(outgoing)

    async def send_raw(self, body: bytes, content_type: str | None = STRUCTURED, **headers: Any) -> Outgoing:
        """Sends any body, which need not be a department event."""
        outgoing = Outgoing(DEPARTMENTS, "department.created", Message(body, content_type, headers))
        await self.broker.publish(outgoing)
        return outgoing

    async def replay_dead_letters(self) -> None:
        """Publishes all dead letters again with their first body and content type."""
        letters = self.dead_letters()
        self.broker.purge(DEAD_LETTER_QUEUE)
        for letter in letters:
            message = Message(letter.message.body, letter.message.content_type)
            await self.broker.publish(Outgoing(REPLAY, letter.routing_key, message))

    async def done(self) -> None:
        """Waits until all messages are acked, parked ones too; does not advance the clock."""
        await self.broker.emptied(WORK_QUEUE, *map(retry_queue, self.retry.delays))

    async def waits_or_is_done(self) -> None:
        """Returns once a message waits for its next try, or all are acked. Does not advance the clock."""
        done = asyncio.create_task(self.done())
        try:
            await self._asleep_before(done)
        finally:
            done.cancel()

    async def run_until_done(self) -> None:
        """Advances the clock from one sleeper to the next until all messages are acked."""
        begun = self.clock.now()
        done = asyncio.create_task(self.done())
        try:
            while not await self._asleep_before(done):
                if self.clock.sleepers:  # a sleep may have been cut short meanwhile
                    self.clock.advance(self.clock.seconds_to_next())
                assert self.clock.now() < begun + TIME_LIMIT, f"no end: {self.witness.journal[-20:]}"
        finally:
            done.cancel()

    async def _asleep_before(self, done: asyncio.Task[None]) -> bool:
        """Waits until something sleeps or everything is done; True if it is done."""
        asleep = asyncio.create_task(self.clock.asleep())
        await asyncio.wait({asleep, done}, return_when=asyncio.FIRST_COMPLETED)
        asleep.cancel()
        return done.done()

    # Assertions about the outcome

    async def entry(self, department: Department = SALES) -> Entry:
        return (await self.ledger.recall(department, Reference("", "", ""))).entry

    def sent_name(self, name: str, department: Department = SALES, incarnation: int = 1) -> str:
        """The name as sent to the provider: with the tag."""
        return self.names.sent(name, Entry(department, incarnation=incarnation))

    def subaccounts(self, entry: Entry) -> list[StoredSubaccount]:
        """All subaccounts with a tag of the department, of any incarnation."""
        tags = [self.names.tag(Entry(entry.department, incarnation=n + 1)) for n in range(entry.incarnation)]
        return [held for held in self.provider.subaccounts if any(tag in held.name for tag in tags)]

    async def has_one_live_subaccount(self, name: str, department: Department = SALES) -> None:
        entry = await self.entry(department)
        held = [one for one in self.subaccounts(entry) if one.enabled]
        assert [one.auth_id for one in held] == [entry.auth_id], (entry, held)
        assert held[0].name == self.sent_name(name, department, entry.incarnation)
        assert (entry.status, entry.name) == (Status.ACTIVE, name)

    async def has_no_live_subaccount(self, department: Department = SALES) -> None:
        entry = await self.entry(department)
        held = self.subaccounts(entry)
        assert not [one for one in held if one.enabled], (entry, held)

    async def has_state_of(self, newest: AnyDepartmentEvent) -> None:
        """The department agrees with its newest event, and its credentials are published."""
        department = Department(newest.tenant, newest.data.department_id)
        if newest.kind is Kind.REMOVED:
            await self.has_no_live_subaccount(department)
        else:
            await self.has_one_live_subaccount(newest.data.name or "", department)
            await self.has_issued_credentials(department)

    async def has_issued_credentials(self, department: Department = SALES) -> None:
        """The credentials of the recorded subaccount, with its token, are on the secrets queue."""
        entry = await self.entry(department)
        token = next(held.auth_token for held in self.provider.subaccounts if held.auth_id == entry.auth_id)
        issued = {(one.data["auth_id"], one.data["auth_token"]) for one in self.credentials(department)}
        assert (entry.auth_id, token.get_secret_value()) in issued
        assert entry.owed_to == frozenset()

    def credentials(self, department: Department = SALES) -> list[CloudEvent]:
        return [event for event in self.events_in(SECRETS_QUEUE) if _department_of(event) == department]

    def results(self, event: AnyEvent) -> list[CloudEvent]:
        cause = (event.source, event.id)
        results = [result for result in self.events_in(RESULTS_QUEUE) if result.data["event"]]
        return [one for one in results if (one.data["event"]["source"], one.data["event"]["id"]) == cause]

    def unattributed(self) -> list[CloudEvent]:
        """The results of messages whose events cannot be identified."""
        return [result for result in self.events_in(RESULTS_QUEUE) if not result.data["event"]]

    def answered(self, event: AnyEvent, *outcomes: str, times: int | None = 1) -> None:
        """The event has exactly these outcomes, each under one id; `times` publications each, None: any."""
        results = self.results(event)
        assert {one.data["outcome"] for one in results} == set(outcomes), (event.id, results)
        assert len({one.id for one in results}) == len(outcomes)
        assert times is None or len(results) == times * len(outcomes)

    def dead_lettered(self, reason: str) -> Outgoing:
        """Returns the only dead letter, which has this reason."""
        (letter,) = self.dead_letters()
        assert letter.message.headers["x-dead-reason"] == reason
        return letter

    def dead_letters(self) -> list[Outgoing]:
        return self.broker.ready(DEAD_LETTER_QUEUE)

    def has_dead_lettered_nothing(self) -> None:
        assert self.dead_letters() == []

    def has_nothing_to_do(self) -> None:
        assert self.broker.ready(WORK_QUEUE) == []

    def events_in(self, queue: str) -> list[CloudEvent]:
        return [read(outgoing.message) for outgoing in self.broker.ready(queue)]


def _department_of(event: CloudEvent) -> Department:
    return Department(event.data["tenant"], event.data["department_id"])


def _settings() -> WorkerSettings:
    return load(WorkerSettings, {"PLIVO_AUTH_ID": "MA1", "PLIVO_AUTH_TOKEN": "not-used"})
