"""`provisioner sweep`."""

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from worker.cli import terminal
from worker.cli.loop import run_to_exit
from worker.cli.options import By, Json
from worker.core.drift import Finding, FindingKind, Report
from worker.operations.sweep import (
    WHAT_TO_DO,
    Correction,
    correct,
    correctable,
    leave,
    needs_a_person,
    sweep_by_worker,
    with_corrections,
)
from worker.operations.wishes import Asking, NoWorker
from worker.ports import Ledger
from worker.settings.load import load
from worker.settings.model import ProviderSettings


def sweep(
    *,
    fix: Annotated[
        bool, typer.Option("--fix", help="Have the running worker correct what can be corrected.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit 1 if there are findings; disabled doubles do not count."),
    ] = False,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="With --fix: leave the corrections to the worker, for an hour."),
    ] = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Compare all subaccounts at Plivo with the ledger, and say what differs.

    The running worker reads Plivo's list, at a part of the rate limit that leaves events their room; without
    one the command reads it itself. A sweep changes nothing. With --fix, the running worker then looks at
    each finding once more, and corrects it if it still holds: doubles are disabled, names and states set as
    on record, and credentials with a changed token published as the next generation. Nothing is ever deleted.

    Exit 1 if a correction was not done, and with --check if a finding is left.
    """
    if no_wait and not fix:
        raise typer.BadParameter("--no-wait goes with --fix: it does not wait for the corrections")
    settings = load(ProviderSettings, os.environ)
    run_to_exit(_sweep(settings, by, fix=fix, check=check, waits=not no_wait, as_json=as_json))


async def _sweep(
    settings: ProviderSettings, by: str | None, *, fix: bool, check: bool, waits: bool, as_json: bool
) -> bool:
    """Returns whether nothing is left for a person."""
    from worker.adapters.system import SystemClock, fresh_id, os_user
    from worker.cli import open_ports

    async with open_ports.ledger_to_write(settings) as (ledger, audit):
        await ledger.bind(settings.owner, settings.plivo_auth_id)
        asking = Asking(ledger, audit, SystemClock(), by or os_user(), fresh_id)
        report = await _report(settings, ledger, asking)
        corrections, trouble = await _corrections(asking, report, fix=fix, waits=waits)
    report = with_corrections(report, corrections)
    _show(report, corrections, fix=fix, as_json=as_json)
    terminal.complain(trouble)
    failed = bool(trouble) or any(not one.fixed for one in corrections)
    return not failed and not (check and needs_a_person(report))


async def _report(settings: ProviderSettings, ledger: Ledger, asking: Asking) -> Report:
    from worker.cli.progress import progress

    with progress("the running worker reads Plivo's list"):
        report = await sweep_by_worker(asking)
    if report is not None:
        return report
    terminal.advise("no worker runs on this ledger: this command reads Plivo's list itself")
    return await _own_report(settings, ledger)


async def _own_report(settings: ProviderSettings, ledger: Ledger) -> Report:
    from worker.adapters.system import SystemClock
    from worker.cli.open_provider import listing
    from worker.cli.progress import progress
    from worker.core.naming import Names
    from worker.pipeline.comparison import Comparison, at_once

    names = Names(settings.owner, settings.names)
    async with listing(settings, beside_worker=False) as opened:
        comparison = Comparison(opened, ledger, names, at_once, SystemClock())
        with progress("pages of Plivo's list") as display:
            return await comparison.sweep(display.at)


async def _corrections(
    asking: Asking, report: Report, *, fix: bool, waits: bool
) -> tuple[Sequence[Correction], Sequence[str]]:
    """The corrections asked for and waited for, and why nothing could be asked for."""
    from worker.cli.progress import progress

    findings = correctable(report) if fix else ()
    if not findings:
        return (), ()
    try:
        if waits:
            with progress("correcting", len(findings)) as display:
                return await correct(asking, findings, display.at), ()
        await leave(asking, findings)
    except NoWorker as error:
        return (), str(error).splitlines()
    terminal.advise(f"left to the worker: {len(findings):,} corrections, valid for an hour")
    return (), ()


def _show(report: Report, corrections: Sequence[Correction], *, fix: bool, as_json: bool) -> None:
    if as_json:
        terminal.print_json(report.document())
    else:
        _print(report, fix=fix)
    if report.note:
        terminal.complain([report.note])
    for one in corrections:
        if not one.fixed:
            finding = one.finding
            terminal.complain([f"{finding.kind} of {finding.auth_id} not corrected: {one.why_not}"])


def _print(report: Report, *, fix: bool) -> None:
    columns = ("kind", "tenant", "department", "auth id", "fixed", "detail")
    terminal.print_table(columns, map(_row, report.findings), "no finding: all subaccounts are as on record")
    found = ", ".join(f"{report.counts[kind]:,} {kind}" for kind in FindingKind if kind in report.counts)
    compared = f"{report.subaccounts:,} subaccounts compared with {report.departments:,} departments"
    terminal.say(f"{compared}: {found}" if found else compared)
    open_ = {one.kind for one in report.findings if not one.fixed}
    for kind in FindingKind:
        if kind in open_:
            terminal.say(f"  {kind}: {WHAT_TO_DO[kind]}", "dim")
    if not fix and any(one.fixable for one in report.findings):
        terminal.advise("nothing was changed; `provisioner sweep --fix` has the running worker correct them")


def _row(finding: Finding) -> tuple[object, ...]:
    tenant, id_ = finding.department or (None, None)
    fixed = "fixed" if finding.fixed else "can be" if finding.fixable else None
    return finding.kind, tenant, id_, finding.auth_id, fixed, finding.detail
