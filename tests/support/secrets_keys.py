"""Keys and sealed messages for tests."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from contracts.envelope import Message
from contracts.subaccounts import CredentialsMessage
from tests.support.builders import NOW, an_entry
from worker.adapters.jose.key_files import new_sealing_key, new_signing_key
from worker.adapters.jose.seal import JoseSealer, RecipientKeys
from worker.core import messages
from worker.core.keyring import SEALING_TYPES, SIGNING_TYPES, Jwk, KeyType, public_part, public_set

TOKEN = "NDU1ZmM4MTBmMzk3M2E4YTJiOGVkNGEyOWQwZjdk"
OWNER = "default"
PAIRS = [(sealing, signing) for sealing in SEALING_TYPES for signing in SIGNING_TYPES]

# Cached: RSA keys take long to generate, and no test changes one.
_MADE: dict[KeyType, dict[str, Any]] = {}


def sealing_key(kind: KeyType = KeyType.X25519, kid: str = "crm.1") -> dict[str, Any]:
    """A recipient's private key."""
    if kind not in _MADE:
        _MADE[kind] = new_sealing_key("crm", kind, NOW)
    return _MADE[kind] | {"kid": kid}


def fresh_sealing_key(kid: str = "crm.1") -> dict[str, Any]:
    """A new private key of a recipient."""
    return new_sealing_key("crm", KeyType.X25519, NOW) | {"kid": kid}


def signing_key(kind: KeyType = KeyType.ED25519, at: datetime = NOW) -> dict[str, Any]:
    """A new signing key of a worker."""
    return new_signing_key(kind, at)


def clear(recipient: str = "crm", **fields: Any) -> CredentialsMessage:
    """An unsealed credentials message."""
    return messages.credentials(an_entry(**fields), recipient, SecretStr(TOKEN), OWNER, NOW)


@dataclass
class KeyReports:
    """Records the reports of a `RecipientKeys` about its recipients."""

    lines: list[tuple[str, str | None, str]] = field(default_factory=list)

    def __call__(self, recipient: str, kid: str | None, why: str) -> None:
        self.lines.append((recipient, kid, why))

    def last(self) -> tuple[str, str | None]:
        return self.lines[-1][:2]


def write_keys(path: Path, *keys: Jwk) -> Path:
    """Writes the public parts of the keys as a recipients' file."""
    path.write_text(json.dumps({"keys": [public_part(key) for key in keys]}))
    return path


def sealer_for(folder: Path, *private: Jwk, signing: Jwk | None = None) -> JoseSealer:
    path = write_keys(folder / "recipients.json", *private)
    return JoseSealer(RecipientKeys(path, ("crm",), KeyReports()), signing or signing_key())


def sealed(folder: Path, private: Jwk, signing: Jwk, message: CredentialsMessage | None = None) -> Message:
    return sealer_for(folder, private, signing=signing).seal(message or clear(), "crm")


def jwks(*keys: Jwk) -> dict[str, list[Jwk]]:
    return public_set(keys)


def a_day_later(days: int = 1) -> datetime:
    return NOW + timedelta(days=days)
