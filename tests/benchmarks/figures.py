"""The figures of a benchmark."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The amount of work of a benchmark."""

    events: int
    departments: int
    rounds: int
    seed: int
    large: int
    ledgers: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """One value per round. The goal, if any, applies to the median."""

    name: str
    unit: str
    values: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        if self.at_least is not None:
            return self.median >= self.at_least
        return None if self.at_most is None else self.median <= self.at_most

    @property
    def goal_text(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.written(self.at_least)}"
        return "" if self.at_most is None else f"≤ {self.written(self.at_most)}"

    def written(self, value: float) -> str:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return f"{value:,.{digits}f} {self.unit}".strip()
