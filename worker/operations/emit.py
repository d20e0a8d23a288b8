"""Checks department events against the contract and publishes them."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from contracts import topology as names
from contracts.departments import Invalid, Kind, UnsupportedType, canonical_type, department_event
from contracts.envelope import CloudEvent, Malformed, Message, decoded, describe
from contracts.reissues import REISSUE_KEY, asks_for_reissue
from worker.core.messages import Outgoing
from worker.operations.json_lines import BadItems, read_each
from worker.ports import Publisher, PublishFailed, Unroutable, UserError

EMITTED_FROM = "/subaccount-provisioner/emit"


class InvalidEvent(UserError):
    """An event to be sent breaks the contract; the text says where and how."""

    exit_code = 2


class EmitFailed(UserError):
    """The broker did not accept every event; the text says how many it accepted."""


def complete_event(given: Mapping[str, Any], now: datetime, new_id: Callable[[], str]) -> CloudEvent:
    """Builds a valid event; `id`, `source` and `time` have defaults.

    Raises `InvalidEvent`.
    """
    defaults = {"specversion": "1.0", "id": new_id(), "source": EMITTED_FROM, "time": now}
    try:
        whole = defaults | decoded(given)
        return department_event(CloudEvent.model_validate(whole), whole)
    except ValidationError as error:
        raise InvalidEvent(describe(error, given)) from None
    except (Malformed, Invalid, UnsupportedType) as error:
        raise InvalidEvent(str(error)) from None


def events_in(text: str, now: datetime, new_id: Callable[[], str]) -> list[CloudEvent]:
    """Reads one JSON event per line; raises `InvalidEvent` with every invalid line (`read_each`)."""
    try:
        return read_each(text, lambda given: complete_event(given, now, new_id))
    except BadItems as error:
        raise InvalidEvent(str(error)) from None


def inbound(event: CloudEvent, *, binary: bool = False) -> Outgoing:
    """A department event, or a reissue request, as its producer sends it.

    `binary` is the mode of the CloudEvents AMQP binding; the default is structured mode.
    """
    message = Message.binary(event) if binary else Message.structured(event)
    if asks_for_reissue(event):
        return Outgoing(names.DEPARTMENTS, REISSUE_KEY, message)
    kind = Kind(canonical_type(event.type).split(".")[1])
    return Outgoing(names.DEPARTMENTS, f"department.{kind}", message)


async def emit(
    publisher: Publisher, events: Sequence[CloudEvent], *, binary: bool = False
) -> AsyncIterator[int]:
    """Publishes the events in order and yields how many the broker has confirmed; raises `EmitFailed`."""
    for sent, event in enumerate(events):
        try:
            await publisher.publish(inbound(event, binary=binary))
        except Unroutable:
            hint = "no queue is bound: start `provisioner run` or `provisioner topology apply` first"
            raise EmitFailed(f"{sent} of {len(events)} sent; {hint}") from None
        except PublishFailed as error:
            raise EmitFailed(f"{sent} of {len(events)} sent; {error}") from None
        yield sent + 1
