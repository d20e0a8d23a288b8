"""How `provisioner dead-letters` shows what it found and did."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import from_json, to_json

from contracts.departments import DEFAULT_TENANT, UnsupportedType, canonical_type
from worker.cli import terminal as console
from worker.cli.terminal import OUT, print_json, print_table, visible, visible_json
from worker.core.dead_letters import AuditLine, Letter, exported
from worker.operations.dead_letters.fates import Fate, Fates
from worker.operations.dead_letters.looking import Found, Gathered, OfDepartment, Summary
from worker.operations.dead_letters.plan import Plan
from worker.ports import ForPeople
from worker.settings.model import PolicySettings

MOST_ROWS = 20
ID = "event or letter"
STOPPED = "; stopped, the rest is where it was"


def summary(told: Summary, *, as_json: bool) -> None:
    """By reason, then by department, then the letters."""
    if as_json:
        groups = {"reasons": map(asdict, told.reasons), "departments": map(asdict, told.departments)}
        letters = [asdict(letter) for letter in told.letters]
        print_json({"seen": told.seen, "selected": told.selected, **groups, "dead_letters": letters})
        return
    if not told.selected:
        none_meant(told.seen)
        return
    if told.selected == told.seen:
        OUT.print(_counted(told.seen, "dead letter"))
    else:
        OUT.print(f"{told.selected:,} of {_counted(told.seen, 'dead letter')}")
    of_reasons = [
        (one.reason, f"{one.count:,}", f"{one.departments:,}" if one.departments else "?")
        for one in told.reasons
    ]
    print_table(("reason", "messages", "departments"), of_reasons, "")
    _departments(told.departments)
    if told.letters:
        columns = ("dead since", "reason", "type", "department", ID, "detail")
        print_table(columns, map(_row, told.letters), "")
    _say_more(told.selected - len(told.letters), "dead letter", ": --limit shows more, a filter fewer")


def _departments(told: Sequence[OfDepartment]) -> None:
    of_tenants = any(one.tenant not in {None, DEFAULT_TENANT} for one in told)
    rows = [
        (
            *([one.tenant] if of_tenants else []),
            one.department_id or "?",
            f"{one.count:,}",
            _reasons(one.reasons),
        )
        for one in told[:MOST_ROWS]
    ]
    print_table((*(["tenant"] if of_tenants else []), "department", "messages", "reasons"), rows, "")
    _say_more(len(told) - MOST_ROWS, "department")


def _reasons(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def _row(letter: Letter) -> tuple[object, ...]:
    return (_at(letter), letter.reason, _kind(letter), letter.department_id, _id(letter), letter.detail)


def _id(letter: Letter) -> str:
    """What `--id` takes."""
    return letter.event_id or letter.fingerprint


def _kind(letter: Letter) -> str | None:
    """`created`, or the whole type where it is none of ours. `--type` takes either."""
    try:
        return canonical_type(letter.type).split(".")[1] if letter.type else None
    except UnsupportedType:
        return letter.type


def _at(letter: Letter) -> str:
    return f"{letter.dead_at:%Y-%m-%d %H:%M:%S}" if letter.dead_at else "?"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _say_more(more: int, what: str = "", hint: str = "") -> None:
    if more > 0:
        noun = f" {what}{'s' * (more != 1)}" if what else ""
        OUT.print(f"and {more:,} more{noun}{hint}", style="dim")


def none_meant(seen: int) -> None:
    OUT.print(f"no dead letter of {seen:,} is meant" if seen else "no dead letter")


def letters(gathered: Gathered, *, as_json: bool) -> None:
    found = gathered.found
    if as_json:
        print_json([asdict(one.letter) | exported(one.letter, one.held.original) for one in found])
        return
    for one in found:
        print_table(("", one.letter.event_id or f"letter {one.letter.fingerprint}"), _facts(one), "")
        OUT.print(_body(one.held.original.message.body), markup=False, highlight=False, soft_wrap=True)
    if gathered.more:
        OUT.print(f"the first {len(found)}; --limit shows more", style="dim")
    elif not found:
        none_meant(gathered.seen)


def _facts(one: Found) -> Iterable[tuple[str, object]]:
    original = one.held.original
    for name, value in asdict(one.letter).items():
        yield name.replace("_", " "), value
    yield "content type", original.message.content_type
    for name, value in original.properties.items():
        yield f"property {name.replace('_', ' ')}", value
    for name, value in original.message.headers.items():
        yield f"header {name}", value


def _body(body: bytes) -> str:
    try:
        return visible_json(to_json(from_json(body), indent=2)).decode()
    except ValueError:
        return repr(body)


def plan(made: Plan, settings: PolicySettings, *, as_json: bool) -> None:
    if as_json:
        prospects = [asdict(each.letter) | _prospect(each) for each in made.prospects]
        counts = {"seen": made.seen, "selected": made.selected, "least_calls": made.least_calls}
        print_json(counts | {"outcomes": made.outcomes, "prospects": prospects})
        return
    if not made.selected:
        none_meant(made.seen)
        return
    rows = [
        (_id(each.letter), each.letter.department_id, each.letter.reason, *_prospect(each).values())
        for each in made.prospects
    ]
    if rows:
        print_table((ID, "department", "was", "a replay now", "calls", ""), rows, "")
    _say_more(made.selected - len(made.prospects), "dead letter", ": --limit shows more")
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in made.outcomes.most_common())
    calls = _counted(made.least_calls, "call")
    OUT.print(f"{_counted(made.selected, 'dead letter')}: {outcomes}; at least {calls} to Plivo")
    OUT.print(
        f"by PROVISIONER_REMOVAL={settings.removal.value}, "
        f"PROVISIONER_UNKNOWN_RENAME={settings.unknown_rename.value}; nothing was changed",
        style="dim",
    )


def _prospect(each: Any) -> dict[str, Any]:
    return {"replay": each.outcome, "least_calls": each.calls, "replay_detail": each.detail}


@dataclass(frozen=True)
class Ending:
    """How a change ended: of itself, stopped, or by a failure."""

    stopped: bool
    failure: ForPeople | None = None

    @property
    def is_early(self) -> bool:
        return self.stopped or self.failure is not None

    @property
    def document(self) -> dict[str, Any]:
        return {"stopped": self.stopped, "failure": str(self.failure) if self.failure else None}

    def complain(self) -> None:
        if self.failure:
            console.complain(str(self.failure).splitlines())


def fates(told: Fates, run: str, ending: Ending, *, watched: bool, as_json: bool) -> None:
    """What came to no good first, and how many there were last."""
    if as_json:
        print_json(_fates_document(told, run, ending, watched=watched))
        ending.complain()
        return
    if not (told.sent or ending.is_early):
        none_meant(told.seen)
        return
    _bad(told.dead_again + told.unanswered)
    _warn(told, ending)
    ending.complain()
    answered = f", {told.answered:,} answered" if watched else ""
    rest = "; what was not sent is where it was" if ending.failure else STOPPED if ending.stopped else ""
    OUT.print(f"{told.sent:,} replayed{answered}{rest}")


def _fates_document(told: Fates, run: str, ending: Ending, *, watched: bool) -> dict[str, Any]:
    counts = {"run": run, **ending.document, "replayed": told.sent, "answered": told.answered}
    listed = {
        "dead_again": [_fate(fate) for fate in told.dead_again],
        "unanswered": [_fate(fate) for fate in told.unanswered],
    }
    return counts | (listed if watched else {})


def _bad(fates: Sequence[Fate]) -> None:
    if not fates:
        return
    rows = [(_id(fate.letter), fate.letter.department_id, fate.outcome) for fate in fates[:MOST_ROWS]]
    print_table((ID, "department", "what came of it"), rows, "")
    _say_more(len(fates) - MOST_ROWS)


def _warn(told: Fates, ending: Ending) -> None:
    if told.dead_again:
        console.complain([f"{len(told.dead_again):,} dead-lettered again; no more were replayed"])
    elif told.unanswered and not ending.is_early:
        console.complain([f"{len(told.unanswered):,} without an answer: is a worker running, and ready?"])


def _fate(fate: Fate) -> dict[str, Any]:
    return asdict(fate.letter) | {"outcome": fate.outcome}


def discarded(gone: int, seen: int, ending: Ending, *, as_json: bool) -> None:
    ending.complain()
    if as_json:
        print_json({"discarded": gone, **ending.document})
    elif gone or ending.is_early:
        rest = "; the rest is where it was" if ending.failure else STOPPED if ending.stopped else ""
        OUT.print(f"{gone:,} discarded{rest}")
    else:
        none_meant(seen)


def exported_to(output: str, number: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"exported": number})
    else:
        OUT.print(f"{number:,} exported to {visible(output)}", markup=False, highlight=False, soft_wrap=True)


def nothing_to_send(*, as_json: bool) -> None:
    if as_json:
        print_json({"sent": 0, "originals_discarded": None, "stopped": False})
    else:
        OUT.print("nothing to send")


def imported(sent: int, gone: int | None, *, stopped: bool, as_json: bool) -> None:
    if as_json:
        print_json({"sent": sent, "originals_discarded": gone, "stopped": stopped})
        return
    originals = f", {_counted(gone, 'original')} discarded" if gone is not None else ""
    OUT.print(
        f"{sent:,} sent{originals}" + ("; stopped, the rest of the file was not sent" if stopped else "")
    )


def audit(lines: Sequence[AuditLine], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    columns = ("at", "by", "action", "filter", ID, "department", "was", "what came of it")
    rows = [
        (
            f"{line.at:%Y-%m-%d %H:%M:%S}",
            line.by,
            line.action,
            line.selection,
            line.event_id or line.letter,
            line.department_id,
            line.reason,
            line.outcome,
        )
        for line in lines
    ]
    print_table(columns, rows, "nothing on record")
