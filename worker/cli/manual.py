"""The end of each command's help: an example, and the settings that the command uses."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from worker.cli import terminal
from worker.settings.model import (
    BrokerSettings,
    DeadLetterSettings,
    EventSettings,
    IntakeSettings,
    LedgerSettings,
    PlanSettings,
    PolicySettings,
    ProviderSettings,
    RemapSettings,
    SealingSettings,
    Settings,
    SnapshotSettings,
    SourceSettings,
    StatusSettings,
    TopologySettings,
    WorkerSettings,
)
from worker.settings.show import described

Page = tuple[str, type[Settings] | None]
"""An example of a command, and the model of its settings; None: it has none."""

PAGES: Mapping[str, Page] = {
    "run": ("provisioner --env-file worker.env run", WorkerSettings),
    "status": ("provisioner status --json", StatusSettings),
    "doctor": ("provisioner doctor --json", WorkerSettings),
    "demo": ("provisioner demo --memory", BrokerSettings),
    "sandbox": ("provisioner sandbox --state sandbox.db", None),
    "emit": ("provisioner emit created --id sales --name Sales", BrokerSettings),
    "results": ("provisioner results --follow --outcome failed", BrokerSettings),
    "events show": ("provisioner events show hr-4711", EventSettings),
    "reissue": ("provisioner reissue sales --recipient crm", LedgerSettings),
    "open": (
        "provisioner open --key crm.private.json --worker-keys worker.json --queue --take --json",
        BrokerSettings,
    ),
    "adopt": ("provisioner adopt --from subaccounts.csv --issue", ProviderSettings),
    "sweep": ("provisioner sweep --check --json", ProviderSettings),
    "topology apply": ("provisioner topology apply", TopologySettings),
    "topology check": ("provisioner topology check --json", TopologySettings),
    "topology export": ("provisioner topology export > definitions.json", TopologySettings),
    "plan": ("provisioner plan --file removed.json", PlanSettings),
    "departments list": ("provisioner departments list --status gone", PolicySettings),
    "departments show": ("provisioner departments show sales", PolicySettings),
    "departments recreate": ("provisioner departments recreate sales --as ada", LedgerSettings),
    "departments reset-version": (
        "provisioner departments reset-version --source /hr/old --all",
        LedgerSettings,
    ),
    "holds list": ("provisioner holds list --reason limit --json", LedgerSettings),
    "holds show": ("provisioner holds show HOLD-ID", PolicySettings),
    "holds approve": ("provisioner holds approve HOLD-ID --cascade HOLD-ID=3 --as ada", LedgerSettings),
    "holds reject": ("provisioner holds reject HOLD-ID --as ada", LedgerSettings),
    "snapshot plan": (
        "provisioner snapshot plan departments.csv --source hr --plan hr.plan",
        SnapshotSettings,
    ),
    "snapshot apply": ("provisioner snapshot apply hr.plan --missing remove", SnapshotSettings),
    "ledger copy": (
        "provisioner ledger copy --from sqlite:///provisioner.db --to postgresql://worker@db/provisioner",
        None,
    ),
    "ledger backup": ("provisioner ledger backup backups/2026-11-28.db", LedgerSettings),
    "ledger check": ("provisioner ledger check --json", LedgerSettings),
    "ledger purge": ("provisioner ledger purge --older-than 30d", LedgerSettings),
    "keys new": ("provisioner keys new crm --add-to recipients.json", SealingSettings),
    "keys public": ("provisioner keys public > worker.json", SealingSettings),
    "keys check": ("provisioner keys check", SealingSettings),
    "dead-letters list": ("provisioner dead-letters list --reason invalid --since 2h", DeadLetterSettings),
    "dead-letters show": ("provisioner dead-letters show --id hr-4711", DeadLetterSettings),
    "dead-letters plan": ("provisioner dead-letters plan --reason rejected", DeadLetterSettings),
    "dead-letters replay": ("provisioner dead-letters replay --reason rejected --rate 5", DeadLetterSettings),
    "dead-letters discard": ("provisioner dead-letters discard --id hr-4711", DeadLetterSettings),
    "dead-letters export": (
        "provisioner dead-letters export --reason invalid --output letters.jsonl",
        DeadLetterSettings,
    ),
    "dead-letters import": (
        "provisioner dead-letters import letters.jsonl --discard-originals",
        DeadLetterSettings,
    ),
    "intake": ("provisioner --env-file intake.env intake", IntakeSettings),
    "intake check": ("provisioner intake check acme-hr", SourceSettings),
    "intake try": ("provisioner intake try acme-hr --file payload.json", SourceSettings),
    "intake remap": ("provisioner intake remap --profile acme-hr --dry-run", RemapSettings),
    "dead-letters audit": ("provisioner dead-letters audit --since 7d --by ada", LedgerSettings),
}


def add_manual(command: Any, path: str = "") -> Any:
    """Returns the command, whose help, and that of all below it, ends with its page."""
    for name, below in getattr(command, "commands", {}).items():
        add_manual(below, f"{path} {name}".strip())
    if path in PAGES:
        _append(command, PAGES[path])
    return command


def _append(command: Any, page: Page) -> None:
    format_help = command.format_help

    def format_help_and_page(context: Any, formatter: Any) -> None:
        format_help(context, formatter)
        _print(page)

    command.format_help = format_help_and_page


def _print(page: Page) -> None:
    example, model = page
    terminal.say(" Example:")
    terminal.say(f"   {example}")
    if model is not None:
        terminal.say("")
        terminal.say(" Settings, from the environment; NAME_FILE may name a file with the value:")
        width = Console().width  # that of the rest of the help, in a pipe too
        terminal.print_table(("setting", "default", "meaning"), described(model), "", width=width)
