"""How `provisioner dead-letters` shows what it found and did."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic_core import from_json, to_json

from worker import console
from worker.console import OUT, print_json, print_table
from worker.core.dead_letters import AuditLine, Letter, exported
from worker.dead_letters.fates import Fate, Fates
from worker.dead_letters.looking import Found, Summary
from worker.dead_letters.plan import Plan
from worker.settings import PolicySettings

GROUPS = 20
NOTHING = "no dead letter"


def summary(told: Summary, *, as_json: bool) -> None:
    """By reason and department first, then the letters."""
    groups = told.groups.most_common()
    if as_json:
        grouped = [
            {"reason": reason, "department_id": department, "count": count}
            for (reason, department), count in groups
        ]
        letters = [asdict(letter) for letter in told.letters]
        print_json({"seen": told.seen, "selected": told.selected, "groups": grouped, "dead_letters": letters})
        return
    if not told.selected:
        OUT.print(f"{NOTHING} of {told.seen:,} is meant" if told.seen else NOTHING)
        return
    of_all = "" if told.selected == told.seen else f" of {told.seen:,}"
    OUT.print(f"{told.selected:,}{of_all} dead letter{'s' * (told.seen != 1)}")
    rows = [(reason, department or "?", f"{count:,}") for (reason, department), count in groups[:GROUPS]]
    print_table(("reason", "department", "messages"), rows, "")
    _say_more(len(groups) - GROUPS, "groups")
    columns = ("dead since", "reason", "type", "department", "event id", "detail")
    print_table(columns, map(_row, told.letters), "")
    _say_more(told.selected - len(told.letters), "dead letters: --limit shows more, a filter fewer")


def _row(letter: Letter) -> tuple[object, ...]:
    type_ = (letter.type or "").removesuffix(".v1")
    return (_at(letter), letter.reason, type_, letter.department_id, letter.event_id, letter.detail)


def _at(letter: Letter) -> str:
    return f"{letter.dead_at:%Y-%m-%d %H:%M:%S}" if letter.dead_at else "?"


def _say_more(more: int, what: str) -> None:
    if more > 0:
        OUT.print(f"and {more:,} more {what}", style="dim")


def letters(found: Sequence[Found], limit: int, *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(one.letter) | exported(one.letter, one.held.original) for one in found])
        return
    for one in found:
        facts = {name.replace("_", " "): value for name, value in asdict(one.letter).items()}
        headers = {f"header {name}": value for name, value in one.held.original.message.headers.items()}
        print_table(("", one.letter.event_id or "dead letter"), [*facts.items(), *headers.items()], "")
        OUT.print(_body(one.held.original.message.body), markup=False, highlight=False, soft_wrap=True)
    if not found:
        OUT.print(NOTHING)
    elif len(found) == limit:
        OUT.print(f"the first {limit}; --limit shows more", style="dim")


def _body(body: bytes) -> str:
    try:
        return to_json(from_json(body), indent=2).decode()
    except ValueError:
        return repr(body)


def plan(made: Plan, settings: PolicySettings, *, as_json: bool) -> None:
    if as_json:
        prospects = [asdict(each.letter) | _prospect(each) for each in made.prospects]
        told = {"selected": made.selected, "least_calls": made.least_calls, "outcomes": made.outcomes}
        print_json(told | {"prospects": prospects})
        return
    if not made.selected:
        OUT.print(NOTHING)
        return
    columns = ("event id", "department", "was", "a replay now", "calls", "")
    rows = [
        (each.letter.event_id, each.letter.department_id, each.letter.reason, *_prospect(each).values())
        for each in made.prospects
    ]
    print_table(columns, rows, "")
    _say_more(made.selected - len(made.prospects), "dead letters: --limit shows more")
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in made.outcomes.most_common())
    OUT.print(f"{made.selected:,} dead letters: {outcomes}; at least {made.least_calls:,} calls to Plivo")
    OUT.print(
        f"by PROVISIONER_REMOVAL={settings.removal.value}, "
        f"PROVISIONER_UNKNOWN_RENAME={settings.unknown_rename.value}; nothing was changed",
        style="dim",
    )


def _prospect(each: Any) -> dict[str, Any]:
    return {"replay": each.outcome, "least_calls": each.calls, "replay_detail": each.detail}


def fates(told: Fates, run: str, *, watched: bool, stopped: bool, as_json: bool) -> None:
    bad = told.dead_again + told.unanswered
    if as_json:
        listed = {
            "dead_again": [_fate(fate) for fate in told.dead_again],
            "unanswered": [_fate(fate) for fate in told.unanswered],
        }
        counts = {"run": run, "stopped": stopped, "replayed": told.sent, "answered": told.answered}
        print_json(counts | (listed if watched else {}))
        return
    answered = f", {told.answered:,} answered" if watched else ""
    OUT.print(
        f"{told.sent:,} replayed{answered}" + ("; stopped, the rest is where it was" if stopped else "")
    )
    if bad:
        rows = [(fate.letter.event_id, fate.letter.department_id, fate.outcome) for fate in bad]
        print_table(("event id", "department", "what came of it"), rows, "")
    if told.dead_again:
        console.complain([f"{len(told.dead_again):,} dead-lettered again; no more were replayed"])
    elif told.unanswered and not stopped:
        console.complain([f"{len(told.unanswered):,} without an answer: is a worker running, and ready?"])


def _fate(fate: Fate) -> dict[str, Any]:
    return asdict(fate.letter) | {"outcome": fate.outcome}


def count(done: str, number: int, *, as_json: bool) -> None:
    if as_json:
        print_json({done: number})
    else:
        OUT.print(f"{number:,} {done}")


def imported(sent: int, gone: int | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"sent": sent, "originals_discarded": gone})
        return
    OUT.print(f"{sent:,} sent" + (f", {gone:,} originals discarded" if gone is not None else ""))


def audit(lines: Sequence[AuditLine], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    columns = ("at", "by", "action", "filter", "event id", "department", "was", "what came of it")
    rows = [
        (
            f"{line.at:%Y-%m-%d %H:%M:%S}",
            line.by,
            line.action,
            line.selection,
            line.event_id,
            line.department_id,
            line.reason,
            line.outcome,
        )
        for line in lines
    ]
    print_table(columns, rows, "nothing on record")
