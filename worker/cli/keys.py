"""`provisioner keys`: makes key pairs, prints public keys, checks key files. Prints no private key."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.topology import Namespace, checked_recipient, recipient_of_queue, secrets_queue
from worker.adapters.system import SystemClock
from worker.cli import terminal
from worker.cli.loop import leave, run
from worker.cli.options import Json
from worker.core.keyring import (
    SEALING_TYPES,
    SIGNING_TYPES,
    KeyState,
    KeyType,
    key_in_use,
    kind_of,
    public_part,
)
from worker.core.model.credentials import ANY_RECIPIENT
from worker.ports import LedgerFailed, UserError, every_entry
from worker.settings.conflicts import NO_SIGNING_KEY
from worker.settings.files import decoded
from worker.settings.load import SettingsError, load
from worker.settings.model import KeyCheckSettings, SealingSettings
from worker.settings.parse import PREFIX
from worker.settings.warnings import others_may

SIGNING = "signing"
MADE_AT_START, NOT_NEEDED = "made at the first start", "not needed"
"""States of a signing key that is not there."""
NOBODY = "(nobody)"
"""Stands for the recipient of a key whose `kid` names none."""

app = typer.Typer(no_args_is_help=True, help="The keys that credentials are sealed and signed with.")


@app.command()
def new(
    recipient: Annotated[str | None, typer.Argument(help="The recipient the pair is for.")] = None,
    *,
    signing: Annotated[bool, typer.Option("--signing", help="Make the worker's signing key.")] = False,
    kind: Annotated[
        str | None, typer.Option("--type", help="x25519, p-256 or rsa; to sign: ed25519 or p-256.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file for the private key.")] = None,
    add_to: Annotated[Path | None, typer.Option(help="A JWKS to add the public key to.")] = None,
) -> None:
    """Make a recipient's key pair or the worker's signing key. Private keys go to files only."""
    if (recipient is None) is not signing:
        raise typer.BadParameter("give either a recipient or --signing")
    try:
        chosen = KeyType(kind) if kind else None
    except ValueError:
        raise typer.BadParameter(f"--type is one of {', '.join(KeyType)}") from None
    if recipient is not None:
        _new_recipient_key(recipient, chosen or KeyType.X25519, out, add_to)
        return
    path = out or _signing_key_path()
    _new_signing_key(path, chosen or KeyType.ED25519)


@app.command()
def public() -> None:
    """Print the worker's public keys (JWKS), with which recipients verify its signatures."""
    from worker.adapters.jose.key_files import KeyFileError, is_there, public_jwks

    path = _signing_key_path()
    if not is_there(path):
        raise KeyFileError(f"there is no signing key at {path}; `provisioner keys new --signing` makes one")
    terminal.print_json(public_jwks(path))


@app.command()
def check(*, as_json: Json = False) -> None:
    """List the keys in use for recipients and for signing; exit 1 if one is missing or unusable.

    Recipients are those of the file, those that are owed credentials, and those that have a queue.
    """
    settings = load(KeyCheckSettings, os.environ)
    rows = list(_recipient_rows(settings))
    needs = run(_needs(settings, {row["for"] for row in rows}))
    rows += _missing_rows(needs, rows, settings.namespace)
    rows.append(_signing_row(settings.signing_key_path))
    if as_json:
        terminal.print_json(rows)
    else:
        table = [tuple(row.values()) for row in rows]
        terminal.print_table(("for", "kid", "type", "state", "detail"), table, "")
    served = {row["for"] for row in rows if row["state"] in {"in use", MADE_AT_START, NOT_NEEDED}}
    terminal.advise(*(f"not looked at: {one}" for one in needs.unseen))
    leave(well=served >= {*(row["for"] for row in rows), SIGNING})


@dataclass(frozen=True, slots=True)
class Needs:
    """Who needs a key beyond the file's recipients.

    `owed`: departments whose credentials are owed, by recipient; 0 for one that was served before. `queues`:
    the recipients that have a queue. `unseen`: what could not be looked at, and why.
    """

    owed: Mapping[str, int]
    queues: frozenset[str]
    unseen: tuple[str, ...]


async def _needs(settings: KeyCheckSettings, named: Iterable[str]) -> Needs:
    owed, ledger_unseen = await _served_and_owed(settings)
    queues, queues_unseen = await _with_queues(settings, {*named, *owed} - {NOBODY})
    return Needs(owed, queues, (*ledger_unseen, *queues_unseen))


async def _served_and_owed(settings: KeyCheckSettings) -> tuple[Mapping[str, int], Sequence[str]]:
    from worker.cli import open_ports

    try:
        async with open_ports.ledger_to_read(settings) as (ledger, _):
            served, owed = await ledger.sealed_for(), Counter[str]()
            async for entry in every_entry(ledger):
                owed.update(entry.owed_to - {ANY_RECIPIENT})
    except LedgerFailed as error:
        return {}, [f"who is owed credentials ({error})"]
    return dict.fromkeys(served, 0) | owed, []


async def _with_queues(
    settings: KeyCheckSettings, known: Iterable[str]
) -> tuple[frozenset[str], Sequence[str]]:
    from worker.cli import open_ports

    managed = open_ports.objects_in_effect(settings)
    try:
        if managed is not None:
            found, unseen = await managed.queues(), []
        else:
            queues = [settings.namespace.of(secrets_queue(one)) for one in sorted(known)]
            found, refused = await open_ports.existing_queues(settings, queues)
            unseen = [f"the queue {queue} (access refused)" for queue in refused]
            unseen.append("queues of recipients named nowhere else (set PROVISIONER_MANAGEMENT_URL)")
    except UserError as error:
        return frozenset(), [f"queues of recipients ({error})"]
    ours = map(settings.namespace.without, filter(settings.namespace.has, found))
    return frozenset(one for one in map(recipient_of_queue, ours) if one), unseen


def _missing_rows(
    needs: Needs, rows: Iterable[Mapping[str, str]], namespace: Namespace
) -> Iterable[dict[str, str]]:
    """A row for each recipient that needs a key and has none in the file."""
    owing = {recipient for recipient, owed in needs.owed.items() if owed}
    for recipient in sorted((owing | needs.queues) - {row["for"] for row in rows}):
        owed = needs.owed.get(recipient)
        why = [f"owed credentials of {owed} department{'s' * (owed != 1)}"] if owed else []
        queue = namespace.of(secrets_queue(recipient))
        why += [f"has the queue {queue}"] if recipient in needs.queues else []
        yield _cells(recipient, "", "", "missing", f"no key bears its name; {', '.join(why)}")


def _new_recipient_key(recipient: str, kind: KeyType, out: Path | None, add_to: Path | None) -> None:
    """Writes the private key to a file (0600), and prints the public one or also adds it to a JWKS."""
    from worker.adapters.jose.key_files import KeyFileError, add_public, new_sealing_key, write_new

    if kind not in SEALING_TYPES:
        raise SettingsError(f"--type {kind} does not seal; write {', '.join(SEALING_TYPES)}")
    try:
        made = new_sealing_key(checked_recipient(recipient), kind, SystemClock().now())
    except ValueError as error:
        raise SettingsError(str(error)) from None
    path = out or Path(f"{made['kid']}.private.json")
    try:
        write_new(path, [made])
    except FileExistsError:
        raise KeyFileError(f"{path} is there already; a key is never overwritten") from None
    if add_to is not None:
        add_public(add_to, made)
    _show_public(made)
    where = f"is in {add_to}" if add_to else 'goes into "keys" of the file that PROVISIONER_RECIPIENTS names'
    terminal.advise(
        f"private key: {path}, for {recipient} alone; `provisioner open --key` takes it",
        f"public key: the one above, it {where}",
    )


def _new_signing_key(path: Path, kind: KeyType) -> None:
    """Puts a new key into the worker's file. Older public keys stay, to verify older signatures."""
    from worker.adapters.jose.key_files import rotate_signing_key

    if kind not in SIGNING_TYPES:
        raise SettingsError(f"--type {kind} does not sign; write {', '.join(SIGNING_TYPES)}")
    made = rotate_signing_key(path, kind, SystemClock().now())
    _show_public(made)
    terminal.advise(
        f"private key: {path}, for the worker alone (PROVISIONER_SIGNING_KEY)",
        "give recipients what `provisioner keys public` prints, then restart the worker to sign with it",
    )


def _recipient_rows(settings: SealingSettings) -> Iterable[dict[str, str]]:
    from worker.adapters.jose.seal import usable_keys

    if settings.recipients is None:
        return []
    states = usable_keys(decoded(settings.recipients.path.read_bytes()))
    return [_row(state, states) for state in states]


def _row(key: KeyState, states: tuple[KeyState, ...]) -> dict[str, str]:
    if key.problem:
        return _cells(key.recipient or NOBODY, key.kid, key.kind, "unusable", key.problem)
    in_use = key_in_use(states, key.recipient) == key
    return _cells(key.recipient, key.kid, key.kind, "in use" if in_use else "older", "")


def _signing_key_path() -> Path:
    """The file of the signing key; raises `SettingsError` if there is no place for it."""
    path = load(SealingSettings, os.environ).signing_key_path
    if path is None:
        raise SettingsError(NO_SIGNING_KEY)
    return path


def _signing_row(path: Path | None) -> dict[str, str]:
    from worker.adapters.jose.key_files import KeyFileError, is_there, read_keys, read_signing_key

    if path is None:
        return _cells(SIGNING, "", "", NOT_NEEDED, f"{PREFIX}RECIPIENTS is not set")
    if not is_there(path):
        return _cells(SIGNING, "", "", MADE_AT_START, str(path))
    try:
        key = read_signing_key(path)
    except KeyFileError as error:
        return _cells(SIGNING, "", "", "unusable", str(error))
    kid, kind = str(key["kid"]), kind_of(key)
    if others_may(path, stat.S_IROTH):
        return _cells(SIGNING, kid, kind, "unsafe", f"every user here can read it: chmod 600 {path}")
    older = len(read_keys(path)) - 1
    return _cells(SIGNING, kid, kind, "in use", f"and {older} older to verify with" if older else "")


def _cells(owner: str, kid: str, kind: str, state: str, detail: str) -> dict[str, str]:
    return {"for": owner, "kid": kid, "type": kind, "state": state, "detail": detail}


def _show_public(made: dict[str, Any]) -> None:
    terminal.print_json(public_part(made))
