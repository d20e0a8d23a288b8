"""Circuit breaker: decides whether a fault concerns one department or all, and which calls may go out.

Pure: state, event and time make the next state and its effects. The shell in `provider/circuit.py` carries
them out: it sends the probes, waits, blocks the gate and reports.

Closed, every call goes out. A fault that may concern all departments asks for a probe, shared by all calls
that ask. So does a refusal of one request (400, or 404 for a subaccount): it counts only while a probe
passes. If the probe fails, or 20 departments in a row met a fault that may concern all, the circuit opens.
Probes follow at growing intervals of at most 15 s. After one that passes the circuit is half-open: one call
goes out and decides; during the first second only one of the kind that was refused. If it succeeds, the
circuit closes. If it fails while the probe passes, only one department fails and the circuit closes as well,
unless 20 in a row of that kind have failed.

- Open, a call fails at once, before anything is claimed. Nothing is held inside a call, so a drain or a lost
  connection finds every message where it can stop. Failures meanwhile count against no message.
- If probes passed when the circuit opened, only one kind of call is refused. Half-open, the other kinds then
  go on beside the one call that decides. Otherwise a call of the failing kind would end each half-open
  moment first and shut the others out: of 50 creates none was made in two minutes while updates were refused.
- A probe takes no slot and waits for no turn, else it would come too late behind a backlog. It has as long as
  any call, else a slow provider would look dead. A lost response is no outage: it is tried twice, unless the
  first took over 5 s.
- A refusal of one request is a success here, once a probe has passed: Plivo has dealt with the call. 429
  counts neither way.
- The probe is a list call. So if it alone opened the circuit, one that passes closes it.
- One alert per kind of call, until such a call succeeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from worker.core.judge import Operation

MAX_FAILED_IN_A_ROW = 20
"""Subjects in a row whose calls of one kind fail while probes pass; then that kind is refused for all."""
MAX_FAILED_LISTS = 5
"""The same for pages of the list, which belong to no department. A scan gives up after as many."""

FIRST_INTERVAL_SECONDS = 1.0
LONGEST_INTERVAL_SECONDS = 15.0
PREFERENCE_SECONDS = 1.0
"""How long a half-open breaker waits for a call of the kind that was refused."""
IDLE_SECONDS = 5.0
"""If no call has asked for so long, nothing waits for the outcome of the one that decides."""


class State(StrEnum):
    """The calls that the breaker lets through: all, one that decides, or none."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Breaker:
    """The state between two events; frozen, so `transition` returns a new one.

    `why` and `refused`: the fault that opened it, and the kind of call that met it.
    `one_kind`: probes passed when it opened, so only calls of that kind are refused.
    `trial`: the kind of the call that decides, while it is under way.
    `failed_in_a_row`: by kind of call, the subjects that met a fault since one of that kind succeeded.
    `alerted`: the kinds reported as refused, until a call of that kind succeeds.
    `openings` counts how often it has opened. `failed_trials` and `failed_probes` make the intervals grow.
    `half_open_at`: monotonic seconds.
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
    def by_probe(self) -> bool:
        """Whether it is open because of list calls alone, and probes failed too: a probe is such a call."""
        return self.refused == "list" and not self.one_kind

    @property
    def affects_all(self) -> bool:
        """Whether every message waits for the same outage, even while half-open."""
        return self.state is not State.CLOSED and not self.one_kind

    def undecided(self, now: float) -> bool:
        """Whether it is half-open, and a call that decides is under way or may come soon."""
        idle = self.trial is None and now >= self.half_open_at + IDLE_SECONDS
        return self.state is State.HALF_OPEN and not idle

    def decides(self, operation: Operation) -> bool:
        """Whether the outcome of a call of this kind opens or closes a half-open breaker."""
        return self.state is State.HALF_OPEN and self.trial == operation


# Events


@dataclass(frozen=True, slots=True)
class CallAsked:
    """A call asks to go out."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """The call that decides is over, or was not made after all."""


@dataclass(frozen=True, slots=True)
class CallAnswered:
    """The provider has dealt with a call, successfully or not: the account accepts calls of this kind."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class CallFaulted:
    """A call met a fault that suggests an outage. `subject` tells one department's calls from another's."""

    operation: Operation
    subject: str


@dataclass(frozen=True, slots=True)
class CallRefused:
    """A call was refused as if the request were wrong. That is so only if a probe passes."""


@dataclass(frozen=True, slots=True)
class FaultProbed:
    """The probe after a fault or refusal has ended; `detail` is the text of the former."""

    operation: Operation
    detail: str
    passes: bool


@dataclass(frozen=True, slots=True)
class OutageProbed:
    """A probe of an open breaker has ended."""

    passes: bool


Event = CallAsked | TrialEnded | CallAnswered | CallFaulted | CallRefused | FaultProbed | OutageProbed


# Effects


@dataclass(frozen=True, slots=True)
class Admit:
    """The call may be sent. If it `decides`, `TrialEnded` must follow once it is over."""

    decides: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """The call must not be sent."""

    why: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Find out whether the provider responds at all, and report it.

    After a fault with `FaultProbed`, after a refusal with `CallAnswered` if the probe passes.
    """


@dataclass(frozen=True, slots=True)
class ProbeIn:
    """Send a probe after about `seconds`, and report it with `OutageProbed`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Show:
    """Show the state, and whether it affects all messages: one of them has changed."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Report that calls of this kind are refused; `again`: it was reported before."""

    operation: Operation
    detail: str
    again: bool


@dataclass(frozen=True, slots=True)
class Block:
    """Consume no more messages."""

    why: str
    affects_all: bool


@dataclass(frozen=True, slots=True)
class Unblock:
    """Consume messages again."""


@dataclass(frozen=True, slots=True)
class ReportClosed:
    """Report that the outage is over, and try the messages that wait for its end."""


Effect = Admit | Refuse | Probe | ProbeIn | Show | Alert | Block | Unblock | ReportClosed
Transition = tuple[Breaker, tuple[Effect, ...]]


def transition(breaker: Breaker, event: Event, now: float) -> Transition:
    """The breaker after the event, and the effects to carry out in this order. `now`: monotonic seconds."""
    match event:
        case CallAsked(operation):
            return _asked(breaker, operation, now)
        case TrialEnded():
            return replace(breaker, trial=None), ()
        case CallAnswered(operation):
            return _answered(breaker, operation)
        case CallFaulted(operation, subject):
            return _faulted(breaker, operation, subject)
        case CallRefused():
            return breaker, () if breaker.state is State.OPEN else (Probe(),)
        case FaultProbed(operation, detail, passes):
            return _fault_probed(breaker, operation, detail, passes=passes)
        case OutageProbed(passes):
            return _outage_probed(breaker, now, passes=passes)


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
    most = MAX_FAILED_LISTS if operation == "list" else MAX_FAILED_IN_A_ROW
    if not passes or len(in_a_row) >= most:
        return _opened(breaker, operation, detail, one_kind=passes)
    if breaker.state is State.HALF_OPEN:  # only one department fails: the others need not wait
        return _closed(breaker)
    return breaker, ()


def _outage_probed(breaker: Breaker, now: float, *, passes: bool) -> Transition:
    if breaker.state is not State.OPEN:
        return breaker, ()
    if not passes:
        still_open = replace(breaker, one_kind=False, failed_probes=breaker.failed_probes + 1)
        return still_open, (Show(), ProbeIn(_interval_seconds(still_open)))
    if breaker.by_probe:
        closed, effects = _closed(breaker)
        return closed, (Unblock(), *effects)
    return replace(breaker, state=State.HALF_OPEN, half_open_at=now), (Show(), Unblock())


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
    """The failures of other kinds of call still count: such calls may fail as before."""
    return replace(breaker, state=State.CLOSED, failed_trials=0), (Show(), ReportClosed())


def _interval_seconds(breaker: Breaker) -> float:
    doublings = min(breaker.failed_trials + breaker.failed_probes, 10)
    return min(FIRST_INTERVAL_SECONDS * 2.0**doublings, LONGEST_INTERVAL_SECONDS)
