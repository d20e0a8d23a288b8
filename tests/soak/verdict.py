"""Judges a run by its messages and subaccounts, without asking the worker or the ledger."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from tests.soak.statements import Statement
from worker.sandbox import Entry as Request
from worker.sandbox import Rule, Subaccount
from worker.sandbox.faults import ANY_OPERATION

Document = dict[str, Any]

NEVER = 1e-9
FINAL = {"created", "renamed", "disabled", "restored", "removed", "unchanged", "superseded", "reissued"}
GRACE_OVER = ["disabled", "removed"]
"""The final answers of a removal whose grace is over."""


class Violation(NamedTuple):
    """A broken rule and its department; "-" for the run as a whole."""

    department: str
    what: str


def judge(
    sent: Collection[Statement],
    results: Sequence[Document],
    credentials: Sequence[Document],
    subaccounts: Iterable[Subaccount],
) -> list[Violation]:
    """Compares the statements sent with all messages and subaccounts, after the run is idle."""
    there = _by_department(subaccounts)
    issued = defaultdict(list)
    for message in credentials:
        issued[message["data"]["department_id"]].append(message)
    return [
        *_unanswered(sent, results),
        *wrong_states(sent, subaccounts),
        *(
            Violation(department, what)
            for department in {one.department for one in sent}
            for what in _credentials_broken(issued[department], there[department])
        ),
    ]


def wrong_states(sent: Iterable[Statement], subaccounts: Iterable[Subaccount]) -> list[Violation]:
    """The departments whose subaccount is not as their newest event says."""
    there = _by_department(subaccounts)
    newest = {one.department: one for one in sorted(sent, key=lambda one: one.sequence)}
    return [broken for one in newest.values() for broken in _state_broken(one, there[one.department])]


def unmet_faults(rules: Iterable[Rule], requests: Collection[Request]) -> list[Violation]:
    """Faults that no call met although that was almost impossible."""
    asked = Counter(one.operation for one in requests)
    met = {one.fault for one in requests}
    spared: dict[str, float] = defaultdict(lambda: 1.0)
    for rule in rules:
        calls = asked.total() if rule.operation == ANY_OPERATION else asked[rule.operation]
        spared[rule.fault.name] *= (1 - rule.probability) ** calls
    return [
        Violation("-", f"no call met the fault {name}")
        for name, odds in spared.items()
        if odds < NEVER and name not in met
    ]


def print_violations(broken: Sequence[Violation], console: Console) -> int:
    """Prints the violations; returns the exit code."""
    for one in broken:
        console.print(f"broken: {one.department}: {one.what}", markup=False, style="red")
    console.print(f"{len(broken)} broken" if broken else "all rules kept")
    return int(bool(broken))


def republished(messages: Collection[Document]) -> int:
    """The number of messages published again under the same id."""
    return len(messages) - len({message["id"] for message in messages})


def duplicates(subaccounts: Iterable[Subaccount]) -> int:
    """The number of subaccounts beyond the first of each department."""
    return sum(len(there) - 1 for there in _by_department(subaccounts).values())


def enabled_duplicates(subaccounts: Iterable[Subaccount]) -> int:
    """The number of enabled subaccounts beyond the first of each department."""
    live = (sum(one.enabled for one in there) for there in _by_department(subaccounts).values())
    return sum(max(count - 1, 0) for count in live)


def _by_department(subaccounts: Iterable[Subaccount]) -> dict[str, list[Subaccount]]:
    """Groups subaccounts by department: each name begins with the department's id."""
    there = defaultdict(list)
    for one in subaccounts:
        there[one.name.split()[0]].append(one)
    return there


def _unanswered(sent: Iterable[Statement], results: Iterable[Document]) -> Iterator[Violation]:
    final: dict[str, dict[str, str]] = defaultdict(dict)
    for result in results:
        if result["data"]["outcome"] in FINAL:
            final[result["data"]["event"]["id"]][result["id"]] = result["data"]["outcome"]
    for one in set(sent):
        outcomes = sorted(final[one.id].values())
        if len(outcomes) != 1 and outcomes != GRACE_OVER:
            yield Violation(one.department, f"{one.id} has {len(outcomes)} final answers, not one")


def _state_broken(newest: Statement, there: Sequence[Subaccount]) -> Iterator[Violation]:
    enabled = [one for one in there if one.enabled]
    wanted = 0 if newest.kind == "removed" else 1
    if len(enabled) != wanted:
        ids = [one.auth_id for one in enabled]
        yield Violation(newest.department, f"{len(enabled)} enabled {ids} after {newest.id} ({newest.kind})")
    elif wanted and not enabled[0].name.startswith(f"{newest.name} ["):
        yield Violation(
            newest.department, f"the name is {enabled[0].name!r}, but {newest.id} requires {newest.name!r}"
        )


def _credentials_broken(issued: Iterable[Document], there: Iterable[Subaccount]) -> Iterator[str]:
    by_generation = defaultdict(list)
    for message in issued:
        by_generation[message["data"]["generation"]].append(message)
    for generation, messages in by_generation.items():
        if len({(message["id"], message["data"]["auth_id"]) for message in messages}) != 1:
            yield f"credentials of generation {generation} under several ids or of several subaccounts"
    last = by_generation[max(by_generation)][-1]["data"] if by_generation else {}
    for one in there:
        if one.enabled and (last.get("auth_id"), last.get("auth_token")) != (one.auth_id, one.auth_token):
            yield f"the last credentials are those of {last.get('auth_id')}, not of {one.auth_id}"
