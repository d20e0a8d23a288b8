"""Reads held removals, and has the running worker carry them out or drop them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from contracts.subaccounts import ResultKind
from worker.core.dead_letters import AuditLine
from worker.core.decide import Policy, Removal
from worker.core.inventory import Counts
from worker.core.model.holds import Hold, HoldReason, HoldState
from worker.core.model.replace import replace
from worker.core.model.wishes import Approving, Rejecting, Wish
from worker.core.naming import NO_EVENT
from worker.core.wishes import reference_of, with_approvals
from worker.operations.wishes import POLL_SECONDS, Asking, is_running
from worker.ports import Audit, Ledger, UserError

FOLLOWED_SECONDS = 300.0
"""How long a command waits without any progress for what the worker has taken up."""

SELECTION_SHOWN = 20
"""How many of the ids that a command names are in each of its lines of the audit."""

NO_WORKER = "no worker runs on this ledger; the request stays for 24 h: start `provisioner run`"

NOT_YET = (
    f"not done within {FOLLOWED_SECONDS:.0f} s; the worker goes on:"
    " `provisioner departments show` tells why it waits"
)

Ruled = Approving | Rejecting


class UnknownHold(UserError):
    """The ledger has no hold of this id."""

    def __init__(self, hold_id: str) -> None:
        super().__init__(f"there is no hold {hold_id}: `provisioner holds list --all` shows all")


@dataclass(frozen=True, slots=True)
class HoldFilter:
    """The holds to list: all of them, or the waiting ones; of some reasons, ids and tenants, if given."""

    all_: bool = False
    reasons: Sequence[HoldReason] = ()
    departments: Sequence[str] = ()
    tenants: Sequence[str] = ()

    def takes(self, hold: Hold) -> bool:
        """Whether the hold is to be listed."""
        return (
            (self.all_ or hold.state is HoldState.WAITING)
            and (not self.reasons or hold.reason in self.reasons)
            and (not self.departments or hold.department.id in self.departments)
            and (not self.tenants or hold.department.tenant in self.tenants)
        )


@dataclass(frozen=True, slots=True)
class HoldStory:
    """A hold, and the audit lines of its department since it was held, oldest first."""

    hold: Hold
    lines: Sequence[AuditLine]


class Ending(StrEnum):
    """How a command about one hold ended."""

    DONE = "done"
    LEFT = "left"
    """The wish is left for the worker; nobody waits."""
    NOT_TAKEN = "not-taken"
    NOT_DONE = "not-done"
    """It is asked for, and the worker has not done it."""


@dataclass(frozen=True)
class Outcome:
    """How a command about the hold `id` ended. `hold`: as it is then; None if there is none of this id."""

    id: str
    ending: Ending
    detail: str
    hold: Hold | None = None

    @property
    def well(self) -> bool:
        """Whether the person got what they asked for."""
        return self.ending in {Ending.DONE, Ending.LEFT}


async def holds(ledger: Ledger, now: datetime, which: HoldFilter) -> Sequence[Hold]:
    """The holds that the filter takes, oldest first, with the approvals that wait for a worker."""
    found = await ledger.holds(all_=which.all_)
    return [hold for hold in with_approvals(found, await ledger.wishes(), now) if which.takes(hold)]


async def hold_story(ledger: Ledger, audit: Audit, now: datetime, hold_id: str) -> HoldStory:
    """A hold and its history; raises `UnknownHold`."""
    found = await ledger.hold(hold_id)
    if found is None:
        raise UnknownHold(hold_id)
    (hold,) = with_approvals([found], await ledger.wishes(), now)
    return HoldStory(hold, await audit.lines(since=hold.held_at, department=hold.department))


@dataclass
class Rulings:
    """One command of a person about some holds. `on_progress` gets the number of holds that are settled."""

    asking: Asking
    on_progress: Callable[[int], None] = lambda _settled: None
    _outcomes: dict[str, Outcome] = field(default_factory=dict)

    async def ask(self, asks: Sequence[Ruled], *, waits: bool = True) -> Sequence[Outcome]:
        """Asks for each, and returns how each ended, in the same order.

        A wish that is left stays for a worker until it lapses, whether this command waits or not. A later
        wish about the same hold takes the place of an earlier one that no worker has acted on.
        """
        followed = await self._leave(asks)
        if not waits:
            for ask in asks:
                self._end(ask.hold_id, Ending.LEFT, "left for the running worker, for 24 h")
        elif followed:
            await self._follow(followed)
        return [await self._completed(self._outcomes[ask.hold_id]) for ask in asks]

    async def _leave(self, asks: Sequence[Ruled]) -> Mapping[str, Wish | Ruled]:
        """Leaves the wishes; returns by hold the wish, or the request that the worker works on already."""
        followed: dict[str, Wish | Ruled] = {}
        for ask in asks:
            hold = await self.asking.ledger.hold(ask.hold_id)
            if why := why_not_taken(hold, ask):
                self._end(ask.hold_id, Ending.NOT_TAKEN, why)
            elif hold is not None:
                works_on_it = hold.state is HoldState.APPROVED and isinstance(ask, Approving)
                followed[hold.id] = ask if works_on_it else self.asking.wish(hold.department, ask)
        await self._replace_earlier(followed)
        wishes = [one for one in followed.values() if isinstance(one, Wish)]
        if wishes:
            await self.asking.leave(wishes, _selection(asks))
        return followed

    async def _replace_earlier(self, followed: Mapping[str, object]) -> None:
        for wish in await self.asking.ledger.wishes():
            if isinstance(wish.asks, Approving | Rejecting) and wish.asks.hold_id in followed:
                await self.asking.withdraw([wish], wish.asks.hold_id, "replaced by a later request")

    async def _follow(self, followed: Mapping[str, Wish | Ruled]) -> None:
        ledger, clock = self.asking.ledger, self.asking.clock
        waiting, last = dict(followed), clock.monotonic()
        while waiting:
            open_wishes = {wish.id for wish in await ledger.wishes()}
            for id_, one in waiting.items():
                if not isinstance(one, Wish):
                    await self._look(one)
                elif one.id not in open_wishes:
                    await self._judge(id_, one)
            settled = waiting.keys() & self._outcomes.keys()
            for id_ in settled:
                del waiting[id_]
            if settled:
                last = clock.monotonic()
                self.on_progress(len(self._outcomes))
            elif not await is_running(ledger):
                self._end_all(waiting, NO_WORKER)
                return
            elif clock.monotonic() - last > FOLLOWED_SECONDS:
                self._end_all(waiting, NOT_YET)
                return
            else:
                await clock.sleep(POLL_SECONDS)

    async def _judge(self, hold_id: str, wish: Wish) -> None:
        """The worker has ended the wish: it refused, or the hold tells how far it is."""
        answer = (await self.asking.ledger.recall(wish.department, reference_of(wish))).answer
        if answer is None:
            self._end(hold_id, Ending.NOT_TAKEN, "another request about this hold took its place")
        elif answer.outcome is ResultKind.FAILED:
            hold = await self.asking.ledger.hold(hold_id)
            why = answer.reason or str(answer.code)
            again = f"; {_to_type(hold)}" if hold and _counts_matter(hold) else ""
            self._end(hold_id, Ending.NOT_TAKEN, why + again)
        elif isinstance(wish.asks, Approving | Rejecting):
            await self._look(wish.asks)

    async def _look(self, ask: Ruled) -> None:
        """Ends the request if the worker is through with the hold."""
        hold = await self.asking.ledger.hold(ask.hold_id)
        match hold.state if hold else HoldState.VOID, ask:
            case HoldState.APPROVED, Approving():
                return
            case (HoldState.DONE, Approving()) | (HoldState.REJECTED, Rejecting()):
                self._end(ask.hold_id, Ending.DONE, "")
            case HoldState.WAITING, Approving() if hold is not None:
                why = f"it waits again: {hold.detail}; {_to_type(hold)}"
                self._end(ask.hold_id, Ending.NOT_DONE, why)
            case _:
                self._end(ask.hold_id, Ending.NOT_DONE, _why_over(hold) or "it waits still")

    def _end_all(self, waiting: Mapping[str, object], why: str) -> None:
        for id_ in waiting:
            self._end(id_, Ending.NOT_DONE, why)

    def _end(self, hold_id: str, ending: Ending, detail: str) -> None:
        self._outcomes.setdefault(hold_id, Outcome(hold_id, ending, detail))

    async def _completed(self, outcome: Outcome) -> Outcome:
        """The outcome with its hold, and with the state of its department if it is done."""
        ledger = self.asking.ledger
        hold = await ledger.hold(outcome.id)
        if hold is None or outcome.ending is not Ending.DONE:
            return replace(outcome, hold=hold)
        entry = (await ledger.recall(hold.department, NO_EVENT)).entry
        detail = f"department {hold.department.id} is {entry.status}"
        if entry.hold is not None and entry.hold.id != hold.id:
            detail += f"; its removal is held again ({entry.hold.reason}): hold {entry.hold.id}"
        return replace(outcome, hold=hold, detail=detail)


def why_not_taken(hold: Hold | None, ask: Ruled) -> str | None:
    """Why a request about this hold is not even left for the worker; None if it is."""
    if hold is None:
        return "there is no hold of this id"
    if over := _why_over(hold):
        return over
    cascade = ask.cascade if isinstance(ask, Approving) else None
    if cascade is not None and hold.reason is not HoldReason.RESOURCES:
        return f"--cascade is for holds of reason resources, and this one's is {hold.reason}"
    if isinstance(ask, Approving) and hold.state is HoldState.APPROVED:
        ruled = hold.ruling
        if ruled is not None and ruled.cascade != cascade:
            given = "without --cascade" if ruled.cascade is None else f"with --cascade {ruled.cascade}"
            return f"{ruled.by} has approved it {given}, and the worker carries that out"
    return None


def _why_over(hold: Hold | None) -> str | None:
    """Why there is nothing left to rule on; None for an open hold."""
    ruled = f" by {hold.ruling.by}" if hold and hold.ruling else ""
    match hold.state if hold else None:
        case HoldState.DONE:
            return "it was carried out already"
        case HoldState.REJECTED:
            return f"it was rejected{ruled}"
        case HoldState.VOID | None:
            return "it is void: a newer event of the department has arrived"
        case _:
            return None


def consequence(hold: Hold, policy: Policy) -> str:
    """The worker's actions once the hold is approved, as far as they are known now."""
    later = "numbers, applications or endpoints found then are a hold of their own"
    match hold.reason:
        case HoldReason.RESOURCES:
            counts = hold.resources or Counts()
            return (
                f"deletes subaccount {hold.auth_id}; {counts} move to the main account."
                f" With {cascade_option(hold)} they are destroyed with it, for good"
            )
        case HoldReason.DRIFT:
            return f"accepts subaccount {hold.auth_id} as it is then, and deletes it; {later}"
        case _ if hold.disabled or policy.removal is Removal.DELETE:
            return f"deletes subaccount {hold.auth_id}; {later}"
        case _ if policy.removal is Removal.DISABLE_THEN_DELETE:
            return (
                f"disables subaccount {hold.auth_id} at once, and deletes it after"
                f" {_days(policy)}, unless a newer event restores it; {later}"
            )
        case _ if policy.removal is Removal.DISABLE:
            return f"disables subaccount {hold.auth_id}"
        case _:
            return "nothing: PROVISIONER_REMOVAL is ignore"


def rejection(hold: Hold) -> str:
    """The worker's actions once the hold is rejected."""
    if hold.disabled:
        return f"deletes nothing: subaccount {hold.auth_id} stays disabled"
    return "the department stays active, and its removal is answered `unchanged`"


def cascade_option(hold: Hold) -> str:
    """The option that destroys the resources, as it must be typed."""
    return f"`--cascade {hold.id}={(hold.resources or Counts()).total}`"


def approval_command(hold: Hold) -> str:
    """The command that approves the hold."""
    return f"provisioner holds approve {hold.id}"


def _to_type(hold: Hold) -> str:
    """The command after the counts have changed."""
    if not _counts_matter(hold):
        return f"`{approval_command(hold)}`"
    counts = hold.resources or Counts()
    return (
        f"{counts} hang on it now: `{approval_command(hold)}` moves them to the main account,"
        f" {cascade_option(hold)} beside it destroys them"
    )


def _counts_matter(hold: Hold) -> bool:
    return hold.reason is HoldReason.RESOURCES and hold.resources is not None


def _days(policy: Policy) -> str:
    days, rest = divmod(policy.grace.total_seconds(), 86400)
    return f"{days:.0f} days" if not rest and days != 1 else f"{policy.grace.total_seconds() / 3600:g} h"


def _selection(asks: Sequence[Ruled]) -> str:
    """The requests as they were typed, for the audit, which has a line for each: so not all of very many."""
    typed = [_spelt(ask) for ask in asks[:SELECTION_SHOWN]]
    more = len(asks) - len(typed)
    return " ".join([*typed, f"and {more:,} more"] if more else typed)


def _spelt(ask: Ruled) -> str:
    """One request as it was typed."""
    cascade = ask.cascade if isinstance(ask, Approving) else None
    return ask.hold_id if cascade is None else f"{ask.hold_id} --cascade {ask.hold_id}={cascade}"
