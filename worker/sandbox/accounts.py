"""The operations on the main account and its subaccounts.

https://www.plivo.com/docs/account/api/subaccount
"""

from dataclasses import asdict, fields, replace
from typing import Any

from worker.sandbox import requests
from worker.sandbox.billing import has_credit
from worker.sandbox.departures import count_shown, depart, shown_newest_first, shown_subaccount
from worker.sandbox.prices import usd
from worker.sandbox.records import Profile, Subaccount
from worker.sandbox.requests import CHANGED, DELETED, Call, Refusal, Response, existing, listing
from worker.sandbox.state import State, account_uri, today


def get_account(state: State, _call: Call) -> Response:
    """Return the main account with its credit and profile."""
    account = state.account
    return Response(
        200,
        {
            "account_type": account.account_type,
            "auth_id": account.auth_id,
            "auto_recharge": account.auto_recharge is not None,
            "billing_mode": account.billing_mode,
            "cash_credits": usd(account.cash_credits),
            "resource_uri": account_uri(account.auth_id),
            **asdict(account.profile),
        },
    )


def update_account(state: State, call: Call) -> Response:
    """Change the profile of the main account."""
    given = {each.name: requests.text(call.body, each.name) for each in fields(Profile)}
    changes = {name: value for name, value in given.items() if value is not None}
    state.put(replace(state.account, profile=replace(state.account.profile, **changes)))
    return CHANGED


def create_subaccount(state: State, call: Call) -> Response:
    """Create a subaccount. It is disabled unless `enabled` is true."""
    _check_management(state)
    name = requests.required_text(call.body, "name")
    enabled = requests.boolean(call.body, "enabled", state.assumptions) or False
    _check_name(state, name, None)
    _check_room(state)
    subaccount = Subaccount(
        auth_id=state.identifiers.auth_id(),
        auth_token=state.identifiers.auth_token(),
        name=name,
        enabled=enabled,
        created=today(state),
        modified=None,
        created_at=state.clock.seconds(),
    )
    state.put(subaccount)
    body = {"auth_id": subaccount.auth_id, "auth_token": subaccount.auth_token, "message": "created"}
    return Response(201, body)


def get_subaccount(state: State, call: Call) -> Response:
    """Return one subaccount, also if it was deleted so recently that reads still show it."""
    return Response(200, render_subaccount(state, existing(shown_subaccount(state, call.identifier))))


def list_subaccounts(state: State, call: Call) -> Response:
    """Return a page of subaccounts, newest first, as a list lag or shift lets it appear."""
    lag = max(state.assumptions.list_lag_seconds, call.view.lag_seconds)
    hidden = _count_younger_than(state, lag) if lag else 0
    skipped = hidden + call.view.shift

    def read(offset: int, limit: int) -> list[Subaccount]:
        return shown_newest_first(state, max(offset + skipped, 0), limit)

    page = requests.page(call.query, state.assumptions)
    total = max(count_shown(state) - skipped, 0)
    objects = [render_subaccount(state, each) for each in read(page.offset, page.limit)]
    return listing(f"{account_uri(state.account.auth_id)}Subaccount/", page, total, objects)


def update_subaccount(state: State, call: Call) -> Response:
    """Change name or `enabled`; parameters that are not given stay the same."""
    _check_management(state)
    subaccount = existing(state.subaccounts.get(call.identifier))
    name = requests.text(call.body, "name")
    enabled = requests.boolean(call.body, "enabled", state.assumptions)
    if name is None and enabled is None:
        if state.assumptions.empty_update == "refused":
            raise Refusal(400, "nothing to update: name and enabled parameters are missing")
        return CHANGED
    if name is None and state.assumptions.update_without_name == "refused":
        raise Refusal(400, "name parameter is missing")
    if name is not None:
        _check_name(state, name, subaccount.auth_id)
    state.put(
        replace(
            subaccount,
            name=subaccount.name if name is None else name,
            enabled=subaccount.enabled if enabled is None else enabled,
            modified=today(state),
        )
    )
    return CHANGED


def delete_subaccount(state: State, call: Call) -> Response:
    """Delete a subaccount. With `cascade` its resources are deleted too, else the main account gets them."""
    _check_management(state)
    cascade = _cascade(state, call)
    subaccount = state.subaccounts.get(call.identifier)
    if subaccount is None:
        if state.assumptions.repeated_delete == "204":
            return DELETED
        raise Refusal(404, "not found")
    depart(state, subaccount, cascade=cascade)
    return DELETED


def render_subaccount(state: State, subaccount: Subaccount) -> dict[str, Any]:
    """Return the JSON object of a subaccount."""
    account = account_uri(state.account.auth_id)
    body = {
        "account": account,
        "auth_id": subaccount.auth_id,
        "auth_token": subaccount.auth_token,
        "created": subaccount.created,
        "enabled": subaccount.enabled,
        "modified": subaccount.modified,
        "name": subaccount.name,
        "resource_uri": f"{account}Subaccount/{subaccount.auth_id}/",
    }
    if state.assumptions.new_auth_token == "present":  # noqa: S105 - the name of a field
        body["new_auth_token"] = subaccount.auth_token
    return body


def _check_management(state: State) -> None:
    account, assumptions = state.account, state.assumptions
    if assumptions.management_on_trial == "refused" and account.account_type == "developer":
        raise Refusal(403, "this feature is not enabled for a trial account")
    if assumptions.management_without_credit == "refused" and not has_credit(account):
        raise Refusal(assumptions.no_credit_status, "insufficient credit")


def _check_name(state: State, name: str, own: str | None) -> None:
    assumptions = state.assumptions
    if not name.strip() and assumptions.empty_name == "refused":
        raise Refusal(400, "name parameter is invalid: it is empty")
    if assumptions.name_max is not None and len(name) > assumptions.name_max:
        raise Refusal(400, f"name parameter is invalid: it is longer than {assumptions.name_max}")
    if assumptions.duplicate_names == "refused" and _is_taken(state, name, own):
        raise Refusal(400, "name parameter is invalid: a subaccount of this name exists")


def _is_taken(state: State, name: str, own: str | None) -> bool:
    return any(each.name == name and each.auth_id != own for each in state.subaccounts)


def _check_room(state: State) -> None:
    most = state.assumptions.max_subaccounts
    if most is not None and len(state.subaccounts) >= most:
        raise Refusal(
            state.assumptions.max_subaccounts_status, f"no more than {most} subaccounts are allowed"
        )


def _count_younger_than(state: State, seconds: float) -> int:
    threshold = state.clock.seconds() - seconds
    count = 0
    while (newest := shown_newest_first(state, count, 1)) and newest[0].created_at > threshold:
        count += 1
    return count


def _cascade(state: State, call: Call) -> bool:
    """Read `cascade` from the places that are assumed; true in one place is true."""
    places = {"query": [call.query], "body": [call.body]}
    read = places.get(state.assumptions.cascade_in, [call.query, call.body])
    given = [
        requests.boolean(place, "cascade", state.assumptions, is_query=place is call.query) for place in read
    ]
    return True in given
