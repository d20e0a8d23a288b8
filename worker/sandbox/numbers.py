"""Phone numbers: search in a made-up inventory, rent, move between accounts, return."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from worker.sandbox import billing, prices, requests
from worker.sandbox.ownership import find, named_subaccount, owned_listing, owner_as_shown
from worker.sandbox.records import Number
from worker.sandbox.requests import CHANGED, DELETED, Call, Refusal, Response, listing
from worker.sandbox.resources import application_uri, linked_application
from worker.sandbox.state import State, account_uri, today

RANGE_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class Range:
    """10,000 numbers of one country and one class, with the same prefix."""

    prefix: str
    country_iso: str
    country: str
    number_type: str


RANGES = (
    Range("1415555", "US", "UNITED STATES", "local"),
    Range("1800555", "US", "UNITED STATES", "tollfree"),
    Range("44306999", "GB", "UNITED KINGDOM", "national"),
    Range("44770090", "GB", "UNITED KINGDOM", "mobile"),
    Range("44207946", "GB", "UNITED KINGDOM", "local"),
)
_ASKED_AS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"fixed": ("local", "national"), **{each: (each,) for each in prices.NUMBERS}}
)


def search_numbers(state: State, call: Call) -> Response:
    """Return a page of the numbers that can be rented, by country and class."""
    country = call.query.get("country_iso", "").upper()
    if not country:
        raise Refusal(400, "country_iso parameter is missing")
    page = requests.page(call.query, state.assumptions)
    wanted = _ASKED_AS.get(call.query.get("type", ""), tuple(prices.NUMBERS))
    ranges = [each for each in RANGES if each.country_iso == country and each.number_type in wanted]
    free = [number for each in ranges for number in _free(state, each, page.offset + page.limit)]
    total = sum(RANGE_SIZE for _ in ranges) - sum(
        1 for each in state.numbers if _range(each.number) in ranges
    )
    objects = [_render_offer(state, number) for number in free[page.offset : page.offset + page.limit]]
    path = f"{account_uri(state.account.auth_id)}PhoneNumber/"
    filters = {name: call.query.get(name) for name in ("country_iso", "type")}
    return listing(path, page, total, objects, **filters)


def buy_number(state: State, call: Call) -> Response:
    """Rent a number for the main account and charge it."""
    number = call.identifier.lstrip("+")
    found = _range(number)
    if found is None or number in state.numbers:
        raise Refusal(404, "not found")
    billing.require_credit(state)
    app_id = linked_application(state, call)
    rental = prices.NUMBERS[found.number_type]
    state.put(Number(number, found.number_type, None, app_id, None, today(state)))
    if rental.set_up:
        billing.charge(state, None, f"set-up {found.number_type}", rental.set_up)
    if state.assumptions.first_rent == "at-purchase":
        billing.charge(state, None, f"rent {found.number_type}", rental.monthly)
    bought = {"number": number, "status": "Success"}
    return Response(201, {"message": "created", "numbers": [bought], "status": "fulfilled"})


def get_number(state: State, call: Call) -> Response:
    """Return one rented number."""
    return Response(200, _render_number(state, find(state.numbers, call, call.identifier.lstrip("+"))))


def list_numbers(state: State, call: Call) -> Response:
    """Return a page of the caller's rented numbers."""
    return owned_listing(state, call, "Number", state.numbers, _render_number)


def update_number(state: State, call: Call) -> Response:
    """Change the alias or application, or move the number to `subaccount`; `sub_account` is ignored."""
    number = find(state.numbers, call, call.identifier.lstrip("+"))
    owner = named_subaccount(state, call, number.sub_account)
    app_id = linked_application(state, call)
    alias = requests.text(call.body, "alias")
    state.put(
        replace(
            number,
            sub_account=owner,
            app_id=number.app_id if app_id is None else app_id,
            alias=number.alias if alias is None else alias,
        )
    )
    return CHANGED


def unrent_number(state: State, call: Call) -> Response:
    """Return a number to the inventory."""
    state.remove(find(state.numbers, call, call.identifier.lstrip("+")))
    return DELETED


def rent_free_numbers(state: State, owner: str | None, count: int) -> list[Number]:
    """Rent the next free numbers for an account, without a charge; raises ValueError if too few are left."""
    free = [(number, each) for each in RANGES for number in _free(state, each, count)][:count]
    if len(free) < count:
        raise ValueError(f"only {len(free)} numbers are free")
    rented = [
        Number(number, each.number_type, owner, None, None, added_on=today(state)) for number, each in free
    ]
    for number in rented:
        state.put(number)
    return rented


def _range(number: str) -> Range | None:
    for each in RANGES:
        rest = number.removeprefix(each.prefix)
        if len(rest) == 4 and rest != number and rest.isascii() and rest.isdigit():  # noqa: PLR2004 - as RANGE_SIZE
            return each
    return None


def _free(state: State, of: Range, most: int) -> list[str]:
    numbers: list[str] = []
    for serial in range(RANGE_SIZE):
        if len(numbers) >= most:
            break
        number = f"{of.prefix}{serial:04d}"
        if number not in state.numbers:
            numbers.append(number)
    return numbers


def _describe(number: str, number_type: str) -> dict[str, Any]:
    found = _range(number)
    return {
        "country": found.country if found else "",
        "mms_enabled": False,
        "mms_rate": prices.usd(prices.MESSAGE),
        "monthly_rental_rate": prices.usd(prices.NUMBERS[number_type].monthly),
        "number": number,
        "region": found.country if found else "",
        "sms_enabled": True,
        "sms_rate": prices.usd(prices.MESSAGE),
        "voice_enabled": True,
        "voice_rate": prices.usd(prices.CALL),
    }


def _render_offer(state: State, number: str) -> dict[str, Any]:
    found = _range(number)
    sub_type = found.number_type if found else "local"
    return {
        **_describe(number, sub_type),
        "prefix": number[1:4],
        "resource_uri": f"{account_uri(state.account.auth_id)}PhoneNumber/{number}/",
        "restriction": None,
        "restriction_text": None,
        "setup_rate": prices.usd(prices.NUMBERS[sub_type].set_up),
        "sub_type": sub_type,
        "type": "fixed" if sub_type in ("local", "national") else sub_type,
    }


def _render_number(state: State, number: Number) -> dict[str, Any]:
    owner = state.subaccounts.get(number.sub_account or "")
    return {
        **_describe(number.number, number.number_type),
        "active": True,
        "added_on": number.added_on,
        "alias": number.alias,
        "application": application_uri(state, number.app_id),
        "carrier": "Plivo",
        "number_type": number.number_type,
        "renewal_date": billing.next_first(state),
        "resource_uri": f"{account_uri(state.account.auth_id)}Number/{number.number}/",
        "sub_account": owner_as_shown(state, number.sub_account),
        "sub_account_name": owner.name if owner else None,
    }
