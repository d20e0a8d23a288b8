"""The tries of work that no message repeats: when each is due again after a failure."""

from collections.abc import Hashable
from dataclasses import dataclass, field

from worker.core.judge import Failure, Park, Pause, RetryPolicy, RetryState, Wait, judge
from worker.ports import Clock


@dataclass
class Tries:
    """Remembers when failed work is due again, with the backoff of a message. It is never given up."""

    retry: RetryPolicy
    clock: Clock
    _states: dict[Hashable, RetryState] = field(default_factory=dict)
    _again_at: dict[Hashable, float] = field(default_factory=dict)

    def is_due(self, work: Hashable) -> bool:
        """Whether the next try is due; the first one is at once."""
        return self.clock.monotonic() >= self._again_at.get(work, 0.0)

    def put_off(self, work: Hashable, failure: Failure) -> None:
        """Sets the time of the next try after a failed one."""
        state = self._states.get(work, RetryState()).tried()
        match judge(failure, state, self.retry, self.clock.jitter()):
            case Wait(seconds, cost_seconds):
                state = state.spent(cost_seconds)
            case Pause(seconds):
                state = state.paused()
            case Park(delay):
                seconds, state = delay.total_seconds(), RetryState()
            case _:
                seconds, state = max(self.retry.delays).total_seconds(), RetryState()
        self._states[work] = state
        self._again_at[work] = self.clock.monotonic() + seconds

    def ended(self, work: Hashable) -> None:
        """Forgets work that has ended."""
        self._states.pop(work, None)
        self._again_at.pop(work, None)
