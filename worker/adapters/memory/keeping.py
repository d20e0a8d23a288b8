"""Copies of a ledger in memory, for tests. They pass the conformance suite of `Keeping`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from worker.adapters.memory.ledger import MemoryLedger
from worker.core.keeping import Row, Schema, Table
from worker.ports import LedgerNotEmpty


@dataclass(frozen=True, slots=True)
class MemoryKeeping:
    """The `Keeping` port."""

    ledger: MemoryLedger

    @asynccontextmanager
    async def reading(self) -> AsyncIterator["MemoryRows"]:
        """See `Keeping.reading`."""
        yield MemoryRows({table: list(rows) for table, rows in self.ledger.rows().items()})

    @asynccontextmanager
    async def filling(self) -> AsyncIterator["MemoryRows"]:
        """See `Keeping.filling`."""
        if any(rows for table, rows in self.ledger.rows().items() if table is not Table.LEDGER):
            raise LedgerNotEmpty("the ledger holds rows already")
        filled = MemoryRows()
        yield filled
        self.ledger.load(filled.rows)

    async def schema(self) -> Schema:
        """See `Keeping.schema`."""
        return Schema("none", "none")

    async def damages(self) -> Sequence[str]:
        """See `Keeping.damages`."""
        return ()


@dataclass(frozen=True, slots=True)
class MemoryRows:
    """The `KeptRows` and `Filling` ports."""

    rows: dict[Table, list[Row]] = field(default_factory=lambda: {table: [] for table in Table})

    async def counts(self) -> Mapping[Table, int]:
        """See `KeptRows.counts`."""
        return {table: len(rows) for table, rows in self.rows.items()}

    async def batches(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """See `KeptRows.batches`."""
        if self.rows[table]:
            yield self.rows[table]

    async def add(self, table: Table, rows: Sequence[Row]) -> None:
        """See `Filling.add`."""
        MemoryLedger().load({table: rows})
        self.rows[table] += rows
