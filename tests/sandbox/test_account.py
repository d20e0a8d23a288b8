"""The main account: its record, its credit, rent and invoices."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

MESSAGE = {"src": "14155550100", "dst": "14155550101", "text": "hello"}
CALL = {"from": "14155550100", "to": "14155550101", "answer_url": "http://127.0.0.1/answer"}
LATE_JANUARY = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(days=1)


async def test_the_account_shows_credit_as_text_with_five_decimals(world):
    found = await world.api.get()

    assert found.status == 200
    found.body.pop("api_id")
    assert found.body == {
        "account_type": "standard",
        "address": "",
        "auth_id": world.api.auth_id,
        "auto_recharge": False,
        "billing_mode": "prepaid",
        "cash_credits": "100.00000",
        "city": "",
        "name": "Sandbox",
        "resource_uri": f"/v1/Account/{world.api.auth_id}/",
        "state": "",
        "timezone": "UTC",
    }


async def test_the_profile_can_be_changed_in_part(world):
    changed = await world.api.post("", {"name": "Lucius Fox", "city": "Gotham", "cash_credits": "9999"})

    found = (await world.api.get()).body
    assert (changed.status, changed.body["message"]) == (202, "changed")
    assert (found["name"], found["city"], found["timezone"]) == ("Lucius Fox", "Gotham", "UTC")
    assert found["cash_credits"] == "100.00000"


async def test_usage_of_a_subaccount_is_charged_to_the_main_account(world):
    sales = await world.subaccount()

    sent = await world.api.as_subaccount(sales).post("Message/", MESSAGE)

    assert sent.status == 202
    assert world.sandbox.account.cash_credits == Decimal("99.99450")
    assert world.sandbox.invoices()[-1].of(sales.auth_id) == Decimal("0.00550")
    assert world.sandbox.invoices()[-1].of(None) == 0


@pytest.mark.parametrize(("path", "body"), [("Message/", MESSAGE), ("Call/", CALL)])
async def test_at_zero_balance_calls_and_messages_are_refused(start, path, body):
    async with start(cash_credits="0") as world:
        sales = await world.subaccount()
        from_main = await world.api.post(path, body)
        from_sub = await world.api.as_subaccount(sales).post(path, body)

    assert [from_main.status, from_sub.status] == [402, 402]
    assert from_sub.body["error"] == "insufficient credit"


async def test_numbers_are_kept_at_zero_balance(start):
    async with start(cash_credits="0.5", start=LATE_JANUARY) as world:
        await world.api.post("PhoneNumber/14155550000/", {})
        world.sandbox.advance(DAY)

        account = (await world.api.get()).body
        numbers = (await world.api.get("Number/")).body["objects"]
        refused = await world.api.post("Message/", MESSAGE)

    assert account["cash_credits"] == "-0.30000"
    assert [each["number"] for each in numbers] == ["14155550000"]
    assert refused.status == 402


async def test_a_postpaid_account_goes_below_zero(start):
    async with start(cash_credits="0", billing_mode="postpaid") as world:
        sent = await world.api.post("Message/", MESSAGE)

    assert sent.status == 202
    assert world.sandbox.account.cash_credits < 0


@pytest.mark.parametrize("amount", ["24.99", "0", "-25", "NaN", "Infinity", "x"])
async def test_a_recharge_below_25_usd_is_refused(world, amount):
    with pytest.raises(ValueError, match="USD"):
        world.sandbox.recharge(amount)
    assert world.sandbox.account.cash_credits == 100


async def test_the_first_recharge_ends_a_trial(start):
    async with start(account_type="developer", cash_credits="0.5") as world:
        trial = (await world.api.get()).body
        sent = await world.api.post("Message/", MESSAGE)
        world.sandbox.recharge("25")
        upgraded = (await world.api.get()).body

    assert (trial["account_type"], trial["cash_credits"], sent.status) == ("developer", "0.50000", 202)
    assert (upgraded["account_type"], upgraded["cash_credits"]) == ("standard", "25.49450")


async def test_auto_recharge_adds_its_amount_at_its_minimum(start):
    async with start(cash_credits="10.0055") as world:
        world.sandbox.set_auto_recharge(minimum="10", amount="30")
        before = (await world.api.get()).body
        await world.api.post("Message/", MESSAGE)
        after = (await world.api.get()).body
        world.sandbox.stop_auto_recharge()
        stopped = (await world.api.get()).body

    assert (before["auto_recharge"], before["cash_credits"]) == (True, "10.00550")
    assert after["cash_credits"] == "40.00000"
    assert stopped["auto_recharge"] is False


async def test_auto_recharge_below_25_usd_is_refused(world):
    with pytest.raises(ValueError, match="25 USD"):
        world.sandbox.set_auto_recharge(minimum="10", amount="24")


@pytest.mark.parametrize(
    ("number", "set_up", "monthly"),
    [
        ("14155550000", "0", "0.8"),
        ("443069990000", "1", "1.5"),
        ("447700900000", "2", "3"),
        ("18005550000", "0", "1"),
    ],
    ids=["local", "national", "mobile", "toll-free"],
)
async def test_numbers_cost_a_set_up_fee_once_and_rent_by_class(start, number, set_up, monthly):
    async with start(start=LATE_JANUARY) as world:
        await world.api.post(f"PhoneNumber/{number}/", {})
        bought = world.sandbox.account.cash_credits
        world.sandbox.advance(DAY)
        february = world.sandbox.account.cash_credits
        world.sandbox.advance(DAY)
        next_day = world.sandbox.account.cash_credits

    assert bought == 100 - Decimal(set_up)
    assert february == next_day == bought - Decimal(monthly)


async def test_rent_is_charged_on_the_first_of_every_month(start):
    async with start(start=LATE_JANUARY) as world:
        await world.api.post("PhoneNumber/18005550000/", {})
        world.sandbox.move_to(datetime(2026, 1, 31, 23, 59, 50, tzinfo=UTC))
        before = world.sandbox.account.cash_credits
        world.sandbox.move_to(datetime(2027, 2, 1, 0, 0, 1, tzinfo=UTC))

    assert before == 100
    assert world.sandbox.account.cash_credits == 100 - 13


async def test_the_next_request_charges_rent_after_real_time_passes_a_month(start):
    async with start(start=datetime(2026, 1, 31, 23, 59, 59, 900_000, tzinfo=UTC)) as world:
        await world.api.post("PhoneNumber/18005550000/", {})
        world.sandbox.service.state.clock.advance(DAY)

        assert (await world.api.get()).body["cash_credits"] == "99.00000"


async def test_one_invoice_a_month_splits_usage_by_subaccount(start):
    async with start(start=LATE_JANUARY) as world:
        sales, support = await world.subaccount("Sales"), await world.subaccount("Support")
        await world.api.post("PhoneNumber/18005550000/", {})
        await world.api.post("Number/18005550000/", {"subaccount": support.auth_id})
        for _ in range(3):
            await world.api.as_subaccount(sales).post("Message/", MESSAGE)
        await world.api.as_subaccount(support).post("Call/", CALL)
        await world.api.post("Message/", MESSAGE)
        world.sandbox.advance(DAY)
        january, february = world.sandbox.invoices()

    assert (january.month, january.closed, february.month, february.closed) == (
        "2026-01",
        True,
        "2026-02",
        False,
    )
    assert january.of(sales.auth_id) == Decimal("0.01650")
    assert january.of(support.auth_id) == Decimal("0.00850")
    assert january.of(None) == Decimal("0.00550")
    assert january.total == sum(line.amount for line in january.lines)
    assert [(line.sub_account, line.item) for line in february.lines] == [(support.auth_id, "rent tollfree")]


async def test_charges_and_credit_always_agree(start):
    async with start(start=LATE_JANUARY) as world:
        sales = await world.subaccount()
        for step in range(6):
            await world.api.post(f"PhoneNumber/44770090000{step}/", {})
            await world.api.as_subaccount(sales).post("Message/", {**MESSAGE, "text": "x" * 200 * step})
            world.sandbox.advance(timedelta(days=20))
        charged = sum(invoice.total for invoice in world.sandbox.invoices())

    assert world.sandbox.account.cash_credits == 100 - charged
    assert charged > 12
