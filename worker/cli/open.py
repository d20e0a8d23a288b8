"""`provisioner open`: the recipient's side. Opens sealed credentials and says whether they are genuine."""

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic_core import from_json, to_json

from contracts.subaccounts import revealed
from contracts.topology import secrets_queue
from worker.adapters.amqp.codec.frames import Delivered
from worker.adapters.amqp.errors import BrokerRefuses, explain
from worker.adapters.amqp.getter import Getter
from worker.adapters.amqp.seam import BROKER_ERRORS
from worker.adapters.jose.key_files import KeyFileError, read_keys
from worker.adapters.jose.open import NotOpened, Opened, open_message
from worker.cli import terminal as console
from worker.core.keyring import Jwk, is_private, recipient_of
from worker.operations import actions as operations
from worker.settings.model import BrokerSettings

COLUMNS = ("tenant", "department", "name", "auth id", "generation", "opened with", "signed by")
WARNING = "what follows holds auth tokens in the clear: do not leave it on the screen or in a scrollback"


@dataclass(frozen=True, slots=True)
class Keys:
    """The recipient's private keys, and the worker's public ones."""

    recipient: str
    private: Sequence[Jwk]
    worker: Sequence[Jwk]

    @classmethod
    def read(cls, private: Path, worker: Path) -> "Keys":
        """Raises `KeyFileError`."""
        keys = read_keys(private)
        if not all(map(is_private, keys)):
            raise KeyFileError(f"{private} holds a public key; it takes the private one to open")
        try:
            (recipient,) = {recipient_of(str(key.get("kid"))) for key in keys}
        except ValueError:
            raise KeyFileError(f'the "kid" of each key in {private} must begin with one recipient') from None
        return cls(recipient, keys, read_keys(worker))


def open_stdin(keys: Keys, *, as_json: bool) -> None:
    """One message, or one a line. Raises `NotOpened` for the first that cannot be opened."""
    _show([open_message(body, keys.private, keys.worker) for body in _bodies()], as_json=as_json)


async def open_queue(settings: BrokerSettings, keys: Keys, *, take: bool, as_json: bool) -> bool:
    """All that wait in the recipient's queue; False if one could not be opened, which stays there.

    With `take` a message is off the queue once it is printed; else all stay.
    """
    failed = False
    async with _waiting(settings, secrets_queue(keys.recipient)) as waiting:
        async for body, ack in waiting:
            try:
                _show([open_message(body, keys.private, keys.worker)], as_json=as_json)
            except NotOpened as refusal:
                failed = True
                console.complain([str(refusal)])
                continue
            if take:
                ack()
    return not failed


def _bodies() -> list[bytes]:
    text = sys.stdin.buffer.read()
    try:
        from_json(text)
    except ValueError:
        return [line for line in text.splitlines() if line.strip()]
    return [text]


def _show(opened: Iterable[Opened], *, as_json: bool) -> None:
    if not as_json:
        rows = [_row(one) for one in opened]
        console.print_table(COLUMNS, rows, "nothing to open")
        return
    if console.OUT.is_terminal:
        console.complain([WARNING])
    for one in opened:
        console.OUT.file.write(to_json(revealed(one.content)).decode() + "\n")
    console.OUT.file.flush()


def _row(opened: Opened) -> tuple[object, ...]:
    content = opened.content
    about = (content.tenant, content.department_id, content.name, content.auth_id, content.generation)
    return (*about, opened.opened_with, opened.signed_by)


Waiting = AsyncIterator[tuple[bytes, Callable[[], None]]]


@asynccontextmanager
async def _waiting(settings: BrokerSettings, name: str) -> AsyncIterator[Waiting]:
    """What waits now, each with its ack. What is not acked goes back at the end of the block."""
    async with operations.connection(settings) as connection, connection.channel() as channel:
        getter = Getter(connection, channel, name)

        async def each() -> Waiting:
            while (message := await _next(getter, name)) is not None:
                yield message.body, partial(getter.ack, message)

        yield each()


async def _next(getter: Getter, queue: str) -> Delivered | None:
    try:
        return await getter.get()
    except BROKER_ERRORS as error:
        raise BrokerRefuses(f"the queue {queue} cannot be read: {explain(error)}") from None
