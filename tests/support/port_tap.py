"""A tap on the calls from the worker to its ports: notes them, and makes them fail or stop.

A fault that never strikes makes its test a happy path without anybody noticing: a typing error in its name is
enough. So each tap made during a test is checked after it (`checked_taps`, used by tests/conftest.py).
"""

from collections.abc import Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
D = TypeVar("D", "Fault", "Interruption")


@dataclass(frozen=True)
class Fault:
    """The next call whose note begins with `what` fails: before, or after it has had its effect.

    An endless fault strikes each such call.
    """

    what: str
    error: Exception
    after_effect: bool = False
    endless: bool = False


@dataclass(frozen=True)
class Interruption:
    """Runs once, right before the next call whose note begins with `what`."""

    what: str
    action: Callable[[], Awaitable[object]]
    endless: bool = False


async def do_nothing() -> None:
    """The default of `around`."""


@dataclass
class PortTap:
    """Every call to a port passes through `see`.

    `journal` has a note for each call, in order. `around` is awaited right before and right after each: what
    it raises or waits for happens there. A probe that finds the provider well is not noted.
    """

    journal: list[str] = field(default_factory=list)
    around: Callable[[], Awaitable[None]] = do_nothing
    _due: list[Fault | Interruption] = field(default_factory=list)
    _forgotten: set[str] = field(default_factory=set)
    _struck: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        _taps.append(self)

    def fail(self, what: str, error: Exception, *, times: int | None = 1, after_effect: bool = False) -> None:
        """Makes the next calls whose note begins with `what` fail; with `times` None all of them."""
        fault = Fault(what, error, after_effect, endless=times is None)
        self._due.extend([fault] * (1 if times is None else times))

    def before(self, what: str, action: Callable[[], Awaitable[object]]) -> None:
        """Runs the action right before the next call whose note begins with `what`."""
        self._due.append(Interruption(what, action))

    def forget(self) -> None:
        """Drops all that is still due. In some tap of the test each of these must have struck."""
        self._forgotten |= {due.what for due in self._due}
        self._due.clear()

    def missed(self, struck: AbstractSet[str]) -> list[str]:
        """The names of what never struck, given those that struck in any tap of the test."""
        due = {one.what for one in self._due if not (one.endless and one.what in self._struck)}
        return sorted(due | self._forgotten - struck)

    @property
    def struck(self) -> AbstractSet[str]:
        """The names of the faults and interruptions that struck."""
        return self._struck

    async def see(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Makes the call under the note `what`, with all that is to happen to it."""
        if interruption := self._take(Interruption, what):
            await interruption.action()
        if what != "probe":
            await self.around()
        fault = self._take(Fault, what)
        if fault and not fault.after_effect:
            self.journal.append(f"{what} failed")
            raise fault.error
        if what != "probe":
            self.journal.append(what)
        result = await call()
        if what != "probe":
            await self.around()
        if fault:
            raise fault.error
        return result

    def _take(self, kind: type[D], what: str) -> D | None:
        for due in self._due:
            if isinstance(due, kind) and what.startswith(due.what):
                if not due.endless:
                    self._due.remove(due)
                self._struck.add(due.what)
                return due
        return None


_taps: list[PortTap] = []


@contextmanager
def checked_taps() -> Iterator[None]:
    """Fails at the end of the block if a tap made in it has a fault or an interruption that never struck."""
    before, _taps[:] = list(_taps), []
    try:
        yield
        made = list(_taps)
    finally:
        _taps[:] = before
    struck = {what for tap in made for what in tap.struck}
    for tap in made:
        missed = tap.missed(struck)
        assert not missed, f"these faults never struck: {missed}; the calls were {tap.journal}"
