"""Numbered migrations of a ledger's schema, as files that are each applied once and never changed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable

from worker.ports import LedgerForeign


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration: the name of its file, its SQL, and the SHA-256 of that."""

    name: str
    script: str
    checksum: str


def migrations_in(folder: Traversable) -> Sequence[Migration]:
    """All migrations of this version, in order."""
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name
    )
    scripts = [(file.name, file.read_text()) for file in files]
    return [Migration(name, text, hashlib.sha256(text.encode()).hexdigest()) for name, text in scripts]


def pending(applied: Mapping[str, str], known: Sequence[Migration]) -> Sequence[Migration]:
    """The migrations that are not applied yet; `applied` has the checksums by name.

    Raises `LedgerForeign` for a migration that this version does not know, or knows otherwise.
    """
    if newer := sorted(applied.keys() - {one.name for one in known}):
        raise LedgerForeign(
            f"the ledger is of a newer version of this program, which knows {newer[-1]}: run that version,"
            " or set LEDGER_URL to another ledger"
        )
    for one in known:
        if applied.get(one.name, one.checksum) != one.checksum:
            raise LedgerForeign(
                f"the ledger is not of this version: its {one.name} differs; set LEDGER_URL to another ledger"
            )
    return [one for one in known if one.name not in applied]
