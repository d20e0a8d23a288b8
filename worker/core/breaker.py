"""The circuit breaker's rules, as a pure transition: `(breaker, event, now) -> (breaker, effects)`.

Another company's outage is no fault of a message, so nothing is tried in vain and nothing is counted then.

Closed: calls go through. A fault that suggests an outage asks for a probe, the cheapest call there is. The
breaker opens if the probe fails too, or if calls for many subjects in a row met such a fault.
Open: nothing is sent but probes, at growing intervals. A probe that passes makes it half-open.
Half-open: one call goes through and decides, by preference one of the kind that was refused. If it goes well
the breaker closes. If it fails it is judged as when closed: one department's trouble keeps nobody waiting.

If probes passed when it opened, calls of one kind alone are refused. Calls of the other kinds then go on
beside the one that decides, and messages do not all wait for the same.

`provider/circuit.py` carries the effects out: it sends the probes, waits, blocks the gate and reports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from worker.core.judge import Operation

ENOUGH_IN_A_ROW = 20
"""Subjects in a row whose calls of one kind fail while probes pass: that kind is refused to everybody."""

FIRST_INTERVAL_SECONDS = 1.0
LONGEST_INTERVAL_SECONDS = 15.0
PREFERENCE_SECONDS = 1.0
"""How long a half-open breaker waits for a call of the kind that was refused."""


class State(StrEnum):
    """What the breaker lets through: every call, one that decides, or none."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Breaker:
    """`why` and `refused`: the fault that opened it, and the kind of call that met it.

    `one_kind`: probes passed when it opened, so only calls of that kind are refused.
    `trial`: the kind of the call that decides, while it is under way.
    `failed_in_a_row`: by kind of call, the subjects that met a fault since one of that kind went well.
    `alerted`: the kinds reported as refused, until a call of that kind goes well.
    `openings` counts how often it has opened, `failed_trials` and `failed_probes` what makes intervals grow.
    """

    state: State = State.CLOSED
    why: str = ""
    refused: Operation | None = None
    one_kind: bool = False
    trial: Operation | None = None
    failed_in_a_row: Mapping[Operation, frozenset[str]] = field(default_factory=dict)
    alerted: frozenset[Operation] = frozenset()
    openings: int = 0
    failed_trials: int = 0
    failed_probes: int = 0
    half_open_at: float = 0.0

    @property
    def affects_all(self) -> bool:
        """Whether every message waits for the same: half-open it lets deliveries in, but no call through."""
        return self.state is not State.CLOSED and not self.one_kind

    def decides(self, operation: Operation) -> bool:
        """Whether the outcome of a call of this kind decides what becomes of a half-open breaker."""
        return self.state is State.HALF_OPEN and self.trial == operation


# Events


@dataclass(frozen=True, slots=True)
class CallAsked:
    """A call wants to go through."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """The call that was to decide is over, or was not made after all."""


@dataclass(frozen=True, slots=True)
class CallAnswered:
    """The provider has dealt with a call, well or not: the account is in order for calls of this kind."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class CallFaulted:
    """A call met a fault that suggests an outage. `subject` tells one department's calls from another's."""

    operation: Operation
    subject: str


@dataclass(frozen=True, slots=True)
class FaultProbed:
    """The probe that such a call asked for is back; `detail` is the text of the call's fault."""

    operation: Operation
    detail: str
    passes: bool


@dataclass(frozen=True, slots=True)
class OutageProbed:
    """A probe of an open breaker is back."""

    passes: bool


Event = CallAsked | TrialEnded | CallAnswered | CallFaulted | FaultProbed | OutageProbed


# Effects


@dataclass(frozen=True, slots=True)
class Admit:
    """The call may be sent. Where it `decides`, `TrialEnded` must follow once it is over."""

    decides: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """The call must not be sent."""

    why: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Find out whether the provider responds at all, and say so by `FaultProbed`."""


@dataclass(frozen=True, slots=True)
class ProbeIn:
    """Send a probe after about `seconds`, and report it by `OutageProbed`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Show:
    """The state has changed, or what it means for messages that wait."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Report that calls of this kind are refused; `again`: it is known already."""

    operation: Operation
    detail: str
    again: bool


@dataclass(frozen=True, slots=True)
class Block:
    """Take no more messages."""

    why: str
    affects_all: bool


@dataclass(frozen=True, slots=True)
class Unblock:
    """Take messages again."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Report that the outage is over, and have tried what waits for its end."""


Effect = Admit | Refuse | Probe | ProbeIn | Show | Alert | Block | Unblock | Closed
Transition = tuple[Breaker, tuple[Effect, ...]]


def transition(breaker: Breaker, event: Event, now: float) -> Transition:
    """The breaker after the event, and what is to be done now, in this order. `now` is monotonic seconds."""
    match event:
        case CallAsked(operation):
            return _asked(breaker, operation, now)
        case TrialEnded():
            return replace(breaker, trial=None), ()
        case CallAnswered(operation):
            return _answered(breaker, operation)
        case CallFaulted(operation, subject):
            return _faulted(breaker, operation, subject)
        case FaultProbed(operation, detail, passes):
            return _fault_probed(breaker, operation, detail, passes=passes)
        case OutageProbed(True) if breaker.state is State.OPEN:
            return replace(breaker, state=State.HALF_OPEN, half_open_at=now), (Show(), Unblock())
        case OutageProbed(False) if breaker.state is State.OPEN:
            still_open = replace(breaker, one_kind=False, failed_probes=breaker.failed_probes + 1)
            return still_open, (Show(), ProbeIn(_interval_seconds(still_open)))
        case OutageProbed():  # it is not open any more
            return breaker, ()


def _asked(breaker: Breaker, operation: Operation, now: float) -> Transition:
    if breaker.state is State.OPEN:
        return breaker, (Refuse(breaker.why),)
    if breaker.state is State.CLOSED:
        return breaker, (Admit(),)
    preferred = now < breaker.half_open_at + PREFERENCE_SECONDS
    other = operation != breaker.refused
    if breaker.one_kind and other and (preferred or breaker.trial is not None):
        return breaker, (Admit(),)
    if breaker.trial is not None or (preferred and other):
        why = f"waiting for the outcome of one call after an outage: {breaker.why}"
        return breaker, (Refuse(why),)
    return replace(breaker, trial=operation), (Admit(decides=True),)


def _answered(breaker: Breaker, operation: Operation) -> Transition:
    failed = {kind: subjects for kind, subjects in breaker.failed_in_a_row.items() if kind != operation}
    answered = replace(breaker, failed_in_a_row=failed, alerted=breaker.alerted - {operation})
    return _closed(answered) if breaker.decides(operation) else (answered, ())


def _faulted(breaker: Breaker, operation: Operation, subject: str) -> Transition:
    """A fault of a call that was under way when the breaker opened decides nothing."""
    if not (breaker.state is State.CLOSED or breaker.decides(operation)):
        return breaker, ()
    subjects = breaker.failed_in_a_row.get(operation, frozenset()) | {subject}
    failed = {**breaker.failed_in_a_row, operation: subjects}
    return replace(breaker, failed_in_a_row=failed), (Probe(),)


def _fault_probed(breaker: Breaker, operation: Operation, detail: str, *, passes: bool) -> Transition:
    if breaker.state is State.OPEN:
        return breaker, ()
    in_a_row = breaker.failed_in_a_row.get(operation, frozenset())
    if not passes or len(in_a_row) >= ENOUGH_IN_A_ROW:
        return _opened(breaker, operation, detail, one_kind=passes)
    if breaker.state is State.HALF_OPEN:  # it is one department's trouble: the others need not wait for it
        return _closed(breaker)
    return breaker, ()


def _opened(breaker: Breaker, operation: Operation, detail: str, *, one_kind: bool) -> Transition:
    was_closed, known = breaker.state is State.CLOSED, operation in breaker.alerted
    opened = replace(
        breaker,
        state=State.OPEN,
        why=detail,
        refused=operation,
        one_kind=one_kind,
        alerted=breaker.alerted | {operation},
        openings=breaker.openings + 1,
        failed_trials=breaker.failed_trials + (not was_closed),
        failed_probes=0,
    )
    alert = (Alert(operation, detail, again=known),) if was_closed else ()
    block = Block(f"circuit open: {detail}", affects_all=not one_kind)
    return opened, (Show(), *alert, block, ProbeIn(_interval_seconds(opened)))


def _closed(breaker: Breaker) -> Transition:
    """Subjects of another kind than the call that went well still count: their calls may fail as before."""
    return replace(breaker, state=State.CLOSED, failed_trials=0), (Show(), Closed())


def _interval_seconds(breaker: Breaker) -> float:
    doublings = min(breaker.failed_trials + breaker.failed_probes, 10)
    return min(FIRST_INTERVAL_SECONDS * 2.0**doublings, LONGEST_INTERVAL_SECONDS)
