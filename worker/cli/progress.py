"""The progress of long work: a bar on a terminal, else a line from time to time."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from worker.adapters.system import SystemClock
from worker.cli import terminal
from worker.operations.dead_letters.tracking import Observer
from worker.ports import Clock

WINDOW_SECONDS = 30.0
SAMPLE_SECONDS = 1.0
LINE_SECONDS = 10.0
SILENT_SECONDS = 10.0
BAR_WIDTH = 20
SLOW_PER_SECOND = 10


@dataclass
class Meter:
    """Counts finished letters and measures the speed of the last half minute.

    `per_second` is the rate limit, `total` the number of letters, each None if unknown. `sent` counts letters
    that are tracked after they were sent; None if they are not tracked.
    """

    clock: Clock
    total: int | None = None
    per_second: float | None = None
    done: int = 0
    sent: int | None = None
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._samples.append((self.clock.monotonic(), 0))

    def add(self, more: int) -> None:
        """Counts `more` finished letters."""
        self.done += more
        now = self.clock.monotonic()
        if now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, self.done))
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def speed(self) -> float:
        """Letters per second in the last half minute; 0 while unknown."""
        now = self.clock.monotonic()
        samples = list(self._samples)  # rich draws the bar in another thread
        older = [sample for sample in samples if sample[0] <= now - WINDOW_SECONDS]
        begun, done_before = older[-1] if older else samples[0]
        seconds = min(now - begun, WINDOW_SECONDS)
        if seconds < SAMPLE_SECONDS:
            return 0.0
        return min((self.done - done_before) / seconds, self.per_second or float("inf"))

    @property
    def words(self) -> list[str]:
        """`12/30`, `4 sent`, `2.5/s`, `0:07 left`, as far as each is known."""
        words = [f"{self.done:,}" + (f"/{self.total:,}" if self.total is not None else "")]
        words += [] if self.sent is None else [f"{self.sent:,} sent"]
        if speed := self.speed:
            words.append(f"{_speed_text(speed)}/s")
            words += [] if self.total is None else [f"{_time_text((self.total - self.done) / speed)} left"]
        return words


def _speed_text(speed: float) -> str:
    """Rounded down, so that it never exceeds the rate limit."""
    return f"{int(speed * 10 + 1e-6) / 10:.1f}" if speed < SLOW_PER_SECOND else f"{int(speed + 1e-6):,}"


def _time_text(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Words(ProgressColumn):
    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def render(self, _task: Task) -> Text:
        return Text("  ".join(self._meter.words))


class Display(Observer):
    """Shows progress; the observer of a replay."""

    def __init__(self, what: str, meter: Meter, bar: Progress) -> None:
        self.meter = meter
        self._what = what
        self._bar = bar
        self._task = bar.add_task(what, total=meter.total)
        self._shown_at = meter.clock.monotonic()
        self._warned = False

    def out_of(self, done: int, total: int) -> None:
        """Sets the number of finished letters, and of all, which is known only now."""
        self.meter.total = total
        self._bar.update(self._task, total=total)
        self.at(done)

    def at(self, done: int) -> None:
        """Sets the total of finished letters."""
        self.more(done - self.meter.done)

    def more(self, number: int) -> None:
        """Counts `number` finished letters."""
        self.meter.add(number)
        self._show()

    def sent(self, more: int) -> None:
        """Counts sent letters, which are finished unless they are tracked."""
        if self.meter.sent is None:
            self.more(more)
        else:
            self.meter.sent += more
            self._show()

    def settled(self, more: int) -> None:
        """Counts tracked letters as finished."""
        self.more(more)

    def waiting(self, seconds: float) -> None:
        """Warns once after `SILENT_SECONDS` without an outcome."""
        self._show()
        if seconds >= SILENT_SECONDS and not self._warned:
            self._warned = True
            terminal.advise(
                f"sent {self.meter.sent:,}, waiting for an answer: is a worker running, and ready?"
                " Ctrl-C stops"
            )

    def _show(self) -> None:
        self._bar.update(self._task, completed=self.meter.done)
        now = self.meter.clock.monotonic()
        if self._bar.disable and now - self._shown_at >= LINE_SECONDS:
            self._shown_at = now
            terminal.advise(f"{self._what}: {', '.join(self.meter.words)}")


@contextmanager
def progress(
    what: str, total: int | None = None, per_second: float | None = None, *, tracked: bool = False
) -> Iterator[Display]:
    """A display for the time of the block. `total` None: unknown; `per_second`: the rate limit.

    `tracked`: letters count as done when their outcome is known, and the number sent is shown beside it.
    """
    meter = Meter(SystemClock(), total, per_second, sent=0 if tracked else None)
    columns = (TextColumn("{task.description}"), BarColumn(BAR_WIDTH), _Words(meter))
    hidden = not terminal.ERR.is_terminal
    with Progress(*columns, console=terminal.ERR, transient=True, disable=hidden) as bar:
        yield Display(what, meter, bar)
