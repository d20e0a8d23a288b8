"""Charges, recharges, monthly rent and invoices. Only the main account has credit."""

from collections import defaultdict
from dataclasses import dataclass, replace
from decimal import Decimal

from worker.sandbox import prices
from worker.sandbox.records import Account, AutoRecharge, Charge
from worker.sandbox.requests import Refusal
from worker.sandbox.state import State, today


@dataclass(frozen=True, slots=True)
class Line:
    """The use of one item by one account, in USD; `sub_account` None is the main account."""

    sub_account: str | None
    item: str
    quantity: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Invoice:
    """The charges of one month (YYYY-MM), over all accounts; `closed` once the month is over."""

    month: str
    closed: bool
    total: Decimal
    lines: tuple[Line, ...]

    def of(self, sub_account: str | None) -> Decimal:
        """Return the part of the total, in USD, that one account used."""
        return sum((line.amount for line in self.lines if line.sub_account == sub_account), Decimal(0))


def has_credit(account: Account) -> bool:
    """Whether the account may use paid services."""
    return account.billing_mode == "postpaid" or account.cash_credits > 0


def require_credit(state: State) -> None:
    """Raise Refusal unless the main account has credit."""
    if not has_credit(state.account):
        raise Refusal(state.assumptions.no_credit_status, "insufficient credit")


def charge(state: State, sub_account: str | None, item: str, amount: Decimal, quantity: int = 1) -> None:
    """Deduct the amount from the main account, record who used it, and apply auto-recharge."""
    month = state.account.month
    new = Charge(month, sub_account, item, quantity, amount)
    earlier = state.charges.get(new.key)
    if earlier:
        new = replace(new, quantity=earlier.quantity + quantity, amount=earlier.amount + amount)
    state.put(new)
    account = state.account
    state.put(replace(account, cash_credits=_after_auto_recharge(account, account.cash_credits - amount)))


def recharge(state: State, amount: Decimal) -> None:
    """Add credit in USD, which ends a trial. Raises ValueError below 25 USD."""
    if not amount.is_finite() or amount < prices.MIN_RECHARGE:
        raise ValueError(f"{prices.MIN_RECHARGE} USD is the least amount to recharge")
    account = state.account
    state.put(replace(account, account_type="standard", cash_credits=account.cash_credits + amount))


def set_auto_recharge(state: State, rule: AutoRecharge | None) -> None:
    """Set or stop auto-recharge; raises ValueError for an amount below 25 USD."""
    if rule and not (rule.minimum.is_finite() and rule.amount >= prices.MIN_RECHARGE):
        raise ValueError(f"{prices.MIN_RECHARGE} USD is the least amount to recharge")
    account = replace(state.account, auto_recharge=rule)
    state.put(replace(account, cash_credits=_after_auto_recharge(account, account.cash_credits)))


def charge_rent(state: State) -> None:
    """Charge rent for every first of a month that has passed since the last call."""
    current = today(state)[:7]
    while state.account.month < current:
        state.put(replace(state.account, month=_month_after(state.account.month)))
        for number in state.numbers:
            rental = prices.NUMBERS[number.number_type]
            charge(state, number.sub_account, f"rent {number.number_type}", rental.monthly)


def invoices(state: State) -> list[Invoice]:
    """Return an invoice for each month with charges, oldest first."""
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
    """Return the date (YYYY-MM-DD) of the next rent."""
    return f"{_month_after(state.account.month)}-01"


def _after_auto_recharge(account: Account, credit: Decimal) -> Decimal:
    rule = account.auto_recharge
    while rule and credit <= rule.minimum:
        credit += rule.amount
    return credit


def _month_after(month: str) -> str:
    year, number = int(month[:4]), int(month[5:])
    return f"{year + number // 12:04d}-{number % 12 + 1:02d}"
