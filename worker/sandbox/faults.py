"""Faults on demand, by rule or at random from a seed.

A fault has two independent parts: whether and when the request takes effect, and what the client sees.
The choice of faults depends only on the seed, the rules, and the number of requests of each operation, so
that a run can be repeated.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from worker.sandbox.requests import ListView


class Effect(Enum):
    """When the request takes effect."""

    NOW = "now"
    LATER = "later"
    NEVER = "never"


class Sight(Enum):
    """How much of the response reaches the client."""

    WHOLE = "whole"
    ERROR = "error"
    ERROR_PAGE = "error page"
    RESET = "reset"
    SILENCE = "silence"
    HALF_JSON = "half json"
    CUT_OFF = "cut off"
    DRIP = "drip"
    BODY_AFTER_204 = "body after 204"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault; the status applies to errors, `retry_after` (seconds) to 429.

    `delay_seconds` is the time before a whole response or a late effect, or the duration of a dripping body.
    `view` is how a list differs from the truth.
    """

    name: str
    effect: Effect = Effect.NOW
    sight: Sight = Sight.WHOLE
    status: int = 500
    retry_after: int | None = None
    delay_seconds: float = 0
    view: ListView = field(default_factory=ListView)


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        each.name: each
        for each in (
            Fault("lost-answer", sight=Sight.RESET),
            Fault("no-answer", sight=Sight.SILENCE),
            Fault("reset", Effect.NEVER, Sight.RESET),
            Fault("hang", Effect.NEVER, Sight.SILENCE),
            Fault("late-commit", Effect.LATER, Sight.RESET, delay_seconds=3),
            Fault("late-commit-503", Effect.LATER, Sight.ERROR, 503, delay_seconds=3),
            Fault("error", Effect.NEVER, Sight.ERROR, 500),
            Fault("error-after-commit", Effect.NOW, Sight.ERROR, 500),
            Fault("html", Effect.NEVER, Sight.ERROR_PAGE, 502),
            Fault("html-after-commit", Effect.NOW, Sight.ERROR_PAGE, 502),
            Fault("too-many-requests", Effect.NEVER, Sight.ERROR, 429),
            Fault("too-many-requests-retry-after", Effect.NEVER, Sight.ERROR, 429, retry_after=1),
            Fault("unauthorized", Effect.NEVER, Sight.ERROR, 401),
            Fault("no-credit", Effect.NEVER, Sight.ERROR, 402),
            Fault("forbidden", Effect.NEVER, Sight.ERROR, 403),
            Fault("half-json", sight=Sight.HALF_JSON),
            Fault("cut-off", sight=Sight.CUT_OFF),
            Fault("slow", delay_seconds=1),
            Fault("drip", sight=Sight.DRIP, delay_seconds=1),
            Fault("body-after-204", sight=Sight.BODY_AFTER_204),
            Fault("list-lag", view=ListView(lag_seconds=5)),
            Fault("list-shift-deleted", view=ListView(shift=1)),
            Fault("list-shift-created", view=ListView(shift=-1)),
        )
    }
)
ANY_OPERATION = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """Injects a fault into requests of one operation, or of all for `*`.

    The first `after` requests pass. Then each meets the fault with `probability`, at most `times` in total
    (None: no limit).
    """

    operation: str
    fault: Fault
    times: int | None = None
    after: int = 0
    probability: float = 1.0


def fault(
    name: str,
    *,
    status: int | None = None,
    retry_after: int | None = None,
    delay_seconds: float | None = None,
    lag_seconds: float | None = None,
) -> Fault:
    """Return the named fault with changed details; raises ValueError for an unknown name."""
    if name not in FAULTS:
        raise ValueError(f"unknown fault {name!r}; known are {', '.join(FAULTS)}")
    found = FAULTS[name]
    return replace(
        found,
        status=found.status if status is None else status,
        retry_after=found.retry_after if retry_after is None else retry_after,
        delay_seconds=found.delay_seconds if delay_seconds is None else delay_seconds,
        view=found.view if lag_seconds is None else ListView(lag_seconds=lag_seconds),
    )


_RESOURCE_LISTS = ("list_numbers", "list_applications", "list_endpoints")
_WRITES = ("create_subaccount", "update_subaccount", "delete_subaccount")


def _profile(scale: float) -> tuple[Rule, ...]:
    everywhere = ("reset", "error", "html", "too-many-requests", "too-many-requests-retry-after", "half-json")
    writes = ("lost-answer", "late-commit", "late-commit-503", "error-after-commit", "html-after-commit")
    shifts = ("list-shift-deleted", "list-shift-created")
    return (
        *(Rule(ANY_OPERATION, FAULTS[name], probability=scale) for name in everywhere),
        *(Rule(write, FAULTS[name], probability=scale) for name in writes for write in _WRITES),
        *(Rule("list_subaccounts", FAULTS[name], probability=scale) for name in ("list-lag", *shifts)),
        Rule("delete_subaccount", FAULTS["body-after-204"], probability=scale),
        Rule(ANY_OPERATION, fault("slow", delay_seconds=0.2), probability=scale),
        Rule(ANY_OPERATION, fault("drip", delay_seconds=0.2), probability=scale),
        Rule(ANY_OPERATION, FAULTS["cut-off"], probability=scale / 2),
        *(Rule(each, FAULTS[name], probability=scale) for name in shifts for each in _RESOURCE_LISTS),
    )


PROFILES: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        "none": (),
        "mild": _profile(0.002),
        "harsh": (*_profile(0.02), Rule(ANY_OPERATION, FAULTS["no-answer"], probability=0.005)),
    }
)


@dataclass
class Faults:
    """Chooses a fault, or none, for each request. The first rule that applies wins."""

    seed: int
    rules: list[Rule] = field(default_factory=list)
    _requests: Counter[str] = field(default_factory=Counter)
    _passed: Counter[int] = field(default_factory=Counter)
    _hits: Counter[int] = field(default_factory=Counter)

    def add(self, rule: Rule) -> None:
        """Add a rule after the others."""
        self.rules.append(rule)

    def replace_rules(self, rules: Sequence[Rule]) -> None:
        """Replace all rules and restart their counters."""
        self.rules = list(rules)
        self._passed.clear()
        self._hits.clear()

    def restart(self, rules: Sequence[Rule]) -> None:
        """Replace all rules and begin the pseudo-random sequence again."""
        self._requests.clear()
        self.replace_rules(rules)

    def choose(self, operation: str) -> Fault | None:
        """Count a request of the operation and return the fault that it meets."""
        if not self.rules:
            return None
        self._requests[operation] += 1
        for index, rule in enumerate(self.rules):
            if rule.operation in (operation, ANY_OPERATION) and self._applies(index, rule, operation):
                return rule.fault
        return None

    def _applies(self, index: int, rule: Rule, operation: str) -> bool:
        if self._passed[index] < rule.after:
            self._passed[index] += 1
            return False
        if rule.times is not None and self._hits[index] >= rule.times:
            return False
        if rule.probability < 1 and self._fraction(index, operation) >= rule.probability:
            return False
        self._hits[index] += 1
        return True

    def _fraction(self, index: int, operation: str) -> float:
        """Return a pseudo-random number in [0, 1), fixed by seed, rule, and number of the request."""
        drawn = hashlib.blake2b(
            f"{self.seed}:{index}:{operation}:{self._requests[operation]}".encode(), digest_size=8
        ).digest()
        return int.from_bytes(drawn, "big") / 2**64
