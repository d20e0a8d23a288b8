"""When the wishes that could not be granted are tried again."""

from dataclasses import dataclass, field

from worker.core.judge import Failure, Park, Pause, RetryPolicy, RetryState, Wait, judge
from worker.ports import Clock


@dataclass
class Tries:
    """The tries of each wish. They back off as those of an event do, and count nothing."""

    retry: RetryPolicy
    clock: Clock
    _states: dict[str, RetryState] = field(default_factory=dict)
    _again_at: dict[str, float] = field(default_factory=dict)

    def is_due(self, wish_id: str) -> bool:
        """Whether the next try is due; the first one is at once."""
        return self.clock.monotonic() >= self._again_at.get(wish_id, 0.0)

    def put_off(self, wish_id: str, failure: Failure) -> None:
        """Puts the next try off, because this one has failed."""
        state = self._states.get(wish_id, RetryState()).tried()
        match judge(failure, state, self.retry, self.clock.jitter()):
            case Wait(seconds, cost_seconds):
                state = state.spent(cost_seconds)
            case Pause(seconds):
                state = state.paused()
            case Park(delay):
                seconds, state = delay.total_seconds(), RetryState()
            case _:
                seconds, state = max(self.retry.delays).total_seconds(), RetryState()
        self._states[wish_id] = state
        self._again_at[wish_id] = self.clock.monotonic() + seconds

    def end(self, wish_id: str) -> None:
        """Forgets a wish that has ended."""
        self._states.pop(wish_id, None)
        self._again_at.pop(wish_id, None)
