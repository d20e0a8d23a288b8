"""Checks of an open ledger, and of the provider's account against it."""

from collections.abc import Iterator, Sequence

from worker.core.checks import Check, CheckStatus, foreign_tags, ok, told
from worker.core.keeping import Table
from worker.core.listed import ListedSubaccount
from worker.core.naming import NameTemplate
from worker.core.presence import PRESENT_FOR
from worker.operations.ledger import trouble_of
from worker.ports import LedgerForeign, OpenedLedger, Register

OF_LEDGER = "set LEDGER_URL to this deployment's ledger"


async def ledger_checks(opened: OpenedLedger, owner: str, account: str) -> Sequence[Check]:
    """Whether the ledger is of this version, this owner and this account. Raises `LedgerFailed`."""
    schema = await opened.keeping.schema()
    if (other := trouble_of(schema)) is not None:
        is_older = schema.applied < schema.known
        return [told("ledger", other, OF_LEDGER, CheckStatus.WARN if is_older else CheckStatus.FAIL)]
    workers = [worker for worker in await opened.ledger.workers(PRESENT_FOR) if not worker.left]
    return [
        ok("ledger", f"it can be read and written; workers that run on it: {len(workers)}"),
        *_bound(await _binding(opened), (owner, account)),
    ]


async def _binding(opened: OpenedLedger) -> tuple[str, str] | None:
    """The owner and the account of the ledger; None if no worker has started on it."""
    async with opened.keeping.reading() as rows:
        async for batch in rows.batches(Table.LEDGER):
            for owner, account, *_ in batch:
                return str(owner), str(account)
    return None


def _bound(bound: tuple[str, str] | None, given: tuple[str, str]) -> Iterator[Check]:
    if bound is None:
        yield ok("ledger owner", f"new: the first `provisioner run` binds it to owner {given[0]}")
    elif bound == given:
        yield ok("ledger owner", f"owner {given[0]} of account {given[1]}, as in the settings")
    else:
        yield told("ledger owner", str(LedgerForeign.of(bound, given)), OF_LEDGER)


async def account_checks(
    register: Register, page: Sequence[ListedSubaccount], template: NameTemplate
) -> Sequence[Check]:
    """Whether the ledger knows the newest subaccounts of the account. Raises `LedgerFailed`."""
    on_record = await register.holders([one.auth_id for one in page]) if page else {}
    return list(foreign_tags(page, template, on_record))
