"""Drift: how the provider's list of subaccounts differs from the ledger.

A sweep reads the whole list: a subaccount on record belongs to the entry that has its auth id, whatever its
name is, and is compared with it; another one with a tag of a department is a double of it; the rest is
unrecorded or untagged. An entry whose subaccount is not in the list misses it. Where a step is under way, the
list proves nothing, so such a department is looked at again, or left out. Nothing here changes anything:
`core/correction.py` decides what to do about one finding, on fresh state.
"""

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic_core import to_json

from contracts.departments import DEFAULT_TENANT
from contracts.envelope import rfc3339
from contracts.subaccounts import NAMESPACE
from worker.core.capabilities import Capabilities
from worker.core.listed import ListedSubaccount
from worker.core.model.credentials import Fingerprint
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.holds import Hold, HoldState
from worker.core.model.wishes import Correcting, Wish
from worker.core.naming import Names

FEWEST_MISSING = 3
"""If so many subaccounts are on record and the list shows none of them, it may be that of another account."""

ANOTHER_ACCOUNT = (
    "Plivo's list shows none of the {number:,} subaccounts on record: is this another account, or a sandbox"
    " begun anew? Compare PLIVO_AUTH_ID and PLIVO_API_URL with those of this ledger. Only the missing"
    " subaccounts are reported, and nothing is corrected"
)


BY_SWEEP = "sweep"
"""The name in the audit of the sweep that corrects its findings by itself."""


class FindingKind(StrEnum):
    """The kinds of differences, in the order in which they are shown."""

    DOUBLE = "double"
    """A second, enabled subaccount with a tag of a department."""
    DOUBLE_DISABLED = "double-disabled"
    """The same, disabled already."""
    NAME = "name"
    """Its name is not the ledger's."""
    ENABLED = "enabled"
    """Enabled although removed, or disabled although active."""
    TOKEN = "token"  # noqa: S105 - a kind, not a token
    """Its auth token is not the one last issued."""
    MISSING = "missing"
    """On record, and not at the provider."""
    UNRECORDED = "unrecorded"
    """It carries a tag that no entry yields."""
    UNTAGGED = "untagged"
    """It carries no tag, and is not on record."""


FIXABLE = frozenset({FindingKind.DOUBLE, FindingKind.NAME, FindingKind.ENABLED, FindingKind.TOKEN})
"""The kinds that the worker can correct."""


class Seen(NamedTuple):
    """A subaccount as the provider shows it, with the fingerprint of its token if it shows one."""

    subaccount: ListedSubaccount
    token: Fingerprint | None

    @property
    def auth_id(self) -> str:
        """Its auth id."""
        return self.subaccount.auth_id


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. `department`: None for a subaccount that belongs to none.

    `fixed`: the worker has confirmed that it is corrected.
    """

    kind: FindingKind
    department: Department | None
    auth_id: str
    detail: str
    fixable: bool = False
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one sweep: subaccounts listed, departments on record, and the findings.

    `note`: says so if the list is perhaps that of another account.
    """

    started_at: datetime
    finished_at: datetime
    subaccounts: int
    departments: int
    findings: tuple[Finding, ...]
    note: str | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of findings by kind."""
        return Counter(str(finding.kind) for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """The report as `sweep --json` prints it."""
        return {
            "started_at": rfc3339(self.started_at),
            "finished_at": rfc3339(self.finished_at),
            "subaccounts": self.subaccounts,
            "departments": self.departments,
            "findings": [_document(finding) for finding in self.findings],
        }

    def to_json(self) -> str:
        """The report as the ledger keeps it."""
        return to_json(self.document() | {"note": self.note}).decode()

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The inverse of `to_json`."""
        document = json.loads(text)
        return cls(
            started_at=datetime.fromisoformat(document["started_at"]),
            finished_at=datetime.fromisoformat(document["finished_at"]),
            subaccounts=document["subaccounts"],
            departments=document["departments"],
            findings=tuple(map(_finding, document["findings"])),
            note=document["note"],
        )


class Others:
    """The listed subaccounts that are not on record: doubles of departments, and strangers."""

    def __init__(self, listed: Iterable[Seen], names: Names) -> None:
        self._names = names
        self._tagged: dict[str, list[Seen]] = {}
        self._untagged: list[Seen] = []
        for one in listed:
            if (tag := names.template.tag_in(one.subaccount.name)) is None:
                self._untagged.append(one)
            else:
                self._tagged.setdefault(tag, []).append(one)

    def take_doubles(self, entry: Entry) -> Sequence[Seen]:
        """Those with a tag of the department; they are no strangers then."""
        if not self._tagged:
            return ()
        return [one for tag in tags_of(entry, self._names) for one in self._tagged.pop(tag, ())]

    def strangers(self) -> Sequence[Finding]:
        """A finding for each that is nobody's double."""
        tagged = [_stranger(one, tag) for tag, ones in self._tagged.items() for one in ones]
        return [*tagged, *(_stranger(one, None) for one in self._untagged)]


def tags_of(entry: Entry, names: Names) -> Mapping[str, Department]:
    """The tags that an entry yields: those of all its incarnations so far."""
    return dict.fromkeys(names.tags(entry.department, range(1, entry.incarnation + 1)), entry.department)


def is_uncertain(revision_before: int | None, after: Entry) -> bool:
    """Whether the list proves nothing about a department: it changed meanwhile, or a step is under way.

    `revision_before`: that of its entry before the list was read, None if there was none; `after`: its entry
    after that.
    """
    return (
        revision_before != after.revision
        or after.check is not None
        or _is_approved(after.hold)
        or is_under_way(after)
    )


def is_under_way(entry: Entry) -> bool:
    """Whether a create or a removal has begun and not ended: there is nothing to compare with."""
    return entry.status in {Status.CLAIMED, Status.DELETING} or entry.removing is not None


def wanted_enabled(entry: Entry) -> bool | None:
    """Whether the subaccount should be enabled; None if either is right, for its enabling is still owed."""
    if entry.status is not Status.ACTIVE:
        return False
    return None if entry.debt is not None and entry.debt.enable else True


def has_wrong_name(entry: Entry, shown: ListedSubaccount, names: Names, capabilities: Capabilities) -> bool:
    """Whether the subaccount has another name than the one on record, and can be renamed.

    One that was adopted under its own name lacks no tag.
    """
    return capabilities.can_rename and shown.name != names.on_record(entry)


def has_other_token(entry: Entry, token: Fingerprint | None) -> bool:
    """Whether the auth token of an active department is certainly not the one that was last issued."""
    issued = entry.issued.fingerprint if entry.issued else None
    if issued is None or token is None or entry.status is not Status.ACTIVE:
        return False
    return issued.differs(token)


def compare(
    entry: Entry, own: Seen | None, doubles: Sequence[Seen], names: Names, capabilities: Capabilities
) -> tuple[Finding, ...]:
    """The findings of one department. `own`: the subaccount on record as shown, None if it is not there."""
    presence = compare_presence(entry, doubles, is_listed=own is not None)
    return presence if own is None else (*presence, *compare_state(entry, own, names, capabilities))


def compare_presence(entry: Entry, doubles: Sequence[Seen], *, is_listed: bool) -> tuple[Finding, ...]:
    """The doubles of a department, and whether its subaccount on record is missing."""
    if is_under_way(entry):
        return ()
    found = [_double(entry, one, is_listed=is_listed) for one in doubles]
    auth_id = entry.auth_id or _vacated(entry)
    if auth_id is not None and not is_listed:
        found.append(Finding(FindingKind.MISSING, entry.department, auth_id, _what_to_do(entry)))
    return tuple(found)


def compare_state(entry: Entry, own: Seen, names: Names, capabilities: Capabilities) -> tuple[Finding, ...]:
    """How the subaccount on record differs from its entry."""
    if is_under_way(entry) or entry.auth_id is None:
        return ()
    return tuple(_differences(entry, own, names, capabilities))


def sweep_id(owner: str, started_at: datetime) -> str:
    """The id of a sweep that nobody asked for."""
    return str(uuid.uuid5(NAMESPACE, to_json(["sweep", owner, started_at.isoformat()]).decode()))


def corrections(findings: Sequence[Finding], sweep: str, now: datetime, wishes: Sequence[Wish]) -> list[Wish]:
    """The wishes of a sweep that corrects its findings itself, apart from those that are open already."""
    asked = {(wish.department, wish.asks) for wish in wishes}
    return [
        Wish(
            id=str(uuid.uuid5(NAMESPACE, to_json([sweep, now.isoformat(), one.kind, one.auth_id]).decode())),
            department=one.department,
            asked_by=BY_SWEEP,
            asked_at=now,
            asks=Correcting(one.kind, one.auth_id),
        )
        for one in findings
        if one.fixable
        and one.department is not None
        and (one.department, Correcting(one.kind, one.auth_id)) not in asked
    ]


def another_account(recorded: int, listed: int) -> str | None:
    """The warning if none of the subaccounts on record is listed, although there are several; else None.

    `recorded`: how many are on record; `listed`: how many of them the list shows.
    """
    if listed or recorded < FEWEST_MISSING:
        return None
    return ANOTHER_ACCOUNT.format(number=recorded)


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings by kind, then by department, then by auth id."""
    kinds = list(FindingKind)
    return tuple(
        sorted(
            findings,
            key=lambda one: (kinds.index(one.kind), one.department or Department("", ""), one.auth_id),
        )
    )


def with_fixed(findings: Sequence[Finding], fixed: Sequence[bool]) -> tuple[Finding, ...]:
    """The findings, each marked as corrected or not."""
    return tuple(replace(one, fixed=well) for one, well in zip(findings, fixed, strict=True))


def _differences(entry: Entry, own: Seen, names: Names, capabilities: Capabilities) -> list[Finding]:
    def differs(kind: FindingKind, detail: str) -> Finding:
        return Finding(kind, entry.department, own.auth_id, detail, fixable=True)

    shown, found = own.subaccount, []
    if has_wrong_name(entry, shown, names, capabilities):
        wanted = names.on_record(entry)
        found.append(differs(FindingKind.NAME, f'it is "{shown.name}" at Plivo and "{wanted}" on record'))
    if wanted_enabled(entry) not in {None, shown.enabled}:
        detail = "enabled, although the department is removed"
        if not shown.enabled:
            detail = "disabled, although the department is active"
        found.append(differs(FindingKind.ENABLED, detail))
    if capabilities.can_read_token and has_other_token(entry, own.token):
        detail = f"its auth token was changed since credentials of generation {entry.generation} were issued"
        found.append(differs(FindingKind.TOKEN, detail))
    return found


def _double(entry: Entry, double: Seen, *, is_listed: bool) -> Finding:
    kind = FindingKind.DOUBLE if double.subaccount.enabled else FindingKind.DOUBLE_DISABLED
    if entry.auth_id is None:
        rest = "the department has no subaccount on record"
    elif not is_listed:
        rest = f"on record is {entry.auth_id}, which is missing: look first which of them is in use"
    else:
        rest = f"on record is {entry.auth_id}"
    # With the one on record missing, this may be the only one that works.
    fixable = kind in FIXABLE and (entry.auth_id is None or is_listed)
    return Finding(
        kind, entry.department, double.auth_id, f"it carries a tag of the department; {rest}", fixable
    )


def _stranger(one: Seen, tag: str | None) -> Finding:
    name = one.subaccount.name
    if tag is None:
        detail = f'"{name}" carries no tag and is not on record; `provisioner adopt` can put it on record'
        return Finding(FindingKind.UNTAGGED, None, one.auth_id, detail)
    detail = (
        f'"{name}" carries a tag that no department on record yields: it may be another deployment\'s,'
        " or this ledger is behind"
    )
    return Finding(FindingKind.UNRECORDED, None, one.auth_id, detail)


def _what_to_do(entry: Entry) -> str:
    """The facts about a missing subaccount, with advice."""
    if entry.status is Status.DISABLED:
        return "it is not at Plivo any more; the department is removed, so there is nothing to do"
    tenant, id_ = entry.department
    where = "" if tenant == DEFAULT_TENANT else f" --tenant {tenant}"
    return (
        "it is not at Plivo any more: somebody deleted it there, or this is another account;"
        f" `provisioner departments recreate {id_}{where}` makes a new one"
    )


def _vacated(entry: Entry) -> str | None:
    """The lost subaccount of a department that others took it from, and that has no new one yet."""
    return entry.removal.auth_id if entry.gone_at is not None and entry.removal else None


def _is_approved(hold: Hold | None) -> bool:
    return hold is not None and hold.state is HoldState.APPROVED


def _document(finding: Finding) -> dict[str, Any]:
    tenant, id_ = finding.department or (None, None)
    return {
        "kind": finding.kind,
        "tenant": tenant,
        "department_id": id_,
        "auth_id": finding.auth_id,
        "detail": finding.detail,
        "fixable": finding.fixable,
        "fixed": finding.fixed,
    }


def _finding(document: Mapping[str, Any]) -> Finding:
    tenant, id_ = document["tenant"], document["department_id"]
    return Finding(
        kind=FindingKind(document["kind"]),
        department=None if id_ is None else Department(tenant, id_),
        auth_id=document["auth_id"],
        detail=document["detail"],
        fixable=document["fixable"],
        fixed=document["fixed"],
    )
