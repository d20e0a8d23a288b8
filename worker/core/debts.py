"""Debts: the entry as its credentials are published and its subaccount is enabled."""

from datetime import datetime

from worker.core.duties import clear_check
from worker.core.model.credentials import ANY_RECIPIENT, Debt, Fingerprint
from worker.core.model.entry import Entry
from worker.core.model.replace import replace


def retarget_debts(entry: Entry, recipients: frozenset[str]) -> Entry:
    """Replaces the debt to any recipient by a debt to `recipients`, once some are configured."""
    debt = entry.debt
    if debt is None or ANY_RECIPIENT not in debt.recipients - recipients:
        return entry
    return replace(entry, debt=replace(debt, recipients=debt.recipients - {ANY_RECIPIENT} | recipients))


def confirmed(entry: Entry, recipients: frozenset[str], token: Fingerprint | None = None) -> Entry:
    """The entry once the broker has confirmed the credentials of these recipients, with this token."""
    debt, issued = entry.debt, entry.issued
    if debt is not None:
        debt = debt_of(debt.recipients - recipients, enable=debt.enable, retry_at=debt.retry_at)
    if issued is not None and token is not None:
        issued = replace(issued, fingerprint=token)
    return replace(entry, debt=debt, issued=issued, missing_since=None)


def written_off(entry: Entry) -> Entry:
    """The entry once its credentials can never be delivered: the provider showed their token once."""
    return confirmed(entry, entry.owed_to)


def enabled(entry: Entry) -> Entry:
    """The entry once the provider has enabled a subaccount that was created disabled."""
    debt = entry.debt and debt_of(entry.debt.recipients, enable=False, retry_at=entry.debt.retry_at)
    return replace(clear_check(entry), debt=debt)


def debt_kept(entry: Entry) -> Debt | None:
    """The debt after a change of `enabled`: that change replaces an enabling that nothing holds back."""
    return entry.debt and debt_of(entry.debt.recipients, enable=entry.debt.holds_back, retry_at=None)


def debt_of(recipients: frozenset[str], *, enable: bool, retry_at: datetime | None) -> Debt | None:
    """The debt to these recipients, or None if nothing is owed."""
    return Debt(recipients, enable, retry_at) if recipients or enable else None
