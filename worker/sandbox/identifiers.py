"""Identifiers that look like Plivo's and replay from a seed.

Each is a hash of (seed, run, kind, counter): no two are alike, and the same seed gives the same row of them.
"""

import base64
import hashlib
import uuid

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class Identifiers:
    def __init__(self, seed: int, run: int = 0) -> None:
        """`run` counts how often the same state was taken up again, so that no identifier comes twice."""
        self._seed = f"{seed}:{run}"
        self._drawn = 0
        self._api_ids = 0

    def restart(self) -> None:
        self._drawn = self._api_ids = 0

    def _draw(self, kind: str) -> bytes:
        self._drawn += 1
        return hashlib.sha256(f"{self._seed}:{kind}:{self._drawn}".encode()).digest()

    def auth_id(self) -> str:
        """Return `SA` and 18 capitals or digits."""
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
        """Return the 17 digits that name applications and endpoints."""
        return f"{int.from_bytes(self._draw('serial'), 'big') % 10**17:017d}"

    def uuid(self) -> str:
        return str(uuid.UUID(bytes=self._draw("uuid")[:16], version=4))

    def api_id(self) -> str:
        """Return the UUID of one answer; counted apart, so that reading does not change what comes next."""
        self._api_ids += 1
        digits = hashlib.blake2b(f"{self._seed}:{self._api_ids}".encode(), digest_size=16).hexdigest()
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"
