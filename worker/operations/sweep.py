"""Sweeps on request: the running worker compares all subaccounts with the ledger, and corrects findings.

Without a running worker the command makes the comparison itself. Only a worker corrects.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from contracts.subaccounts import ResultKind
from worker.core.drift import Finding, FindingKind, Report, with_fixed
from worker.core.model.answers import Answer
from worker.core.model.departments import EVERY_DEPARTMENT
from worker.core.model.wishes import Correcting, Sweeping, Wish
from worker.operations.wishes import Asking, ignore, is_running
from worker.ports import UserError

NOT_DONE = "the running worker has not done it, and it is withdrawn: see its log, and sweep again"

WHAT_TO_DO = {
    FindingKind.DOUBLE: "--fix disables it; it is never deleted, so look at Plivo what hangs on it",
    FindingKind.DOUBLE_DISABLED: "nothing: it is disabled already; delete it at Plivo if nobody needs it",
    FindingKind.NAME: "--fix gives it the name on record",
    FindingKind.ENABLED: "--fix sets it as the ledger says",
    FindingKind.TOKEN: "--fix publishes the credentials with the new token, as the next generation",
    FindingKind.MISSING: "see the detail; the account of this ledger is checked first",
    FindingKind.UNRECORDED: "look for another deployment, or an older ledger, before you touch it",
    FindingKind.UNTAGGED: "`provisioner adopt --from FILE` puts it on record for a department",
}
"""Advice for each kind of finding."""


class SweepFailed(UserError):
    """There is no report, and the text says why."""


@dataclass(frozen=True, slots=True)
class Correction:
    """A finding that was to be corrected: whether it is, and if not, why not."""

    finding: Finding
    fixed: bool
    why_not: str | None = None


async def sweep_by_worker(asking: Asking) -> Report | None:
    """The report of a sweep that the running worker makes; None if no worker runs, or none any more.

    It takes as long as the rate limit wants. Raises `SweepFailed` if there is no report.
    """
    if not await is_running(asking.ledger):
        return None
    wish = asking.wish(EVERY_DEPARTMENT, Sweeping())
    (answer,) = await asking.ask_all([wish], "all", patience_seconds=math.inf)
    if answer is None:
        return None
    if answer.outcome is ResultKind.FAILED:
        raise SweepFailed(f"the worker could not sweep: {answer.reason}")
    report = await asking.ledger.sweep(wish.id)
    if report is None:
        raise SweepFailed("the report of the sweep is not kept any more: newer ones have replaced it")
    return Report.from_json(report)


def correctable(report: Report) -> Sequence[Finding]:
    """The findings that the worker can correct."""
    return [one for one in report.findings if one.fixable and one.department is not None]


def wishes_for(findings: Sequence[Finding], asking: Asking) -> Sequence[Wish]:
    """A wish for each of these findings, not left yet."""
    return [
        asking.wish(one.department, Correcting(one.kind, one.auth_id))
        for one in findings
        if one.department is not None
    ]


async def correct(
    asking: Asking, findings: Sequence[Finding], on_answered: Callable[[int], None] = ignore
) -> Sequence[Correction]:
    """Has the running worker correct these findings, and waits for it. Raises `NoWorker`."""
    if not findings:
        return []
    answers = await asking.ask_all(wishes_for(findings, asking), "--fix", on_answered)
    return [_correction(*one) for one in zip(findings, answers, strict=True)]


async def leave(asking: Asking, findings: Sequence[Finding]) -> None:
    """Leaves the corrections of these findings to the running worker. Raises `NoWorker` if none runs."""
    await asking.require_worker()
    await asking.leave(wishes_for(findings, asking), "--fix")


def with_corrections(report: Report, corrections: Sequence[Correction]) -> Report:
    """The report, with what the worker has confirmed."""
    fixed = {(one.finding.kind, one.finding.auth_id) for one in corrections if one.fixed}
    done = [(one.kind, one.auth_id) in fixed for one in report.findings]
    return replace(report, findings=with_fixed(report.findings, done))


def needs_a_person(report: Report) -> bool:
    """Whether a finding is left that counts: a double that is disabled already does not."""
    return any(not one.fixed and one.kind is not FindingKind.DOUBLE_DISABLED for one in report.findings)


def _correction(finding: Finding, answer: Answer | None) -> Correction:
    if answer is None:
        return Correction(finding, fixed=False, why_not=NOT_DONE)
    if answer.outcome is ResultKind.FAILED:
        return Correction(finding, fixed=False, why_not=answer.reason)
    return Correction(finding, fixed=True)
