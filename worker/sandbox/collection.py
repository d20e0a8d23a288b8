"""A collection of records in order of creation, with pages whose cost does not grow with its size."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Collection(Generic[T]):
    """A mapping by key that keeps the order of creation, in total and within each group.

    `group` returns the owner of a record, such as a subaccount. A record may move to another group.
    """

    def __init__(self, key: Callable[[T], str], group: Callable[[T], str | None] | None = None) -> None:
        self.key = key
        self._group = group
        self._records: dict[str, T] = {}
        self._sequence_of: dict[str, int] = {}
        self._key_at: dict[int, str] = {}
        self._order: list[int] = []
        self._groups: defaultdict[str | None, list[int]] = defaultdict(list)
        self._last_sequence = 0

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[T]:
        """Iterate over the records, oldest first."""
        return (self._records[self._key_at[sequence]] for sequence in self._order)

    def get(self, key: str) -> T | None:
        """Return the record of this key, if there is one."""
        return self._records.get(key)

    def sequence(self, key: str) -> int:
        """Return the record's place in the order of creation."""
        return self._sequence_of[key]

    def put(self, record: T, sequence: int | None = None) -> None:
        """Add a record as the newest, or replace the record of the same key in its place."""
        key = self.key(record)
        if key in self._records:
            self._regroup(key, record)
        else:
            self._append(key, record, sequence or self._last_sequence + 1)
        self._records[key] = record

    def remove(self, key: str) -> None:
        """Remove the record of this key, which must exist."""
        record = self._records.pop(key)
        sequence = self._sequence_of.pop(key)
        del self._key_at[sequence]
        _discard(self._order, sequence)
        if self._group:
            _discard(self._groups[self._group(record)], sequence)

    def count(self, group: str | None) -> int:
        """Return the number of records in a group."""
        return len(self._groups[group])

    def newest_first(self, offset: int, limit: int) -> list[T]:
        """Return a page of all records."""
        return self._slice(self._order, offset, limit)

    def group_newest_first(self, group: str | None, offset: int, limit: int) -> list[T]:
        """Return a page of the records in a group."""
        return self._slice(self._groups[group], offset, limit)

    def of_group(self, group: str | None) -> list[T]:
        """Return all records in a group, newest first."""
        return self._slice(self._groups[group], 0, len(self._groups[group]))

    def _slice(self, order: list[int], offset: int, limit: int) -> list[T]:
        end = max(len(order) - offset, 0)
        start = max(end - limit, 0)
        return [self._records[self._key_at[sequence]] for sequence in reversed(order[start:end])]

    def _append(self, key: str, record: T, sequence: int) -> None:
        self._last_sequence = sequence
        self._sequence_of[key] = sequence
        self._key_at[sequence] = key
        self._order.append(sequence)
        if self._group:
            self._groups[self._group(record)].append(sequence)

    def _regroup(self, key: str, record: T) -> None:
        if not self._group:
            return
        before, after = self._group(self._records[key]), self._group(record)
        if before != after:
            sequence = self._sequence_of[key]
            _discard(self._groups[before], sequence)
            order = self._groups[after]
            order.insert(bisect_left(order, sequence), sequence)


def _discard(order: list[int], sequence: int) -> None:
    del order[bisect_left(order, sequence)]
