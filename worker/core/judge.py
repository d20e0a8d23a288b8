"""Judge: decides what follows a failure. Fault -> failure -> verdict.

An adapter reports a *fault*: the call, and the kind of error. `classify` makes a *failure* of it: what is
known of the call's effect. `judge` makes a *verdict* of failure, retry state, retry policy and jitter:

    Permanent     the same request gets the same response      dead letter
    Transient     nothing happened, or repeating is safe       wait in the lane, park, dead-letter `exhausted`
    Unknown       it may have happened, or may happen yet      a change: as Transient. A create: wait, no cost
    Missing       404 for a subaccount on record               wait, until it counts as gone (`gone.py`)
    Unavailable   account, Plivo, broker or ledger fails       pause, no cost, however long

The rule behind the table: a message pays only for failures of its own. Waits spend the retry budget; when the
budget is spent the message is parked, and one attempt is counted. So an attempt is a stay in the lane, not a
try, and the number of attempts tells how long the department failed. An outage spends nothing and
dead-letters nothing.

A create differs from every other call: it is the only one that is not safe to repeat. A response counts as a
refusal only if Plivo surely read the request and did nothing; everything else leaves the create unknown. All
other calls set a state. Repeating one is harmless, but one without a clear response may be carried out late
(see `conclude.py`).

A refusal counts only if the provider itself wrote it: adapters report the page of a gateway, proxy or filter
as `UNEXPECTED`. Even then the circuit breaker's probe decides: while probes fail too, no refusal is one
message's fault. 401 and 402 concern the account, never one department. Backoff has full jitter, so that
messages that failed together do not come back together, and is never 0.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Literal

from contracts.subaccounts import DeadReason, ResultCode
from contracts.topology import DEFAULT_RETRY_DELAYS
from worker.core.model.replace import replace

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
GONE_MARGIN = 0.1
"""Seconds by which the last look for a missing subaccount follows the end of its settle window."""

Operation = Literal["create", "update", "delete", "get", "list", "count"]
"""The kinds of calls. `list` is for all departments; `count` reads the resources of one subaccount."""


class FaultKind(StrEnum):
    """Why a provider call did not succeed. Each adapter maps its own statuses and errors to these, once."""

    NOT_SENT = "not-sent"
    """No byte of the request has left."""
    NO_ANSWER = "no-answer"
    """The request may have arrived; there is no response, or none that can be read."""
    REJECTED = "rejected"
    """The request itself is wrong: the same request gets the same response."""
    LOGIN_REFUSED = "login-refused"
    NO_CREDIT = "no-credit"
    FORBIDDEN = "forbidden"
    """Refused to the account, or to this one call; the response does not say which."""
    NOT_FOUND = "not-found"
    TIMED_OUT = "timed-out"
    """The provider says that it took too long: the call may be carried out."""
    CONFLICT = "conflict"
    """The provider is busy with such a call, perhaps with this one."""
    RATE_LIMITED = "rate-limited"
    SERVER_ERROR = "server-error"
    UNEXPECTED = "unexpected"
    """A response that the provider did not write (a gateway, proxy or filter did), or does not document."""
    TOKEN_LOST = "token-lost"  # noqa: S105 - a kind, not a token
    """The auth token was shown once, and no worker has it any more."""


# A create that met one of these did not happen.
_NOT_CREATED = frozenset(
    {
        FaultKind.NOT_SENT,
        FaultKind.REJECTED,
        FaultKind.LOGIN_REFUSED,
        FaultKind.FORBIDDEN,
        FaultKind.NOT_FOUND,
        FaultKind.RATE_LIMITED,
    }
)
# A change that met one of these may be carried out, now or later.
_IN_DOUBT = frozenset(
    {
        FaultKind.NO_ANSWER,
        FaultKind.TIMED_OUT,
        FaultKind.CONFLICT,
        FaultKind.SERVER_ERROR,
        FaultKind.UNEXPECTED,
    }
)
# The account is refused every call. FORBIDDEN may concern one department's call.
_LOGIN_OR_CREDIT = frozenset({FaultKind.LOGIN_REFUSED, FaultKind.NO_CREDIT})


@dataclass(frozen=True, slots=True)
class CallFault:
    """A provider call that did not succeed, as the adapter saw it.

    `outage`: the provider, or our account there, was found unusable for every department. `api_id`: the
    provider's own id of the call, which its support asks for. `status`: the HTTP status of its response, if
    there was one.
    """

    operation: Operation
    kind: FaultKind
    detail: str
    retry_after_seconds: float | None = None
    took_seconds: float = 0.0
    outage: bool = False
    api_id: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfCall:
    """`api_id` and `status`: those of the call that failed, if there was one."""

    api_id: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Transient(_OfCall):
    """Nothing happened, or it is safe to repeat; trying again may help."""

    detail: str
    retry_after_seconds: float | None = None
    took_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Unavailable(_OfCall):
    """Nothing happened, and the message is not at fault: a service is unavailable or asks for time."""

    detail: str
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown(_OfCall):
    """It may have happened, or may still happen: there was no response, or none that can be read.

    `scan_in_seconds`: when to look for the effect; None if the call may simply be repeated.
    `outage`: no department got a response, so it costs the message nothing.
    """

    detail: str
    scan_in_seconds: float | None = None
    took_seconds: float = 0.0
    outage: bool = False


@dataclass(frozen=True, slots=True)
class Missing(_OfCall):
    """The provider does not find a subaccount on record. Its reads may lag, so the call is repeated.

    `gone_in_seconds`: when it counts as gone; None if that is not known.
    """

    detail: str
    took_seconds: float = 0.0
    gone_in_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Permanent(_OfCall):
    """Another try gets the same response. `code`: that of the result, if it is not the reason."""

    reason: DeadReason
    detail: str
    code: ResultCode | None = None


Failure = Transient | Unavailable | Unknown | Missing | Permanent


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits for a failing message.

    `budget`: the time it may wait in its lane before it is parked.
    `delays`: how long it is parked, by attempt; `attempts`: the maximum number of stays in the lane.
    """

    budget: timedelta = timedelta(seconds=60)
    delays: Sequence[timedelta] = DEFAULT_RETRY_DELAYS
    attempts: int = 8


@dataclass(frozen=True)
class RetryState:
    """A message's tries in its lane since it was delivered.

    `attempts` counts the times it was parked before, `pauses` the tries that cost nothing.
    """

    attempts: int = 0
    tries: int = 0
    spent_seconds: float = 0.0
    pauses: int = 0

    def tried(self) -> "RetryState":
        """The state once one more try begins."""
        return replace(self, tries=self.tries + 1)

    def paused(self) -> "RetryState":
        """The state after a pause: the last try is not counted, since the message was not at fault."""
        return replace(self, tries=self.tries - 1, pauses=self.pauses + 1)

    def spent(self, seconds: float) -> "RetryState":
        """The state after a wait that cost `seconds` of the budget."""
        return replace(self, spent_seconds=self.spent_seconds + seconds)


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do: the event is answered, or its delivery was parked or dead-lettered."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again in the department's lane after `seconds`. `cost_seconds` are taken off the budget."""

    seconds: float
    cost_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Try again after `seconds`, or once the outage is over. A pause costs nothing."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Park:
    """Park the message in the broker for `delay`; `attempts` is the count that it carries."""

    delay: timedelta
    attempts: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Move the message to the dead-letter queue, for this reason.

    `code`: that of the `failed` result beside it, if it is not the reason.
    """

    reason: DeadReason
    detail: str
    code: ResultCode | None = None


Verdict = Done | Wait | Pause | Park | DeadLetter


def classify(fault: CallFault) -> Failure:
    """The failure that a fault stands for. All calls but a create set a state, so repeating them is safe.

    A call without a clear response may still be carried out late, over a newer call. A list call belongs to
    no department, so its failure costs no message anything. A count that fails is repeated: it
    never means that the subaccount is gone, or has no resources.
    """
    return dataclasses.replace(_classified(fault), api_id=fault.api_id, status=fault.status)


def told(failed: CallFault | Failure) -> str:
    """The detail with the provider's id of the call. It differs from call to call."""
    return f"{failed.detail} (Plivo api_id {failed.api_id})" if failed.api_id else failed.detail


def _classified(fault: CallFault) -> Failure:
    shared = fault.outage or fault.operation == "list" or fault.kind in _LOGIN_OR_CREDIT
    if _may_have_happened(fault):
        return Unknown(fault.detail, took_seconds=fault.took_seconds, outage=shared)
    if shared or fault.kind is FaultKind.RATE_LIMITED:
        return Unavailable(fault.detail, fault.retry_after_seconds)
    if fault.kind is FaultKind.NOT_FOUND and fault.operation in {"update", "get"}:
        return Missing(fault.detail, fault.took_seconds)
    if fault.kind is FaultKind.TOKEN_LOST or fault.kind in _final(fault.operation):
        return Permanent(DeadReason.REJECTED, fault.detail)
    return Transient(fault.detail, fault.retry_after_seconds, fault.took_seconds)


def blames_request(fault: CallFault) -> bool:
    """Whether the provider refuses this request, or knows no such subaccount.

    That counts only while a probe passes. A list request is always the same, so its refusal is no
    department's fault. 404 for a create or a list means that the account is not found: neither names a
    subaccount.
    """
    match fault.kind:
        case FaultKind.REJECTED:
            return fault.operation != "list"
        case FaultKind.NOT_FOUND:
            return fault.operation not in {"create", "list"}
    return False


def suggests_outage(fault: CallFault) -> bool:
    """Whether every department may meet this fault: account, provider or network may be at fault."""
    harmless = fault.kind in {FaultKind.RATE_LIMITED, FaultKind.TOKEN_LOST}
    return not harmless and not blames_request(fault)


def judge(
    failure: Failure, state: RetryState, policy: RetryPolicy, jitter: float
) -> Wait | Pause | Park | DeadLetter:
    """The verdict on the message. `state` counts the failed try; `jitter` lies in [0, 1)."""
    backoff = _backoff_seconds(state.tries, jitter)
    pause = _backoff_seconds(state.pauses + 1, jitter)
    match failure:
        case Permanent(reason, _, code):
            return DeadLetter(reason, told(failure), code)
        case Unavailable(_, retry_after_seconds):
            return Pause(max(retry_after_seconds or 0.0, pause))
        case Missing(_, _, gone_in_seconds):
            return Wait(backoff if gone_in_seconds is None else min(backoff, gone_in_seconds + GONE_MARGIN))
        case Unknown(_, float(scan_in_seconds)):
            return Wait(scan_in_seconds)
        case Unknown(outage=True):
            return Pause(pause)
        case Unknown(_, _, took):
            return _again(backoff, took, told(failure), state, policy)
        case Transient(_, retry_after_seconds, took):
            return _again(max(retry_after_seconds or 0.0, backoff), took, told(failure), state, policy)


def parking_delay(seconds: float, delays: Sequence[timedelta]) -> timedelta:
    """The delay to park a message instead of a wait: the longest within `seconds`, or the shortest."""
    ordered = sorted(delays)
    return max((delay for delay in ordered if delay.total_seconds() <= seconds), default=ordered[0])


def _again(
    seconds: float, took: float, detail: str, state: RetryState, policy: RetryPolicy
) -> Wait | Park | DeadLetter:
    cost = took + seconds
    if state.spent_seconds + cost <= policy.budget.total_seconds():
        return Wait(seconds, cost)
    attempts = state.attempts + 1
    if attempts >= policy.attempts:
        return DeadLetter(DeadReason.EXHAUSTED, f"given up after {attempts} attempts: {detail}")
    return Park(policy.delays[min(attempts, len(policy.delays)) - 1], attempts)


def _may_have_happened(fault: CallFault) -> bool:
    if fault.operation in {"get", "list", "count"}:
        return False
    if fault.operation == "create":
        return fault.kind not in _NOT_CREATED
    return fault.kind in _IN_DOUBT


def _final(operation: Operation) -> frozenset[FaultKind]:
    """The kinds that end an event. A delete that finds nothing never gets here: it is a success."""
    match operation:
        case "get" | "list" | "count":
            return frozenset()
        case "create":
            return frozenset({FaultKind.REJECTED})
        case "update" | "delete":
            return frozenset({FaultKind.REJECTED, FaultKind.NOT_FOUND})


def _backoff_seconds(tries: int, jitter: float) -> float:
    """Full jitter spreads messages that failed together. Never 0, so as not to spin."""
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(tries - 1, 10))
    return longest * (0.1 + 0.9 * jitter)
