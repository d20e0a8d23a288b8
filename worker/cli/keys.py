"""`provisioner keys`: makes pairs, shows what is public, checks what is there. It prints nothing private."""

import stat
from pathlib import Path
from typing import Any

from contracts.topology import checked_recipient
from worker.adapters.jose.key_files import (
    SEALING_TYPES,
    SIGNING_TYPES,
    KeyFileError,
    KeyType,
    add_public,
    new_sealing_key,
    public_jwks,
    read_keys,
    read_signing_key,
    rotate_signing_key,
    write_new,
)
from worker.adapters.jose.seal import usable_keys
from worker.adapters.system import SystemClock
from worker.cli import terminal as console
from worker.core.keyring import KeyState, key_in_use, kind_of, public_part
from worker.settings.load import SettingsError
from worker.settings.model import SealingSettings
from worker.settings.warnings import others_may

SIGNING = "signing"


def new_recipient_key(recipient: str, kind: KeyType, out: Path | None, add_to: Path | None) -> None:
    """The private key goes to a file (0600), the public one to stdout and, if asked, into a JWKS."""
    if kind not in SEALING_TYPES:
        raise SettingsError(f"--type {kind} does not seal; write {_one_of(SEALING_TYPES)}")
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
    console.advise(
        f"private key: {path}, for {recipient} alone; `provisioner open --key` takes it",
        f"public key: the one above, it {where}",
    )


def new_signing_key(path: Path, kind: KeyType) -> None:
    """A new key in the worker's file; what it signed before can still be verified with what stays there."""
    if kind not in SIGNING_TYPES:
        raise SettingsError(f"--type {kind} does not sign; write {_one_of(SIGNING_TYPES)}")
    made = rotate_signing_key(path, kind, SystemClock().now())
    _show_public(made)
    console.advise(
        f"private key: {path}, for the worker alone (PROVISIONER_SIGNING_KEY)",
        "give recipients what `provisioner keys public` prints, then restart the worker to sign with it",
    )


def show_public(settings: SealingSettings) -> None:
    """The worker's public keys, for those who verify its signature."""
    path = settings.signing_key_path
    if not path.exists():
        raise KeyFileError(f"there is no signing key at {path}; `provisioner keys new --signing` makes one")
    console.print_json(public_jwks(path))


def check(settings: SealingSettings, *, as_json: bool) -> bool:
    """Whether every recipient can be sealed for, and the worker can sign."""
    rows = [*_recipient_rows(settings), _signing_row(settings.signing_key_path)]
    if as_json:
        console.print_json(rows)
    else:
        table = [tuple(row.values()) for row in rows]
        console.print_table(("for", "kid", "type", "state", "detail"), table, "")
    served = {row["for"] for row in rows if row["state"] in {"in use", "made at the first start"}}
    return served >= {*settings.recipient_names, SIGNING}


def _recipient_rows(settings: SealingSettings) -> list[dict[str, str]]:
    if settings.recipients is None:
        return []
    states = usable_keys(settings.recipients.path.read_text(encoding="utf-8"))
    return [_row(state, states) for state in states]


def _row(key: KeyState, states: tuple[KeyState, ...]) -> dict[str, str]:
    if key.problem:
        return _cells(key.recipient, key.kid, key.kind, "unusable", key.problem)
    in_use = key_in_use(states, key.recipient) == key
    return _cells(key.recipient, key.kid, key.kind, "in use" if in_use else "older", "")


def _signing_row(path: Path) -> dict[str, str]:
    if not path.exists():
        return _cells(SIGNING, "", "", "made at the first start", str(path))
    try:
        key = read_signing_key(path)
    except KeyFileError as error:
        return _cells(SIGNING, "", "", "unusable", str(error))
    kid, kind = str(key["kid"]), kind_of(key)
    if others_may(path, stat.S_IROTH):
        return _cells(SIGNING, kid, kind, "unsafe", f"everybody here can read it: chmod 600 {path}")
    older = len(read_keys(path)) - 1
    return _cells(SIGNING, kid, kind, "in use", f"and {older} older to verify with" if older else "")


def _cells(whose: str, kid: str, kind: str, state: str, detail: str) -> dict[str, str]:
    return {"for": whose, "kid": kid, "type": kind, "state": state, "detail": detail}


def _show_public(made: dict[str, Any]) -> None:
    console.print_json(public_part(made))


def _one_of(types: tuple[KeyType, ...]) -> str:
    return ", ".join(types)
