"""Identifiers in Plivo's format, reproducible from a seed.

Each is a hash of seed, run, kind and counter: all differ, and the same seed gives the same sequence.
"""

import base64
import hashlib
import uuid

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class Identifiers:
    """Draws identifiers."""

    def __init__(self, seed: int, run: int = 0) -> None:
        """`run` is the number of times the same state was opened before, so that no identifier repeats."""
        self._seed = f"{seed}:{run}"
        self._drawn = 0
        self._api_ids = 0

    def _draw(self, kind: str) -> bytes:
        self._drawn += 1
        return hashlib.sha256(f"{self._seed}:{kind}:{self._drawn}".encode()).digest()

    def auth_id(self) -> str:
        """Return the Auth ID of a subaccount: `SA` and 18 capital letters or digits."""
        number = int.from_bytes(self._draw("auth_id"), "big")
        letters = []
        for _ in range(18):
            number, index = divmod(number, 36)
            letters.append(_ALPHABET[index])
        return "SA" + "".join(letters)

    def auth_token(self) -> str:
        """Return 40 characters: base64 of 30 hexadecimal digits, as in every published sample."""
        return base64.b64encode(self._draw("auth_token").hex()[:30].encode()).decode()

    def serial(self) -> str:
        """Return 17 digits, the id of an application or the base of an endpoint's."""
        return f"{int.from_bytes(self._draw('serial'), 'big') % 10**17:017d}"

    def uuid(self) -> str:
        """Return a UUID of version 4."""
        return str(uuid.UUID(bytes=self._draw("uuid")[:16], version=4))

    def api_id(self) -> str:
        """Return the UUID of a response. Its counter is separate: reads must not change other identifiers."""
        self._api_ids += 1
        digits = hashlib.blake2b(f"{self._seed}:{self._api_ids}".encode(), digest_size=16).hexdigest()
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"
