"""The control API: rules, log, state, time and credit from another process."""

from datetime import UTC, datetime

import pytest

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
async def managed(start):
    async with start(management_port=0, start=START, rate_limit="off") as world:
        yield world


async def _ask(world, method, path, body=None):
    async with world.api.session.request(
        method, f"{world.sandbox.management_url}/{path}", json=body if method != "GET" else None
    ) as response:
        return response.status, await response.json()


async def test_it_listens_on_loopback_on_its_own_port(managed):
    assert managed.sandbox.management_url.startswith("http://127.0.0.1:")
    assert managed.sandbox.management_url != managed.sandbox.url


async def test_there_is_none_by_default(world):
    assert world.sandbox.management_url is None


async def test_state_shows_everything_but_tokens(managed):
    made = await managed.subaccount("Sales")
    await managed.api.post("PhoneNumber/14155550000/", {})

    status, state = await _ask(managed, "GET", "state")

    assert status == 200
    assert (state["account"]["cash_credits"], state["seed"]) == ("100", 0)
    assert [each["auth_id"] for each in state["subaccounts"]] == [made.auth_id]
    assert [each["number"] for each in state["numbers"]] == ["14155550000"]
    assert made.auth_token not in str(state)


async def test_the_log_has_requests_without_credentials(managed):
    await managed.subaccount("Sales")
    await managed.api.get("Subaccount/", headers={"Idempotency-Key": "k"})

    _, log = await _ask(managed, "GET", "requests?last=1")
    _, creates = await _ask(managed, "GET", "requests?operation=create_subaccount")

    (listed,), (created,) = log["requests"], creates["requests"]
    assert (listed["operation"], listed["status"], listed["headers"]["Idempotency-Key"]) == (
        "list_subaccounts",
        200,
        "k",
    )
    assert created["body"] == {"name": "Sales", "enabled": True}
    assert "Authorization" not in listed["headers"]


async def test_rules_are_set_shown_and_cleared(managed):
    rule = {"operation": "create_subaccount", "fault": "error", "status": 503, "times": 1}
    _, added = await _ask(managed, "POST", "faults", rule)
    failed = await managed.api.post("Subaccount/", {"name": "x"})
    _, cleared = await _ask(managed, "DELETE", "faults")

    shown = added["rules"][0]["fault"]
    assert (shown["name"], shown["effect"], shown["sight"]) == ("error", "never", "error")
    assert (failed.status, cleared["rules"]) == (503, [])


async def test_late_calls_can_be_committed(managed):
    await _ask(managed, "POST", "faults", {"fault": "late-commit-503", "delay_seconds": 60, "times": 1})
    await managed.api.post("Subaccount/", {"name": "x"})

    assert await _ask(managed, "POST", "late-calls", {}) == (200, {"committed": 1})
    assert len(managed.sandbox.subaccounts()) == 1


async def test_moving_time_charges_rent(managed):
    await managed.api.post("PhoneNumber/18005550000/", {})
    _, moved = await _ask(managed, "POST", "time", {"to": "2026-03-15T00:00:00Z"})
    _, later = await _ask(managed, "POST", "time", {"advance_seconds": 86_400})
    _, billed = await _ask(managed, "GET", "invoices")

    assert moved["now"].startswith("2026-03-15")
    assert later["now"].startswith("2026-03-16")
    assert [(each["month"], each["total"]) for each in billed["invoices"]] == [
        ("2026-02", "1"),
        ("2026-03", "1"),
    ]


async def test_money_and_senders(managed):
    sales = await managed.subaccount()
    _, charged = await _ask(managed, "POST", "recharge", {"amount": "25"})
    _, empty = await _ask(managed, "PUT", "credit", {"amount": "0"})
    _, refilled = await _ask(managed, "PUT", "auto-recharge", {"minimum": "5", "amount": "50"})
    _, stopped = await _ask(managed, "DELETE", "auto-recharge")
    await _ask(managed, "POST", "senders", {"auth_id": sales.auth_id, "sender": "ACME"})

    credits_seen = [each["account"]["cash_credits"] for each in (charged, empty, refilled, stopped)]
    assert credits_seen == ["125", "0", "50", "50"]
    assert managed.find(sales.auth_id).senders == ("ACME",)


async def test_resources_are_seeded(managed):
    sales = await managed.subaccount()
    wanted = {"auth_id": sales.auth_id, "numbers": 2, "applications": 1, "endpoints": 1}
    status, seeded = await _ask(managed, "POST", "resources", wanted)
    _, main = await _ask(managed, "POST", "resources", {"numbers": 1})

    assert status == 200
    assert [len(seeded[kind]) for kind in ("numbers", "applications", "endpoints")] == [2, 1, 1]
    assert len(main["numbers"]) == 1
    shown = (await managed.api.get(f"Number/?subaccount={sales.auth_id}")).body["objects"]
    assert {each["number"] for each in shown} == set(seeded["numbers"])


async def test_assumptions_change_while_it_runs(managed):
    status, switches = await _ask(
        managed, "PATCH", "assumptions", {"max_subaccounts": 1, "empty_name": "allowed"}
    )
    await managed.subaccount("")
    full = await managed.api.post("Subaccount/", {"name": "y"})

    assert (status, switches["max_subaccounts"], full.status) == (200, 1, 403)


async def test_reset_restores_the_initial_state(managed):
    before = await managed.subaccount()
    await _ask(managed, "POST", "faults", {"fault": "error"})
    await _ask(managed, "PATCH", "assumptions", {"max_subaccounts": 1})
    await _ask(managed, "POST", "recharge", {"amount": "25"})

    status, _ = await _ask(managed, "POST", "reset", {})

    assert status == 200
    assert managed.sandbox.subaccounts() == []
    assert managed.sandbox.requests == []
    assert managed.sandbox.account.cash_credits == 100
    assert (await managed.subaccount()).auth_id != before.auth_id


@pytest.mark.parametrize(
    ("method", "path", "body", "error"),
    [
        ("POST", "faults", {"fault": "nonsense"}, "unknown fault"),
        ("POST", "faults", {"fault": "error", "operation": "x"}, "unknown operation"),
        ("POST", "faults", {"fault": "error", "probability": 2}, "probability"),
        ("POST", "faults", {"fault": "error", "color": 2}, "color"),
        ("POST", "faults", [], "a JSON object is expected"),
        ("POST", "time", {"advance_seconds": -1}, "advance_seconds"),
        ("POST", "time", {"to": "2020-01-01T00:00:00Z"}, "only moves forward"),
        ("POST", "time", {"advance_seconds": 1e12}, "year 8999"),
        ("POST", "recharge", {"amount": "24"}, "25 USD is the least"),
        ("POST", "recharge", {"amount": "x"}, "not an amount"),
        ("POST", "senders", {"auth_id": "SA", "sender": "A"}, "no account SA"),
        ("POST", "resources", {"auth_id": "SA", "numbers": 1}, "no subaccount SA"),
        ("POST", "resources", {"numbers": 10_001}, "numbers"),
        ("PATCH", "assumptions", {"nonsense": 1}, "nonsense"),
        ("PATCH", "assumptions", {"disabled_status": 500}, "disabled_status"),
        ("GET", "requests?last=x", None, "invalid literal"),
    ],
)
async def test_invalid_requests_get_a_one_line_error(managed, method, path, body, error):
    status, response = await _ask(managed, method, path, body)

    assert status == 400
    assert error in response["error"]


async def test_a_web_page_cannot_write_to_it(managed):
    url = f"{managed.sandbox.management_url}/reset"
    async with managed.api.session.post(url, data="{}", headers={"Content-Type": "text/plain"}) as response:
        assert response.status == 415


async def test_unknown_paths_are_404(managed):
    assert await _ask(managed, "GET", "nothing") == (404, {"error": "Not Found"})
