"""Publishes the answers that no message will publish again.

A removal that ends late, and a held one that is voided or rejected, has no delivery. The department's entry
owes its answer until the broker has confirmed it.
"""

from dataclasses import dataclass, replace

from worker.core import messages
from worker.core.duties import DEBT_PAUSE
from worker.core.holds import result_published, results_put_off
from worker.core.model.answers import Answer
from worker.core.model.entry import Entry
from worker.core.naming import Names
from worker.pipeline.outbox import Outbox
from worker.pipeline.records import Records
from worker.ports import Clock, PublishFailed


@dataclass(frozen=True, slots=True)
class OwedResults:
    """Publishes what an entry owes, oldest first."""

    records: Records
    outbox: Outbox
    names: Names
    clock: Clock

    async def publish(self, entry: Entry) -> Entry:
        """Returns the recorded entry. Raises the ports' exceptions, with the rest put off."""
        for answer in entry.owed_results:
            try:
                await self.outbox.publish_result(messages.result(answer, self.names.owner, self.clock.now()))
            except PublishFailed:
                await self.records.published(results_put_off(entry, self.clock.now() + DEBT_PAUSE))
                raise
            entry = await self._confirm(entry, answer)
        return entry

    async def _confirm(self, entry: Entry, answer: Answer) -> Entry:
        on_record = (await self.records.recall(entry.department, answer.event)).answer
        confirmed = replace(answer, confirmed=True) if on_record == answer else None
        return await self.records.published(result_published(entry, answer), confirmed)
