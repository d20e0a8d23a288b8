"""Access to resources: the main account sees and moves all, a subaccount only its own."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from worker.sandbox import requests
from worker.sandbox.collection import Collection
from worker.sandbox.departures import shown_subaccount
from worker.sandbox.requests import Call, Refusal, Response, listing
from worker.sandbox.state import State, account_uri


class Owned(Protocol):
    """A record that belongs to a subaccount, or to the main account (None)."""

    @property
    def sub_account(self) -> str | None:
        """The Auth ID of the owner, None for the main account."""


T = TypeVar("T", bound=Owned)


def find(collection: Collection[T], call: Call, identifier: str | None = None) -> T:
    """Return a record that the caller may see, by default the one named in the path; raises Refusal."""
    record = collection.get(call.identifier if identifier is None else identifier)
    if record is None or call.sub_account not in (None, record.sub_account):
        raise Refusal(404, "not found")
    return record


def owner_of_new(state: State, call: Call) -> str | None:
    """Return the owner of a new resource: the account in `subaccount`, or the caller."""
    return call.sub_account or named_subaccount(state, call)


def named_subaccount(state: State, call: Call, otherwise: str | None = None) -> str | None:
    """Return the owner named in `subaccount`, or `otherwise`; None is the main account. Raises Refusal.

    Only the main account may name an owner. Its own Auth ID, or an empty text, names itself.
    """
    name = requests.text(call.body, "subaccount")
    if name is None:
        return otherwise
    if call.sub_account is not None:
        raise Refusal(state.assumptions.management_status, "not allowed for a subaccount")
    if name in ("", state.account.auth_id):
        return None
    if name not in state.subaccounts:
        raise Refusal(400, "subaccount parameter is invalid: there is no such subaccount")
    return name


def owned_listing(
    state: State,
    call: Call,
    resource: str,
    collection: Collection[T],
    render: Callable[[State, T], Mapping[str, Any]],
) -> Response:
    """Return a page of the resources that the caller may see, or of the subaccount named in the query.

    The filter works as assumed, and a fault may shift the list.
    """
    assumptions, wanted = state.assumptions, call.query.get("subaccount") or None
    page = requests.page(call.query, assumptions)
    if wanted is not None and not collection.count(wanted) and shown_subaccount(state, wanted) is None:
        if assumptions.unknown_filter == "400":
            raise Refusal(400, "subaccount parameter is invalid: there is no such subaccount")
        if assumptions.unknown_filter == "error":
            return Response(200, {"error": "there is no such subaccount"})
    owner = call.sub_account or (wanted if assumptions.subaccount_filter == "applied" else None)
    hides = resource == "Endpoint" and assumptions.subaccount_endpoints == "hidden" and not call.sub_account
    offset = max(page.offset + call.view.shift, 0)
    if hides and owner is not None:
        total, found = 0, []
    elif hides or owner is not None:
        total, found = collection.count(owner), collection.group_newest_first(owner, offset, page.limit)
    else:
        total, found = len(collection), collection.newest_first(offset, page.limit)
    if wanted is not None and assumptions.subaccount_filter == "page":
        found = [each for each in found if each.sub_account == wanted]
    path = f"{account_uri(call.sub_account or state.account.auth_id)}{resource}/"
    objects = [render(state, each) for each in found]
    return listing(path, page, max(total - call.view.shift, 0), objects, subaccount=wanted)


def owner_as_shown(state: State, owner: str | None) -> str | None:
    """Return `sub_account` in the assumed form."""
    if owner is None or state.assumptions.sub_account_form == "id":
        return owner
    return f"{account_uri(state.account.auth_id)}Subaccount/{owner}/"
