"""The fingerprints port: HMAC-SHA256 (RFC 2104) keyed by the main account's auth token.

The ledger never holds that token, so a thief of the ledger can neither read nor test a fingerprint.
"""

import hmac

from pydantic import SecretStr

from worker.core.model.credentials import Fingerprint

KEY_CHECK_DIGITS = 8
TOKEN_DIGITS = 32


class KeyedFingerprints:
    """Fingerprints of subaccounts' tokens; `key` is the main account's auth token."""

    def __init__(self, key: SecretStr) -> None:
        self._key = key.get_secret_value().encode()
        self._key_check = self._mac("", "")[:KEY_CHECK_DIGITS]

    def of(self, auth_id: str, auth_token: SecretStr) -> Fingerprint:
        """The fingerprint of a subaccount's token. Fingerprints are comparable if their key checks match."""
        return Fingerprint(self._key_check, self._mac(auth_id, auth_token.get_secret_value())[:TOKEN_DIGITS])

    def _mac(self, auth_id: str, auth_token: str) -> str:
        return hmac.new(self._key, f"{auth_id}\0{auth_token}".encode(), "sha256").hexdigest()
