"""`provisioner open`, for recipients: opens sealed credentials and verifies them."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic_core import from_json, to_json

from contracts.subaccounts import revealed
from contracts.topology import secrets_queue
from worker.cli import streams, terminal
from worker.cli.files import read_text
from worker.cli.loop import run_to_exit
from worker.core.keyring import Jwk, is_private, recipient_of
from worker.settings.load import load
from worker.settings.model import BrokerSettings

if TYPE_CHECKING:
    from worker.adapters.jose.open import Opened

COLUMNS = ("tenant", "department", "name", "auth id", "generation", "opened with", "signed by")
WARNING = "the output holds auth tokens in the clear: do not leave it on the screen or in a scrollback"


@dataclass(frozen=True, slots=True)
class Keys:
    """The recipient's private keys, and the worker's public ones."""

    recipient: str
    private: Sequence[Jwk]
    worker: Sequence[Jwk]

    @classmethod
    def read(cls, private: Path, worker: Path) -> "Keys":
        """Reads both files (JWK or JWKS); raises `KeyFileError`."""
        from worker.adapters.jose.key_files import KeyFileError, read_keys

        keys = read_keys(private)
        if not all(map(is_private, keys)):
            raise KeyFileError(f"{private} holds a public key; it takes the private one to open")
        try:
            (recipient,) = {recipient_of(str(key.get("kid"))) for key in keys}
        except ValueError:
            raise KeyFileError(f'the "kid" of each key in {private} must begin with one recipient') from None
        return cls(recipient, keys, read_keys(worker))


def open_(
    key: Annotated[Path, typer.Option(help="The recipient's private key (JWK or JWKS).")],
    worker_keys: Annotated[Path, typer.Option(help="The worker's public keys: `provisioner keys public`.")],
    *,
    queue: Annotated[
        bool, typer.Option("--queue", help="Read the recipient's queue instead of stdin.")
    ] = False,
    take: Annotated[
        bool, typer.Option("--take", help="With --queue: remove the printed messages from the queue.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the credentials with their tokens, one JSON object per line."),
    ] = False,
) -> None:
    """Open sealed credentials as their recipient, and verify that the worker made them for us."""
    if take and not (queue and as_json):
        raise typer.BadParameter(
            "--take goes with --queue and --json: a message that is taken must be printed"
        )
    if take and not streams.is_read():
        raise typer.BadParameter("--take needs a stdout that somebody reads: it is closed")
    keys = Keys.read(key, worker_keys)
    if queue:
        run_to_exit(open_queue(load(BrokerSettings, os.environ), keys, take=take, as_json=as_json))
    _open_stdin(keys, as_json=as_json)


def _open_stdin(keys: Keys, *, as_json: bool) -> None:
    """Opens one message, or one per line. Raises `NotOpened` for the first that cannot be opened."""
    from worker.adapters.jose.open import open_message

    _show([open_message(body, keys.private, keys.worker) for body in _bodies()], as_json=as_json)


async def open_queue(settings: BrokerSettings, keys: Keys, *, take: bool, as_json: bool) -> bool:
    """Opens all messages in the recipient's queue; False if one could not be opened, which stays there.

    With `take` a message is acked once it is printed; without it all stay in the queue.
    """
    from worker.adapters.brokers import waiting_messages
    from worker.adapters.jose.open import NotOpened, open_message

    opened: list[Opened] = []
    refused = 0
    name = settings.namespace.of(secrets_queue(keys.recipient))
    async with waiting_messages(settings.amqp_url, name) as waiting:
        async for body, ack in waiting:
            try:
                opened.append(open_message(body, keys.private, keys.worker))
            except NotOpened as refusal:
                refused += 1
                terminal.complain([str(refusal)])
                continue
            if as_json:
                if len(opened) == 1:
                    _warn()
                _print_tokens(opened[-1:])
            if take:
                ack()
    nothing = f"nothing waits in the queue {name}"
    if as_json and not (opened or refused):
        terminal.advise(nothing)
    elif not as_json and (opened or not refused):
        _show(opened, as_json=False, empty=nothing)
    return not refused


def _bodies() -> list[bytes]:
    text = read_text(Path("-")).encode()
    try:
        from_json(text)
    except ValueError:
        return [line for line in text.splitlines() if line.strip()]
    return [text]


def _show(opened: "Iterable[Opened]", *, as_json: bool, empty: str = "nothing to open") -> None:
    if not as_json:
        rows = [_row(one) for one in opened]
        terminal.print_table(COLUMNS, rows, empty)
        return
    _warn()
    _print_tokens(opened)


def _warn() -> None:
    if terminal.OUT.is_terminal:
        terminal.complain([WARNING])


def _print_tokens(opened: "Iterable[Opened]") -> None:
    for one in opened:
        terminal.write(terminal.ascii_json(to_json(revealed(one.content))).decode() + "\n")
    terminal.flush()


def _row(opened: "Opened") -> tuple[object, ...]:
    content = opened.content
    about = (content.tenant, content.department_id, content.name, content.auth_id, content.generation)
    return (*about, opened.opened_with, opened.signed_by)
