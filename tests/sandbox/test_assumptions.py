"""Every switch has its described effect and is in the README."""

from collections.abc import Callable
from pathlib import Path

import pytest

from worker.sandbox import Assumptions
from worker.sandbox.assumptions import switches

README = Path(__file__).parents[2] / "worker" / "sandbox" / "README.md"
MESSAGE = {"src": "14155550100", "dst": "14155550101", "text": "hello"}
PROBES: dict[str, tuple[Callable, object, object, object]] = {}


def probe(name, other, usual_answer, other_answer):
    """Register the response under the default and under another value of a switch."""

    def register(function):
        PROBES[name] = (function, other, usual_answer, other_answer)
        return function

    return register


@probe("cascade_in", "body", 0, 1)
async def _(world):
    sales = await world.subaccount()
    await world.api.post("PhoneNumber/14155550000/", {})
    await world.api.post("Number/14155550000/", {"subaccount": sales.auth_id})
    await world.api.delete(f"Subaccount/{sales.auth_id}/", params={"cascade": "true"})
    return (await world.api.get("Number/")).body["meta"]["total_count"]


async def _listed(world, *, of=None, resource="Number"):
    """The owners in the list for one of two subaccounts, which have a number and an endpoint each."""
    sales, other = await world.subaccount("Sales"), await world.subaccount("Other")
    for each in (sales, other):
        world.sandbox.seed_resources(each.auth_id, numbers=1, endpoints=1)
    shown = await world.api.get(f"{resource}/?subaccount={of or sales.auth_id}")
    names = {None: None, sales.auth_id: "sales", other.auth_id: "other"}
    objects = shown.body.get("objects", [])
    return shown.status, [names.get(each["sub_account"], "uri") for each in objects], shown.body.get("error")


@probe("subaccount_filter", "ignored", (200, ["sales"], None), (200, ["other", "sales"], None))
async def _(world):
    return await _listed(world)


@probe("unknown_filter", "error", (200, [], None), (200, [], "there is no such subaccount"))
async def _(world):
    return await _listed(world, of="SA000000000000000000")


@probe("sub_account_form", "uri", (200, ["sales"], None), (200, ["uri"], None))
async def _(world):
    return await _listed(world)


@probe("subaccount_endpoints", "hidden", (200, ["sales"], None), (200, [], None))
async def _(world):
    return await _listed(world, resource="Endpoint")


@probe("resources_lag_seconds", 5.0, ("main", 200), ("sales", 200))
async def _(world):
    sales = await world.subaccount()
    (number,) = world.sandbox.seed_resources(sales.auth_id, numbers=1).numbers
    await world.api.delete(f"Subaccount/{sales.auth_id}/")
    shown = await world.api.get(f"Number/{number}/")
    return {None: "main", sales.auth_id: "sales"}[shown.body["sub_account"]], shown.status


@probe("deleted_lag_seconds", 5.0, (404, 0), (200, 1))
async def _(world):
    sales = await world.subaccount()
    await world.api.delete(f"Subaccount/{sales.auth_id}/")
    status = (await world.api.get(f"Subaccount/{sales.auth_id}/")).status
    return status, (await world.api.get("Subaccount/")).body["meta"]["total_count"]


@probe("duplicate_names", "refused", 201, 400)
async def _(world):
    await world.subaccount("x")
    return (await world.api.post("Subaccount/", {"name": "x"})).status


@probe("empty_name", "allowed", 400, 201)
async def _(world):
    return (await world.api.post("Subaccount/", {"name": " "})).status


@probe("name_max", 3, 201, 400)
async def _(world):
    return (await world.api.post("Subaccount/", {"name": "four"})).status


@probe("update_without_name", "refused", 202, 400)
async def _(world):
    made = await world.subaccount()
    return (await world.api.post(f"Subaccount/{made.auth_id}/", {"enabled": False})).status


@probe("empty_update", "refused", (202, None), (400, None))
async def _(world):
    made = await world.subaccount()
    response = await world.api.post(f"Subaccount/{made.auth_id}/", {})
    return response.status, world.find(made.auth_id).modified


@probe("list_limit", "refuse", [(200, 20), (200, 20)], [(400, None), (400, None)])
async def _(world):
    responses = [await world.api.get(f"Subaccount/?limit={limit}") for limit in (0, 21)]
    return [(response.status, response.body.get("meta", {}).get("limit")) for response in responses]


@probe("string_booleans", "refused", 201, 400)
async def _(world):
    return (await world.api.post("Subaccount/", {"name": "x", "enabled": "true"})).status


@probe("other_booleans", "ignored", 400, 201)
async def _(world):
    return (await world.api.post("Subaccount/", {"name": "x", "enabled": 1})).status


@probe("content_type", "ignored", 400, 201)
async def _(world):
    headers = {"Content-Type": "text/plain"}
    return (await world.api.send("POST", "Subaccount/", data=b'{"name": "x"}', headers=headers)).status


@probe("missing_slash", "accepted", 404, 200)
async def _(world):
    return (await world.api.get("Subaccount")).status


@probe("api_id_on_401", "no", ["api_id", "error"], ["error"])
async def _(world):
    return sorted((await world.api.get(headers={"Authorization": "Basic x"})).body)


@probe("www_authenticate", "no", 'Basic realm="Plivo"', None)
async def _(world):
    return (await world.api.get(headers={"Authorization": "Basic x"})).headers.get("WWW-Authenticate")


@probe("disabled_status", 403, 401, 403)
async def _(world):
    return (await world.api.as_subaccount(await world.subaccount(enabled=False)).get("Message/")).status


@probe("management_status", 401, 403, 401)
async def _(world):
    return (await world.api.as_subaccount(await world.subaccount()).get("Subaccount/")).status


@probe("foreign_path_status", 404, 401, 404)
async def _(world):
    return (await world.api.get("/v1/Account/MAOTHER0000000000000/")).status


@probe("repeated_delete", "204", 404, 204)
async def _(world):
    return (await world.api.delete("Subaccount/SA000000000000000000/")).status


@probe("delete_body", "json", None, 400)
async def _(world):
    import aiohttp

    made = await world.subaccount()
    try:
        await world.api.delete(f"Subaccount/{made.auth_id}/")
    except aiohttp.ClientResponseError as error:
        return error.status


@probe("retry_after", 3, None, "3")
async def _(world):
    from worker.sandbox.limiter import RateLimit

    world.sandbox.limiter._limit = RateLimit(1, 5)
    await world.api.get()
    return (await world.api.get()).headers.get("Retry-After")


@probe("rate_limit_scope", "credentials", 429, 202)
async def _(world):
    from worker.sandbox.limiter import RateLimit

    sales = await world.subaccount()
    world.sandbox.limiter._limit = RateLimit(1, 5)
    await world.api.get()
    return (await world.api.as_subaccount(sales).post("Message/", MESSAGE)).status


@probe("max_subaccounts", 1, 201, 403)
async def _(world):
    await world.subaccount()
    return (await world.api.post("Subaccount/", {"name": "x"})).status


@probe("max_subaccounts_status", 400, 403, 400)
async def _(world):
    world.sandbox.assume(max_subaccounts=1)
    await world.subaccount()
    return (await world.api.post("Subaccount/", {"name": "x"})).status


@probe("time_zone", "Pacific/Kiritimati", 0, 1)
async def _(world):
    """At noon UTC it is already tomorrow on Kiritimati, fourteen hours ahead."""
    from datetime import date, timedelta

    world.sandbox.advance(timedelta(hours=36) - _time_of_day(world.sandbox.now()))
    created = date.fromisoformat((await world.subaccount()).created)
    return (created - world.sandbox.now().date()).days


@probe("list_lag_seconds", 5.0, 1, 0)
async def _(world):
    await world.subaccount()
    return (await world.api.get("Subaccount/")).body["meta"]["total_count"]


@probe("new_auth_token", "present", "absent", "equal")
async def _(world):
    made = await world.subaccount()
    token = (await world.api.get(f"Subaccount/{made.auth_id}/")).body.get("new_auth_token")
    return {None: "absent", made.auth_token: "equal"}[token]


@probe("no_credit_status", 403, 402, 403)
async def _(world):
    world.sandbox.set_credit("0")
    return (await world.api.post("Message/", MESSAGE)).status


@probe("management_without_credit", "refused", 201, 402)
async def _(world):
    world.sandbox.set_credit("0")
    return (await world.api.post("Subaccount/", {"name": "x"})).status


@probe("management_on_trial", "refused", 201, 403)
async def _(world):
    from dataclasses import replace

    world.sandbox.service.state.put(replace(world.sandbox.account, account_type="developer"))
    return (await world.api.post("Subaccount/", {"name": "x"})).status


@probe("first_rent", "at-purchase", 100, 99)
async def _(world):
    await world.api.post("PhoneNumber/18005550000/", {})
    return world.sandbox.account.cash_credits


@probe("unlisted_sender", "accepted", 400, 202)
async def _(world):
    return (await world.api.post("Message/", {**MESSAGE, "src": "ACME"})).status


@probe("idempotency_keys", "honoured", 2, 1)
async def _(world):
    for _ in range(2):
        await world.api.post("Subaccount/", {"name": "x"}, headers={"Idempotency-Key": "k"})
    return len(world.sandbox.subaccounts())


def _time_of_day(moment):
    return moment - moment.replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.mark.parametrize("name", PROBES)
async def test_each_switch_changes_the_response(start, name):
    look, other, usual_answer, other_answer = PROBES[name]
    async with start(rate_limit="off") as world:
        usual = await look(world)
    async with start(rate_limit="off", assumptions=Assumptions(**{name: other})) as world:
        changed = await look(world)

    assert (usual, changed) == (usual_answer, other_answer)


def test_every_switch_has_a_probe_and_a_row_in_the_readme():
    names = [switch.name for switch in switches()]
    readme = README.read_text()

    assert sorted(PROBES) == sorted(names)
    for switch in switches():
        assert f"| `{switch.name}` | `{switch.default}` | {switch.values} | {switch.meaning} |" in readme


def test_switches_are_parsed_from_text():
    read = Assumptions.from_switches(
        ["name_max=60", "max_subaccounts=none", "disabled_status=403", "cascade_in=query"]
    )

    assert (read.name_max, read.max_subaccounts, read.disabled_status, read.cascade_in) == (
        60,
        None,
        403,
        "query",
    )
