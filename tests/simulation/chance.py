"""Everything drawn in a run: which faults strike, when, and how long things take. All from one seed."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

SETTLE_WINDOW = timedelta(seconds=12)
"""A tenth of the default, as all times here: what counts is how they compare."""
WINDOW_SECONDS = SETTLE_WINDOW.total_seconds()
MAX_CLOCK_OFFSET_SECONDS = 54.0
"""How far off the wall clock is ever set: nine minutes by this scale; the contract allows for ten."""
TIMEOUT_SECONDS = 3.0
CLAIM_SECONDS = 2.0
LATEST_SECONDS = WINDOW_SECONDS - CLAIM_SECONDS
"""After a call is sent, its effect is there and listed by then: what the settle window is made for."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How often each fault strikes where it can, while it is among those of a run.

    `latest_create_seconds`: how long after it is sent a create may still be carried out.
    `longest_outage_seconds`: how long the provider refuses everybody at most.
    `always`: faults that are among those of every run.
    """

    name: str
    rates: Mapping[str, float]
    latest_create_seconds: float = LATEST_SECONDS
    longest_outage_seconds: float = 20.0
    always: frozenset[str] = frozenset()

    @property
    def duplicates_allowed(self) -> bool:
        """For a while: where a create may be taken for lost too early, they are found later."""
        return self.latest_create_seconds > WINDOW_SECONDS or "clock set" in self.rates

    @property
    def outages_only(self) -> bool:
        """Whatever fails, fails for everybody: no message is to blame."""
        return self.name == "outage"

    @property
    def two_workers(self) -> bool:
        """One may record what the other has not heard of yet."""
        return "second worker" in self.rates

    @property
    def loses_the_ledger(self) -> bool:
        return "ledger lost" in self.rates


BROKER = {
    "event sent twice": 0.3,
    "events out of order": 0.5,
    "conflicting duplicate": 0.1,
    "unreadable message": 0.1,
    "consumer lost": 0.5,
    "ack lost": 0.1,
    "publisher lost": 0.05,
    "publish refused": 0.1,
    "confirm lost": 0.1,
    "routed late": 0.05,
    "result unroutable": 0.1,
    "secrets unroutable": 0.4,
}
PROVIDER = {
    "request lost": 0.1,
    "answer lost": 0.2,
    "carried out late": 0.3,
    "not connected": 0.06,
    "too many requests": 0.06,
    "too many requests, retry after": 0.06,
    "server error": 0.06,
    "server error, carried out": 0.2,
    "in doubt": 0.1,
    "in doubt, carried out": 0.2,
    "unreadable answer": 0.1,
    "refused for a while": 0.5,
    "name refused": 0.15,
    "list lags": 0.5,
    "list shifts": 0.6,
    "list shifts while read": 0.15,
    "answers slowly": 0.1,
}
LEDGER = {
    "write failed": 0.04,
    "written but failed": 0.03,
    "write slow": 0.05,
}
PROCESS = {
    "crash": 0.6,
    "drained and restarted": 0.3,
    "crash at a write": 0.06,
    "crash at a call": 0.1,
    "crash at a publish": 0.05,
}
ADOPTION = {
    "events out of order": 0.5,
    "answer lost": 0.5,
    "carried out late": 0.6,
    "server error, carried out": 0.4,
    "answers slowly": 0.4,
    "list lags": 0.6,
    "list shifts": 0.98,
    "list shifts while read": 0.8,
    "crash": 0.7,
    "crash at a call": 0.05,
}
"""What makes adopting hard: creates without an answer, and a list that is slow and never stands still."""
OUTAGE = {
    "events out of order": 0.5,
    "event sent twice": 0.3,
    "refused for a while": 0.6,
    "name refused": 0.15,
    "consumer lost": 0.4,
    "publish refused": 0.1,
    "secrets unroutable": 0.3,
    "crash": 0.3,
    "drained and restarted": 0.3,
}
"""Nothing fails but for everybody, and then for long."""
SETTLING = {
    "events out of order": 0.5,
    "event sent twice": 0.3,
    "in doubt": 0.75,
    "in doubt, carried out": 0.2,
    "carried out late": 0.4,
    "list lags": 0.5,
    "list shifts": 0.6,
    "name refused": 0.15,
    "crash": 0.5,
    "crash at a call": 0.05,
}
"""Creates that end unknown again and again, until they are given up."""
CRASHING = {
    "events out of order": 0.5,
    "event sent twice": 0.3,
    "in doubt": 0.7,
    "carried out late": 0.3,
    "crash": 0.6,
    "crash at a call": 0.5,
    "crash at a write": 0.1,
}
"""Workers that die in one create after the other."""
ALL = BROKER | PROVIDER | LEDGER | PROCESS
PUNCTUAL = {kind: rate for kind, rate in ALL.items() if kind != "carried out late"}
"""A clock set forward shortens the settle window: what comes within the time a call takes is still found."""
LEDGER_LOST = PROVIDER | {
    "events out of order": 0.5,
    "event sent twice": 0.3,
    "list shifts": 0.95,
    "crash": 0.9,
    "drained and restarted": 0.8,
    "ledger lost": 0.6,
}
"""The newest page of the list is soon full of strangers, so that it tells nothing."""

PROFILES = {
    profile.name: profile
    for profile in (
        Profile("calm", {}),
        Profile("broker", BROKER | PROCESS),
        Profile("provider", PROVIDER),
        Profile("adoption", ADOPTION, always=frozenset({"carried out late", "list shifts while read"})),
        Profile("settling", SETTLING),
        Profile("outage", OUTAGE, longest_outage_seconds=90.0, always=frozenset({"refused for a while"})),
        Profile("crashing", CRASHING, always=frozenset({"crash at a call", "in doubt"})),
        Profile("all", ALL),
        Profile("two-workers", ALL | {"second worker": 0.5}),
        Profile("clock-set", PUNCTUAL | {"clock set": 0.7}, always=frozenset({"clock set"})),
        Profile("ledger-lost", LEDGER_LOST, always=frozenset({"ledger lost", "list shifts", "crash"})),
        Profile("very-late", ALL | {"carried out late": 0.5}, latest_create_seconds=8 * WINDOW_SECONDS),
    )
}


class Chance:
    """A run has about half of its profile's faults: what hides behind another one shows in the next run."""

    def __init__(self, profile: Profile, seed: int, without: Iterable[str] = ()) -> None:
        self._random = random.Random(f"{profile.name} {seed}")
        drawn = {
            kind: rate
            for kind, rate in profile.rates.items()
            if self._random.random() < 0.5 or kind in profile.always
        }
        self._rates = {kind: rate for kind, rate in drawn.items() if kind not in without}
        self.profile = profile
        self.struck: Counter[str] = Counter()
        self.healed = False

    def strikes(self, fault: str) -> bool:
        """Whether a fault strikes here and now; counted if so."""
        rate = self._rates.get(fault)
        if rate is None or self.healed or self._random.random() >= rate:
            return False
        self.struck[fault] += 1
        return True

    def seconds(self, shortest: float, longest: float) -> float:
        return self._random.uniform(shortest, longest)

    def latency(self) -> float:
        """Mostly quick, now and then ten times that."""
        return 0.002 + 0.05 * self._random.random() ** 3

    def number(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def coin(self, probability: float = 0.5) -> bool:
        return self._random.random() < probability

    def one_of(self, choices: Sequence[T]) -> T:
        return self._random.choice(choices)

    def shuffled(self, things: Iterable[T]) -> list[T]:
        mixed = list(things)
        self._random.shuffle(mixed)
        return mixed


def coverage(profile: Profile, struck: Mapping[str, Any]) -> list[str]:
    """The faults of a profile that never struck."""
    return [kind for kind in profile.rates if not struck.get(kind)]
