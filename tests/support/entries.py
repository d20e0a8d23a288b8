"""All entries of a ledger at once, for tests, whose ledgers are small."""

from worker.core.model.entry import Entry
from worker.ports import Reports, every_entry


async def entries_of(ledger: Reports, tenant: str | None = None) -> list[Entry]:
    return [entry async for entry in every_entry(ledger, tenant)]
