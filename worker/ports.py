"""What the line needs of the world. Declared here by their user, implemented in `adapters/`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
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
from worker.core.judge import CallFault, Operation
from worker.core.messages import Outgoing
from worker.core.model import Answer, Department, Entry, Fingerprint, Recollection, Reference, Wish


class UserError(Exception):
    """An error that a person can correct: one line for each mistake, and no secret in it.

    `exit_code` is that of a command which it ends.
    """

    exit_code = 1


class Delivery(Protocol):
    """One message, delivered once. Nothing but the pipeline's end of a delivery acks."""

    @property
    def original(self) -> Outgoing:
        """The message as it came: exchange, routing key, body, headers, properties."""

    @property
    def live(self) -> bool:
        """False once the connection it came on is gone: the broker will deliver the message again."""

    async def ack(self) -> None:
        """Takes the message off the queue; on a delivery no longer live, does nothing."""


class PublishFailed(Exception):
    """The broker has not confirmed: refused, no answer in time, or the connection is gone."""


class Unroutable(PublishFailed):
    """The broker has returned the message: nobody is bound for it."""


class NotTaken(PublishFailed):
    """The broker has refused the message: a queue that it goes to is full, say."""


class NoRecipientKey(PublishFailed):
    """There is no usable key to seal for a recipient. Nothing was sent, least of all unsealed."""


class Sealer(Protocol):
    def seal(self, clear: CredentialsMessage, recipient: str) -> Message:
        """The credentials as this recipient is to get them; raises `NoRecipientKey`."""


class Publisher(Protocol):
    async def publish(self, outgoing: Outgoing) -> None:
        """Returns once the broker has confirmed; raises `PublishFailed`, `Unroutable` or `NotTaken`."""


class Consumer(Protocol):
    """Feeds deliveries to the worker. It begins when its block is entered."""

    @property
    def consuming(self) -> bool:
        """Whether deliveries come; False while paused, stopped, or without a connection."""

    async def pause(self) -> None:
        """No more deliveries come once it returns; those taken can still be acked. Lasts over reconnects."""

    async def resume(self) -> None:
        """Takes deliveries again; after `stop`, does nothing."""

    async def release(self) -> None:
        """While paused: returns the unacked messages to the queue. Their deliveries are no longer live."""

    async def stop(self) -> None:
        """Pauses for good."""

    async def problems(self) -> list[str]:
        """Why no deliveries come, a line for each reason; empty while they do."""


Receive = Callable[[Delivery], None]
Problems = Callable[[], Awaitable[list[str]]]
"""A line for each reason why something does not work; empty while it does."""


async def healthy() -> list[str]:
    """The problems of something that cannot fail."""
    return []


@dataclass(frozen=True, slots=True)
class Broker:
    """The broker as the worker needs it: where results go, and how deliveries come."""

    publisher: Publisher
    consumer: Callable[[Receive], AbstractAsyncContextManager[Consumer]]
    publisher_problems: Problems = healthy


class Fingerprints(Protocol):
    def of(self, auth_id: str, auth_token: SecretStr) -> Fingerprint:
        """By a key of its own: whoever has the ledger can neither read nor try out a token."""


@dataclass(frozen=True, slots=True)
class ProvidedSubaccount:
    """A subaccount as the provider shows it; in a list perhaps without its token.

    `created` is `date.max` where the provider tells no date.
    """

    auth_id: str
    name: str
    enabled: bool
    created: date
    auth_token: SecretStr | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewSubaccount:
    """A subaccount that was just created. A token that is missing may be read later, if the provider can."""

    auth_id: str
    auth_token: SecretStr | None = field(repr=False)


class RateLimit(NamedTuple):
    """At most `calls` in every window of this length."""

    calls: int
    window: timedelta


class CallFailed(Exception):
    """A provider call did not succeed; `fault` says why, and what is known of its effect."""

    def __init__(self, fault: CallFault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


class Call(Protocol):
    """A permitted call to the provider: one of these methods, once. Nothing is retried in it.

    All raise `CallFailed`. What changes something carries an idempotency key.
    """

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        """Makes a subaccount of this name."""

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> None:
        """Sends the given fields and nothing else."""

    async def delete(self, auth_id: str, idempotency_key: str) -> None:
        """Deletes it; numbers, applications and endpoints go to the main account."""

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        """Shows it as it is now, with its token where the provider's capabilities say so."""

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        """A page of the list, from `offset` on, in the order the capabilities name; empty past the end."""


class Provider(Protocol):
    """Where subaccounts are. Calls are made with a permit and in no other way.

    `async with provider.permit("create") as call: await call.create(...)`
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this provider can do; the same for as long as it lives."""

    def permit(self, operation: Operation) -> AbstractAsyncContextManager[Call]:
        """Entered once concurrency, rate limit and circuit allow one more call: it may begin at once then.

        It is for one call of that kind, and kept until its end. Raises `CallFailed`.
        """

    async def probe(self) -> None:
        """Returns if the provider responds to us in time: its cheapest call, ahead of all that wait.

        Raises `CallFailed`.
        """


class LedgerConflict(Exception):
    """The entry was written by somebody else since it was recalled: nothing was written now."""


class LedgerFailed(UserError):
    """The ledger could not be read or written."""


class LedgerUnusable(LedgerFailed):
    """Where LEDGER_URL says there is no ledger, and none can be made."""

    exit_code = 2


class LedgerForeign(UserError):
    """The ledger is not for this deployment: another owner's, another account's, another version's."""

    exit_code = 2


class Entries(Protocol):
    """One entry for each department, one answer for each event. All raise `LedgerFailed`.

    A write is durable when it returns.
    """

    async def recall(self, department: Department, event: Reference) -> Recollection:
        """The department's entry (absent, if none is on record) and the answer to this event, if any."""

    async def record(self, entry: Entry, answer: Answer | None = None) -> Entry:
        """Writes both or neither, and returns the entry with its new revision; raises `LedgerConflict`."""


class Duties(Protocol):
    """Which departments have something due. All raise `LedgerFailed`."""

    async def due(self, now: datetime, limit: int) -> Sequence[Department]:
        """At most `limit` departments with a duty that is due, the longest due first."""

    async def overdue(self, since: datetime) -> int:
        """How many departments have owed credentials, or enabling, since before that time."""


class Wishes(Protocol):
    """Requests that a person left for the running worker. All raise `LedgerFailed`."""

    async def wish(self, wish: Wish) -> None:
        """Leaves it for the running worker."""

    async def wishes(self, since: datetime) -> Sequence[Wish]:
        """Those asked since then and not closed, oldest first."""

    async def close_wish(self, wish_id: str) -> None:
        """It was answered or withdrawn; the record that it was asked stays."""


class PoisonMarks(Protocol):
    """Marks of messages that may have killed their workers. All raise `LedgerFailed`."""

    async def mark_poison(self, message: str) -> int:
        """Marks a message, by its fingerprint, before it is worked on; returns its number of marks now."""

    async def clear_poison(self, message: str) -> None:
        """Removes all marks of a message."""


class Register(Protocol):
    """Whose the ledger is, and which subaccounts it knows. All raise `LedgerFailed`."""

    async def bind(self, owner: str, provider_account: str) -> None:
        """At its first start a ledger belongs to these two for good; raises `LedgerForeign` for others."""

    async def holders(self, auth_ids: Sequence[str]) -> Mapping[str, Department]:
        """Whose these subaccounts are, as far as they are on record."""

    async def caught_up(self) -> bool:
        """Whether it knew all there was at the provider when the whole list was last read; at first not."""

    async def note_caught_up(self, *, caught_up: bool) -> None:
        """Records the outcome of reading the whole list."""


class Reports(Protocol):
    """What people and commands read. All raise `LedgerFailed`."""

    async def entries(self, tenant: str | None = None) -> Sequence[Entry]:
        """All departments on record, by tenant and id."""

    async def answers(self, department: Department) -> Sequence[Answer]:
        """The answers to the department's events, oldest first."""


class Ledger(Entries, Duties, Wishes, PoisonMarks, Register, Reports, Protocol):
    """All roles of a ledger, as an adapter implements them."""


class Audit(Protocol):
    """What operators did. Append-only. Raises `LedgerFailed`."""

    async def append(self, lines: Sequence[AuditLine]) -> None:
        """Appends all lines or none; durable when it returns."""

    async def lines(
        self, since: datetime | None = None, by: str | None = None, id_: str | None = None
    ) -> Sequence[AuditLine]:
        """The lines, oldest first; `id_` is that of an event, or a dead letter's fingerprint."""


class DepartmentLocks(Protocol):
    """Mutual exclusion per department, among all workers that share one ledger.

    A lock saves work; safety comes from the entry's revision, which every write checks.
    """

    def hold(self, department: Department) -> AbstractAsyncContextManager[None]:
        """Waits until nobody else holds the department. Not reentrant."""


@dataclass(frozen=True, slots=True)
class OpenedLedger:
    """A ledger with what belongs to it."""

    ledger: Ledger
    audit: Audit
    locks: DepartmentLocks


class BrowsedLetter(Protocol):
    """A dead letter held by a look, and by nobody else meanwhile."""

    @property
    def original(self) -> Outgoing:
        """The message as it lies there."""

    @property
    def returns(self) -> int:
        """How often it was given back before, by the broker's count."""


class QueueTaken(UserError):
    """Somebody else holds the dead letters."""


class TooManyReturns(UserError):
    """Being given back once more might be the end of a dead letter. Raised in a look it ends that at once."""


class Browse(Protocol):
    """Dead letters, oldest first. What is not removed goes back to its place when the look ends."""

    broker: BrokerVersion

    def batches(self, most: int) -> AsyncIterator[Sequence[BrowsedLetter]]:
        """The oldest alone, then up to `most` at a time, to the end of the queue.

        No more is held than it takes: be done with a batch, removed or kept, before asking for the next.
        """

    async def remove(self, letters: Sequence[BrowsedLetter]) -> None:
        """Of the newest batch."""


class DeadLetterQueue(Protocol):
    def browse(self) -> AbstractAsyncContextManager[Browse]:
        """One at a time; raises `QueueTaken`."""

    async def is_unlimited(self) -> bool:
        """Whether the queue certainly gives back without limit; False where that cannot be told."""


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall-clock time, with zone."""

    def monotonic(self) -> float:
        """Seconds that nobody can set back."""

    def jitter(self) -> float:
        """A random number in [0, 1)."""

    async def sleep(self, seconds: float) -> None: ...
