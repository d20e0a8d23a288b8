"""What the sandbox remembers. Every record is a value: a change is a new one in its place."""

from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class AutoRecharge:
    """When the balance is at or below `minimum`, `amount` is added (both in USD)."""

    minimum: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Profile:
    """What the holder of the main account may change."""

    name: str = "Sandbox"
    city: str = ""
    address: str = ""
    state: str = ""
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Account:
    """The main account. `account_type` is standard or developer (a trial)."""

    auth_id: str
    account_type: str
    billing_mode: str
    cash_credits: Decimal
    month: str
    """The month (YYYY-MM) whose rent has been charged."""
    auto_recharge: AutoRecharge | None = None
    profile: Profile = field(default_factory=Profile)
    senders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subaccount:
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
class Application:
    app_id: str
    app_name: str
    sub_account: str | None
    settings: tuple[tuple[str, str | bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    endpoint_id: str
    username: str
    alias: str
    sub_account: str | None
    app_id: str | None


@dataclass(frozen=True, slots=True)
class Number:
    number: str
    number_type: str
    sub_account: str | None
    app_id: str | None
    alias: str | None
    added_on: str


@dataclass(frozen=True, slots=True)
class Message:
    message_uuid: str
    sub_account: str | None
    from_number: str
    to_number: str
    units: int
    total_amount: Decimal
    message_time: str


@dataclass(frozen=True, slots=True)
class Charge:
    """All that one account (None is the main account) was charged for one thing in one month."""

    month: str
    sub_account: str | None
    item: str
    quantity: int
    amount: Decimal

    @property
    def key(self) -> str:
        return f"{self.month} {self.sub_account or ''} {self.item}"


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer to the first request with an idempotency key."""

    key: str
    fingerprint: str
    status: int
    body: str


KINDS = (Account, Subaccount, Application, Endpoint, Number, Message, Charge, Replay)
