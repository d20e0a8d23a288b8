"""The ports: interfaces that the pipeline declares for the outside world. `adapters/` implements them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import NamedTuple, Protocol

from pydantic import SecretStr

from contracts.envelope import Message
from contracts.subaccounts import CredentialsMessage
from contracts.topology import BrokerVersion
from worker.core.capabilities import Capabilities
from worker.core.dead_letters import AuditLine
from worker.core.inventory import ProvidedResource, ResourceKind
from worker.core.judge import CallFault, Operation, told
from worker.core.keeping import PurgeStep, Row, Schema, Table
from worker.core.limits import Admission, TenantCounts
from worker.core.messages import Outgoing
from worker.core.model.answers import Answer
from worker.core.model.calls import CallNote
from worker.core.model.causes import Reference
from worker.core.model.credentials import Fingerprint
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold, HoldReason
from worker.core.model.recollection import Recollection
from worker.core.model.wishes import Wish
from worker.core.presence import WorkerSeen
from worker.core.snapshots import Row as SnapshotRow
from worker.core.snapshots import Said, Standing


class UserError(Exception):
    """An error that a person can correct. Its text has one line per mistake, and no secret.

    `exit_code`: the exit code of a command that ends with it.
    """

    exit_code = 1


class Delivery(Protocol):
    """One delivery of one message. Only `Handler` acks it, at the end of the pipeline."""

    @property
    def original(self) -> Outgoing:
        """The message as it was delivered: exchange, routing key, body, headers, properties."""

    @property
    def live(self) -> bool:
        """False once its connection is gone: the broker will deliver the message again."""

    async def ack(self) -> None:
        """Removes the message from the queue; does nothing for a delivery that is no longer live."""


class PublishFailed(Exception):
    """The broker has not confirmed the message: refused, no confirm in time, or the connection is gone."""


class Unroutable(PublishFailed):
    """The broker has returned the message (`basic.return`): no queue is bound for it."""


class NotTaken(PublishFailed):
    """The broker has refused the message (`basic.nack`), because a queue is full, for example."""


class NoRecipientKey(PublishFailed):
    """There is no usable key to seal for a recipient. Nothing was sent, least of all unsealed."""


class Sealer(Protocol):
    """Encrypts credentials for one recipient."""

    def seal(self, clear: CredentialsMessage, recipient: str) -> Message:
        """The message to send to this recipient; raises `NoRecipientKey`."""


class Publisher(Protocol):
    """Publishes messages with publisher confirms: https://www.rabbitmq.com/docs/confirms."""

    async def publish(self, outgoing: Outgoing) -> None:
        """Returns once the broker has confirmed; raises `PublishFailed`, `Unroutable` or `NotTaken`."""


class Listener(Protocol):
    """Hears what others receive too: it has a queue of its own, and takes no message from anybody."""

    async def next(self) -> Outgoing:
        """The next message, once there is one. Raises a `UserError` once the broker is gone."""


class Consumer(Protocol):
    """Feeds deliveries to the worker, from the start of its `async with` block on."""

    @property
    def consuming(self) -> bool:
        """Whether deliveries arrive; False while paused, stopped, or without a connection."""

    async def pause(self) -> None:
        """Stops deliveries, also over reconnects. Earlier ones can still be acked."""

    async def resume(self) -> None:
        """Starts deliveries again; does nothing after `stop`."""

    async def release(self) -> None:
        """While paused: returns the unacked messages to the queue. Their deliveries are no longer live."""

    async def stop(self) -> None:
        """Pauses for good."""

    async def problems(self) -> list[str]:
        """One line for each reason why no deliveries arrive. Empty when healthy."""


Receive = Callable[[Delivery], None]
Problems = Callable[[], Awaitable[list[str]]]
"""One line for each reason why something does not work. Empty when healthy."""


async def healthy() -> list[str]:
    """The problems of a part that cannot fail: none."""
    return []


@dataclass(frozen=True, slots=True)
class Broker:
    """The worker's broker: it publishes, and `consumer(receive)` passes each delivery to `receive`."""

    publisher: Publisher
    consumer: Callable[[Receive], AbstractAsyncContextManager[Consumer]]
    publisher_problems: Problems = healthy


class Fingerprints(Protocol):
    """Fingerprints of auth tokens, to notice a changed token without storing one."""

    def of(self, auth_id: str, auth_token: SecretStr) -> Fingerprint:
        """The fingerprint of a token, keyed so that a reader of the ledger cannot test guesses."""


@dataclass(frozen=True, slots=True)
class ProvidedSubaccount:
    """A subaccount as the provider shows it. A token that a list does not show, or not readably, is None.

    `created` is `date.max` if the provider gives no date.
    """

    auth_id: str
    name: str
    enabled: bool
    created: date
    auth_token: SecretStr | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewSubaccount:
    """A subaccount that was just created. A missing token may be read later, if the provider can show it.

    `api_id`: the provider's own id of the call, if it named one; `status`: that of the HTTP response.
    """

    auth_id: str
    auth_token: SecretStr | None = field(repr=False)
    api_id: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The provider has confirmed a change or a deletion.

    `api_id`: the provider's own id of the call, if it named one; `status`: that of the HTTP response.
    """

    api_id: str | None = None
    status: int | None = None


class RateLimit(NamedTuple):
    """At most `calls` in every window of this length."""

    calls: int
    window: timedelta


class CallRate(Protocol):
    """A rate limit that may change, such as a worker's share of one. `calls` is that of this moment."""

    @property
    def calls(self) -> int:
        """The most calls in the window that ends now; 0: no call may begin."""

    @property
    def window(self) -> timedelta:
        """The length of the window; it never changes."""


class CallFailed(Exception):
    """A provider call did not succeed; `fault` has the kind of error and its text."""

    def __init__(self, fault: CallFault) -> None:
        super().__init__(told(fault))
        self.fault = fault


class Call(Protocol):
    """A permitted call to the provider: one of these methods, once. It never retries.

    All raise `CallFailed`. Calls that change something carry an idempotency key.
    """

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        """Creates a subaccount with this name."""

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> Confirmed:
        """Sends the given fields and nothing else."""

    async def delete(self, auth_id: str, idempotency_key: str, *, cascade: bool = False) -> Confirmed:
        """Deletes the subaccount. Its numbers, applications and endpoints go to the main account.

        With `cascade` they are deleted too, for good.
        """

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        """Reads the subaccount, with its token if the provider's capabilities say so."""

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        """A page of the list, from `offset` on, in the order the capabilities name; empty past the end."""

    async def resources(self, kind: ResourceKind, auth_id: str, offset: int) -> Sequence[ProvidedResource]:
        """A page of the list of one kind of resource, from `offset` on; empty past the end.

        The provider is asked for those of this subaccount, but others may be among them. It fails if an
        item does not show whose it is.
        """


class Provider(Protocol):
    """The provider of subaccounts. Every call needs a permit.

    `async with provider.permit("create") as call: await call.create(...)`
    """

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of this provider; they never change."""

    def permit(self, operation: Operation) -> AbstractAsyncContextManager[Call]:
        """Waits until concurrency, rate limit and circuit allow one more call, which may then begin at once.

        A permit is for one call of that kind, and held until its end. Raises `CallFailed`.
        """

    async def probe(self) -> None:
        """Makes the cheapest call, ahead of all that wait. Raises `CallFailed` without a response in time."""


class LedgerConflict(Exception):
    """Another worker wrote the entry since it was recalled; nothing was written."""


class LedgerFailed(UserError):
    """The ledger could not be read or written."""


class AuthIdTaken(LedgerFailed):
    """An auth id that the provider gave is on record for another department; nothing was written."""

    def __init__(self, auth_id: str, holder: Department) -> None:
        super().__init__(
            f"Plivo gave an auth id that is on record for department {holder.id} of tenant {holder.tenant}"
            f" ({auth_id}): is this another account, or a sandbox begun anew?"
            " Set PLIVO_AUTH_ID and PLIVO_API_URL to those of this ledger, or LEDGER_URL to a new ledger"
        )
        self.auth_id = auth_id
        self.holder = holder


class LedgerMissing(LedgerFailed):
    """There is no ledger at LEDGER_URL yet, or it is another one."""


class LedgerUnusable(LedgerFailed):
    """There is no ledger at LEDGER_URL, and none can be created."""

    exit_code = 2


class LedgerForeign(UserError):
    """The ledger belongs to another owner, provider account or version."""

    exit_code = 2

    @classmethod
    def of(cls, bound: tuple[str, str], given: tuple[str, str]) -> "LedgerForeign":
        """For a ledger that is bound to one owner and provider account, while others are given."""
        return cls(
            f"the ledger belongs to owner {bound[0]} of provider account {bound[1]},"
            f" and the settings name owner {given[0]} of account {given[1]}: set PROVISIONER_OWNER and"
            " PLIVO_AUTH_ID to the ledger's, or LEDGER_URL to a new ledger"
        )


class LedgerNotEmpty(UserError):
    """The ledger to be filled holds rows already."""


class LedgerTaken(UserError):
    """Another worker works on the ledger, and it is for one at a time."""

    exit_code = 2


class NotAdmitted(Exception):
    """A removal would exceed the limit of its tenant; nothing was written. `counts`: at that moment."""

    def __init__(self, counts: TenantCounts) -> None:
        super().__init__("the removals of the tenant are used up")
        self.counts = counts


@dataclass(frozen=True, slots=True)
class Beside:
    """The facts that become durable together with an entry.

    `answers`: to other events of the department. `holds`: made or changed. `audit`, `calls`: to be appended.
    `admission`: the write is a removal, which the counts of the tenant must allow, in the same transaction.
    """

    answers: tuple[Answer, ...] = ()
    holds: tuple[Hold, ...] = ()
    audit: tuple[AuditLine, ...] = ()
    calls: tuple[CallNote, ...] = ()
    admission: Admission | None = None


NOTHING_BESIDE = Beside()


class Entries(Protocol):
    """One entry for each department, one answer for each event. All raise `LedgerFailed`.

    A write is durable when it returns.
    """

    async def recall(self, department: Department, event: Reference) -> Recollection:
        """The department's entry (`absent` if none is on record) and the answer to this event, if any."""

    async def record(
        self, entry: Entry, answer: Answer | None = None, beside: Beside = NOTHING_BESIDE
    ) -> Entry:
        """Writes all or nothing, and returns the entry with its new revision.

        Raises `LedgerConflict`, `NotAdmitted`, and `AuthIdTaken` for an auth id that is on record for another
        department. A `held` answer may be replaced by another of the same event; of any other answer only the
        confirm changes, or `disabled` becomes `removed`.
        """

    async def record_answer(self, answer: Answer) -> None:
        """Writes an answer that changes no entry. Raises `LedgerConflict` if another payload has one."""


class Duties(Protocol):
    """Departments with due duties. All raise `LedgerFailed`."""

    async def due(
        self, now: datetime, limit: int, deletable_before: datetime | None = None
    ) -> Sequence[Department]:
        """At most `limit` departments with a duty that is due, the longest due first.

        `deletable_before`: those whose grace began by then are due too (`Entry.deletable_since`).
        """

    async def overdue(self, since: datetime) -> int:
        """The number of departments whose debt (credentials or enabling) is older than `since`.

        Late removals that have failed since then count too.
        """

    async def unsettled(self, since: datetime) -> int:
        """The number of departments whose create began before `since` and has no outcome on record."""

    async def owing(self) -> int:
        """The number of active departments whose credentials are owed to a recipient."""

    async def tenant_counts(self, tenant: str, since: Sequence[datetime]) -> TenantCounts:
        """The departments of a tenant now: active, and removed in each window that began at `since`."""


class Holds(Protocol):
    """The removals that are or were held. All raise `LedgerFailed`."""

    async def hold(self, hold_id: str) -> Hold | None:
        """The hold of this id; None if there never was one."""

    async def holds(self, department: Department | None = None, *, all_: bool = False) -> Sequence[Hold]:
        """The open holds, or all, oldest first; of one department if given."""

    async def waiting_holds(self) -> Mapping[HoldReason, int]:
        """The number of waiting holds by reason."""


class Wishes(Protocol):
    """Requests that a person left for the running worker. All raise `LedgerFailed`."""

    async def wish(self, *wishes: Wish) -> None:
        """Leaves wishes for the running worker, all or none."""

    async def wishes(self) -> Sequence[Wish]:
        """The open wishes, oldest first."""

    async def is_open(self, wish_id: str) -> bool:
        """Whether a wish is neither answered nor withdrawn."""

    async def close_wish(self, wish_id: str) -> None:
        """Closes a wish that was answered or withdrawn; its record stays."""


class Presence(Protocol):
    """The workers that run on this ledger. All raise `LedgerFailed`.

    Only the ledger's own clock counts: the clocks of hosts differ. A worker that has announced itself is seen
    by whoever asks after that.
    """

    async def announce(self, worker: WorkerSeen) -> None:
        """Records that this worker runs now, whatever its `seen_at`. It stays on record for a day."""

    async def leave(self, worker_id: str) -> None:
        """Records that this worker has `left` now; does nothing for an unknown one."""

    async def workers(self, within: timedelta) -> Sequence[WorkerSeen]:
        """The workers seen within this time, those that have left among them, by start and id.

        A worker seen in the future, after the clock was set back, counts only within the same time.
        """


class Sweeps(Protocol):
    """The reports of sweeps, as JSON. All raise `LedgerFailed`."""

    async def note_sweep(self, sweep_id: str, finished_at: datetime, report: str) -> None:
        """Records the report of a sweep. Only the newest ten are kept."""

    async def sweep(self, sweep_id: str) -> str | None:
        """The report of this sweep, if it is kept."""

    async def last_sweep_at(self) -> datetime | None:
        """When the last sweep was finished; None if there was none."""


class PoisonMarks(Protocol):
    """Marks of messages that may have killed their workers. All raise `LedgerFailed`."""

    async def mark_poison(self, message: str) -> int:
        """Marks a message, by its digest, before it is worked on. Returns its number of marks."""

    async def clear_poison(self, message: str) -> None:
        """Removes all marks of a message."""


class Register(Protocol):
    """The owner of the ledger, and the subaccounts it knows. All raise `LedgerFailed`."""

    async def bind(self, owner: str, provider_account: str) -> None:
        """Binds a new ledger to this owner and account for good. Raises `LedgerForeign` for any others."""

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        """The department of each of these subaccounts that is on record, by auth id."""

    async def caught_up_at(self) -> datetime | None:
        """Until when the ledger has certainly known every subaccount; None if that is not known.

        A worker repeats it while it runs, so a time long ago may be that of a backup.
        """

    async def note_caught_up(self, at: datetime | None) -> None:
        """Records that the ledger knew every subaccount at this moment; None: that it does not."""

    async def note_still_caught_up(self, at: datetime) -> None:
        """Moves `caught_up_at` on to this moment, unless it is None."""

    async def sealed_for(self) -> frozenset[str]:
        """The recipients that credentials were ever sealed for."""

    async def note_sealed(self, recipient: str) -> None:
        """Records for good that credentials are sealed for this recipient."""


class Reports(Protocol):
    """Queries of the operator's commands. All raise `LedgerFailed`."""

    async def entries_after(
        self, last: Department | None, limit: int, tenant: str | None = None
    ) -> Sequence[Entry]:
        """At most `limit` entries by tenant and id, from the one after `last` on; None: from the first.

        `tenant`: only entries of this one; then `last` is one of them. The whole record is read in such
        parts, so that neither memory nor the events of a worker depend on its size.
        """

    async def claimed(self) -> Sequence[Entry]:
        """The entries with a create under way, by tenant and id: no more than workers have in flight."""

    async def answers(self, department: Department) -> Sequence[Answer]:
        """The answers to the department's events, oldest first."""

    async def answers_to(self, event_id: str) -> Sequence[Answer]:
        """The answers to the events of this id, one for each source, by source."""

    async def count_by_status(self) -> Mapping[Status, int]:
        """The number of departments on record in each status that has any."""

    async def calls(self, department: Department, limit: int = 50) -> Sequence[CallNote]:
        """The last calls for the department, oldest first. Older ones may be forgotten."""


async def every_entry(
    ledger: Reports, tenant: str | None = None, at_once: int = 200
) -> AsyncGenerator[Entry, None]:
    """All entries on record, of one tenant if given, by tenant and id; read `at_once` at a time.

    An entry is the one of the moment at which its part is read.
    """
    last: Department | None = None
    while part := await ledger.entries_after(last, at_once, tenant):
        for entry in part:
            yield entry
        last = part[-1].department


class KeptRows(Protocol):
    """All rows of a ledger at one moment. All raise `LedgerFailed`."""

    async def counts(self) -> Mapping[Table, int]:
        """The number of rows in each table."""

    def batches(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """The rows of a table in their order (`COLUMNS`), many at a time."""


class Filling(KeptRows, Protocol):
    """A ledger that is filled from another one, with the rows it has got so far."""

    async def add(self, table: Table, rows: Sequence[Row]) -> None:
        """Writes rows; they come in the order of `Table` and of `COLUMNS`. Raises `LedgerFailed`.

        So does a row that cannot be read, because it is damaged.
        """


class Keeping(Protocol):
    """Copies and checks of a whole ledger. All raise `LedgerFailed`."""

    def reading(self) -> AbstractAsyncContextManager[KeptRows]:
        """All rows at the moment at which the block begins, whatever is written meanwhile."""

    def filling(self) -> AbstractAsyncContextManager[Filling]:
        """One transaction in an empty ledger: durable at the end of the block, undone if that raises.

        Raises `LedgerNotEmpty` for a ledger that holds more than a binding, and `LedgerForeign` where rows
        are added that bind it to another owner.
        """

    async def schema(self) -> Schema:
        """Which migrations were applied to the ledger; that may be another version's."""

    async def damages(self) -> Sequence[str]:
        """One line for each damage that the database finds in its own files and indexes; slow."""


class Purges(Protocol):
    """Forgets old answers. All raise `LedgerFailed`."""

    async def purge(self, before: datetime, after: Department | None, limit: int) -> PurgeStep:
        """Forgets the answers from before this moment that `purgeable` names; those of some departments.

        Looks at most at `limit` departments, in their order, from the one after `after` on; None: from the
        first. A department that is written meanwhile keeps its answers.
        """

    async def purged_at(self) -> datetime | None:
        """When a worker has last begun to purge; None if none ever has."""

    async def note_purge(self, at: datetime) -> None:
        """Records that a worker begins to purge."""


class SnapshotMoved(Exception):
    """Another snapshot of the source was applied meanwhile; nothing was written."""


class Snapshots(Protocol):
    """The snapshots of sources. All raise `LedgerFailed`. A write is durable when it returns."""

    async def standing(self, source: str) -> Standing | None:
        """The last snapshot of this source that was applied; None if there was none."""

    async def said_after(self, source: str, last: Department | None, limit: int) -> Sequence[Said]:
        """At most `limit` departments by tenant and id, from the one after `last` on; None: the first."""

    async def said(self, source: str, departments: Sequence[Department]) -> Mapping[Department, Said]:
        """The source's rows of these departments."""

    async def others(self, source: str, departments: Sequence[Department]) -> Mapping[Department, str]:
        """Those of these departments that another source says too, with the name of one such source."""

    async def unsent(self, source: str, limit: int) -> Sequence[Said]:
        """At most `limit` departments with an event that the broker has not confirmed."""

    async def begin(self, standing: Standing, revision: int | None) -> None:
        """Records that a snapshot is applied from now on.

        `revision`: that of the standing it was planned on; None: there was none. Raises `SnapshotMoved` for
        any other, unless that snapshot was begun before.
        """

    async def say(self, source: str, digest: str, said: Sequence[Said]) -> None:
        """Records what the snapshot of this plan says. Raises `SnapshotMoved` if another was begun since."""

    async def settle(self, source: str, said: Sequence[Said]) -> None:
        """Records that the broker has confirmed these events, as far as they are still those on record."""

    async def finish(self, source: str, digest: str, missing: Sequence[Department]) -> None:
        """Records that all of the snapshot was sent, and which departments it is without.

        One that was not missing before is so since this snapshot; any other is not missing any more. Raises
        `SnapshotMoved` if another was begun since.
        """


class SnapshotDraft(Protocol):
    """The rows of a list while it is read, on disk: memory does not grow with it."""

    def add(self, rows: Sequence[SnapshotRow]) -> Sequence[tuple[SnapshotRow, int]]:
        """Takes rows. Returns those that contradict an earlier row of their department, with its line.

        Nothing is said of such a department.
        """

    def rows(self) -> Iterator[SnapshotRow]:
        """The rows by tenant and id, without departments that rows contradict each other on."""

    def has(self, department: Department) -> bool:
        """Whether a row names this department."""


class PageRefused(UserError):
    """A page of a list could not be read. The text says why, without a secret."""


class PageReader(Protocol):
    """Reads the pages of a list over HTTP."""

    async def read(self, url: str) -> bytes:
        """The body of the response to GET. Raises `PageRefused`."""


class Ledger(
    Entries, Duties, Holds, Wishes, Presence, Sweeps, PoisonMarks, Register, Reports, Purges, Protocol
):
    """All roles of a ledger; an adapter implements them together."""


class Audit(Protocol):
    """The append-only log of operators' actions. All raise `LedgerFailed`."""

    async def append(self, lines: Sequence[AuditLine]) -> None:
        """Appends all lines or none; durable when it returns."""

    async def lines(
        self,
        since: datetime | None = None,
        by: str | None = None,
        id_: str | None = None,
        department: Department | None = None,
    ) -> Sequence[AuditLine]:
        """The lines that match, oldest first. `id_`: an event id, or a dead letter's fingerprint."""


class DepartmentLocks(Protocol):
    """Mutual exclusion per department, among all workers that share one ledger.

    A lock saves work; safety comes from the entry's revision, which every write checks.
    """

    def hold(self, department: Department) -> AbstractAsyncContextManager[None]:
        """Waits until no other task or worker holds the department. Not reentrant.

        Raises `LedgerFailed` without a connection to the ledger. It interrupts the block, and raises that, if
        the lock is lost.
        """


class Fence(Protocol):
    """Whether this worker's locks still exclude others. Other workers may have them once they do not."""

    def check(self) -> None:
        """Raises `LedgerFailed` unless the ledger has confirmed the locks a moment ago."""

    async def until_lost(self) -> str:
        """Returns the reason once all locks that are held now are lost."""


class Unbroken:
    """The fence of a ledger that has one worker: locks within its process are not lost."""

    def check(self) -> None:
        """See `Fence.check`."""

    async def until_lost(self) -> str:
        """See `Fence.until_lost`. Never returns."""
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never


UNBROKEN = Unbroken()


OnCommit = Callable[[int, float], None]
"""Gets the number of operations in each commit of a ledger, and the seconds that it took."""


def no_note(_operations: int, _seconds: float) -> None:
    """An `OnCommit` that does nothing."""


@dataclass(frozen=True, slots=True)
class OpenedLedger:
    """An open ledger with the audit, the locks, the keeping, the snapshots and the fence of its database.

    `shared`: several workers may run on it at once.
    """

    ledger: Ledger
    audit: Audit
    locks: DepartmentLocks
    keeping: Keeping
    snapshots: Snapshots
    fence: Fence = UNBROKEN
    shared: bool = False


class BrowsedLetter(Protocol):
    """A dead letter, held while the queue is browsed. No other consumer has it meanwhile."""

    @property
    def original(self) -> Outgoing:
        """The message as it lies in the queue."""

    @property
    def returns(self) -> int:
        """The number of earlier returns to the queue, by the broker's count."""


class QueueTaken(UserError):
    """Another reader holds the dead letters."""


class TooManyReturns(UserError):
    """One more return to the queue might lose a dead letter. Ends the browsing at once."""


class Browse(Protocol):
    """One pass over the dead letters, oldest first. Letters not removed return to their places at its end."""

    broker: BrokerVersion

    def batches(self, most: int) -> AsyncIterator[Sequence[BrowsedLetter]]:
        """The oldest letter alone, then up to `most` at a time, to the end of the queue.

        No more are held than necessary: finish with a batch before asking for the next.
        """

    async def remove(self, letters: Sequence[BrowsedLetter]) -> None:
        """Removes letters of the newest batch from the queue."""


class DeadLetterQueue(Protocol):
    """The dead-letter queue, as operators browse it."""

    def browse(self, *, waits: bool = True) -> AbstractAsyncContextManager[Browse]:
        """Begins a pass; there is one at a time. Raises `QueueTaken`, at once unless it `waits`."""

    async def is_unlimited(self) -> bool:
        """Whether the queue certainly has no delivery limit; False if that is unknown."""


class Clock(Protocol):
    """Time and randomness."""

    def now(self) -> datetime:
        """The wall-clock time, with its zone."""

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back. Its zero is arbitrary."""

    def jitter(self) -> float:
        """A random number in [0, 1)."""

    async def sleep(self, seconds: float) -> None:
        """Suspends the task for this long."""
