"""A round of a benchmark is made again if the broker ends a connection in the middle of it."""

from pathlib import Path

import pytest
from aiormq.exceptions import ConnectionInternalError

from tests.benchmarks.stage import ROUND_TRIES, BenchmarkSetup


class Stage(BenchmarkSetup):
    """Without a broker: counts how often its connections were opened anew."""

    opened = 0

    async def open(self) -> None:
        self.opened += 1

    @property
    def is_cut_off(self) -> bool:
        return False


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage("amqp://nowhere", tmp_path)


async def test_a_round_is_repeated_on_new_connections_after_an_internal_error(stage: Stage):
    rounds = []

    async def one() -> int:
        rounds.append(stage.opened)
        if len(rounds) < ROUND_TRIES:
            raise ConnectionInternalError("INTERNAL_ERROR")
        return 7

    assert await stage.repeated(one) == 7
    assert rounds == list(range(ROUND_TRIES))


async def test_a_round_that_is_cut_off_each_time_or_fails_otherwise_ends_the_run(stage: Stage):
    async def cut_off() -> None:
        raise ConnectionInternalError("INTERNAL_ERROR")

    async def fails() -> None:
        raise AssertionError

    with pytest.raises(ConnectionInternalError):
        await stage.repeated(cut_off)
    assert stage.opened == ROUND_TRIES - 1
    with pytest.raises(AssertionError):
        await stage.repeated(fails)
    assert stage.opened == ROUND_TRIES - 1
