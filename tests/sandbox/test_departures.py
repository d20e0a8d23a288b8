"""Lists of resources before a deletion, and what remains of a deleted subaccount for a while."""

from datetime import timedelta

import pytest

from worker.sandbox import Assumptions, Rule, fault
from worker.sandbox.control import OwnedResources

NOTHING = OwnedResources((), (), ())
RESOURCES = {"Number": "number", "Application": "app_id", "Endpoint": "endpoint_id"}


async def _delete(world, subaccount, **params):
    return (await world.api.delete(f"Subaccount/{subaccount.auth_id}/", params=params)).status


async def _ids(world, resource, query=""):
    shown = (await world.api.get(f"{resource}/{query}")).body
    return [each[RESOURCES[resource]] for each in shown["objects"]], shown["meta"]["total_count"]


async def test_resources_are_seeded_in_one_call(world):
    sales = await world.subaccount()
    seeded = world.sandbox.seed_resources(sales.auth_id, numbers=3, applications=2, endpoints=1)
    main = world.sandbox.seed_resources(None, numbers=1)

    assert [len(ids) for ids in (seeded.numbers, seeded.applications, seeded.endpoints)] == [3, 2, 1]
    assert world.sandbox.resources(sales.auth_id) == seeded
    assert world.sandbox.resources(None) == main
    for resource, ids in zip(RESOURCES, (seeded.numbers, seeded.applications, seeded.endpoints), strict=True):
        assert await _ids(world, resource, f"?subaccount={sales.auth_id}") == ([*reversed(ids)], len(ids))
    assert world.sandbox.account.cash_credits == 100


async def test_seeded_resources_are_as_those_made_by_calls(world):
    sales = await world.subaccount()
    seeded = world.sandbox.seed_resources(sales.auth_id, numbers=1, applications=1, endpoints=1)
    app_id = (await world.api.post("Application/", {"app_name": "a", "answer_url": "u"})).body["app_id"]
    made = (await world.api.get(f"Application/{app_id}/")).body
    found = (await world.api.get(f"Application/{seeded.applications[0]}/")).body

    assert found.keys() == made.keys()
    moved = await world.api.post(f"Number/{seeded.numbers[0]}/", {"subaccount": ""})
    gone = await world.api.delete(f"Endpoint/{seeded.endpoints[0]}/")
    assert (moved.status, gone.status) == (202, 204)
    assert world.sandbox.resources(sales.auth_id) == OwnedResources((), seeded.applications, ())


@pytest.mark.parametrize("auth_id", ["SA000000000000000000", "", "MASANDBOX00000000000"])
async def test_an_unknown_subaccount_gets_no_resources(world, auth_id):
    with pytest.raises(ValueError, match="there is no subaccount"):
        world.sandbox.seed_resources(auth_id, numbers=1)


async def test_no_more_numbers_than_there_are_can_be_seeded(world):
    with pytest.raises(ValueError, match="only 50000 numbers are free"):
        world.sandbox.seed_resources(None, numbers=50_001, applications=1)
    assert world.sandbox.resources(None) == NOTHING


@pytest.mark.parametrize("resource", RESOURCES)
async def test_a_filter_on_each_page_leaves_the_total_of_all(start, resource):
    async with start(assumptions=Assumptions(subaccount_filter="page")) as world:
        sales, other = await world.subaccount("Sales"), await world.subaccount("Other")
        world.sandbox.seed_resources(sales.auth_id, numbers=1, applications=1, endpoints=1)
        world.sandbox.seed_resources(other.auth_id, numbers=20, applications=20, endpoints=20)

        first = await _ids(world, resource, f"?subaccount={sales.auth_id}")
        second = await _ids(world, resource, f"?subaccount={sales.auth_id}&offset=20")

    assert first == ([], 21)
    assert (len(second[0]), second[1]) == (1, 21)


async def test_a_filter_by_an_unknown_subaccount_may_be_refused(start):
    async with start(assumptions=Assumptions(unknown_filter="400")) as world:
        sales = await world.subaccount()
        known = await world.api.get(f"Number/?subaccount={sales.auth_id}")
        await _delete(world, sales)
        unknown = await world.api.get(f"Number/?subaccount={sales.auth_id}")

    assert (known.status, unknown.status) == (200, 400)


async def test_the_uri_of_an_owner_leads_to_it(start):
    async with start(assumptions=Assumptions(sub_account_form="uri")) as world:
        sales = await world.subaccount()
        world.sandbox.seed_resources(sales.auth_id, numbers=1, applications=1, endpoints=1)
        world.sandbox.seed_resources(None, numbers=1, applications=1, endpoints=1)
        for resource in RESOURCES:
            shown = (await world.api.get(f"{resource}/")).body["objects"]
            main, uri = [each["sub_account"] for each in shown]
            assert main is None
            assert (await world.api.get(uri)).body["auth_id"] == sales.auth_id


async def test_hidden_endpoints_are_listed_to_their_subaccount_alone(start):
    async with start(assumptions=Assumptions(subaccount_endpoints="hidden")) as world:
        sales = await world.subaccount()
        (own,) = world.sandbox.seed_resources(sales.auth_id, endpoints=1).endpoints
        (main,) = world.sandbox.seed_resources(None, endpoints=1).endpoints

        assert await _ids(world, "Endpoint") == ([main], 1)
        assert await _ids(world, "Endpoint", f"?subaccount={sales.auth_id}") == ([], 0)
        own_list = (await world.api.as_subaccount(sales).get("Endpoint/")).body
        assert [each["endpoint_id"] for each in own_list["objects"]] == [own]
        await _delete(world, sales)
        assert await _ids(world, "Endpoint") == ([main, own], 2)


@pytest.mark.parametrize("cascade", ["true", "false"])
async def test_resources_leave_a_deleted_subaccount_after_their_lag(start, cascade):
    async with start(assumptions=Assumptions(resources_lag_seconds=60)) as world:
        sales = await world.subaccount()
        seeded = world.sandbox.seed_resources(sales.auth_id, numbers=2, applications=1, endpoints=1)
        assert await _delete(world, sales, cascade=cascade) == 204
        world.sandbox.advance(timedelta(seconds=59))
        before = world.sandbox.resources(sales.auth_id), world.sandbox.resources(None)
        world.sandbox.advance(timedelta(seconds=1))
        after = world.sandbox.resources(sales.auth_id), world.sandbox.resources(None)

    assert before == (seeded, NOTHING)
    assert after == (NOTHING, NOTHING if cascade == "true" else seeded)


async def test_a_deletion_that_is_under_way_survives_a_restart(start, tmp_path):
    options = {"state": tmp_path / "state.db", "assumptions": Assumptions(resources_lag_seconds=60)}
    async with start(**options) as world:
        sales = await world.subaccount()
        seeded = world.sandbox.seed_resources(sales.auth_id, numbers=1)
        await _delete(world, sales)
    async with start(**options) as world:
        assert world.sandbox.resources(sales.auth_id) == seeded
        world.sandbox.advance(timedelta(seconds=60))
        assert world.sandbox.resources(None) == seeded


async def test_a_deleted_subaccount_is_read_and_listed_in_its_place_for_a_while(start):
    async with start(assumptions=Assumptions(deleted_lag_seconds=60)) as world:
        made = [await world.subaccount(name) for name in ("first", "second", "third")]
        await _delete(world, made[1])

        async def shown():
            listed = (await world.api.get("Subaccount/")).body
            one = await world.api.get(f"Subaccount/{made[1].auth_id}/")
            return [each["name"] for each in listed["objects"]], listed["meta"]["total_count"], one.status

        before = await shown()
        page = (await world.api.get("Subaccount/?limit=1&offset=1")).body["objects"]
        world.sandbox.advance(timedelta(seconds=60))
        after = await shown()

        assert before == (["third", "second", "first"], 3, 200)
        assert [each["auth_id"] for each in page] == [made[1].auth_id]
        assert after == (["third", "first"], 2, 404)
        assert len(world.sandbox.subaccounts()) == 2


async def test_a_deleted_subaccount_that_is_still_read_cannot_be_used(start):
    async with start(assumptions=Assumptions(deleted_lag_seconds=60)) as world:
        sales = await world.subaccount()
        await _delete(world, sales)

        own = await world.api.as_subaccount(sales).get("Number/")
        changed = await world.api.post(f"Subaccount/{sales.auth_id}/", {"enabled": False})
        again = await _delete(world, sales)
        with pytest.raises(ValueError, match="there is no subaccount"):
            world.sandbox.seed_resources(sales.auth_id, numbers=1)

    assert [own.status, changed.status, again] == [401, 404, 404]


@pytest.mark.parametrize(("name", "status"), [("late-commit-503", 503), ("error-after-commit", 500)])
async def test_a_deletion_may_be_carried_out_without_saying_so(world, name, status):
    sales = await world.subaccount()
    seeded = world.sandbox.seed_resources(sales.auth_id, numbers=1)
    world.sandbox.set_rules(Rule("delete_subaccount", fault(name, delay_seconds=60), times=1))

    assert await _delete(world, sales) == status
    late = world.sandbox.commit_late_calls()

    assert late == (1 if name.startswith("late") else 0)
    assert world.find(sales.auth_id) is None
    assert world.sandbox.resources(None) == seeded


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize(("name", "count"), [("list-shift-deleted", 4), ("list-shift-created", 6)])
async def test_a_list_of_resources_shifts_during_a_scan(world, resource, name, count):
    world.sandbox.seed_resources(None, numbers=5, applications=5, endpoints=5)
    world.sandbox.set_rules(Rule(f"list_{resource.lower()}s", fault(name)))

    first, total_before = await _ids(world, resource, "?limit=3")
    second, total_after = await _ids(world, resource, "?limit=3&offset=3")

    assert (total_before, total_after) == (5, count)
    assert len(set(first) | set(second)) == (4 if name == "list-shift-deleted" else 5)
