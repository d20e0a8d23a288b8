"""Adopts existing subaccounts: a plan of all lines of a file, and the running worker that carries it out.

The plan decides each line as the worker will, on the provider's list and the ledger as they are now. It
changes nothing. The worker decides each line again, on a fresh look, and may refuse one that was planned.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from contracts.subaccounts import ResultKind
from worker.core.adoption import in_question
from worker.core.binding import Already, Bind, Known, Refused, decide_binding
from worker.core.decide import Policy
from worker.core.drift import Seen
from worker.core.listed import ListedSubaccount
from worker.core.model.answers import Answer
from worker.core.model.departments import Department
from worker.core.model.entry import Entry
from worker.core.model.wishes import Binding, Wish
from worker.core.naming import NO_EVENT, Names
from worker.core.wishes import audit_of
from worker.operations.adoption_lines import AdoptionLine
from worker.operations.wishes import Asking
from worker.ports import Ledger

AT_ONCE = 500
"""Subaccounts to look up in the ledger at a time."""

WITHDRAWN = "the worker has not done it, and it is withdrawn: see its log, and apply the file again"


class State(StrEnum):
    """The planned or actual outcome of a line."""

    ADOPT = "adopt"
    ADOPTED = "adopted"
    ALREADY = "already"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Choices:
    """A person's choices for all lines, as in `Binding`."""

    keeps_names: bool = False
    issues: bool = False
    enables: bool = False

    def binding(self, auth_id: str, name: str | None) -> Binding:
        """The binding to this subaccount."""
        return Binding(auth_id, name, self.keeps_names, self.issues, self.enables)


@dataclass(frozen=True, slots=True)
class Planned:
    """A line with its state, the department's name as it will be or is on record, and why it is refused."""

    line: AdoptionLine
    state: State
    name: str | None = None
    reason: str | None = None


async def entries_of_lines(ledger: Ledger, lines: Sequence[AdoptionLine]) -> Sequence[Entry]:
    """The entries on record of the lines' departments, and those that have the lines' subaccounts."""
    departments = {line.department for line in lines if line.department is not None}
    auth_ids = sorted({line.auth_id for line in lines if line.auth_id is not None})
    for first in range(0, len(auth_ids), AT_ONCE):
        departments.update((await ledger.holders(auth_ids[first : first + AT_ONCE])).values())
    found = [(await ledger.recall(department, NO_EVENT)).entry for department in sorted(departments)]
    return [entry for entry in found if entry.revision]


class ListedForLines:
    """Takes from the provider's list what the lines of a file are decided on: see `Planning.listed`."""

    def __init__(self, lines: Sequence[AdoptionLine], entries: Sequence[Entry], names: Names) -> None:
        recorded = {entry.department: entry for entry in entries}
        self._auth_ids = {line.auth_id for line in lines}
        self._tags = {
            tag
            for department in {line.department for line in lines if line.department is not None}
            for tag in names.tags(department, in_question(recorded.get(department, Entry(department))))
        }
        self._names = names
        self.found: dict[str, ListedSubaccount] = {}

    def begin(self) -> None:
        """See `Taker.begin`."""
        self.found.clear()

    async def take(self, page: Sequence[Seen]) -> None:
        """See `Taker.take`."""
        for one in page:
            tag = self._names.template.tag_in(one.subaccount.name)
            if one.auth_id in self._auth_ids or tag in self._tags:
                self.found[one.auth_id] = one.subaccount


@dataclass(frozen=True)
class Planning:
    """Decides the lines of a file on what is known when it is made.

    `entries`: those of the lines' departments, and those that have the lines' subaccounts. `listed`: the
    lines' subaccounts by auth id, and all others with a tag of a line's department.
    """

    entries: Sequence[Entry]
    listed: Mapping[str, ListedSubaccount]
    names: Names
    policy: Policy
    by: str
    now: datetime

    def plan(self, lines: Sequence[AdoptionLine], choices: Choices) -> list[Planned]:
        """Decides each line. Of two lines with one department or one subaccount, the second is refused."""
        first_with: dict[Department | str | None, int] = {}
        planned = []
        for line in lines:
            why = "; ".join(line.mistakes) or _named_before(line, first_with)
            if why or line.department is None or line.auth_id is None:
                planned.append(Planned(line, State.REFUSED, line.name, why))
            else:
                planned.append(self._decided(line, line.department, line.auth_id, choices))
            for named in (line.department, line.auth_id):
                if named is not None:
                    first_with.setdefault(named, line.number)
        return planned

    def _decided(self, line: AdoptionLine, department: Department, auth_id: str, choices: Choices) -> Planned:
        asked = choices.binding(auth_id, line.name)
        wish = Wish("", department, self.by, self.now, asked)
        known = self._known(department, auth_id)
        match decide_binding(wish, asked, known, self.names, self.policy, self.now):
            case Bind(entry):
                return Planned(line, State.ADOPT, entry.name)
            case Already():
                return Planned(line, State.ALREADY, known.entry.name)
            case Refused(reason):
                return Planned(line, State.REFUSED, line.name, reason)

    def _known(self, department: Department, auth_id: str) -> Known:
        entry = self._recorded.get(department, Entry(department))
        tags = self.names.tags(department, in_question(entry))
        has_other = any(self._tagged.get(tag, set()) - {auth_id} for tag in tags)
        return Known(entry, self.listed.get(auth_id), self._holders.get(auth_id), has_other)

    @cached_property
    def _recorded(self) -> Mapping[Department, Entry]:
        return {entry.department: entry for entry in self.entries}

    @cached_property
    def _holders(self) -> Mapping[str, Department]:
        return {entry.auth_id: entry.department for entry in self.entries if entry.auth_id}

    @cached_property
    def _tagged(self) -> Mapping[str, set[str]]:
        """The auth ids of the subaccounts with each tag."""
        found: dict[str, set[str]] = {}
        for one in self.listed.values():
            if (tag := self.names.template.tag_in(one.name)) is not None:
                found.setdefault(tag, set()).add(one.auth_id)
        return found


async def apply_plan(
    asking: Asking,
    planned: Sequence[Planned],
    choices: Choices,
    selection: str,
    on_answered: Callable[[int], None],
) -> list[Planned]:
    """Has the running worker adopt the lines that the plan allows, and waits for it.

    `selection`: the command's words for the audit. `on_answered` gets the number of lines done. Raises
    `NoWorker`.
    """
    wishes = {
        place: asking.wish(one.line.department, choices.binding(one.line.auth_id, one.line.name))
        for place, one in enumerate(planned)
        if one.state is State.ADOPT and one.line.department is not None and one.line.auth_id is not None
    }
    answers = await asking.ask_all(list(wishes.values()), selection, on_answered)
    done, refused = list(planned), []
    for (place, wish), answer in zip(wishes.items(), answers, strict=True):
        done[place] = _done(planned[place], answer)
        if answer is not None and isinstance(wish.asks, Binding) and done[place].state is State.REFUSED:
            refused.append(audit_of(wish, wish.asks.auth_id, f"refused: {answer.reason}", answer.answered_at))
    await asking.audit.append(refused)
    return done


def _done(planned: Planned, answer: Answer | None) -> Planned:
    if answer is None:
        return replace(planned, state=State.REFUSED, reason=WITHDRAWN)
    match answer.outcome:
        case ResultKind.FAILED:
            return replace(planned, state=State.REFUSED, reason=answer.reason)
        case ResultKind.UNCHANGED:
            return replace(planned, state=State.ALREADY, name=answer.name)
        case _:
            return replace(planned, state=State.ADOPTED, name=answer.name)


def _named_before(line: AdoptionLine, first_with: Mapping[Department | str | None, int]) -> str:
    """Why the line is a duplicate; empty if it is none."""
    if line.department in first_with:
        return f"line {first_with[line.department]} names this department already"
    if line.auth_id in first_with:
        return f"line {first_with[line.auth_id]} names this subaccount already"
    return ""
