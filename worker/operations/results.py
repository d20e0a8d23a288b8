"""Results as they are published on `provisioner.results`."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from contracts.envelope import CloudEvent
from contracts.subaccounts import EventReference, Result, ResultKind, SubaccountResult
from worker.core.messages import Outgoing
from worker.ports import Listener

NOT_DONE = frozenset({ResultKind.FAILED, ResultKind.HELD})
"""Outcomes that are not final: the event needs a person."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A published result; `document` is its message as it was published."""

    result: SubaccountResult
    document: dict[str, Any]

    @property
    def data(self) -> Result:
        """The data of the result."""
        return self.result.data

    @property
    def event(self) -> EventReference | None:
        """The event that is answered; None if it could not be read."""
        return self.data.event


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Selects results: every given criterion must match, and any one of its values does."""

    departments: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    outcomes: tuple[ResultKind, ...] = ()

    def takes(self, heard: Heard) -> bool:
        """Whether the result matches every given criterion."""
        data = heard.data
        return (
            (not self.departments or data.department_id in self.departments)
            and (not self.tenants or data.tenant in self.tenants)
            and (not self.outcomes or data.outcome in self.outcomes)
        )


def heard_in(message: Outgoing) -> Heard | None:
    """The result in a message; None for anything else that was published there."""
    try:
        body = message.message.body
        return Heard(SubaccountResult.model_validate_json(body), from_json(body))
    except (ValidationError, ValueError):
        return None


async def results(
    listener: Listener, chosen: ResultFilter, within_seconds: float | None = None
) -> AsyncIterator[Heard]:
    """The chosen results as they come; with `within_seconds` until then, counted from the start."""
    end = None if within_seconds is None else asyncio.get_running_loop().time() + within_seconds
    while True:
        try:
            async with asyncio.timeout_at(end):
                heard = heard_in(await listener.next())
        except TimeoutError:
            return
        if heard is not None and chosen.takes(heard):
            yield heard


class Answers:
    """The first answer to each of the given events. `missing`: the events without one, by source and id."""

    def __init__(self, listener: Listener, events: Iterable[CloudEvent]) -> None:
        self.missing = {(event.source, event.id): event for event in events}
        self._listener = listener

    async def come(self, silence_seconds: float) -> AsyncIterator[Heard]:
        """Answers as they come; ends when none is missing, or after a silence of `silence_seconds`."""
        while self.missing:
            try:
                async with asyncio.timeout(silence_seconds):
                    heard = await self._next()
            except TimeoutError:
                return
            yield heard

    async def _next(self) -> Heard:
        while True:
            heard = heard_in(await self._listener.next())
            event = heard.event if heard else None
            if heard and event and self.missing.pop((event.source, event.id), None):
                return heard
