"""The checker detects each mutant of the worker, and finds no broken promise of the real worker."""

import pytest

from tests.simulation.chance import PROFILES
from tests.simulation.mutants import MUTANTS
from tests.simulation.removal_mutants import REMOVAL_MUTANTS
from tests.simulation.worker_mutants import WORKER_MUTANTS
from tests.simulation.world import simulate

ENOUGH_SEEDS = 1500


@pytest.mark.parametrize(
    "mutant", [*MUTANTS, *REMOVAL_MUTANTS, *WORKER_MUTANTS], ids=lambda mutant: mutant.mistake
)
def test_each_mutant_is_detected(mutant):
    profile = PROFILES[mutant.profile]
    seeds = (*range(mutant.seed, ENOUGH_SEEDS), *range(mutant.seed))

    def broken(seed: int) -> list[str]:
        return simulate(profile, seed, mutant.parts, database_parts=mutant.database_parts).broken

    found = next((seed for seed in seeds if broken(seed)), None)

    assert found is not None, f"a worker that {mutant.mistake} kept all promises {ENOUGH_SEEDS} times"
    assert not simulate(profile, found).broken
    crashes = [one for one in broken(found) if one.startswith("crashed")]
    assert not crashes, "the mutant itself crashes"
