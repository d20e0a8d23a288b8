"""The five documented operations on subaccounts."""

import re
from datetime import UTC, datetime, timedelta

import pytest

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
START = datetime(2026, 3, 4, 12, tzinfo=UTC)


async def test_create_returns_201_with_credentials(world):
    created = await world.api.post("Subaccount/", {"name": "Wayne Enterprises", "enabled": True})

    assert created.status == 201
    assert set(created.body) == {"api_id", "auth_id", "auth_token", "message"}
    assert created.body["message"] == "created"
    assert re.fullmatch("SA[A-Z0-9]{18}", created.body["auth_id"])
    assert len(created.body["auth_token"]) == 40


async def test_a_new_subaccount_is_disabled_unless_enabled_is_given(world):
    plain = (await world.api.post("Subaccount/", {"name": "a"})).body["auth_id"]
    enabled = (await world.api.post("Subaccount/", {"name": "b", "enabled": True})).body["auth_id"]

    assert world.find(plain).enabled is False
    assert world.find(enabled).enabled is True


async def test_name_is_required_and_may_be_anything(world):
    names = ["部門 Ä", "Sales & Support <3", "x" * 5000, "\U0001f3e2"]
    for name in names:
        assert (await world.api.post("Subaccount/", {"name": name})).status == 201
    missing = await world.api.post("Subaccount/", {"enabled": True})

    assert [each.name for each in world.sandbox.subaccounts()] == names[::-1]
    assert (missing.status, missing.body["error"]) == (400, "name parameter is missing")


async def test_get_returns_the_whole_object(start):
    async with start(start=START) as world:
        made = await world.subaccount("Han Solo")
        found = await world.api.get(f"Subaccount/{made.auth_id}/")

    account = f"/v1/Account/{world.api.auth_id}/"
    api_id = found.body.pop("api_id")
    assert UUID.fullmatch(api_id)
    assert found.status == 200
    assert found.body == {
        "account": account,
        "auth_id": made.auth_id,
        "auth_token": made.auth_token,
        "created": "2026-03-04",
        "enabled": True,
        "modified": None,
        "name": "Han Solo",
        "resource_uri": f"{account}Subaccount/{made.auth_id}/",
    }


async def test_list_is_newest_first_with_relative_links(world):
    made = [(await world.subaccount(f"d{number}")).auth_id for number in range(25)]

    first = (await world.api.get("Subaccount/")).body
    second = (await world.api.get("Subaccount/?limit=20&offset=20")).body
    middle = (await world.api.get("Subaccount/?limit=5&offset=10")).body

    assert [each["auth_id"] for each in first["objects"] + second["objects"]] == made[::-1]
    assert "api_id" not in first["objects"][0]
    path = f"/v1/Account/{world.api.auth_id}/Subaccount/"
    assert first["meta"] == {
        "limit": 20,
        "next": f"{path}?limit=20&offset=20",
        "offset": 0,
        "previous": None,
        "total_count": 25,
    }
    assert (second["meta"]["next"], second["meta"]["previous"]) == (None, f"{path}?limit=20&offset=0")
    assert middle["meta"]["previous"] == f"{path}?limit=5&offset=5"


async def test_a_list_past_the_end_is_empty(world):
    await world.subaccount()

    past = await world.api.get("Subaccount/?offset=7")

    assert (past.status, past.body["objects"], past.body["meta"]["total_count"]) == (200, [], 1)


async def test_update_changes_only_what_is_given(start):
    async with start(start=START) as world:
        made = await world.subaccount("before")
        path = f"Subaccount/{made.auth_id}/"
        world.sandbox.advance(timedelta(days=2))

        renamed = await world.api.post(path, {"name": "after"})
        after_rename = world.find(made.auth_id)
        await world.api.post(path, {"enabled": False})
        after_disabling = world.find(made.auth_id)

    assert (renamed.status, renamed.body["message"]) == (202, "changed")
    assert set(renamed.body) == {"api_id", "message"}
    assert (after_rename.name, after_rename.enabled) == ("after", True)
    assert (after_disabling.name, after_disabling.enabled) == ("after", False)
    assert (after_rename.created, after_rename.modified) == ("2026-03-04", "2026-03-06")
    assert after_disabling.auth_token == made.auth_token


async def test_modified_is_null_until_the_first_change(world):
    made = await world.subaccount()
    assert made.modified is None

    await world.api.post(f"Subaccount/{made.auth_id}/", {"name": "other"})

    assert re.fullmatch(r"\d{4}-\d\d-\d\d", world.find(made.auth_id).modified)


async def test_an_update_keeps_the_place_in_the_list(world):
    old, new = await world.subaccount("old"), await world.subaccount("new")

    await world.api.post(f"Subaccount/{old.auth_id}/", {"name": "renamed"})

    assert [each.auth_id for each in world.sandbox.subaccounts()] == [new.auth_id, old.auth_id]


async def test_delete_is_permanent_and_has_no_body(world):
    made = await world.subaccount()
    path = f"Subaccount/{made.auth_id}/"

    gone = await world.api.delete(path)
    again = await world.api.delete(path)
    found = await world.api.get(path)
    changed = await world.api.post(path, {"name": "x"})

    assert (gone.status, gone.raw) == (204, b"")
    assert [again.status, found.status, changed.status] == [404, 404, 404]
    assert world.sandbox.subaccounts() == []


async def test_two_subaccounts_may_share_a_name_and_nothing_else(world):
    one, other = await world.subaccount("same"), await world.subaccount("same")

    assert one.auth_id != other.auth_id
    assert one.auth_token != other.auth_token


async def test_every_response_has_its_own_api_id(world):
    responses = [
        await world.api.get(),
        await world.api.get("Subaccount/"),
        await world.api.post("Subaccount/", {}),
        await world.api.get("Nothing/"),
        await world.api.get("Subaccount/"),
    ]

    ids = [response.body["api_id"] for response in responses]
    assert all(UUID.fullmatch(each) for each in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("seed", [0, 7])
async def test_the_same_seed_gives_the_same_responses(start, seed):
    async def transcript() -> list[bytes]:
        async with start(seed=seed, start=START) as world:
            made = await world.api.post("Subaccount/", {"name": "x"})
            listed = await world.api.get("Subaccount/")
        return [made.raw, listed.raw]

    assert await transcript() == await transcript()


async def test_another_seed_gives_other_identifiers(start):
    tokens = set()
    for seed in (1, 2):
        async with start(seed=seed) as world:
            made = await world.subaccount()
            tokens |= {made.auth_id, made.auth_token}
    assert len(tokens) == 4
