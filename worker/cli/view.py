"""Shows the results of `provisioner dead-letters`: as tables, or with `as_json` as one JSON document."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from pydantic_core import from_json

from contracts.departments import DEFAULT_TENANT, UnsupportedType, canonical_type
from contracts.envelope import rfc3339
from worker.cli import terminal
from worker.cli.terminal import print_facts, print_json, print_table, readable_json, say
from worker.core.dead_letters import AuditLine, Letter, Selection, exported
from worker.operations.dead_letters.plan import Plan, Prospect
from worker.operations.dead_letters.session import Found
from worker.operations.dead_letters.summary import DepartmentCount, Gathered, Summary
from worker.operations.dead_letters.tracking import Outcome, ReplayReport
from worker.ports import UserError
from worker.settings.model import PolicySettings

SHOWN_ROWS = 20
SHOWN_DEPARTMENTS = 5
ID = "event or letter"
DEAD_LETTER = "dead letter"


def summary(found: Summary, what: str = DEAD_LETTER, *, as_json: bool) -> None:
    """Shows the numbers by reason and by department, then the letters."""
    if as_json:
        groups = {"reasons": map(asdict, found.reasons), "departments": map(asdict, found.departments)}
        letters = [asdict(letter) for letter in found.letters]
        print_json({"seen": found.seen, "selected": found.selected, **groups, "dead_letters": letters})
        return
    if not found.selected:
        none_selected(found.seen, what)
        return
    if found.selected == found.seen:
        say(_counted(found.seen, what))
    else:
        say(f"{found.selected:,} of {_counted(found.seen, what)}")
    of_reasons = [
        (one.reason, f"{one.count:,}", f"{one.departments:,}" if one.departments else "?")
        for one in found.reasons
    ]
    print_table(("reason", "messages", "departments"), of_reasons, "")
    _departments(found.departments)
    if found.letters:
        columns = ("dead since", "reason", "type", "department", ID, "detail")
        first = 0 if any(one.dead_at for one in found.letters) else 1  # unrouted messages never died
        print_table(columns[first:], (_row(one)[first:] for one in found.letters), "")
    _say_more(found.selected - len(found.letters), what, ": --limit shows more, a filter fewer")


def _departments(groups: Sequence[DepartmentCount]) -> None:
    """Shows the departments with several letters; one letter each is what the list of letters shows."""
    several = [one for one in groups if one.count > 1]
    unread = [one for one in several if one.department_id is None]
    of_tenants = len(unread) > 1 or any(one.tenant not in {None, DEFAULT_TENANT} for one in several)
    rows = [
        (
            *([one.tenant or "?"] if of_tenants else []),
            one.department_id or "?",
            f"{one.count:,}",
            _reasons(one.reasons),
        )
        for one in several[:SHOWN_DEPARTMENTS]
    ]
    if rows:
        print_table((*(["tenant"] if of_tenants else []), "department", "messages", "reasons"), rows, "")
        _say_more(len(groups) - len(rows), "department")


def _reasons(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def _row(letter: Letter) -> tuple[object, ...]:
    about = (_kind(letter), letter.department_id, _id(letter), letter.detail)
    return (letter.dead_at or "?", letter.reason, *about)


def _id(letter: Letter) -> str:
    """The id that `--id` takes."""
    return letter.event_id or letter.fingerprint


def _kind(letter: Letter) -> str | None:
    """`created`, or the full type of an event that is not ours. `--type` takes either."""
    try:
        return canonical_type(letter.type).split(".")[1] if letter.type else None
    except UnsupportedType:
        return letter.type


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _say_more(more: int, what: str = "", hint: str = "") -> None:
    if more > 0:
        noun = f" {what}{'s' * (more != 1)}" if what else ""
        say(f"and {more:,} more{noun}{hint}", "dim")


def none_selected(seen: int, what: str = DEAD_LETTER) -> None:
    """Says that the filter selects none of the letters read."""
    say(
        f"none of {_counted(seen, what)} is selected"
        if seen > 1
        else f"no {what}{' is selected' * bool(seen)}"
    )


def letters(gathered: Gathered, what: str = DEAD_LETTER, *, as_json: bool) -> None:
    """Shows letters in full, with their bodies."""
    found = gathered.found
    if as_json:
        print_json([asdict(one.letter) | exported(one.letter, one.held.original) for one in found])
        return
    for one in found:
        print_facts(one.letter.event_id or f"letter {one.letter.fingerprint}", dict(_facts(one)))
        for line in _body(one.held.original.message.body).split("\n"):
            say(line)
    if gathered.more:
        say(f"the first {len(found)}; --limit shows more", "dim")
    elif not found:
        none_selected(gathered.seen, what)


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
        return readable_json(from_json(body))
    except ValueError:
        return repr(body)


def plan(made: Plan, settings: PolicySettings, what: str = DEAD_LETTER, *, as_json: bool) -> None:
    """Shows the outcomes that a replay would have."""
    if as_json:
        prospects = [asdict(each.letter) | _prospect(each) for each in made.prospects]
        counts = {"seen": made.seen, "selected": made.selected, "least_calls": made.least_calls}
        print_json(counts | {"outcomes": made.outcomes, "prospects": prospects})
        return
    if not made.selected:
        none_selected(made.seen, what)
        return
    rows = [
        (_id(each.letter), each.letter.department_id, each.letter.reason, *_prospect(each).values())
        for each in made.prospects
    ]
    if rows:
        print_table((ID, "department", "was", "a replay now", "calls", ""), rows, "")
    _say_more(made.selected - len(made.prospects), what, ": --limit shows more")
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in made.outcomes.most_common())
    calls = _counted(made.least_calls, "call")
    say(f"{_counted(made.selected, what)}: {outcomes}; at least {calls} to Plivo")
    say(
        f"by PROVISIONER_REMOVAL={settings.removal.value}, "
        f"PROVISIONER_UNKNOWN_RENAME={settings.unknown_rename.value}; nothing was changed",
        "dim",
    )


def _prospect(each: Prospect) -> dict[str, Any]:
    return {"replay": each.outcome, "least_calls": each.calls, "replay_detail": each.detail}


@dataclass(frozen=True)
class Ending:
    """How a change ended: complete, stopped, or with a failure."""

    stopped: bool
    failure: UserError | None = None

    @property
    def is_early(self) -> bool:
        """Whether the change ended before it was complete."""
        return self.stopped or self.failure is not None

    @property
    def rest(self) -> str:
        """The end of the last line: the letters that an early ending left in place. Empty if complete."""
        if self.failure is not None:
            return "; the rest is where it was"
        return "; stopped, the rest is where it was" if self.stopped else ""

    @property
    def document(self) -> dict[str, Any]:
        """The ending as JSON keys."""
        return {"stopped": self.stopped, "failure": str(self.failure) if self.failure else None}

    def complain(self) -> None:
        """Prints the failure on stderr, if there is one."""
        if self.failure:
            terminal.complain(str(self.failure).splitlines())


def replayed(
    report: ReplayReport,
    run: str,
    ending: Ending,
    what: str = DEAD_LETTER,
    *,
    tracked: bool,
    as_json: bool,
) -> None:
    """Shows the letters that failed, then the numbers."""
    if as_json:
        print_json(_replay_document(report, run, ending, tracked=tracked))
        ending.complain()
        return
    if not (report.sent or ending.is_early):
        none_selected(report.seen, what)
        return
    _bad(report.dead_again + report.unanswered)
    _warn(report, ending)
    ending.complain()
    answered = f", {report.answered:,} answered" if tracked else ""
    say(f"{report.sent:,} replayed{answered}{ending.rest}")


def _replay_document(report: ReplayReport, run: str, ending: Ending, *, tracked: bool) -> dict[str, Any]:
    counts = {"run": run, **ending.document, "replayed": report.sent, "answered": report.answered}
    listed = {
        "dead_again": [_outcome(one) for one in report.dead_again],
        "unanswered": [_outcome(one) for one in report.unanswered],
    }
    return counts | (listed if tracked else {})


def _bad(outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        return
    rows = [(_id(one.letter), one.letter.department_id, one.outcome) for one in outcomes[:SHOWN_ROWS]]
    print_table((ID, "department", "outcome"), rows, "")
    _say_more(len(outcomes) - SHOWN_ROWS)


def _warn(report: ReplayReport, ending: Ending) -> None:
    if report.dead_again:
        terminal.complain([f"{len(report.dead_again):,} dead-lettered again; no more were replayed"])
    elif report.unanswered and not ending.is_early:
        terminal.complain([f"{len(report.unanswered):,} without an answer: is a worker running, and ready?"])


def _outcome(one: Outcome) -> dict[str, Any]:
    return asdict(one.letter) | {"outcome": one.outcome}


def discarded(gone: int, seen: int, ending: Ending, what: str = DEAD_LETTER, *, as_json: bool) -> None:
    """Shows how many letters were discarded."""
    ending.complain()
    if as_json:
        print_json({"discarded": gone, **ending.document})
    elif gone or ending.is_early:
        say(f"{gone:,} discarded{ending.rest}")
    else:
        none_selected(seen, what)


def exported_to(output: str, number: int, *, as_json: bool) -> None:
    """Shows how many letters an export wrote to a file."""
    if as_json:
        print_json({"exported": number})
    else:
        say(f"{number:,} exported to {output}")


def nothing_to_send(*, as_json: bool) -> None:
    """Says that an import holds no message."""
    if as_json:
        print_json({"sent": 0, "originals_discarded": None, "stopped": False})
    else:
        say("nothing to send")


def imported(sent: int, gone: int | None, *, stopped: bool, as_json: bool) -> None:
    """Shows how many messages an import sent; `gone`: how many originals it discarded, None: kept."""
    if as_json:
        print_json({"sent": sent, "originals_discarded": gone, "stopped": stopped})
        return
    originals = f", {_counted(gone, 'original')} discarded" if gone is not None else ""
    say(f"{sent:,} sent{originals}" + ("; stopped, the rest of the file was not sent" if stopped else ""))


def audit(lines: Sequence[AuditLine], *, as_json: bool) -> None:
    """Shows lines of the audit, oldest first."""
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    columns = ("at", "by", "action", "filter", ID, "department", "reason", "outcome")
    rows = [
        (
            line.at,
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


def filter_text(selection: Selection) -> str:
    """A selection as command-line options: `--reason invalid --since 2026-11-01T08:30:00Z`, or `all`."""
    given: list[str] = []
    for field in fields(selection):
        value = getattr(selection, field.name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        given += [f"--{field.name} {_option(one)}" for one in values]
    return " ".join(given) or "all"


def _option(value: object) -> str:
    text = rfc3339(value) if isinstance(value, datetime) else str(value)
    return repr(text) if " " in text else text
