"""What becomes of a step that failed: a failure, the stay so far and a jitter make a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from contracts.subaccounts import DeadReason
from contracts.topology import DEFAULT_RETRY_DELAYS

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0

Operation = Literal["create", "update", "delete", "get", "list"]

# What Plivo read and refused: a create it answered with one of these did not happen.
_REFUSED_CREATE = frozenset({400, 401, 403, 404, 405, 422, 429})
# Answers that leave it open whether the call is carried out.
_IN_DOUBT = frozenset({408, 409})
_SERVER_ERROR = 500
_TOO_MANY_REQUESTS = 429
# The request itself is wrong: sending it again gets the same answer.
_WRONG_REQUEST = frozenset({400, 404, 405, 422})
# It is the account that is refused, whatever is asked for: the login, or for want of credit. What 403 refuses
# may be one department's call.
_LOGIN_OR_CREDIT = frozenset({401, 402})
_ACCOUNT_REFUSED = _LOGIN_OR_CREDIT | {403}
_NOT_FOUND = 404
_TIMED_OUT = 408
_REDIRECTS = range(300, 400)


@dataclass(frozen=True, slots=True)
class CallFault:
    """A provider call that did not succeed, as the adapter saw it.

    `sent`: a byte of the request may have left. `status`: of the answer, where one could be read.
    `outage`: the provider, or our account there, was found unusable for everybody.
    """

    operation: Operation
    detail: str
    sent: bool = True
    status: int | None = None
    retry_after_seconds: float | None = None
    took_seconds: float = 0.0
    outage: bool = False


@dataclass(frozen=True, slots=True)
class Transient:
    """Nothing happened, or it is safe to repeat; trying again may help."""

    detail: str
    retry_after_seconds: float | None = None
    took_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nothing happened, and it is not this message's trouble: somebody it needs is away, or asks for time."""

    detail: str
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have happened, or happen yet: no answer, or none that can be read.

    `look_in_seconds`: when it is worth asking again; None where nothing speaks against trying again.
    `outage`: nobody got an answer, so this one is not held against the message.
    """

    detail: str
    look_in_seconds: float | None = None
    took_seconds: float = 0.0
    outage: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """What is on record is not to be found at the provider. Its lists and answers may lag: so not at once."""

    detail: str
    took_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Permanent:
    """Trying again gets the same answer."""

    reason: DeadReason
    detail: str


Failure = Transient | Unavailable | Unknown | Missing | Permanent


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a message that fails may wait in its lane, for how long it is parked then, and how often."""

    budget: timedelta = timedelta(seconds=60)
    delays: Sequence[timedelta] = DEFAULT_RETRY_DELAYS
    attempts: int = 8
    settle_window: timedelta = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class Stay:
    """A message's time in its lane. `attempts` counts the stays that ended in parking before this one."""

    attempts: int = 0
    tries: int = 0
    spent_seconds: float = 0.0
    pauses: int = 0

    def tried(self) -> "Stay":
        return replace(self, tries=self.tries + 1)

    def paused(self) -> "Stay":
        """The try is not counted: what failed then was nobody's fault here."""
        return replace(self, tries=self.tries - 1, pauses=self.pauses + 1)

    def spent(self, seconds: float) -> "Stay":
        return replace(self, spent_seconds=self.spent_seconds + seconds)


@dataclass(frozen=True, slots=True)
class Done:
    """Answered, and the broker has confirmed it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again in the department's lane after `seconds`, which cost that much of the budget."""

    seconds: float
    cost_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Try again after `seconds`, or once the trouble is over. It costs nothing, however long it takes."""

    seconds: float
    cost_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Park:
    """Back to the broker for `delay`; `attempts` is the count it takes along."""

    delay: timedelta
    attempts: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    reason: DeadReason
    detail: str


Verdict = Done | Wait | Pause | Park | DeadLetter


def classify(fault: CallFault) -> Failure:
    """What a failed call leaves behind. All but a create set a state, so repeating them is safe.

    But what was not answered may be carried out late, over a newer call. A list is nobody's own.
    """
    everybodys = fault.outage or fault.operation == "list" or fault.status in _LOGIN_OR_CREDIT
    if _may_have_happened(fault):
        return Unknown(fault.detail, took_seconds=fault.took_seconds, outage=everybodys)
    if everybodys or fault.status == _TOO_MANY_REQUESTS:
        return Unavailable(fault.detail, fault.retry_after_seconds)
    if fault.sent and fault.status == _NOT_FOUND and fault.operation in {"update", "get"}:
        return Missing(fault.detail, fault.took_seconds)
    if fault.sent and fault.status in _refusals(fault.operation):
        return Permanent(DeadReason.REJECTED, fault.detail)
    return Transient(fault.detail, fault.retry_after_seconds, fault.took_seconds)


def accuses_the_account(fault: CallFault) -> bool:
    """Whether a fault may be everybody's: of the account, of the provider, of the way to it."""
    if fault.status is None or not fault.sent:
        return True
    if fault.status == _NOT_FOUND:
        return fault.operation in {"create", "list"}
    return fault.status >= _SERVER_ERROR or fault.status in {*_ACCOUNT_REFUSED, _TIMED_OUT, *_REDIRECTS}


def judge(
    failure: Failure, stay: Stay, patience: Patience, jitter: float
) -> Wait | Pause | Park | DeadLetter:
    """`stay` counts the try that failed; `jitter` lies in [0, 1)."""
    backoff = _backoff_seconds(stay.tries, jitter)
    pause = _backoff_seconds(stay.pauses + 1, jitter)
    match failure:
        case Permanent(reason, detail):
            return DeadLetter(reason, detail)
        case Unavailable(_, retry_after_seconds):
            return Pause(max(retry_after_seconds or 0.0, pause))
        case Missing(detail, took):
            if stay.spent_seconds + took + backoff > patience.settle_window.total_seconds():
                return DeadLetter(DeadReason.REJECTED, detail)
            return Wait(backoff, took + backoff)
        case Unknown(_, float(look_in_seconds)):
            return Wait(look_in_seconds)
        case Unknown(outage=True):
            return Pause(pause)
        case Unknown(detail, _, took):
            return _again(backoff, took, detail, stay, patience)
        case Transient(detail, retry_after_seconds, took):
            return _again(max(retry_after_seconds or 0.0, backoff), took, detail, stay, patience)


def parking_delay(seconds: float, delays: Sequence[timedelta]) -> timedelta:
    """For a message that would wait that long: the longest delay that is not longer, else the shortest."""
    ordered = sorted(delays)
    return max((delay for delay in ordered if delay.total_seconds() <= seconds), default=ordered[0])


def _again(
    seconds: float, took: float, detail: str, stay: Stay, patience: Patience
) -> Wait | Park | DeadLetter:
    cost = took + seconds
    if stay.spent_seconds + cost <= patience.budget.total_seconds():
        return Wait(seconds, cost)
    attempts = stay.attempts + 1
    if attempts >= patience.attempts:
        return DeadLetter(DeadReason.EXHAUSTED, f"given up after {attempts} attempts: {detail}")
    return Park(patience.delays[min(attempts, len(patience.delays)) - 1], attempts)


def _may_have_happened(fault: CallFault) -> bool:
    if not fault.sent or fault.operation in {"get", "list"}:
        return False
    if fault.operation == "create":
        return fault.status not in _REFUSED_CREATE
    return fault.status is None or fault.status >= _SERVER_ERROR or fault.status in _IN_DOUBT


def _refusals(operation: Operation) -> frozenset[int]:
    if operation in {"get", "list"}:
        return frozenset()
    return _WRONG_REQUEST - {_NOT_FOUND} if operation == "create" else _WRONG_REQUEST


def _backoff_seconds(tries: int, jitter: float) -> float:
    """Full jitter, so that what failed together does not come back together; never 0, lest it spins."""
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(tries - 1, 10))
    return longest * (0.1 + 0.9 * jitter)
