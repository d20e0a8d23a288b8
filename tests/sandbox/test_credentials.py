"""The permissions of a subaccount's credentials."""

import pytest

from worker.sandbox import Assumptions

MESSAGE = {"src": "14155550100", "dst": "14155550101", "text": "hello"}
CALL = {"from": "14155550100", "to": "14155550101", "answer_url": "http://127.0.0.1/answer"}


async def test_an_enabled_subaccount_sends_messages_and_makes_calls(world):
    api = world.api.as_subaccount(await world.subaccount())

    message = await api.post("Message/", MESSAGE)
    call = await api.post("Call/", CALL)

    assert (message.status, message.body["message"]) == (202, "message(s) queued")
    assert len(message.body["message_uuid"]) == 1
    assert (call.status, call.body["message"]) == (201, "call fired")


async def test_a_disabled_subaccount_cannot_be_used(world):
    sales = await world.subaccount(enabled=False)
    api = world.api.as_subaccount(sales)
    before = await api.post("Message/", MESSAGE)

    await world.api.post(f"Subaccount/{sales.auth_id}/", {"enabled": True})
    enabled = await api.post("Message/", MESSAGE)
    await world.api.post(f"Subaccount/{sales.auth_id}/", {"enabled": False})
    after = await api.post("Message/", MESSAGE)

    assert [before.status, enabled.status, after.status] == [401, 202, 401]


async def test_credentials_of_a_deleted_subaccount_are_refused(world):
    sales = await world.subaccount()
    await world.api.delete(f"Subaccount/{sales.auth_id}/")

    assert (await world.api.as_subaccount(sales).post("Message/", MESSAGE)).status == 401


async def test_a_subaccount_cannot_manage_subaccounts(world):
    sales = await world.subaccount()
    api = world.api.as_subaccount(sales)

    responses = [
        await api.get(),
        await api.post("", {"name": "x"}),
        await api.get("Subaccount/"),
        await api.post("Subaccount/", {"name": "x"}),
        await api.get(f"Subaccount/{sales.auth_id}/"),
        await api.delete(f"Subaccount/{sales.auth_id}/"),
        await api.get("PhoneNumber/?country_iso=US"),
        await api.post("PhoneNumber/14155550000/", {}),
    ]

    assert {response.status for response in responses} == {403}
    assert len(world.sandbox.subaccounts()) == 1


async def test_a_subaccount_cannot_use_the_path_of_another_account(world):
    sales, support = await world.subaccount("Sales"), await world.subaccount("Support")
    api = world.api.as_subaccount(sales)

    assert (await api.post(f"/v1/Account/{world.api.auth_id}/Message/", MESSAGE)).status == 401
    assert (await api.post(f"/v1/Account/{support.auth_id}/Message/", MESSAGE)).status == 401
    assert (await world.api.post(f"/v1/Account/{sales.auth_id}/Message/", MESSAGE)).status == 401


async def test_sender_ids_are_whitelisted_for_each_subaccount(world):
    sales, support = await world.subaccount("Sales"), await world.subaccount("Support")
    message = {**MESSAGE, "src": "ACME"}
    before = await world.api.as_subaccount(sales).post("Message/", message)

    world.sandbox.allow_sender(sales.auth_id, "ACME")
    world.sandbox.allow_sender(sales.auth_id, "ACME")
    responses = [
        await api.post("Message/", message)
        for api in (world.api.as_subaccount(sales), world.api.as_subaccount(support), world.api)
    ]

    assert before.status == 400
    assert [response.status for response in responses] == [202, 400, 400]
    assert world.find(sales.auth_id).senders == ("ACME",)


async def test_a_sender_of_an_unknown_account_cannot_be_whitelisted(world):
    with pytest.raises(ValueError, match="no account"):
        world.sandbox.allow_sender("SA000000000000000000", "ACME")


async def test_a_subaccount_lists_only_its_own_messages(world):
    sales, support = await world.subaccount("Sales"), await world.subaccount("Support")
    sent = [
        (await api.post("Message/", MESSAGE)).body["message_uuid"][0]
        for api in (world.api, world.api.as_subaccount(sales), world.api.as_subaccount(support))
    ]

    everything = (await world.api.get("Message/")).body
    filtered = (await world.api.get(f"Message/?subaccount={sales.auth_id}&limit=1")).body
    own = (await world.api.as_subaccount(support).get("Message/")).body
    foreign = await world.api.as_subaccount(support).get(f"Message/{sent[1]}/")
    found = (await world.api.get(f"Message/{sent[1]}/")).body

    assert [each["message_uuid"] for each in everything["objects"]] == sent[::-1]
    assert [each["message_uuid"] for each in filtered["objects"]] == [sent[1]]
    assert [each["message_uuid"] for each in own["objects"]] == [sent[2]]
    assert foreign.status == 404
    assert (found["message_state"], found["total_amount"], found["units"]) == ("sent", "0.00550", 1)


@pytest.mark.parametrize(
    ("text", "units"),
    [("x" * 160, 1), ("x" * 161, 2), ("x" * 306, 2), ("x" * 307, 3), ("ä" * 70, 1), ("ä" * 71, 2)],
)
async def test_long_messages_are_charged_in_parts(world, text, units):
    sent = await world.api.post("Message/", {**MESSAGE, "text": text})

    found = (await world.api.get(f"Message/{sent.body['message_uuid'][0]}/")).body
    assert found["units"] == units


async def test_one_message_may_have_several_receivers(world):
    sent = await world.api.post("Message/", {**MESSAGE, "dst": "14155550101<14155550102"})
    wrong = await world.api.post("Message/", {**MESSAGE, "dst": "14155550101<nobody"})

    assert (len(sent.body["message_uuid"]), wrong.status) == (2, 400)
    assert (await world.api.get("Message/")).body["meta"]["total_count"] == 2


async def test_the_status_for_a_disabled_subaccount_is_an_assumption(start):
    async with start(assumptions=Assumptions(disabled_status=403)) as world:
        sales = await world.subaccount(enabled=False)

        assert (await world.api.as_subaccount(sales).post("Message/", MESSAGE)).status == 403
