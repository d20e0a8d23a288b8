"""A sandbox that is running, as seen from the same process: what it holds, and the strings to pull."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from worker.sandbox import billing, usage
from worker.sandbox.assumptions import Assumptions
from worker.sandbox.billing import Invoice
from worker.sandbox.faults import Faults, Rule
from worker.sandbox.journal import Entry, Journal
from worker.sandbox.limiter import Limiter
from worker.sandbox.records import Account, AutoRecharge, Subaccount
from worker.sandbox.service import Service


@dataclass(frozen=True, slots=True)
class Origin:
    """What `reset` goes back to."""

    account: Account
    rules: Sequence[Rule]
    assumptions: Assumptions


@dataclass(frozen=True, slots=True)
class Sandbox:
    """`url` and `management_url` (if there is a management port) have no slash at their end."""

    url: str
    auth_id: str
    auth_token: str = field(repr=False)
    seed: int
    service: Service
    faults: Faults
    journal: Journal
    limiter: Limiter
    origin: Origin
    management_url: str | None = None

    def subaccounts(self) -> list[Subaccount]:
        """Every live subaccount, newest first."""
        live = self.service.state.subaccounts
        return live.newest_first(0, len(live))

    @property
    def account(self) -> Account:
        return self.service.state.account

    @property
    def assumptions(self) -> Assumptions:
        return self.service.state.assumptions

    def assume(self, **switches: Any) -> None:
        """Change switches from now on; raises pydantic's ValidationError (a ValueError)."""
        merged = {**self.assumptions.model_dump(), **switches}
        self.service.state.assumptions = Assumptions.model_validate(merged)

    @property
    def requests(self) -> list[Entry]:
        """The requests so far, oldest first; the oldest of very many are forgotten."""
        return list(self.journal.entries)

    def calls(self, operation: str) -> list[Entry]:
        return [entry for entry in self.journal.entries if entry.operation == operation]

    async def called(self, operation: str, times: int = 1) -> None:
        """Return once the operation has been called so many times."""
        await self.journal.wait_for(operation, times)

    def add_rule(self, rule: Rule) -> None:
        self.faults.add(rule)

    def set_rules(self, *rules: Rule) -> None:
        self.faults.replace_rules(rules)

    def commit_late_calls(self) -> int:
        """Carry out now what a late commit put off; returns how many calls."""
        return self.service.perform_late_now()

    def now(self) -> datetime:
        return self.service.state.clock.now()

    def advance(self, by: timedelta) -> None:
        """Move simulated time forward, rent and all; raises ValueError for a step back."""
        self.service.advance(by)

    def move_to(self, moment: datetime) -> None:
        self.advance(moment - self.now())

    def recharge(self, amount: str | Decimal) -> None:
        """Add USD; raises ValueError below 25."""
        billing.recharge(self.service.state, usd(amount))
        self.service.save()

    def set_auto_recharge(self, minimum: str | Decimal, amount: str | Decimal) -> None:
        """At or below `minimum` add `amount`; raises ValueError for an amount below 25."""
        rule = AutoRecharge(usd(minimum), usd(amount))
        billing.set_auto_recharge(self.service.state, rule)
        self.service.save()

    def stop_auto_recharge(self) -> None:
        billing.set_auto_recharge(self.service.state, None)
        self.service.save()

    def set_credit(self, amount: str | Decimal) -> None:
        """Set the balance as it is, without a recharge."""
        self.service.state.put(replace(self.account, cash_credits=usd(amount)))
        self.service.save()

    def allow_sender(self, auth_id: str, sender: str) -> None:
        """Whitelist a text sender ID for one account; raises ValueError for an unknown account."""
        usage.allow_sender(self.service.state, auth_id, sender)
        self.service.save()

    def invoices(self) -> list[Invoice]:
        """One for each month with charges, oldest first; the last may still be open."""
        self.service.settle()
        return billing.invoices(self.service.state)

    def reset(self) -> None:
        """Go back to the start: no subaccount, no log, the first rules and switches. Time stays."""
        self.service.state.assumptions = self.origin.assumptions
        self.service.reset(self.origin.account)
        self.faults.restart(self.origin.rules)
        self.journal.clear()
        self.limiter.forget()


def usd(amount: str | Decimal) -> Decimal:
    """Read an amount; raises ValueError."""
    try:
        value = Decimal(amount)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or abs(value) > 10**9:
        raise ValueError(f"{amount!r} is not an amount in USD")
    return value
