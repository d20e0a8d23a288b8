"""Bindings: a person puts an existing subaccount on record for a department.

A binding is decided twice by the same function: when it is planned, on the provider's list, and when it is
carried out, on a fresh entry and a fresh look at the subaccount. It is on record, with a check, before the
subaccount is renamed or enabled. A worker that dies in between leaves a department whose check does the rest,
and the wish, which continues.
"""

from dataclasses import dataclass
from datetime import datetime

from contracts import text
from contracts.departments import Kind
from contracts.subaccounts import ResultCode, ResultKind
from worker.core.adoption import Update, in_question
from worker.core.decide import Policy
from worker.core.duties import DEBT_PAUSE, arm_check, duplicates_check_time
from worker.core.listed import ListedSubaccount
from worker.core.model.answers import Answer
from worker.core.model.credentials import Debt, IssuedCredentials
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status
from worker.core.model.replace import replace
from worker.core.model.wishes import Binding, Wish
from worker.core.naming import Names
from worker.core.wishes import has_begun, reference_of


@dataclass(frozen=True, slots=True)
class Bind:
    """Record the entry, then send the update, which may be empty."""

    entry: Entry
    update: Update


@dataclass(frozen=True, slots=True)
class Already:
    """The subaccount is on record for the department."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The binding is not allowed. `entry`: the one to record, if this wish has bound it before."""

    reason: str
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """The facts for a decision on a binding.

    `found`: the subaccount; None if the provider has none of this auth id. `holder`: the department for which
    it is on record. `has_other`: the provider has another subaccount with a tag of the department.
    """

    entry: Entry
    found: ListedSubaccount | None
    holder: Department | None
    has_other: bool = False


def decide_binding(
    wish: Wish, asked: Binding, known: Known, names: Names, policy: Policy, now: datetime
) -> Bind | Already | Refused:
    """Decides a binding, for a plan or at the moment when it is carried out."""
    entry, found = known.entry, known.found
    if entry.auth_id == asked.auth_id and has_begun(wish, entry):
        return _continued(asked, entry, found, names, policy, now)
    if entry.auth_id == asked.auth_id and entry.is_live:
        return Already()
    if known.holder not in {None, entry.department}:
        return Refused(f"{asked.auth_id} is on record for {_named(known.holder, entry.department)}")
    if why := _why_not(entry):
        return Refused(why)
    if found is None:
        return Refused(f"Plivo has no subaccount {asked.auth_id} in this account")
    if known.has_other:
        return Refused(
            "Plivo has another subaccount with the department's tag, which a `created` event takes over:"
            " rename that one at Plivo if nobody uses it any more"
        )
    return _bind(wish, asked, entry, found, names, policy, now)


def answer_to(wish: Wish, entry: Entry, outcome: ResultKind, reason: str | None, now: datetime) -> Answer:
    """The answer to a binding: `created` if it was carried out, `unchanged` if it was before, or `failed`."""
    failed = outcome is ResultKind.FAILED
    return Answer(
        department=wish.department,
        event=reference_of(wish),
        payload_digest=wish.id,
        outcome=outcome,
        code=ResultCode.NOT_ALLOWED if failed else ResultCode(outcome),
        answered_at=now,
        name=entry.name,
        auth_id=entry.auth_id,
        reason=reason,
        confirmed=True,
    )


def unbound(entry: Entry) -> Entry:
    """The entry once the provider has refused to make the subaccount as it is wanted."""
    return replace(
        entry,
        status=Status.ABSENT,
        auth_id=None,
        issued=None,
        debt=None,
        check=None,
        created_at=None,
        missing_since=None,
        gone_at=None,
        keeps_name=False,
        kept_name=None,
    )


def _continued(
    asked: Binding,
    entry: Entry,
    found: ListedSubaccount | None,
    names: Names,
    policy: Policy,
    now: datetime,
) -> Bind | Already | Refused:
    """A worker that died had bound it. Events of the department may have come since."""
    if entry.status is not Status.ACTIVE:
        return Already()
    if found is None:
        return Refused(f"subaccount {asked.auth_id} was deleted at Plivo meanwhile", unbound(entry))
    renames = policy.capabilities.can_rename and found.name != names.on_record(entry)
    update = Update(names.on_record(entry) if renames else None, None if found.enabled else True)
    return Bind(arm_check(entry, policy, now) if update else entry, update)


def _why_not(entry: Entry) -> str | None:
    """Why the department cannot get a subaccount, and what to do; None if it can."""
    removed_last = entry.version is not None and entry.version.kind is Kind.REMOVED
    match entry.status:
        case Status.ACTIVE if entry.gone_at is not None:
            return (
                f"the department's subaccount {entry.auth_id} is gone at Plivo:"
                f" `provisioner departments recreate {entry.department.id}` makes a new one"
            )
        case Status.ACTIVE:
            return f"the department has another subaccount, {entry.auth_id}"
        case Status.DISABLED:
            return (
                f"the department is removed, and its subaccount {entry.auth_id} disabled:"
                " a newer `created` event restores it"
            )
        case Status.CLAIMED:
            return "a create of the department is under way: try again when it has ended"
        case Status.DELETING:
            return f"the deletion of the department's subaccount {entry.auth_id} is under way"
        case Status.REMOVED:
            return "the department is removed: a newer `created` event makes its next subaccount"
        case Status.ABSENT if removed_last:
            return "the department's newest event removed it: a newer `created` event makes a subaccount"
        case Status.ABSENT:
            return None


def _bind(
    wish: Wish,
    asked: Binding,
    entry: Entry,
    found: ListedSubaccount,
    names: Names,
    policy: Policy,
    now: datetime,
) -> Bind | Refused:
    if not found.enabled and not asked.enables:
        return Refused("the subaccount is disabled at Plivo: --enable enables it")
    tag = names.template.tag_in(found.name)
    tags = names.tags(entry.department, in_question(entry))
    if tag is not None and tag not in tags:
        return Refused(
            f"its name {found.name!r} has the tag of another department or deployment:"
            " rename it at Plivo if nobody uses it any more"
        )
    try:
        name = asked.name or text.name(names.template.name_in(found.name))
    except ValueError as error:
        return Refused(f"its name at Plivo is no name of a department, it {error}: give one in the file")
    incarnation = tags[tag] if tag is not None else entry.incarnation
    keeps_name = asked.keeps_name or not policy.capabilities.can_rename
    bound = replace(
        entry,
        status=Status.ACTIVE,
        incarnation=incarnation,
        auth_id=found.auth_id,
        name=name,
        created_at=now,
        claim=None,
        issued=IssuedCredentials(reference_of(wish), generation=max(entry.generation + 1, incarnation)),
        debt=Debt(policy.recipients, retry_at=now + DEBT_PAUSE) if asked.issues else None,
        keeps_name=keeps_name,
        kept_name=found.name if keeps_name else None,
        # A create taken for lost may still be carried out.
        duplicates_check_at=duplicates_check_time(policy, now) if entry.claim else entry.duplicates_check_at,
        gone_at=None,
    )
    wanted = names.on_record(bound)
    update = Update(wanted if wanted != found.name else None, None if found.enabled else True)
    return Bind(arm_check(bound, policy, now) if update else bound, update)


def _named(holder: Department | None, other: Department) -> str:
    """The holder, with its tenant if that is not the tenant of the other department."""
    if holder is None:
        return "another department"
    return f"department {holder.id}" + (
        f" of tenant {holder.tenant}" if holder.tenant != other.tenant else ""
    )
