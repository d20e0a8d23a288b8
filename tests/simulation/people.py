"""People: operators who rule on holds, and those who change subaccounts and resources at the provider.

Each action draws its object when its moment comes, and counts as struck only if there is one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tests.simulation.chance import Chance
from tests.simulation.history import History
from tests.simulation.ledger import Disk
from tests.simulation.provider import ProviderServer, Subaccount
from worker.core.inventory import ResourceKind
from worker.core.model.departments import EVERY_DEPARTMENT, Department
from worker.core.model.holds import Hold, HoldReason, HoldState
from worker.core.model.wishes import Approving, Binding, Rejecting, Sweeping, Wish, WishFor

OPERATORS = ("ann", "bob")
BY_HAND = "carl"


@dataclass
class People:
    """The people of one run."""

    disk: Disk
    provider: ProviderServer
    chance: Chance
    history: History
    now: Callable[[], datetime]
    asked: int = 0

    def actions(self) -> Sequence[tuple[str, Callable[[], bool]]]:
        """The actions by name; each says whether it found its object."""
        return (
            ("approved", lambda: self._approve(self._waiting())),
            ("approved with a wrong count", self._approve_with_a_wrong_count),
            ("approved with cascade", self._approve_with_cascade),
            ("rejected", lambda: self._reject(self._waiting())),
            ("ruled too late", self._rule_too_late),
            ("resource appears", self._give),
            ("resource moves", self._move),
            ("resource vanishes", self._drop),
            ("renamed by hand", self._rename),
            ("enabled by hand", self._enable),
            ("deleted by hand", self._delete),
            ("sweep asked for", self._sweep),
            ("adopted", self._adopt),
        )

    def rule_on_the_rest(self) -> None:
        """Rules on some of the holds that are still waiting."""
        for hold in self._waiting():
            if self.chance.coin():
                cascade = self._count(hold) if hold.reason is HoldReason.RESOURCES else None
                self._ask(hold, Approving(hold.id, cascade if self.chance.coin() else None))
            elif self.chance.coin():
                self._ask(hold, Rejecting(hold.id))

    def _waiting(self) -> list[Hold]:
        return [hold for hold in self.disk.all_holds() if hold.state is HoldState.WAITING]

    def _with_resources(self) -> list[Hold]:
        return [hold for hold in self._waiting() if hold.reason is HoldReason.RESOURCES]

    def _approve(self, holds: Sequence[Hold]) -> bool:
        """Approves one hold, or several at once."""
        chosen = self.chance.shuffled(holds)[: self.chance.one_of((1, 1, 3))]
        for hold in chosen:
            self._ask(hold, Approving(hold.id))
        return bool(chosen)

    def _approve_with_a_wrong_count(self) -> bool:
        if not (holds := self._with_resources()):
            return False
        hold = self.chance.one_of(holds)
        return self._ask(hold, Approving(hold.id, self._count(hold) + self.chance.one_of((-1, 1, 2))))

    def _approve_with_cascade(self) -> bool:
        if not (holds := self._with_resources()):
            return False
        hold = self.chance.one_of(holds)
        return self._ask(hold, Approving(hold.id, self._count(hold)))

    def _reject(self, holds: Sequence[Hold]) -> bool:
        if not holds:
            return False
        hold = self.chance.one_of(holds)
        return self._ask(hold, Rejecting(hold.id))

    def _rule_too_late(self) -> bool:
        """Rules on a hold that is not waiting any more."""
        ended = [hold for hold in self.disk.all_holds() if hold.state is not HoldState.WAITING]
        if not ended:
            return False
        hold = self.chance.one_of(ended)
        return self._ask(hold, Approving(hold.id) if self.chance.coin() else Rejecting(hold.id))

    def _count(self, hold: Hold) -> int:
        return len(self.provider.owned_by(hold.auth_id))

    def _ask(self, hold: Hold, asks: Approving | Rejecting) -> bool:
        self.asked += 1
        by = self.chance.one_of(OPERATORS)
        cascade = asks.cascade if isinstance(asks, Approving) else None
        self.history.note("asked", hold.department.id, kind=asks.kind, hold=hold.id, cascade=cascade, by=by)
        wish = Wish(f"wish-{self.asked}", hold.department, by, self.now(), asks)
        self.disk.leave_wish(wish)
        return True

    def _sweep(self) -> bool:
        """Asks for a sweep, which corrects what it finds."""
        self._leave(EVERY_DEPARTMENT, Sweeping(fixes=self.chance.coin(0.8)))
        return True

    def _adopt(self) -> bool:
        """Asks for a subaccount of somebody else to be adopted, for a department that no event names."""
        strangers = [one for one in self.provider.subaccounts if one.department is None]
        if not strangers:
            return False
        stranger = self.chance.one_of(strangers)
        asks = Binding(stranger.auth_id, keeps_name=self.chance.coin(0.3), enables=True)
        self._leave(Department("gamma", f"x{self.chance.number(1, 3)}"), asks)
        return True

    def _leave(self, department: Department, asks: WishFor) -> None:
        self.asked += 1
        wish = Wish(f"wish-{self.asked}", department, self.chance.one_of(OPERATORS), self.now(), asks)
        auth_id = asks.auth_id if isinstance(asks, Binding) else None
        self.history.note("asked for", None, wish=wish.id, kind=asks.kind, auth_id=auth_id)
        self.disk.leave_wish(wish)

    def _ours(self) -> list[Subaccount]:
        return [one for one in self.provider.subaccounts if one.department]

    def _give(self) -> bool:
        if not (ours := self._ours()):
            return False
        owner = self.chance.one_of(ours)
        for _ in range(self.chance.one_of((1, 1, 3, 7))):
            self.provider.give(owner.auth_id, self.chance.one_of(tuple(ResourceKind)))
        return True

    def _move(self) -> bool:
        resources, accounts = self.provider.resources, [None, *(one.auth_id for one in self._ours())]
        if not resources:
            return False
        self.provider.move(self.chance.one_of(resources), self.chance.one_of(accounts))
        return True

    def _drop(self) -> bool:
        if not self.provider.resources:
            return False
        self.provider.drop(self.chance.one_of(self.provider.resources))
        return True

    def _rename(self) -> bool:
        if not (ours := self._ours()):
            return False
        one = self.chance.one_of(ours)
        tag = one.name.rpartition(" ")[2]
        name = f"{one.department} by hand" + (f" {tag}" if self.chance.coin(0.3) else "")
        self.provider.update(one.auth_id, name, None, BY_HAND)
        return True

    def _enable(self) -> bool:
        disabled = [one for one in self._ours() if not one.enabled]
        if not disabled:
            return False
        self.provider.update(self.chance.one_of(disabled).auth_id, None, enabled=True, by=BY_HAND)
        return True

    def _delete(self) -> bool:
        if not (ours := self._ours()):
            return False
        self.provider.delete(self.chance.one_of(ours).auth_id, by=BY_HAND)
        return True
