"""The pace of calls, in simulated time: as many as allowed in any window, and no slower than that."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.adapters.pace import Pace
from worker.ports import RateLimit


class SimulatedTime(asyncio.SelectorEventLoop):
    """A loop that never waits: when nobody is ready it is the time of the next to be."""

    simulated = 1000.0

    def time(self) -> float:
        return self.simulated

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.simulated = max(self.simulated, self._scheduled[0].when())
        super()._run_once()


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    calls=st.integers(1, 6),
    window=st.sampled_from([0.5, 5.0, 60.0]),
    gaps=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.4, 3.0, 70.0]), max_size=40),
)
def test_the_pace_is_as_fast_as_allowed_and_never_faster(calls, window, gaps):
    asked: list[float] = []
    sent: list[float] = []

    async def one(pace: Pace, loop: asyncio.AbstractEventLoop) -> None:
        asked.append(loop.time())
        turn = await pace.turn()
        turn.begins()
        turn.answered()
        sent.append(loop.time())

    async def run() -> None:
        pace = Pace(RateLimit(calls, timedelta(seconds=window)), asyncio.Event())
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for gap in gaps:
                await asyncio.sleep(gap)
                group.create_task(one(pace, loop))
                await asyncio.sleep(0)  # it has asked

    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        runner.run(run())
    for number, at in enumerate(asked):
        free_at = sent[number - calls] + window if number >= calls else 0.0
        assert sent[number] == pytest.approx(max(at, free_at), abs=1e-6)
