"""The records of the sandbox. Each is immutable: a change replaces it."""

from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class AutoRecharge:
    """Adds `amount` when the balance is at or below `minimum`, in USD."""

    minimum: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Profile:
    """The fields of the main account that its holder may change."""

    name: str = "Sandbox"
    city: str = ""
    address: str = ""
    state: str = ""
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Account:
    """The main account. `account_type` is standard or developer (a trial); `cash_credits` is in USD."""

    auth_id: str
    account_type: str
    billing_mode: str
    cash_credits: Decimal
    month: str
    """The latest month (YYYY-MM) whose rent has been charged."""
    auto_recharge: AutoRecharge | None = None
    profile: Profile = field(default_factory=Profile)
    senders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subaccount:
    """A subaccount. `created` and `modified` are dates (YYYY-MM-DD)."""

    auth_id: str
    auth_token: str
    name: str
    enabled: bool
    created: str
    modified: str | None
    created_at: float
    """Seconds since the epoch in simulated time."""
    senders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Departure:
    """A deleted subaccount, until nothing is left of it. `place` is its place in the order of creation.

    It is read until `read_until`, and its resources are moved, or deleted with `cascade`, at `resources_at`
    (None once that is done); both are seconds since the epoch in simulated time.
    """

    subaccount: Subaccount
    place: int
    cascade: bool
    read_until: float
    resources_at: float | None


@dataclass(frozen=True, slots=True)
class Application:
    """An application, as far as removing a subaccount needs it."""

    app_id: str
    app_name: str
    sub_account: str | None
    settings: tuple[tuple[str, str | bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A SIP endpoint."""

    endpoint_id: str
    username: str
    alias: str
    sub_account: str | None
    app_id: str | None


@dataclass(frozen=True, slots=True)
class Number:
    """A rented phone number. `added_on` is a date (YYYY-MM-DD)."""

    number: str
    number_type: str
    sub_account: str | None
    app_id: str | None
    alias: str | None
    added_on: str


@dataclass(frozen=True, slots=True)
class Message:
    """A sent message: its parts (`units`) and its cost in USD."""

    message_uuid: str
    sub_account: str | None
    from_number: str
    to_number: str
    units: int
    total_amount: Decimal
    message_time: str


@dataclass(frozen=True, slots=True)
class Charge:
    """The sum that one account (None is the main account) was charged for one item in one month, in USD."""

    month: str
    sub_account: str | None
    item: str
    quantity: int
    amount: Decimal

    @property
    def key(self) -> str:
        """Identifies the record."""
        return f"{self.month} {self.sub_account or ''} {self.item}"


@dataclass(frozen=True, slots=True)
class Replay:
    """The response to the first request with an idempotency key; `fingerprint` identifies that request."""

    key: str
    fingerprint: str
    status: int
    body: str


KINDS = (Account, Subaccount, Departure, Application, Endpoint, Number, Message, Charge, Replay)
