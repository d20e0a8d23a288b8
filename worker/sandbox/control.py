"""A running sandbox, as an object for tests in the same process."""

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
from worker.sandbox.numbers import rent_free_numbers
from worker.sandbox.records import Account, AutoRecharge, Subaccount
from worker.sandbox.resources import add_application, add_endpoint
from worker.sandbox.service import Service


@dataclass(frozen=True, slots=True)
class InitialState:
    """The state that `reset` restores."""

    account: Account
    rules: Sequence[Rule]
    assumptions: Assumptions


@dataclass(frozen=True, slots=True)
class OwnedResources:
    """The ids of the resources of one account."""

    numbers: tuple[str, ...]
    applications: tuple[str, ...]
    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Inspects and controls a running sandbox.

    `url` and `management_url` have no trailing slash; the latter is None without a management port.
    """

    url: str
    auth_id: str
    auth_token: str = field(repr=False)
    seed: int
    service: Service
    faults: Faults
    journal: Journal
    limiter: Limiter
    initial: InitialState
    management_url: str | None = None

    def subaccounts(self) -> list[Subaccount]:
        """Return every live subaccount, newest first."""
        live = self.service.state.subaccounts
        return live.newest_first(0, len(live))

    @property
    def account(self) -> Account:
        """The main account."""
        return self.service.state.account

    @property
    def assumptions(self) -> Assumptions:
        """The current assumptions."""
        return self.service.state.assumptions

    def assume(self, **switches: Any) -> None:
        """Change assumptions; raises pydantic's ValidationError, a ValueError."""
        merged = {**self.assumptions.model_dump(), **switches}
        self.service.state.assumptions = Assumptions.model_validate(merged)

    @property
    def requests(self) -> list[Entry]:
        """The logged requests, oldest first. The log keeps at least the latest 50,000."""
        return list(self.journal.entries)

    def calls(self, operation: str) -> list[Entry]:
        """Return the logged requests of one operation, oldest first."""
        return [entry for entry in self.journal.entries if entry.operation == operation]

    async def called(self, operation: str, times: int = 1) -> None:
        """Wait until the operation has been called `times` times."""
        await self.journal.wait_for(operation, times)

    def add_rule(self, rule: Rule) -> None:
        """Add a fault rule after the others."""
        self.faults.add(rule)

    def set_rules(self, *rules: Rule) -> None:
        """Replace all fault rules and restart their counters."""
        self.faults.replace_rules(rules)

    def commit_late_calls(self) -> int:
        """Carry out at once the calls that a late commit delays; returns their number."""
        return self.service.perform_late_now()

    def now(self) -> datetime:
        """Return the simulated time, in UTC."""
        return self.service.state.clock.now()

    def advance(self, by: timedelta) -> None:
        """Move simulated time forward and charge due rent; raises ValueError for a step back."""
        self.service.advance(by)

    def move_to(self, moment: datetime) -> None:
        """Move simulated time to a moment; raises ValueError for a step back."""
        self.advance(moment - self.now())

    def recharge(self, amount: str | Decimal) -> None:
        """Add credit in USD; raises ValueError below 25."""
        billing.recharge(self.service.state, usd(amount))
        self.service.save()

    def set_auto_recharge(self, minimum: str | Decimal, amount: str | Decimal) -> None:
        """Add `amount` whenever the balance is at or below `minimum`, in USD; raises ValueError below 25."""
        rule = AutoRecharge(usd(minimum), usd(amount))
        billing.set_auto_recharge(self.service.state, rule)
        self.service.save()

    def stop_auto_recharge(self) -> None:
        """Stop auto-recharge."""
        billing.set_auto_recharge(self.service.state, None)
        self.service.save()

    def set_credit(self, amount: str | Decimal) -> None:
        """Set the balance in USD, without a recharge."""
        self.service.state.put(replace(self.account, cash_credits=usd(amount)))
        self.service.save()

    def allow_sender(self, auth_id: str, sender: str) -> None:
        """Whitelist a text sender ID for one account; raises ValueError for an unknown account."""
        usage.allow_sender(self.service.state, auth_id, sender)
        self.service.save()

    def seed_resources(
        self, auth_id: str | None, *, numbers: int = 0, applications: int = 0, endpoints: int = 0
    ) -> OwnedResources:
        """Give an account (None is the main account) so many new resources, without a charge.

        Raises ValueError for an unknown subaccount, or if too few numbers are free.
        """
        state = self.service.state
        if auth_id is not None and auth_id not in state.subaccounts:
            raise ValueError(f"there is no subaccount {auth_id}")
        rented = rent_free_numbers(state, auth_id, numbers)
        apps = [add_application(state, "seeded", auth_id, {}) for _ in range(applications)]
        phones = [add_endpoint(state, "seeded", "Seeded", auth_id, None) for _ in range(endpoints)]
        self.service.save()
        return OwnedResources(
            numbers=tuple(each.number for each in rented),
            applications=tuple(each.app_id for each in apps),
            endpoints=tuple(each.endpoint_id for each in phones),
        )

    def resources(self, auth_id: str | None) -> OwnedResources:
        """Return the resources of an account (None is the main account), oldest first."""
        state = self.service.state
        return OwnedResources(
            numbers=tuple(each.number for each in state.numbers if each.sub_account == auth_id),
            applications=tuple(each.app_id for each in state.applications if each.sub_account == auth_id),
            endpoints=tuple(each.endpoint_id for each in state.endpoints if each.sub_account == auth_id),
        )

    def invoices(self) -> list[Invoice]:
        """Return an invoice for each month with charges, oldest first; the last may still be open."""
        self.service.pass_time()
        return billing.invoices(self.service.state)

    def reset(self) -> None:
        """Restore the initial account, rules and assumptions; clear subaccounts and log. Time stays."""
        self.service.state.assumptions = self.initial.assumptions
        self.service.reset(self.initial.account)
        self.faults.restart(self.initial.rules)
        self.journal.clear()
        self.limiter.clear()


def usd(amount: str | Decimal) -> Decimal:
    """Parse an amount in USD; raises ValueError."""
    try:
        value = Decimal(amount)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or abs(value) > 10**9:
        raise ValueError(f"{amount!r} is not an amount in USD")
    return value
