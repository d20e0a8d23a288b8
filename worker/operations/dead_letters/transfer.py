"""Exports dead letters to a file, one JSON object per line, and imports the edited file."""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from pydantic_core import to_json

from contracts import topology
from contracts.envelope import Message
from contracts.reissues import REISSUE_KEY
from worker.core.dead_letters import Letter, exported, from_json_safe, letter_of, replayed
from worker.core.messages import Outgoing
from worker.core.model.causes import Event, Reissue
from worker.operations.dead_letters.batches import BATCH_LETTERS
from worker.operations.dead_letters.replay import ReplayFailed, publish_all
from worker.operations.dead_letters.session import Session, read
from worker.operations.json_lines import BadItems, read_each
from worker.pipeline.reading import Unreadable, subject_of, validate
from worker.ports import UserError


class InvalidImport(UserError):
    """Some lines are invalid; the text names each. Nothing was sent."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Edited:
    """A line of an import: the edited message, and the dead letter it was, with its `fingerprint`."""

    letter: Letter
    message: Outgoing
    event_id: str | None
    fingerprint: str | None

    @property
    def origin(self) -> str | None:
        """The event's id before the edit; the letter's fingerprint if no id could be read."""
        return self.event_id or self.fingerprint


async def export(
    session: Session, most: int | None, file: BinaryIO, on_progress: Callable[[int], None]
) -> int:
    """Writes the first `most` selected letters and returns their number.

    The queue is held meanwhile, so `file` should not block. `on_progress` is called with the number of
    letters read so far.
    """
    written = 0
    async with session.browsing() as browse:
        async for batch in browse.batches():
            wanted = batch if most is None else batch[: most - written]
            file.writelines(to_json(exported(found.letter, found.held.original)) + b"\n" for found in wanted)
            await session.record("export", [(found.letter, "exported") for found in wanted])
            written += len(wanted)
            on_progress(browse.seen)
            if written == most:
                break
    return written


def read_import(text: str) -> list[Edited]:
    """Reads every line and checks it against the contract; raises `InvalidImport` with every mistake."""
    try:
        return read_each(text, _edited)
    except BadItems as error:
        raise InvalidImport(str(error)) from None


def _edited(line: Mapping[str, Any]) -> Edited:
    given = _untagged(line)
    message = Message(_body(given), _text(given, "content_type"), _mapping(given, "headers"))
    reading = validate(message)
    if isinstance(reading, Unreadable):
        why = reading.verdict
        raise ValueError(f"still {why.reason}: {why.detail}")  # noqa: TRY004 - a mistake in a file, not in our types
    outgoing = Outgoing(
        topology.REPLAY,
        _text(given, "routing_key") or _routing_key(reading),
        message,
        _mapping(given, "properties"),
    )
    letter, origin = letter_of(outgoing, subject_of(reading)), _text(given, "letter")
    reason = _text(given, "reason") or "unknown"
    edited = replace(letter, reason=reason, fingerprint=origin or letter.fingerprint)
    return Edited(edited, outgoing, _text(given, "event_id"), origin)


def _untagged(line: Mapping[str, Any]) -> Any:
    try:
        return from_json_safe(line)
    except ValueError as error:
        raise ValueError(f"a value tagged as bytes or as a time is invalid ({error})") from None


def _routing_key(reading: Event | Reissue) -> str:
    return f"department.{reading.kind}" if isinstance(reading, Event) else REISSUE_KEY


def _body(given: Mapping[str, Any]) -> bytes:
    match given:
        case {"body": str(text), **rest} if "body_base64" not in rest:
            return text.encode()
        case {"body_base64": str(text), **rest} if "body" not in rest:
            return base64.b64decode(text, validate=True)
        case _:
            raise ValueError("one of body and body_base64 must be given, as text")


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name}: not text")
    return value


def _mapping(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = given.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{name}: not a JSON object")  # noqa: TRY004 - as above
    return value


async def send_edited(
    session: Session, edited: Sequence[Edited], stopping: asyncio.Event, on_progress: Callable[[int], None]
) -> int:
    """Publishes the messages as new attempts and records each; returns their number, less if it was stopped.

    Raises `ReplayFailed` at the first that is refused.
    """
    sent = 0
    for first in range(0, len(edited), BATCH_LETTERS):
        if stopping.is_set():
            break
        batch = edited[first : first + BATCH_LETTERS]
        outgoing = [
            replayed(one.message, f"{session.run}-{number}", session.by, one.origin)
            for number, one in enumerate(batch, start=first + 1)
        ]
        failures = await publish_all(session.publisher, outgoing)
        taken = [one for one, failure in zip(batch, failures, strict=True) if failure is None]
        await session.record("import", [(one.letter, f"sent, edited from {one.origin}") for one in taken])
        on_progress(len(taken))
        sent += len(taken)
        if failure := next(filter(None, failures), None):
            raise ReplayFailed(f"{sent:,} of {len(edited):,} sent: {failure}")
    return sent


async def discard_originals(session: Session, edited: Sequence[Edited]) -> int:
    """Removes the dead letters that the lines were exported from; returns how many it found."""
    origins = {one.fingerprint for one in edited} - {None}
    gone = 0
    async with session.queue.browse() as browse:
        async for batch in browse.batches(BATCH_LETTERS):
            going = [held for held in batch if read(held).letter.fingerprint in origins]
            await session.record("discard", [(read(held).letter, "replaced by an import") for held in going])
            await browse.remove(going)
            gone += len(going)
            if gone == len(origins):
                break
    return gone
