"""All promises hold under any combination of faults: thousands of runs, each from its own seed.

A failure prints the command that repeats the run.
"""

from collections import Counter

import pytest

from tests.simulation.chance import PROFILES, coverage
from tests.simulation.run import report
from tests.simulation.world import simulate

CHUNK = 150
SLOW = {"removals-kills": 50, "removals-all": 50, "removals-many-workers": 50}
"""Runs in a chunk of profiles whose runs take long, since a test has two minutes, on busy cores too."""

RUNS = {
    "calm": 1,
    "broker": 3,
    "provider": 2,
    "adoption": 2,
    "settling": 1,
    "outage": 2,
    "crashing": 1,
    "all": 4,
    "many-workers": 1,
    "cut-off": 1,
    "clock-set": 1,
    "ledger-lost": 2,
    "very-late": 2,
    "removals": 1,
    "deletions": 1,
    "removals-kills": 3,
    "removals-all": 3,
    "removals-many-workers": 3,
    "deletions-very-late": 1,
}

_RARELY = frozenset(
    {"approved with cascade", "approved with a wrong count", "enabled by hand", "name refused"}
)
RARE = {"removals-kills": _RARELY, "removals-all": _RARELY, "removals-many-workers": _RARELY}
"""Faults that need a chain of others, so that few runs of a mixed profile strike them. In `removals`, and in
`provider` for names, a chunk must strike them all."""


@pytest.mark.parametrize(
    ("profile", "first"),
    [
        (profile, chunk * SLOW.get(profile, CHUNK))
        for profile, chunks in RUNS.items()
        for chunk in range(chunks)
    ],
)
def test_all_promises_hold_under_faults(profile, first):
    struck: Counter[str] = Counter()
    for seed in range(first, first + SLOW.get(profile, CHUNK)):
        run = simulate(PROFILES[profile], seed)
        assert not run.broken, report(run)
        struck += run.chance.struck

    never = set(coverage(PROFILES[profile], struck)) - RARE.get(profile, frozenset())
    assert never == set(), "these faults never struck"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_run_is_a_function_of_its_seed(profile):
    once, again = (simulate(PROFILES[profile], 11).history.notes for _ in range(2))

    assert list(map(str, once)) == list(map(str, again))
