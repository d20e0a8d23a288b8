"""The calls to the provider that the ledger keeps."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class CallNote:
    """A call to the provider that changed something, or was meant to, for a department.

    `status`: that of HTTP; None without a response. `error`: why it did not succeed.
    """

    at: datetime
    operation: str
    idempotency_key: str
    auth_id: str | None
    status: int | None = None
    api_id: str | None = None
    error: str | None = None
