"""Credit is the main account's alone: charges, recharges, monthly rent, and one invoice a month."""

from collections import defaultdict
from dataclasses import dataclass, replace
from decimal import Decimal

from worker.sandbox import prices
from worker.sandbox.records import Account, AutoRecharge, Charge
from worker.sandbox.requests import Refusal
from worker.sandbox.state import State, today


@dataclass(frozen=True, slots=True)
class Line:
    """What one account used of one thing; `sub_account` None is the main account."""

    sub_account: str | None
    item: str
    quantity: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Invoice:
    """One month (YYYY-MM) of the whole account; `closed` once the month is over."""

    month: str
    closed: bool
    total: Decimal
    lines: tuple[Line, ...]

    def of(self, sub_account: str | None) -> Decimal:
        """Return the part of the total that one account used."""
        return sum((line.amount for line in self.lines if line.sub_account == sub_account), Decimal(0))


def has_credit(account: Account) -> bool:
    return account.billing_mode == "postpaid" or account.cash_credits > 0


def demand_credit(state: State) -> None:
    if not has_credit(state.account):
        raise Refusal(state.assumptions.no_credit_status, "insufficient credit")


def charge(state: State, sub_account: str | None, item: str, amount: Decimal, quantity: int = 1) -> None:
    """Take the amount from the main account and note who used it; recharges by itself if set up so."""
    month = state.account.month
    new = Charge(month, sub_account, item, quantity, amount)
    earlier = state.charges.get(new.key)
    if earlier:
        new = replace(new, quantity=earlier.quantity + quantity, amount=earlier.amount + amount)
    state.put(new)
    account = state.account
    state.put(replace(account, cash_credits=_after_auto_recharge(account, account.cash_credits - amount)))


def recharge(state: State, amount: Decimal) -> None:
    """Add credit, which ends a trial. Raises ValueError below 25 USD."""
    if not amount.is_finite() or amount < prices.LEAST_RECHARGE:
        raise ValueError(f"{prices.LEAST_RECHARGE} USD is the least amount to recharge")
    account = state.account
    state.put(replace(account, account_type="standard", cash_credits=account.cash_credits + amount))


def set_auto_recharge(state: State, rule: AutoRecharge | None) -> None:
    """Raises ValueError for an amount below 25 USD."""
    if rule and not (rule.minimum.is_finite() and rule.amount >= prices.LEAST_RECHARGE):
        raise ValueError(f"{prices.LEAST_RECHARGE} USD is the least amount to recharge")
    account = replace(state.account, auto_recharge=rule)
    state.put(replace(account, cash_credits=_after_auto_recharge(account, account.cash_credits)))


def settle_months(state: State) -> None:
    """Charge the rent of every first of a month that has passed since the last look."""
    current = today(state)[:7]
    while state.account.month < current:
        state.put(replace(state.account, month=_month_after(state.account.month)))
        for number in state.numbers:
            rental = prices.NUMBERS[number.number_type]
            charge(state, number.sub_account, f"rent {number.number_type}", rental.monthly)


def invoices(state: State) -> list[Invoice]:
    """One for each month in which anything was charged, oldest first."""
    months: defaultdict[str, list[Line]] = defaultdict(list)
    for each in state.charges:
        months[each.month].append(Line(each.sub_account, each.item, each.quantity, each.amount))
    return [
        Invoice(
            month,
            month < state.account.month,
            sum((line.amount for line in lines), Decimal(0)),
            tuple(sorted(lines, key=lambda line: (line.sub_account or "", line.item))),
        )
        for month, lines in sorted(months.items())
    ]


def next_first(state: State) -> str:
    """Return the date of the next rent."""
    return f"{_month_after(state.account.month)}-01"


def _after_auto_recharge(account: Account, credit: Decimal) -> Decimal:
    rule = account.auto_recharge
    while rule and credit <= rule.minimum:
        credit += rule.amount
    return credit


def _month_after(month: str) -> str:
    year, number = int(month[:4]), int(month[5:])
    return f"{year + number // 12:04d}-{number % 12 + 1:02d}"
