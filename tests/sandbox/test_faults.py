"""All faults, by rule and from a seed."""

import asyncio
import contextlib
import json
import time
from datetime import timedelta

import aiohttp
import pytest

from worker.sandbox import FAULTS, PROFILES, Rule, fault

CREATE = ("POST", "Subaccount/", {"json": {"name": "x"}})


async def _create(world, **options):
    return await world.api.post("Subaccount/", {"name": "x"}, **options)


def _names(world):
    return [each.name for each in world.sandbox.subaccounts()]


@pytest.mark.parametrize(("name", "commits"), [("lost-answer", True), ("reset", False)])
async def test_a_connection_is_reset_after_or_before_the_commit(world, name, commits):
    world.sandbox.set_rules(Rule("create_subaccount", fault(name), times=1))

    with pytest.raises(aiohttp.ClientOSError, match="reset"):
        await _create(world)

    assert _names(world) == (["x"] if commits else [])
    assert world.sandbox.requests[-1].status is None
    assert world.sandbox.requests[-1].fault == name


@pytest.mark.parametrize(("name", "commits"), [("no-answer", True), ("hang", False)])
async def test_a_response_never_comes(world, name, commits):
    world.sandbox.set_rules(Rule("create_subaccount", fault(name)))
    waiting = asyncio.create_task(_create(world))

    await world.sandbox.called("create_subaccount")
    still_waiting = not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert still_waiting
    assert _names(world) == (["x"] if commits else [])


async def test_a_stop_of_the_sandbox_ends_silent_requests(start):
    async with start(faults=[Rule("*", fault("hang"))]) as world:
        waiting = asyncio.create_task(_create(world))
        await world.sandbox.called("create_subaccount")
    with pytest.raises((aiohttp.ClientError, RuntimeError)):
        await waiting


@pytest.mark.parametrize("name", ["late-commit", "late-commit-503"])
async def test_a_late_commit_takes_effect_after_the_lost_response(world, name):
    world.sandbox.set_rules(Rule("create_subaccount", fault(name, delay_seconds=60), times=1))
    if name == "late-commit":
        with pytest.raises(aiohttp.ClientOSError):
            await _create(world)
    else:
        assert (await _create(world)).status == 503
    before = _names(world)

    committed = world.sandbox.commit_late_calls()

    assert (before, committed, _names(world)) == ([], 1, ["x"])
    assert world.sandbox.commit_late_calls() == 0


async def test_a_late_commit_takes_effect_after_its_delay(world):
    world.sandbox.set_rules(Rule("create_subaccount", fault("late-commit-503", delay_seconds=0.01), times=1))
    await _create(world)

    async with asyncio.timeout(10):
        while not world.sandbox.subaccounts():
            await world.api.get()


async def test_a_late_call_acts_on_the_state_at_that_time(world):
    made = await world.subaccount("first")
    path = f"Subaccount/{made.auth_id}/"
    world.sandbox.set_rules(Rule("update_subaccount", fault("late-commit-503", delay_seconds=60), times=1))

    await world.api.post(path, {"name": "late"})
    await world.api.post(path, {"name": "newer"})
    world.sandbox.commit_late_calls()

    assert _names(world) == ["late"]


@pytest.mark.parametrize(
    ("name", "status", "commits"),
    [
        ("error", 500, False),
        ("error-after-commit", 500, True),
        ("unauthorized", 401, False),
        ("no-credit", 402, False),
        ("forbidden", 403, False),
        ("too-many-requests", 429, False),
    ],
)
async def test_errors_with_and_without_commit(world, name, status, commits):
    world.sandbox.set_rules(Rule("create_subaccount", fault(name), times=1))

    failed = await _create(world)

    assert failed.status == status
    assert set(failed.body) == {"api_id", "error"}
    assert "Retry-After" not in failed.headers
    assert _names(world) == (["x"] if commits else [])


@pytest.mark.parametrize("status", [501, 502, 503, 504])
async def test_the_status_of_an_error_can_be_chosen(world, status):
    world.sandbox.set_rules(Rule("*", fault("error", status=status)))

    assert (await _create(world)).status == status


async def test_a_429_has_retry_after_if_the_fault_sets_it(world):
    world.sandbox.set_rules(Rule("*", fault("too-many-requests-retry-after", retry_after=7)))

    refused = await _create(world)

    assert (refused.status, refused.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize(("name", "commits"), [("html", False), ("html-after-commit", True)])
async def test_an_error_page_is_html(world, name, commits):
    world.sandbox.set_rules(Rule("*", fault(name), times=1))

    failed = await _create(world)

    assert (failed.status, failed.headers["Content-Type"].partition(";")[0]) == (502, "text/html")
    assert failed.raw.startswith(b"<html>")
    assert _names(world) == (["x"] if commits else [])


async def test_half_json_is_a_complete_response(world):
    world.sandbox.set_rules(Rule("*", fault("half-json"), times=1))
    path = world.sandbox.url + f"/v1/Account/{world.api.auth_id}/Subaccount/"

    async with world.api.session.post(path, json={"name": "x"}, headers=world.api.headers()) as response:
        raw = await response.read()

    assert response.status == 201
    with pytest.raises(json.JSONDecodeError):
        json.loads(raw)
    assert _names(world) == ["x"]


async def test_a_cut_off_response_is_shorter_than_its_content_length(world):
    world.sandbox.set_rules(Rule("*", fault("cut-off"), times=1))

    with pytest.raises(aiohttp.ClientPayloadError):
        await _create(world)

    assert _names(world) == ["x"]


@pytest.mark.parametrize("name", ["slow", "drip"])
async def test_slow_responses_are_complete(world, name):
    world.sandbox.set_rules(Rule("*", fault(name, delay_seconds=0.05), times=1))
    began = time.perf_counter()

    created = await _create(world)

    assert time.perf_counter() - began >= 0.05
    assert (created.status, created.body["message"]) == (201, "created")


async def test_a_dripping_response_comes_in_pieces(world):
    world.sandbox.set_rules(Rule("*", fault("drip", delay_seconds=0.05), times=1))
    path = world.sandbox.url + f"/v1/Account/{world.api.auth_id}/Subaccount/"

    async with world.api.session.get(path, headers=world.api.headers()) as response:
        pieces = [piece async for piece in response.content.iter_any()]

    assert len(pieces) > 1


async def _after_204(world, first: str) -> bytes:
    """Send a DELETE and a GET over one connection and return all received bytes."""
    host, port = world.sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    authorization = world.api.headers()["Authorization"]
    head = f"Host: {host}\r\nAuthorization: {authorization}\r\n"
    writer.write(f"DELETE {first} HTTP/1.1\r\n{head}\r\n".encode())
    writer.write(f"GET /v1/Account/{world.api.auth_id}/ HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode())
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received


@pytest.mark.parametrize("way", ["fault", "switch"])
async def test_a_204_may_be_followed_by_a_body(world, way):
    made = await world.subaccount()
    if way == "fault":
        world.sandbox.set_rules(Rule("delete_subaccount", fault("body-after-204"), times=1))
    else:
        world.sandbox.assume(delete_body="json")

    received = await _after_204(world, f"/v1/Account/{world.api.auth_id}/Subaccount/{made.auth_id}/")

    assert received.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"\r\n\r\n{}HTTP/1.1 200 OK\r\n" in received
    assert world.sandbox.subaccounts() == []


async def test_aiohttp_reads_a_body_after_204_as_a_400(world):
    """A client of this library must know that no server sent this 400."""
    made = await world.subaccount()
    world.sandbox.set_rules(Rule("delete_subaccount", fault("body-after-204"), times=1))

    with pytest.raises(aiohttp.ClientResponseError) as caught:
        await world.api.delete(f"Subaccount/{made.auth_id}/")

    assert caught.value.status == 400


async def test_a_new_subaccount_may_be_missing_from_lists(world):
    old = await world.subaccount("old")
    world.sandbox.advance(_seconds(10))
    new = await world.subaccount("new")
    world.sandbox.set_rules(Rule("list_subaccounts", fault("list-lag", lag_seconds=5)))

    lagging = (await world.api.get("Subaccount/")).body
    found = await world.api.get(f"Subaccount/{new.auth_id}/")
    world.sandbox.advance(_seconds(6))
    caught_up = (await world.api.get("Subaccount/")).body

    assert [each["auth_id"] for each in lagging["objects"]] == [old.auth_id]
    assert (lagging["meta"]["total_count"], found.status) == (1, 200)
    assert caught_up["meta"]["total_count"] == 2


@pytest.mark.parametrize(
    ("name", "pages", "total"),
    [
        ("list-shift-deleted", [["5", "4"], ["2", "1"]], 5),
        ("list-shift-created", [["5", "4"], ["4", "3"]], 7),
    ],
)
async def test_a_list_shifts_during_a_scan(world, name, pages, total):
    for number in range(6):
        await world.subaccount(str(number))
    world.sandbox.set_rules(Rule("list_subaccounts", fault(name)))

    first = (await world.api.get("Subaccount/?limit=2")).body
    second = (await world.api.get("Subaccount/?limit=2&offset=2")).body

    assert [[each["name"] for each in page["objects"]] for page in (first, second)] == pages
    assert second["meta"]["total_count"] == total


async def test_a_rule_lets_some_pass_and_then_applies(world):
    world.sandbox.set_rules(Rule("create_subaccount", fault("error"), times=2, after=1))

    statuses = [(await _create(world)).status for _ in range(5)]

    assert statuses == [201, 500, 500, 201, 201]


async def test_a_rule_applies_only_to_its_operation(world):
    world.sandbox.set_rules(Rule("delete_subaccount", fault("error")))

    assert (await _create(world)).status == 201
    assert (await world.api.delete(f"Subaccount/{world.sandbox.subaccounts()[0].auth_id}/")).status == 500


async def test_an_added_rule_comes_after_the_others(world):
    world.sandbox.set_rules(Rule("*", fault("error"), times=1))
    world.sandbox.add_rule(Rule("*", fault("forbidden"), times=1))

    assert [(await _create(world)).status for _ in range(3)] == [500, 403, 201]


def test_an_unknown_fault_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="unknown fault 'nonsense'"):
        fault("nonsense")


async def _meet(start, **options):
    """Return the fault that each request met."""
    async with start(rate_limit="off", **options) as world:
        for _ in range(150):
            for method, path, more in (CREATE, ("GET", "Subaccount/?limit=1&offset=1", {})):
                with contextlib.suppress(aiohttp.ClientError, json.JSONDecodeError):
                    await world.api.send(method, path, **more)
        return [(entry.operation, entry.fault) for entry in world.sandbox.requests]


async def test_harsh_faults_are_reproducible_from_the_seed(start):
    rules = [rule for rule in PROFILES["harsh"] if rule.fault.name not in ("no-answer", "slow", "drip")]

    once, again = await _meet(start, faults=rules, seed=3), await _meet(start, faults=rules, seed=3)
    other = await _meet(start, faults=rules, seed=4)

    assert once == again
    assert other != once
    assert len({name for _, name in once}) > 5


def test_profiles_use_every_fault_that_ends_on_its_own():
    used = {rule.fault.name for rule in PROFILES["mild"]}

    assert set(FAULTS) - used == {"hang", "no-answer", "unauthorized", "no-credit", "forbidden"}
    assert {rule.fault.name for rule in PROFILES["harsh"]} - used == {"no-answer"}
    assert PROFILES["none"] == ()


async def test_idempotency_keys_are_ignored_unless_honoured(start):
    responses = {}
    for way in ("ignored", "honoured"):
        async with start() as world:
            world.sandbox.assume(idempotency_keys=way)
            headers = {"Idempotency-Key": "one"}
            responses[way] = [(await _create(world, headers=headers)).body["auth_id"] for _ in range(2)]
            assert world.sandbox.requests[0].headers["idempotency-key"] == "one"

    assert len(set(responses["ignored"])) == 2
    assert len(set(responses["honoured"])) == 1


async def test_a_key_of_another_request_is_refused(world):
    world.sandbox.assume(idempotency_keys="honoured")
    headers = {"Idempotency-Key": "one"}
    await _create(world, headers=headers)

    refused = await world.api.post("Subaccount/", {"name": "y"}, headers=headers)

    assert (refused.status, _names(world)) == (422, ["x"])


async def test_a_key_prevents_a_duplicate_after_a_lost_response(world):
    world.sandbox.assume(idempotency_keys="honoured")
    world.sandbox.set_rules(Rule("create_subaccount", fault("lost-answer"), times=1))
    with pytest.raises(aiohttp.ClientOSError):
        await _create(world, headers={"Idempotency-Key": "one"})

    again = await _create(world, headers={"Idempotency-Key": "one"})

    assert [again.body["auth_id"]] == [each.auth_id for each in world.sandbox.subaccounts()]


def _seconds(number):
    return timedelta(seconds=number)
