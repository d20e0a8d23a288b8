"""Operations on source profiles: check them, try a payload, and remap payloads that could not be mapped."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TypeVar

from contracts import topology
from contracts.departments import DepartmentEvent
from worker.core.dead_letters import DEFAULT_DELIVERY_LIMIT, may_be_lost, next_return_loses
from worker.core.intake.mapping import Mapped, map_received
from worker.core.intake.parsing import notes_on
from worker.core.intake.profile import Profile
from worker.core.intake.samples import failures
from worker.core.intake.unmapped import profile_of, received_of, shown
from worker.core.messages import without_broker_headers
from worker.operations.dead_letters.batches import BATCH_LETTERS
from worker.operations.dead_letters.replay import publish_all
from worker.operations.emit import inbound
from worker.ports import Browse, BrowsedLetter, Clock, DeadLetterQueue, Publisher, TooManyReturns, UserError

T = TypeVar("T")

NO_PROFILE = "there is no profile of this name"


@dataclass(frozen=True, slots=True)
class Checked:
    """A profile, and what is wrong or worth knowing about it, one `key: reason` each."""

    profile: Profile
    failures: Sequence[str]
    notes: Sequence[str]


def check(profile: Profile) -> Checked:
    """Runs the samples of a profile."""
    return Checked(profile, failures(profile), notes_on(profile))


@dataclass(frozen=True, slots=True, eq=False)
class Unmapped:
    """A payload that waits in the queue, and what its profile makes of it now."""

    letter: BrowsedLetter
    profile: str
    mapped: Mapped

    @property
    def maps(self) -> bool:
        """Whether nothing of it is left to be mapped."""
        return not self.mapped.unmappable

    @property
    def events(self) -> Sequence[DepartmentEvent]:
        """The events to be published."""
        return self.mapped.events


@dataclass
class Remapped:
    """The outcome of a remap.

    `seen` counts the payloads read, `selected` those of the profile asked for, `remapped` those that left
    the queue (or would), `events` and `ignored` what became of them, `kept` the others by profile and reason.
    """

    seen: int = 0
    selected: int = 0
    remapped: int = 0
    events: int = 0
    ignored: int = 0
    kept: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, payloads: Sequence[Unmapped]) -> None:
        """Counts payloads that are dealt with."""
        for payload in payloads:
            if payload.maps:
                self.remapped += 1
                self.events += len(payload.events)
                self.ignored += payload.mapped.ignored
            else:
                self.kept[payload.profile, shown(payload.mapped.unmappable)] += 1


@dataclass(frozen=True, slots=True)
class RemapOptions:
    """The profiles of now, and the payloads to be taken: those of the profile `only`, None for all.

    `assume_unlimited`: the operator says that the queue has no delivery limit.
    """

    profiles: Mapping[str, Profile]
    only: str | None = None
    assume_unlimited: bool = False


@dataclass
class Remap:
    """Sends payloads that could not be mapped through the profiles of now.

    `dry` changes nothing. `stopping` ends it between two batches. A payload leaves the queue once the broker
    has confirmed its events; the others return to their places.
    """

    queue: DeadLetterQueue
    publisher: Publisher
    clock: Clock
    options: RemapOptions
    dry: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    on_progress: Callable[[int], None] = lambda _: None
    report: Remapped = field(default_factory=Remapped)

    async def run(self, most: int | None = None) -> Remapped:
        """Reads the queue once, and remaps up to `most` payloads.

        Raises `QueueTaken`, `TooManyReturns`, or the `UserError` of a publish that failed; `report` has what
        was done by then.
        """
        async with self.queue.browse() as browse:
            async for batch in browse.batches(BATCH_LETTERS):
                if not self.report.seen:
                    await self._guard_delivery_limit(browse, batch[0])
                self.report.seen += len(batch)
                await self._remap(browse, self._selected(batch, most))
                self.on_progress(self.report.seen)
                if self.stopping.is_set() or (most is not None and self.report.remapped >= most):
                    break
        return self.report

    def _selected(self, batch: Sequence[BrowsedLetter], most: int | None) -> Sequence[Unmapped]:
        wanted = [letter for letter in batch if self.options.only in {None, profile_of(letter.original)}]
        payloads = list(map(self._mapped, wanted))
        self.report.selected += len(payloads)
        if most is None:
            return payloads
        room = most - self.report.remapped
        mapping = [payload for payload in payloads if payload.maps][:room]
        return [payload for payload in payloads if not payload.maps or payload in mapping]

    def _mapped(self, letter: BrowsedLetter) -> Unmapped:
        name = profile_of(letter.original)
        profile = self.options.profiles.get(name)
        if profile is None:
            return Unmapped(letter, name, Mapped(unmappable=(NO_PROFILE,)))
        return Unmapped(letter, name, map_received(profile, received_of(letter.original, self.clock.now())))

    async def _remap(self, browse: Browse, payloads: Sequence[Unmapped]) -> None:
        """Publishes the events of a batch, and removes the payloads whose events are confirmed."""
        if self.dry:
            self.report.add(payloads)
            return
        sent = [(payload, event) for payload in payloads if payload.maps for event in payload.events]
        outcomes = await publish_all(self.publisher, [inbound(event) for _, event in sent])
        failed = [
            (payload, failure)
            for (payload, _), failure in zip(sent, outcomes, strict=True)
            if failure is not None
        ]
        unsent = [payload for payload, _ in failed]
        done = [payload for payload in payloads if payload not in unsent]
        await browse.remove([payload.letter for payload in done if payload.maps])
        self.report.add(done)
        if failed:
            raise failed[0][1]

    async def _guard_delivery_limit(self, browse: Browse, oldest: BrowsedLetter) -> None:
        """Raises `TooManyReturns` if one more return to the queue could make RabbitMQ drop the payload."""
        if not may_be_lost(browse.broker, oldest.returns) or self.options.assume_unlimited:
            return
        if await self.queue.is_unlimited():
            return
        if next_return_loses(browse.broker, oldest.returns):
            await self._requeue(browse, oldest)
        raise TooManyReturns(
            f"the oldest payload was given back {oldest.returns} times, and beyond {DEFAULT_DELIVERY_LIMIT}"
            " RabbitMQ 4 drops it unless the queue has x-delivery-limit -1: run `provisioner topology check`"
            " as a user who may configure it, and give --no-delivery-limit if it is ok"
        )

    async def _requeue(self, browse: Browse, oldest: BrowsedLetter) -> None:
        """Publishes the payload to its queue again, since a return would lose it."""
        original = oldest.original
        message = replace(original.message, headers=without_broker_headers(original.message.headers))
        await self.publisher.publish(replace(original, exchange=topology.UNMAPPED, message=message))
        await browse.remove([oldest])


class NoSuchProfile(UserError):
    """No profile has this name."""

    exit_code = 2


def named(profiles: Mapping[str, T], name: str) -> T:
    """The profile of this name; raises `NoSuchProfile`, which names the nearest one."""
    if name in profiles:
        return profiles[name]
    meant = get_close_matches(name, profiles, 1)
    hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(profiles)}"
    raise NoSuchProfile(f"there is no profile {name}; {hint}")
