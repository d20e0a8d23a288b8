"""Creates a new subaccount for a department whose own is gone, as an operator's wish in the ledger asks.

A recreation takes the stages of an event, with waits between its tries, but has no message: the open wish
brings it back after a crash, until its answer is on record.
"""

from dataclasses import dataclass

from contracts.subaccounts import ResultCode
from worker.core.judge import Done, Missing, Permanent
from worker.core.model.wishes import Wish
from worker.core.recreation import not_recreated, recreation_of
from worker.pipeline.failures import failure_of
from worker.pipeline.line import Line, Overtaken
from worker.pipeline.records import Records
from worker.pipeline.tries import Tries
from worker.ports import Clock, Wishes
from worker.telemetry.events import Telemetry


@dataclass
class Recreations:
    """Grants the wishes to recreate a subaccount."""

    line: Line
    records: Records
    wishes: Wishes
    tries: Tries
    clock: Clock
    telemetry: Telemetry

    def is_due(self, wish: Wish) -> bool:
        """Whether the next try is due; the first one is at once."""
        return self.tries.is_due(wish.id)

    async def grant(self, wish: Wish) -> None:
        """Makes one try. Records an answer if it ends the wish. Raises the exceptions of the ports."""
        if wish not in await self.wishes.wishes():
            return  # it was withdrawn meanwhile
        try:
            result = await self.line.carry(recreation_of(wish), lambda: False)
        except Exception as error:
            self.tries.put_off(wish.id, failure_of(error))
            raise
        match result:
            case Permanent(reason, detail, code):
                await self._refuse(wish, code or ResultCode(reason), detail)
            case Done():
                await self._end(wish)
            case Overtaken():
                return
            case Missing():
                self.tries.put_off(wish.id, result)
            case failure:
                self.telemetry.duty_failed(wish.department, failure.detail)
                self.tries.put_off(wish.id, failure)

    async def _refuse(self, wish: Wish, code: ResultCode, detail: str) -> None:
        asked = recreation_of(wish)
        entry = (await self.records.recall(wish.department)).entry
        await self.records.answered(not_recreated(asked, entry, code, detail, self.clock.now()))
        await self._end(wish)

    async def _end(self, wish: Wish) -> None:
        known = await self.records.recall(wish.department, recreation_of(wish).reference)
        if known.answer is not None:
            self.telemetry.recreation_answered(known.answer, wish.asked_by)
        await self.wishes.close_wish(wish.id)
        self.tries.end(wish.id)
