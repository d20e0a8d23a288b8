"""Applications, endpoints and numbers, also when their subaccount is deleted."""

import pytest

from worker.sandbox import Assumptions

APPLICATION = {"app_name": "greeter-1", "answer_url": "http://127.0.0.1/answer"}
ENDPOINT = {"username": "desk", "password": "secret", "alias": "Desk"}
NUMBER = "14155550000"


async def _with_resources(world):
    """Create one of each for a subaccount and for the main account."""
    sales = await world.subaccount()
    own = world.api.as_subaccount(sales)
    await world.api.post("Application/", APPLICATION)
    await world.api.post("Endpoint/", ENDPOINT)
    await world.api.post("PhoneNumber/18005550000/", {})
    await world.api.post("Application/", {**APPLICATION, "subaccount": sales.auth_id})
    await own.post("Endpoint/", ENDPOINT)
    await world.api.post(f"PhoneNumber/{NUMBER}/", {})
    await world.api.post(f"Number/{NUMBER}/", {"subaccount": sales.auth_id})
    return sales


async def _owners(world):
    """The owner of each resource, newest first."""
    return {
        resource: [each["sub_account"] for each in (await world.api.get(f"{resource}/")).body["objects"]]
        for resource in ("Application", "Endpoint", "Number")
    }


@pytest.mark.parametrize(
    "options",
    [
        {"json": {"cascade": True}},
        {"json": {"cascade": "true"}},
        {"params": {"cascade": "true"}},
        {"params": {"cascade": "true"}, "json": {"cascade": False}},
    ],
    ids=["body", "text", "query", "both"],
)
async def test_cascade_deletes_applications_endpoints_and_numbers(world, options):
    sales = await _with_resources(world)

    gone = await world.api.delete(f"Subaccount/{sales.auth_id}/", **options)

    assert gone.status == 204
    assert await _owners(world) == {"Application": [None], "Endpoint": [None], "Number": [None]}


@pytest.mark.parametrize("options", [{}, {"json": {"cascade": False}}, {"params": {"cascade": "false"}}])
async def test_without_cascade_they_go_to_the_main_account(world, options):
    sales = await _with_resources(world)
    before = await _owners(world)

    await world.api.delete(f"Subaccount/{sales.auth_id}/", **options)

    assert before == {resource: [sales.auth_id, None] for resource in before}
    assert await _owners(world) == {resource: [None, None] for resource in before}


async def test_a_cascade_that_cannot_be_read_deletes_nothing(world):
    sales = await _with_resources(world)

    refused = await world.api.delete(f"Subaccount/{sales.auth_id}/", json={"cascade": "maybe"})

    assert refused.status == 400
    assert world.find(sales.auth_id) is not None


async def test_cascade_in_the_query_is_a_text_whatever_json_must_be(start):
    async with start(assumptions=Assumptions(string_booleans="refused")) as world:
        sales = await _with_resources(world)
        path = f"Subaccount/{sales.auth_id}/"

        refused = await world.api.delete(path, json={"cascade": "true"})
        gone = await world.api.delete(path, params={"cascade": "true"}, json={"cascade": True})

        assert [refused.status, gone.status] == [400, 204]
        assert await _owners(world) == {"Application": [None], "Endpoint": [None], "Number": [None]}


async def test_rent_stops_with_the_number(world):
    sales = await _with_resources(world)
    await world.api.delete(f"Subaccount/{sales.auth_id}/", params={"cascade": "true"})

    assert (await world.api.get(f"Number/{NUMBER}/")).status == 404
    assert (await world.api.post(f"PhoneNumber/{NUMBER}/", {})).status == 201


@pytest.mark.parametrize("resource", ["Application", "Number", "Endpoint"])
async def test_lists_can_be_filtered_by_subaccount(world, resource):
    sales = await _with_resources(world)

    found = (await world.api.get(f"{resource}/?subaccount={sales.auth_id}")).body
    nobody = (await world.api.get(f"{resource}/?subaccount=SA000000000000000000")).body

    assert [each["sub_account"] for each in found["objects"]] == [sales.auth_id]
    assert nobody["meta"]["total_count"] == 0


async def test_a_filtered_list_keeps_its_filter_in_the_links(world):
    sales = await world.subaccount()
    for _ in range(2):
        await world.api.post("Application/", {**APPLICATION, "subaccount": sales.auth_id})

    meta = (await world.api.get(f"Application/?subaccount={sales.auth_id}&limit=1")).body["meta"]
    next_page = (await world.api.get(meta["next"])).body

    assert meta["next"].endswith(f"?limit=1&offset=1&subaccount={sales.auth_id}")
    assert len(next_page["objects"]) == 1


async def test_an_application_has_settings_and_can_be_moved(world):
    sales = await world.subaccount()
    app_id = (await world.api.post("Application/", APPLICATION)).body["app_id"]

    moved = await world.api.post(
        f"Application/{app_id}/", {"subaccount": sales.auth_id, "hangup_url": "http://127.0.0.1/bye"}
    )
    found = (await world.api.as_subaccount(sales).get(f"Application/{app_id}/")).body
    back = await world.api.post(f"Application/{app_id}/", {"subaccount": world.api.auth_id})
    lost = await world.api.as_subaccount(sales).get(f"Application/{app_id}/")

    assert [moved.status, back.status, lost.status] == [202, 202, 404]
    assert (found["sub_account"], found["hangup_url"]) == (sales.auth_id, "http://127.0.0.1/bye")
    assert (found["default_app"], found["sip_uri"]) == (False, f"sip:{app_id}@app.plivo.com")


@pytest.mark.parametrize("name", ["two words", "ä", ""])
async def test_an_application_name_is_letters_digits_hyphen_underscore(world, name):
    assert (await world.api.post("Application/", {**APPLICATION, "app_name": name})).status == 400


async def test_deleting_an_application_deletes_or_keeps_its_endpoints(world):
    doomed, heir = [(await world.api.post("Application/", APPLICATION)).body["app_id"] for _ in range(2)]
    kept = (await world.api.post("Endpoint/", {**ENDPOINT, "app_id": doomed})).body["endpoint_id"]
    await world.api.post(f"PhoneNumber/{NUMBER}/", {"app_id": doomed})

    await world.api.delete(
        f"Application/{doomed}/", json={"cascade": False, "new_endpoint_application": heir}
    )
    handed_over = (await world.api.get(f"Endpoint/{kept}/")).body["application"]
    await world.api.delete(f"Application/{heir}/")

    assert handed_over.endswith(f"Application/{heir}/")
    assert (await world.api.get(f"Endpoint/{kept}/")).status == 404
    assert (await world.api.get(f"Number/{NUMBER}/")).body["application"] is None


async def test_an_endpoint_gets_twelve_digits_and_belongs_to_its_creator(world):
    sales = await world.subaccount()

    made = await world.api.as_subaccount(sales).post("Endpoint/", {**ENDPOINT, "subaccount": "ignored"})
    path = f"Endpoint/{made.body['endpoint_id']}/"
    changed = await world.api.post(path, {"alias": "Front"})
    found = (await world.api.get(path)).body
    gone = await world.api.delete(path)

    assert (made.status, changed.status, gone.status) == (201, 202, 204)
    assert found["username"].startswith("desk")
    assert len(found["username"]) == 16
    assert (found["sub_account"], found["alias"]) == (sales.auth_id, "Front")


@pytest.mark.parametrize(
    "change", [{"username": "1a"}, {"password": "1234"}, {"alias": None}, {"app_id": "1"}]
)
async def test_an_endpoint_must_be_well_formed(world, change):
    assert (await world.api.post("Endpoint/", {**ENDPOINT, **change})).status == 400


async def test_numbers_are_searched_rented_moved_and_returned(world):
    sales = await world.subaccount()
    offers = (await world.api.get("PhoneNumber/?country_iso=gb&type=mobile&limit=2&offset=1")).body
    number = offers["objects"][0]["number"]

    bought = await world.api.post(f"PhoneNumber/{number}/", {})
    twice = await world.api.post(f"PhoneNumber/{number}/", {})
    moved = await world.api.post(f"Number/{number}/", {"subaccount": sales.auth_id, "alias": "Hotline"})
    ignored = await world.api.post(f"Number/{number}/", {"sub_account": "SA000000000000000000"})
    found = (await world.api.get(f"Number/{number}/")).body
    foreign = await world.api.as_subaccount(sales).delete(f"Number/{number}/")
    given_back = await world.api.delete(f"Number/{number}/")

    assert (number, offers["objects"][0]["sub_type"], offers["meta"]["total_count"]) == (
        "447700900001",
        "mobile",
        10_000,
    )
    assert bought.status == 201
    assert (bought.body["status"], bought.body["numbers"][0]["status"]) == ("fulfilled", "Success")
    assert [twice.status, moved.status, ignored.status, foreign.status, given_back.status] == [
        404,
        202,
        202,
        403,
        204,
    ]
    assert (found["sub_account"], found["sub_account_name"], found["alias"]) == (
        sales.auth_id,
        "Sales",
        "Hotline",
    )


async def test_a_search_requires_a_country(world):
    assert (await world.api.get("PhoneNumber/")).status == 400
    assert (await world.api.get("PhoneNumber/?country_iso=FR")).body["objects"] == []
    local = (await world.api.get("PhoneNumber/?country_iso=US&type=fixed")).body["objects"]
    assert {each["sub_type"] for each in local} == {"local"}


async def test_nothing_can_be_moved_to_an_unknown_subaccount(world):
    await world.api.post(f"PhoneNumber/{NUMBER}/", {})

    refused = await world.api.post(f"Number/{NUMBER}/", {"subaccount": "SA000000000000000000"})

    assert (refused.status, "subaccount" in refused.body["error"]) == (400, True)


async def test_a_subaccount_cannot_move_resources(world):
    sales = await world.subaccount()
    own = world.api.as_subaccount(sales)
    app_id = (await own.post("Application/", APPLICATION)).body["app_id"]

    assert (await own.post(f"Application/{app_id}/", {"subaccount": sales.auth_id})).status == 403


@pytest.mark.parametrize("path", ["Application/1/", "Endpoint/1/", "Number/1/", "Message/1/"])
async def test_an_unknown_object_is_404(world, path):
    assert (await world.api.get(path)).status == 404


@pytest.mark.parametrize("number", ["1", "1415555000", "141555500000", "1415555000x"])
async def test_only_the_inventory_can_be_rented(world, number):
    assert (await world.api.post(f"PhoneNumber/{number}/", {})).status == 404
