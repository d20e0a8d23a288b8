"""The snapshots of sources, in memory, for tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from worker.core.model.departments import Department
from worker.core.snapshots import Said, Standing, settled
from worker.ports import SnapshotMoved


@dataclass(slots=True)
class MemorySnapshots:
    """The `Snapshots` port, without durability."""

    standings: dict[str, Standing] = field(default_factory=dict)
    rows: dict[tuple[str, Department], Said] = field(default_factory=dict)

    async def standing(self, source: str) -> Standing | None:
        """See `Snapshots.standing`."""
        return self.standings.get(source)

    async def said_after(self, source: str, last: Department | None, limit: int) -> Sequence[Said]:
        """See `Snapshots.said_after`."""
        found = self._of(source)
        return [found[key] for key in sorted(found) if last is None or key > last][:limit]

    async def said(self, source: str, departments: Sequence[Department]) -> Mapping[Department, Said]:
        """See `Snapshots.said`."""
        found = self._of(source)
        return {key: found[key] for key in departments if key in found}

    async def others(self, source: str, departments: Sequence[Department]) -> Mapping[Department, str]:
        """See `Snapshots.others`."""
        wanted = set(departments)
        return {
            key: other
            for other, key in sorted(self.rows, reverse=True)
            if other != source and key in wanted and not self.rows[other, key].removed
        }

    async def unsent(self, source: str, limit: int) -> Sequence[Said]:
        """See `Snapshots.unsent`."""
        return [said for said in self._of(source).values() if said.unsent is not None][:limit]

    async def begin(self, standing: Standing, revision: int | None) -> None:
        """See `Snapshots.begin`."""
        last = self.standings.get(standing.source)
        if last is not None and last.digest == standing.digest:
            return
        if (last.revision if last else None) != revision:
            raise SnapshotMoved
        self.standings[standing.source] = standing

    async def say(self, source: str, digest: str, said: Sequence[Said]) -> None:
        """See `Snapshots.say`."""
        self._require(source, digest)
        self.rows |= {(source, one.department): one for one in said}

    async def settle(self, source: str, said: Sequence[Said]) -> None:
        """See `Snapshots.settle`."""
        for one in said:
            key = (source, one.department)
            known = self.rows.get(key)
            if known is not None and known.unsent is not None and known.unsent == one.unsent:
                if (after := settled(known)) is None:
                    del self.rows[key]
                else:
                    self.rows[key] = after

    async def finish(self, source: str, digest: str, missing: Sequence[Department]) -> None:
        """See `Snapshots.finish`."""
        standing = self._require(source, digest)
        lost = set(missing)
        for key, said in self._of(source).items():
            since = (said.missing_since or standing.as_of) if key in lost else None
            self.rows[source, key] = replace(said, missing_since=since)
        self.standings[source] = replace(self.standings[source], finished=True)

    def _of(self, source: str) -> dict[Department, Said]:
        return {key: said for (of, key), said in self.rows.items() if of == source}

    def _require(self, source: str, digest: str) -> Standing:
        last = self.standings.get(source)
        if last is None or last.digest != digest:
            raise SnapshotMoved
        self.standings[source] = replace(last, revision=last.revision + 1)
        return last
