"""What can go wrong, by rule or by seed.

A fault says two things: whether (and when) the request takes effect, and what the client gets to see.
Which request meets which fault depends only on the seed, the rules, and how often each operation was asked.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from worker.sandbox.requests import ListView


class Effect(Enum):
    """When the request changes anything."""

    NOW = "now"
    LATER = "later"
    NEVER = "never"


class Sight(Enum):
    """What becomes of the answer."""

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
    """`delay_seconds` is the wait before a whole answer, before a late effect, or over a dripping body."""

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
    """One fault for one operation (or `*`).

    `after` requests pass first, then at most `times` (None: without end) are hit, each with `probability`.
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
    """Return the fault of that name with details changed; raises ValueError for an unknown name."""
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


_WRITES = ("create_subaccount", "update_subaccount", "delete_subaccount")


def _profile(scale: float) -> tuple[Rule, ...]:
    everywhere = ("reset", "error", "html", "too-many-requests", "too-many-requests-retry-after", "half-json")
    writes = ("lost-answer", "late-commit", "late-commit-503", "error-after-commit", "html-after-commit")
    lists = ("list-lag", "list-shift-deleted", "list-shift-created")
    return (
        *(Rule(ANY_OPERATION, FAULTS[name], probability=scale) for name in everywhere),
        *(Rule(write, FAULTS[name], probability=scale) for name in writes for write in _WRITES),
        *(Rule("list_subaccounts", FAULTS[name], probability=scale) for name in lists),
        Rule("delete_subaccount", FAULTS["body-after-204"], probability=scale),
        Rule(ANY_OPERATION, fault("slow", delay_seconds=0.2), probability=scale),
        Rule(ANY_OPERATION, fault("drip", delay_seconds=0.2), probability=scale),
        Rule(ANY_OPERATION, FAULTS["cut-off"], probability=scale / 2),
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
    """Chooses a fault, or none, for each request; the first rule that hits wins."""

    seed: int
    rules: list[Rule] = field(default_factory=list)
    _asked: Counter[str] = field(default_factory=Counter)
    _passed: Counter[int] = field(default_factory=Counter)
    _hits: Counter[int] = field(default_factory=Counter)

    def add(self, rule: Rule) -> None:
        self.rules.append(rule)

    def replace_rules(self, rules: Sequence[Rule]) -> None:
        self.rules = list(rules)
        self._passed.clear()
        self._hits.clear()

    def restart(self, rules: Sequence[Rule]) -> None:
        self._asked.clear()
        self.replace_rules(rules)

    def choose(self, operation: str) -> Fault | None:
        if not self.rules:
            return None
        self._asked[operation] += 1
        for index, rule in enumerate(self.rules):
            if rule.operation in (operation, ANY_OPERATION) and self._strikes(index, rule, operation):
                return rule.fault
        return None

    def _strikes(self, index: int, rule: Rule, operation: str) -> bool:
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
        """A number in [0, 1) that is the same for the same seed, rule and n-th request of an operation."""
        drawn = hashlib.blake2b(
            f"{self.seed}:{index}:{operation}:{self._asked[operation]}".encode(), digest_size=8
        ).digest()
        return int.from_bytes(drawn, "big") / 2**64
