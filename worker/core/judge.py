"""What becomes of a step that failed: a failure, how often it was tried and a jitter make a verdict."""

from dataclasses import dataclass
from typing import Literal

from contracts.subaccounts import DeadReason

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0

Operation = Literal["create", "update", "delete", "get", "list"]

# What Plivo read and refused: a create it answered with one of these did not happen.
_REFUSED_CREATE = frozenset({400, 401, 403, 404, 405, 422, 429})
# Answers that leave it open whether the call is carried out.
_IN_DOUBT = frozenset({408, 409})
_SERVER_ERROR = 500
# The request itself is wrong: sending it again gets the same answer.
_WRONG_REQUEST = frozenset({400, 404, 405, 422})


@dataclass(frozen=True, slots=True)
class CallFault:
    """A provider call that did not succeed, as the adapter saw it.

    `sent`: a byte of the request may have left. `status`: of the answer, where one could be read.
    """

    operation: Operation
    detail: str
    sent: bool = True
    status: int | None = None
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Transient:
    """Nothing happened, or it is safe to repeat; trying again may help."""

    detail: str
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have happened, or happen yet: no answer, or none that can be read.

    `look_in_seconds`: when it is worth asking again; None where nothing speaks against trying again.
    """

    detail: str
    look_in_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Permanent:
    """Trying again gets the same answer."""

    reason: DeadReason
    detail: str


Failure = Transient | Unknown | Permanent


@dataclass(frozen=True, slots=True)
class Done:
    """Answered, and the broker has confirmed it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again in the department's lane after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    reason: DeadReason
    detail: str


Verdict = Done | Wait | DeadLetter


def classify(fault: CallFault) -> Failure:
    """What a failed call leaves behind. All but a create set a state, so repeating them is safe.

    But what was not answered may be carried out late, over a newer call.
    """
    if fault.operation == "create":
        return _classify_create(fault)
    if fault.operation in {"get", "list"}:
        return Transient(fault.detail, fault.retry_after_seconds)
    if fault.status in _WRONG_REQUEST:
        return Permanent(DeadReason.REJECTED, fault.detail)
    if fault.sent and (fault.status is None or fault.status >= _SERVER_ERROR or fault.status in _IN_DOUBT):
        return Unknown(fault.detail)
    return Transient(fault.detail, fault.retry_after_seconds)


def _classify_create(fault: CallFault) -> Failure:
    if not fault.sent:
        return Transient(fault.detail)
    if fault.status not in _REFUSED_CREATE:
        return Unknown(fault.detail)
    if fault.status in {400, 405, 422}:
        return Permanent(DeadReason.REJECTED, fault.detail)
    return Transient(fault.detail, fault.retry_after_seconds)


def judge(failure: Failure, tries: int, jitter: float) -> Wait | DeadLetter:
    """`tries` counts from 1 within one delivery; `jitter` lies in [0, 1)."""
    match failure:
        case Permanent(reason, detail):
            return DeadLetter(reason, detail)
        case Unknown(_, float(look_in_seconds)):
            return Wait(look_in_seconds)
        case Transient(_, retry_after_seconds):
            return Wait(max(retry_after_seconds or 0.0, _backoff_seconds(tries, jitter)))
        case Unknown():
            return Wait(_backoff_seconds(tries, jitter))


def _backoff_seconds(tries: int, jitter: float) -> float:
    """Full jitter, so that what failed together does not come back together; never 0, lest it spins."""
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(tries - 1, 10))
    return longest * (0.1 + 0.9 * jitter)
