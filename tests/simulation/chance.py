"""All random choices of a run, from one seed: faults, moments and durations."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

SETTLE_WINDOW = timedelta(seconds=12)
"""A tenth of the default, as all times here: only their ratios matter."""
WINDOW_SECONDS = SETTLE_WINDOW.total_seconds()
MAX_CLOCK_OFFSET_SECONDS = 54.0
"""The largest offset of the wall clock: nine minutes at this scale; the contract allows ten."""
TIMEOUT_SECONDS = 3.0
CLAIM_SECONDS = 2.0
LATEST_SECONDS = WINDOW_SECONDS - CLAIM_SECONDS
"""A call is carried out and listed within this time after it was sent; the settle window relies on that."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The probability of each fault at each opportunity, in the runs that include the fault.

    `latest_create_seconds`: the latest time after sending at which a create may be carried out;
    `latest_delete_seconds`: the same for a deletion.
    `longest_outage_seconds`: the longest time for which the provider refuses every call.
    `always`: the faults included in every run. `removals`: many departments, most of them removed, under all
    policies of removal. `workers`: the most at once. If it is more than one, at least two begin, and share a
    database that loses connections.
    """

    name: str
    rates: Mapping[str, float]
    latest_create_seconds: float = LATEST_SECONDS
    latest_delete_seconds: float = LATEST_SECONDS
    longest_outage_seconds: float = 20.0
    always: frozenset[str] = frozenset()
    removals: bool = False
    workers: int = 1

    @property
    def deletes_very_late(self) -> bool:
        """Whether a deletion may be carried out after the worker takes it for lost."""
        return self.latest_delete_seconds > WINDOW_SECONDS

    @property
    def duplicates_allowed(self) -> bool:
        """Whether a create may be taken for lost too early; its duplicate is then found later."""
        return self.latest_create_seconds > WINDOW_SECONDS or "clock set" in self.rates

    @property
    def outages_only(self) -> bool:
        """Whether all failures are outages, so that none may count against a message."""
        return self.name == "outage"

    @property
    def many_workers(self) -> bool:
        """Whether another worker may record something that the first does not know yet."""
        return self.workers > 1

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
"""Faults that make adoption hard: creates without a response, and a list that lags and shifts."""
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
"""Long outages, and no failure of single calls."""
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
"""Creates with an unknown outcome, repeated until the worker gives up."""
CRASHING = {
    "events out of order": 0.5,
    "event sent twice": 0.3,
    "in doubt": 0.7,
    "carried out late": 0.3,
    "crash": 0.6,
    "crash at a call": 0.5,
    "crash at a write": 0.1,
}
"""Workers that crash during consecutive creates."""
ALL = BROKER | PROVIDER | LEDGER | PROCESS
PUNCTUAL = {kind: rate for kind, rate in ALL.items() if kind != "carried out late"}
"""A clock set forward shortens the settle window, so late calls are excluded."""
LEDGER_LOST = PROVIDER | {
    "events out of order": 0.5,
    "event sent twice": 0.3,
    "list shifts": 0.95,
    "crash": 0.9,
    "drained and restarted": 0.8,
    "ledger lost": 0.6,
}
"""The list shifts often, so its newest page soon contains only subaccounts of other users."""
PEOPLE = {
    "approved": 0.9,
    "approved with a wrong count": 0.6,
    "approved with cascade": 0.7,
    "rejected": 0.5,
    "ruled too late": 0.4,
    "resource appears": 0.9,
    "resource moves": 0.6,
    "resource vanishes": 0.6,
    "renamed by hand": 0.3,
    "enabled by hand": 0.3,
    "deleted by hand": 0.2,
    "sweep asked for": 0.4,
    "adopted": 0.3,
    "org chart wiped": 0.4,
    "merged": 0.2,
    "policy changed": 0.4,
}
"""The acts of people: operators to holds, users to resources, others at the provider's console, HR to all."""
REMOVALS = PEOPLE | {
    "event sent twice": 0.2,
    "events out of order": 0.3,
    "drained and restarted": 0.5,
    "list shifts while read": 0.1,
}
DELETIONS = {
    "answer lost": 0.3,
    "carried out late": 0.4,
    "server error, carried out": 0.3,
    "in doubt": 0.1,
    "in doubt, carried out": 0.2,
    "deleted but read": 0.4,
}
"""Deletions whose outcome is not known."""
DATABASE = {
    "session cut": 0.7,
    "session cut at a call": 0.08,
    "session cut before a commit": 0.02,
    "session cut after a commit": 0.02,
    "database silent": 0.7,
    "database silent at a call": 0.08,
    "database fails over": 0.4,
    "host vanished": 0.3,
}
"""A database that many workers share, and that loses their connections."""
WORKERS = DATABASE | {"another worker": 0.6, "worker leaves": 0.5}
MOST_WORKERS = 8
CUT_OFF = DATABASE | {
    "database silent at a call": 0.2,
    "events out of order": 0.5,
    "event sent twice": 0.3,
    "answers slowly": 0.4,
    "answer lost": 0.2,
    "carried out late": 0.3,
    "list lags": 0.5,
    "crash": 0.4,
}
"""Workers that lose the database during slow calls, and have more of them to make."""
KILLS = {kind: 1.5 * rate for kind, rate in PROCESS.items()}
REMOVALS_UNDER_FAULTS = REMOVALS | LEDGER | BROKER | PROVIDER | DELETIONS | KILLS

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
        Profile("many-workers", BROKER | PROVIDER | PROCESS | WORKERS, workers=MOST_WORKERS),
        Profile(
            "cut-off",
            CUT_OFF,
            always=frozenset({"database silent at a call", "answers slowly", "carried out late"}),
            workers=3,
        ),
        Profile("clock-set", PUNCTUAL | {"clock set": 0.7}, always=frozenset({"clock set"})),
        Profile("ledger-lost", LEDGER_LOST, always=frozenset({"ledger lost", "list shifts", "crash"})),
        Profile("very-late", ALL | {"carried out late": 0.5}, latest_create_seconds=8 * WINDOW_SECONDS),
        Profile("removals", REMOVALS, removals=True),
        Profile("deletions", REMOVALS | DELETIONS, always=frozenset({"carried out late"}), removals=True),
        Profile("removals-kills", REMOVALS | DELETIONS | KILLS | LEDGER, removals=True),
        Profile("removals-all", REMOVALS_UNDER_FAULTS, removals=True),
        Profile(
            "removals-many-workers",
            REMOVALS | BROKER | PROVIDER | DELETIONS | KILLS | WORKERS,
            removals=True,
            workers=4,
        ),
        Profile(
            "deletions-very-late",
            REMOVALS | DELETIONS | KILLS,
            latest_delete_seconds=8 * WINDOW_SECONDS,
            always=frozenset({"carried out late"}),
            removals=True,
        ),
    )
}


class Chance:
    """The random source of one run. Half of the profile's faults take part, so none always hides another."""

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
        """Whether a fault strikes at this opportunity; counts it if so."""
        if not self.draws(fault):
            return False
        self.struck[fault] += 1
        return True

    def draws(self, fault: str) -> bool:
        """Whether a fault is due that counts only once it finds its object."""
        rate = self._rates.get(fault)
        return rate is not None and not self.healed and self._random.random() < rate

    def seconds(self, shortest: float, longest: float) -> float:
        return self._random.uniform(shortest, longest)

    def latency(self) -> float:
        """A latency in seconds: mostly short, sometimes ten times longer."""
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
    """The faults of a profile that never struck, given the counts of all runs."""
    return [kind for kind in profile.rates if not struck.get(kind)]
