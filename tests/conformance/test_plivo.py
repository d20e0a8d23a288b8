"""The Plivo adapter with a misbehaving API: how far a call got, reported without a secret."""

import asyncio
import base64
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_core import to_json

from tests.conformance.misbehaving import answer, hang_up, misbehaving, raw, reset, silence
from tests.support import one_call
from tests.support.builders import NOW
from worker.adapters.plivo.client import PlivoAccount, plivo_provider
from worker.adapters.system import SystemClock
from worker.core.inventory import ProvidedResource, ResourceKind
from worker.core.judge import CallFault, FaultKind, Missing, Permanent, Transient, Unknown, classify, told
from worker.ports import CallFailed, Confirmed, NewSubaccount, Provider, RateLimit
from worker.settings.rotation import Rotating

AUTH_ID = "SA000000000000000001"
TOKEN = "bm90LWEtdG9rZW4tYnV0LWxvb2tzLWxpa2Utb25l"
MAIN_TOKEN = "bWFpbi10b2tlbi1ub3QtcmVhbC1qdXN0LXRlc3Rz"
MADE = to_json({"auth_id": AUTH_ID, "auth_token": TOKEN, "api_id": "1", "message": "created"})
CHANGED = b'{"message": "changed"}'
SHOWN = {
    "auth_id": AUTH_ID,
    "auth_token": TOKEN,
    "name": "Sales",
    "enabled": True,
    "created": "2026-11-20",
}

UNPACED = RateLimit(10_000, timedelta(seconds=1))

Call = Callable[[Provider], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "create": lambda provider: one_call.create(provider, "Sales", "key"),
    "update": lambda provider: one_call.update(provider, AUTH_ID, "key", name="Sales"),
    "delete": lambda provider: one_call.delete(provider, AUTH_ID, "key"),
    "get": lambda provider: one_call.get(provider, AUTH_ID),
    "list": lambda provider: one_call.page(provider, 0),
    "count": lambda provider: one_call.resources(provider, ResourceKind.NUMBERS, AUTH_ID),
}
every_call = pytest.mark.parametrize("operation", CALLS)


class FixedDate(SystemClock):
    """Monotonic time passes as usual; the wall clock stands still."""

    def now(self) -> datetime:
        return NOW


@asynccontextmanager
async def provider_at(
    url: str,
    timeout_seconds: float = 30,
    concurrency: int = 10,
    rate: RateLimit = UNPACED,
    **options: Any,
) -> AsyncIterator[Provider]:
    account = PlivoAccount(
        url=url,
        auth_id="MA1",
        auth_token=options.pop("auth_token", Rotating(SecretStr(MAIN_TOKEN))),
        timeout=timedelta(seconds=timeout_seconds),
        concurrency=concurrency,
        rate=rate,
        proxy=options.pop("proxy", Rotating(None)),
    )
    stopping = options.pop("stopping", asyncio.Event())
    async with plivo_provider(account, FixedDate(), stopping, **options) as provider:
        yield provider


async def fault_of(call: Awaitable[Any]) -> CallFault:
    """The fault of a failed call. Also checks that the failure shows no token."""
    with pytest.raises(CallFailed) as failure:
        await call
    shown = "".join(traceback.format_exception(failure.value)) + repr(failure.value.fault)
    assert TOKEN not in shown
    assert MAIN_TOKEN not in shown
    assert len(str(failure.value).splitlines()) == 1
    return failure.value.fault


async def fault_from(operation: str, *replies: Any, **options: Any) -> CallFault:
    async with misbehaving(*replies) as server, provider_at(server.url, **options) as provider:
        fault = await fault_of(CALLS[operation](provider))
        assert len(server.asked) == 1
        assert fault.operation == operation
        return fault


async def test_requests_have_login_and_path_of_the_account():
    async with misbehaving(answer("201 Created", MADE)) as server, provider_at(server.url + "/") as provider:
        made = await one_call.create(provider, "Sales", "key-1")
        await one_call.update(provider, AUTH_ID, "key-2", enabled=False)
    assert made == NewSubaccount(AUTH_ID, SecretStr(TOKEN), status=201)
    assert [asked.path for asked in server.asked] == [
        "/v1/Account/MA1/Subaccount/",
        f"/v1/Account/MA1/Subaccount/{AUTH_ID}/",
    ]
    login = "Basic " + base64.b64encode(f"MA1:{MAIN_TOKEN}".encode()).decode()
    assert {asked.headers["authorization"] for asked in server.asked} == {login}
    assert {asked.headers["content-type"] for asked in server.asked} == {"application/json"}


async def test_cookies_are_not_stored():
    replies = [answer("204 No Content", b"", "Set-Cookie: session=1; Path=/"), answer("204 No Content")]
    async with misbehaving(*replies) as server, provider_at(server.url) as provider:
        await one_call.update(provider, AUTH_ID, "key", name="Sales")
        await one_call.update(provider, AUTH_ID, "key", name="Sales")
    assert "cookie" not in server.asked[1].headers


@every_call
async def test_a_refused_connection_is_not_sent(operation):
    with closed_port() as port:
        async with provider_at(f"http://127.0.0.1:{port}") as provider:
            fault = await fault_of(CALLS[operation](provider))
    assert (fault.operation, fault.kind) == (operation, FaultKind.NOT_SENT)


async def test_a_connect_timeout_is_not_sent():
    with full_backlog() as port:
        async with provider_at(f"http://127.0.0.1:{port}", timeout_seconds=0.4) as provider:
            fault = await fault_of(CALLS["create"](provider))
    assert fault.kind is FaultKind.NOT_SENT


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["nothing", "plain-http"])
async def test_a_failed_tls_handshake_is_not_sent(says):
    async with talking_no_tls(says) as url, provider_at(url, timeout_seconds=0.4) as provider:
        fault = await fault_of(CALLS["create"](provider))
    assert fault.kind is FaultKind.NOT_SENT


@every_call
async def test_a_response_timeout_is_an_unknown_outcome(operation):
    fault = await fault_from(operation, silence, timeout_seconds=0.2)
    assert fault.kind is FaultKind.NO_ANSWER


@every_call
@pytest.mark.parametrize("reply", [reset, hang_up], ids=["reset", "hang-up"])
async def test_a_connection_lost_after_the_request_is_an_unknown_outcome(operation, reply):
    fault = await fault_from(operation, reply)
    assert fault.kind is FaultKind.NO_ANSWER


BROKEN = {
    "status-line": raw("HTTP/1.1 abc"),
    "header": raw("HTTP/1.1 201 Created", "no colon here"),
    "cut-off": raw("HTTP/1.1 201 Created", "Content-Length: 1000", body=MADE),
    "chunk": raw("HTTP/1.1 201 Created", "Transfer-Encoding: chunked", body=b"zz\r\n"),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
async def test_an_invalid_http_response_is_an_unknown_outcome(reply):
    async def then_hang_up(writer: asyncio.StreamWriter) -> bool:
        await reply(writer)
        return False

    fault = await fault_from("create", then_hang_up)
    assert fault.kind is FaultKind.NO_ANSWER
    assert isinstance(classify(fault), Unknown)


@pytest.mark.parametrize("operation", ["create", "delete"])
async def test_a_204_with_a_body_is_never_reported_as_a_400(operation):
    reply = raw("HTTP/1.1 204 No Content", "Content-Length: 5", body=b"hello")
    async with misbehaving(reply) as server, provider_at(server.url) as provider:
        for _ in range(3):  # the surplus bytes may only show on the next call
            (outcome,) = await asyncio.gather(CALLS[operation](provider), return_exceptions=True)
            if operation == "create" or outcome is not None:
                assert isinstance(outcome, CallFailed)
                assert outcome.fault.kind is FaultKind.NO_ANSWER


UNREADABLE = {
    "empty": b"",
    "text": b"created",
    "list": b"[]",
    "half": MADE[: len(MADE) // 2],
    "no-id": to_json({"auth_token": TOKEN}),
    "main-account": to_json({"auth_id": "MA000000000000000001", "auth_token": TOKEN}),
    "path": to_json({"auth_id": "../SA00000000000000001", "auth_token": TOKEN}),
    "line-break": to_json({"auth_id": f"{AUTH_ID}\n", "auth_token": TOKEN}),
    "number": to_json({"auth_id": AUTH_ID, "auth_token": 5}),
}


@pytest.mark.parametrize(
    "token", [{}, {"auth_token": ""}, {"auth_token": None}], ids=["none", "empty", "null"]
)
async def test_a_create_without_a_token_in_the_response_succeeds(token):
    body = to_json({"auth_id": AUTH_ID} | token)
    async with misbehaving(answer("201 Created", body)) as server, provider_at(server.url) as provider:
        made = await CALLS["create"](provider)
    assert (made.auth_id, made.auth_token) == (AUTH_ID, None)


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
async def test_an_unreadable_success_is_an_unknown_outcome(body):
    fault = await fault_from("create", answer("201 Created", body))
    assert fault.kind is FaultKind.NO_ANSWER
    assert isinstance(classify(fault), Unknown)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("201 Created", FaultKind.NO_ANSWER),
        ("400 Bad Request", FaultKind.UNEXPECTED),
        ("503 Service Unavailable", FaultKind.SERVER_ERROR),
    ],
)
async def test_an_endless_response_is_cut_off(status, kind):
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> bool:
        nonlocal sent
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\r\n".encode())
        while True:
            writer.write(b" " * 2**16)
            await writer.drain()
            sent += 2**16

    fault = await fault_from("create", endless)
    assert fault.kind is kind
    assert sent < 2**24


@pytest.mark.parametrize("operation", ["update", "delete"])
@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"<html>Sign in</html>", b"[]", b"{}", b'{"ok": true}', b'"changed"', b'{"message": "chan'],
)
async def test_a_change_succeeds_only_with_json_or_an_empty_204(operation, body):
    """With a 200 and the page of a proxy, for example, the outcome is unknown."""
    fault = await fault_from(operation, answer("200 OK", body))
    assert fault.kind is FaultKind.NO_ANSWER
    assert isinstance(classify(fault), Unknown)
    for done in (answer("204 No Content"), answer("202 Accepted", b'{"message": "changed"}')):
        async with misbehaving(done) as server, provider_at(server.url) as provider:
            await CALLS[operation](provider)


async def test_an_incomplete_subaccount_is_an_unknown_outcome():
    partly = {name: value for name, value in SHOWN.items() if name != "enabled"}
    fault = await fault_from("get", answer("200 OK", to_json(partly)))
    assert fault.kind is FaultKind.NO_ANSWER


ODD = {
    "no-token": {name: value for name, value in SHOWN.items() if name != "auth_token"},
    "no-name": SHOWN | {"name": None},
    "no-date": SHOWN | {"created": None},
    "another-id": SHOWN | {"auth_id": "SUB-1"},
    "no-id": {"name": "Sales"},
    "text": "Sales",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_one_invalid_item_of_a_list_does_not_hide_the_others(odd):
    """Invalid items count too, because the offset of the next page depends on their number."""
    body = to_json({"objects": [odd, SHOWN]})
    async with misbehaving(answer("200 OK", body)) as server, provider_at(server.url) as provider:
        first, second = await one_call.page(provider, 0)
    assert (second.auth_id, second.name) == (SHOWN["auth_id"], SHOWN["name"])
    assert second.auth_token == SecretStr(TOKEN)
    assert first.auth_token in {None, SecretStr(TOKEN)}
    assert first.name in {"", SHOWN["name"]}


async def test_an_invalid_auth_id_hides_the_name_from_adoption():
    body = to_json({"objects": [SHOWN | {"auth_id": "../SA00000000000000001"}]})
    async with misbehaving(answer("200 OK", body)) as server, provider_at(server.url) as provider:
        (shown,) = await one_call.page(provider, 0)
    assert (shown.name, shown.auth_token) == ("", None)


@pytest.mark.parametrize(
    "token", [{}, *({"auth_token": odd} for odd in (None, "", 5, [TOKEN], {"a": TOKEN}))]
)
async def test_a_token_in_a_list_that_is_missing_or_odd_is_none(token):
    item = {name: value for name, value in SHOWN.items() if name != "auth_token"} | token
    body = to_json({"objects": [item]})
    async with misbehaving(answer("200 OK", body)) as server, provider_at(server.url) as provider:
        (shown,) = await one_call.page(provider, 0)
    assert (shown.auth_id, shown.name, shown.auth_token) == (AUTH_ID, SHOWN["name"], None)
    assert TOKEN not in repr(shown)


# The resources of a subaccount


OWNERS = {
    "null": (None, None),
    "id": (AUTH_ID, AUTH_ID),
    "uri": (f"/v1/Account/MA000000000000000001/Subaccount/{AUTH_ID}/", AUTH_ID),
    "uri without slash": (f"/v1/Account/MA000000000000000001/Subaccount/{AUTH_ID}", AUTH_ID),
    "uri of its account": (f"/v1/Account/{AUTH_ID}/", AUTH_ID),
    "absolute uri": (f"https://api.plivo.com/v1/Account/MA000000000000000001/Subaccount/{AUTH_ID}/", AUTH_ID),
    "main account": ("MA000000000000000001", None),
    "uri of the main account": ("/v1/Account/MA000000000000000001/", None),
}
NO_OWNERS = {
    "empty": "",
    "number": 5,
    "flag": True,
    "object": {"auth_id": AUTH_ID},
    "array": [AUTH_ID],
    "name": "Sales",
    "small letters": AUTH_ID.lower(),
    "too long": f"{AUTH_ID}0",
    "blank": f" {AUTH_ID}",
    "two": f"/v1/Account/{AUTH_ID}/Subaccount/SA000000000000000009/",
}
ITEMS = {
    ResourceKind.NUMBERS: ("Number", "number"),
    ResourceKind.APPLICATIONS: ("Application", "app_id"),
    ResourceKind.ENDPOINTS: ("Endpoint", "endpoint_id"),
}
every_kind = pytest.mark.parametrize("kind", ResourceKind)


def listing_of(*items: object, **meta: object) -> Any:
    return answer("200 OK", to_json({"api_id": API_ID, "meta": meta, "objects": items}))


async def counted(kind: ResourceKind, reply: Any, offset: int = 0) -> Sequence[ProvidedResource]:
    async with misbehaving(reply) as server, provider_at(server.url) as provider:
        return await one_call.resources(provider, kind, AUTH_ID, offset)


async def not_counted(kind: ResourceKind, reply: Any, offset: int = 0) -> CallFault:
    async with misbehaving(reply) as server, provider_at(server.url) as provider:
        fault = await fault_of(one_call.resources(provider, kind, AUTH_ID, offset))
    assert isinstance(classify(fault), Transient)
    return fault


@every_kind
async def test_a_count_asks_for_those_of_the_subaccount(kind):
    async with misbehaving(listing_of()) as server, provider_at(server.url) as provider:
        await one_call.resources(provider, kind, AUTH_ID, 19)
    (asked,) = server.asked
    assert asked.path == f"/v1/Account/MA1/{ITEMS[kind][0]}/?subaccount={AUTH_ID}&limit=20&offset=19"


@every_kind
@pytest.mark.parametrize(("shown", "owner"), OWNERS.values(), ids=OWNERS)
async def test_the_owner_is_read_in_every_form(kind, shown, owner):
    item = {ITEMS[kind][1]: "14155550000", "sub_account": shown, "more": 1}
    assert await counted(kind, listing_of(item)) == [ProvidedResource("14155550000", owner)]


@every_kind
@pytest.mark.parametrize("shown", NO_OWNERS.values(), ids=NO_OWNERS)
async def test_an_owner_that_cannot_be_read_fails_the_page(kind, shown):
    ours, odd = ({ITEMS[kind][1]: "1", "sub_account": owner} for owner in (None, shown))
    fault = await not_counted(kind, listing_of(ours, odd))
    assert (fault.operation, fault.kind, fault.status) == ("count", FaultKind.UNEXPECTED, 200)
    assert fault.detail == f"Plivo's list of {kind} has an item that does not show whose it is"


@every_kind
@pytest.mark.parametrize(
    "odd",
    [{}, {"sub_account": None}, {"sub_account": AUTH_ID, "id": "1"}, "14155550000", None, ["14155550000"]],
    ids=str,
)
async def test_an_item_that_cannot_be_read_fails_the_page(kind, odd):
    assert (await not_counted(kind, listing_of(odd))).kind is FaultKind.UNEXPECTED


@every_kind
@pytest.mark.parametrize("odd", ["", None, 1.5, True, [], {}], ids=str)
async def test_an_id_that_cannot_be_read_fails_the_page(kind, odd):
    fault = await not_counted(kind, listing_of({ITEMS[kind][1]: odd, "sub_account": AUTH_ID}))
    assert fault.kind is FaultKind.UNEXPECTED


async def test_an_item_without_an_owner_fails_the_page():
    assert (await not_counted(ResourceKind.NUMBERS, listing_of({"number": "1"}))).kind is FaultKind.UNEXPECTED


async def test_an_id_may_be_a_number():
    items = [{"number": 14155550000, "sub_account": AUTH_ID}]
    assert await counted(ResourceKind.NUMBERS, listing_of(*items)) == [
        ProvidedResource("14155550000", AUTH_ID)
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"objects": null}',
        b'{"objects": {}}',
        b'{"error": "no such subaccount"}',
        b"<html>",
    ],
)
async def test_a_success_without_a_list_is_not_an_empty_list(body):
    fault = await not_counted(ResourceKind.NUMBERS, answer("200 OK", body))
    assert fault.kind is FaultKind.NO_ANSWER


NUMBER = {"number": "14155550000", "sub_account": AUTH_ID}


@pytest.mark.parametrize(("items", "offset"), [((), 0), ((NUMBER,), 0), ((NUMBER,), 18)])
async def test_a_list_that_ends_before_its_own_total_is_not_at_its_end(items, offset):
    """As of a server that reads a page of all numbers, and then shows only those of the subaccount."""
    fault = await not_counted(ResourceKind.NUMBERS, listing_of(*items, total_count=20), offset)
    assert (fault.kind, fault.operation) == (FaultKind.UNEXPECTED, "count")
    assert fault.detail == "Plivo's list of numbers ends before the 20 items that it should have"


@pytest.mark.parametrize("total", [19, 0, None, -1, "20", {}])
async def test_a_total_that_is_reached_or_odd_does_not_matter(total):
    listed = listing_of(NUMBER, total_count=total)
    assert len(await counted(ResourceKind.NUMBERS, listed, offset=19)) == 1


@pytest.mark.parametrize("meta", [{}, {"meta": None}, {"meta": 5}])
async def test_a_list_needs_no_total(meta):
    reply = answer("200 OK", to_json({"objects": []} | meta))
    assert await counted(ResourceKind.NUMBERS, reply) == []


# Deleting with resources


@pytest.mark.parametrize("cascade", [False, True])
async def test_cascade_is_in_query_and_body_or_nowhere(cascade):
    async with misbehaving(answer("204 No Content")) as server, provider_at(server.url) as provider:
        await one_call.delete(provider, AUTH_ID, "key", cascade=cascade)
    (asked,) = server.asked
    path = f"/v1/Account/MA1/Subaccount/{AUTH_ID}/"
    assert (asked.method, asked.path) == ("DELETE", f"{path}?cascade=true" if cascade else path)
    assert asked.body == (b'{"cascade":true}' if cascade else b"")


@every_call
@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
async def test_a_redirect_is_not_followed(operation, status):
    fault = await fault_from(operation, answer(status, b"", "Location: /elsewhere/"))
    assert fault.kind is FaultKind.UNEXPECTED


@every_call
async def test_an_error_quotes_the_text_of_plivo(operation):
    fault = await fault_from(operation, answer("400 Bad Request", to_json({"error": "name is taken"})))
    assert (fault.kind, fault.retry_after_seconds) == (FaultKind.REJECTED, None)
    assert fault.detail == f"Plivo answered 400 to {operation}: name is taken"


PAGES = {
    "nginx": b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
    "spring": to_json({"path": "/v1", "status": 400, "error": "Bad Request", "requestId": "1"}),
    "kong": to_json({"message": "no Route matched with those values"}),
    "empty": b"",
}


@every_call
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("status", [400, 403, 404, 405, 407, 409, 410, 413, 421, 422, 431, 451, 495])
async def test_a_refusal_by_something_on_the_way_is_not_taken_for_plivos(operation, page, status):
    """A 404 of a gateway, for example, is no proof that a subaccount is gone."""
    fault = await fault_from(operation, answer(f"{status} Whatever", page))
    assert fault.kind is FaultKind.UNEXPECTED
    assert fault.detail.startswith(f"Plivo answered {status} to {operation}")
    assert "gateway or proxy" in fault.detail
    assert not isinstance(classify(fault), Permanent | Missing)


DATE = "Date: " + format_datetime(NOW + timedelta(minutes=11), usegmt=True)
SKEWS = {
    "ahead": ([DATE], timedelta(minutes=11)),
    "aged": ([DATE, "Age: 30"], timedelta(minutes=11, seconds=30)),
    "odd age": ([DATE, "Age: soon"], timedelta(minutes=11)),
    "endless age": ([DATE, f"Age: {'9' * 30}"], timedelta(minutes=11)),
    "behind": (
        ["Date: " + format_datetime(NOW - timedelta(hours=1), usegmt=True)],
        timedelta(seconds=1, hours=-1),
    ),
    "right": (["Date: " + format_datetime(NOW, usegmt=True)], timedelta(0)),
    "none": ([], None),
    "no date": (["Date: yesterday"], None),
}


@pytest.mark.parametrize(("headers", "skew"), SKEWS.values(), ids=SKEWS)
@pytest.mark.parametrize("reply", [("200 OK", CHANGED), ("400 No", to_json({"error": "bad name"}))], ids=str)
async def test_the_clocks_are_compared_by_the_date_of_plivos_responses(reply, headers, skew):
    noted: list[timedelta | None] = []
    async with (
        misbehaving(answer(*reply, *headers)) as server,
        provider_at(server.url, on_clock=noted.append) as provider,
    ):
        await asyncio.gather(CALLS["update"](provider), return_exceptions=True)
    assert noted == [skew]


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "502 Bad Gateway"])
async def test_the_clocks_are_not_compared_by_the_page_of_a_gateway(status):
    noted: list[timedelta | None] = []
    async with (
        misbehaving(answer(status, PAGES["nginx"], DATE)) as server,
        provider_at(server.url, on_clock=noted.append) as provider,
    ):
        await fault_of(CALLS["update"](provider))
    assert noted == []


async def test_a_retry_after_date_is_read_by_plivos_clock():
    later = format_datetime(NOW + timedelta(minutes=12), usegmt=True)
    fault = await fault_from("update", answer("429 Too Many", b"", DATE, f"Retry-After: {later}"))
    assert fault.retry_after_seconds == 60.0


async def test_in_a_long_rest_no_call_is_sent():
    replies = [answer("429 Too Many", b"", "Retry-After: 600"), answer("200 OK", CHANGED)]
    async with misbehaving(*replies) as server, provider_at(server.url) as provider:
        await fault_of(CALLS["update"](provider))
        for call in CALLS.values():
            fault = await fault_of(call(provider))
            assert (fault.kind, fault.outage) == (FaultKind.NOT_SENT, True)
            assert fault.retry_after_seconds == pytest.approx(600, abs=30)
        assert len(server.asked) == 1


API_ID = "5a9f8b2c-10be-11f1-9c0a-0242ac110003"


@every_call
async def test_a_failed_call_has_the_api_id_of_plivo(operation):
    """It is no part of the detail: equal failures must have equal texts."""
    body = to_json({"api_id": API_ID, "error": "no"})
    fault = await fault_from(operation, answer("503 Service Unavailable", body))
    assert fault.api_id == API_ID
    assert API_ID not in fault.detail
    assert told(fault) == f"Plivo answered 503 to {operation}: no (Plivo api_id {API_ID})"


async def test_an_unreadable_success_has_the_api_id_too():
    fault = await fault_from("create", answer("201 Created", to_json({"api_id": API_ID})))
    assert (fault.kind, fault.api_id) == (FaultKind.NO_ANSWER, API_ID)


@pytest.mark.parametrize("odd", [TOKEN, "", 5, None, {"a": 1}, f"{API_ID}\n", f"{API_ID}x", "é" * 36])
async def test_an_api_id_of_another_shape_is_dropped(odd):
    fault = await fault_from("update", answer("400 Bad Request", to_json({"api_id": odd, "error": "no"})))
    assert (fault.api_id, fault.detail) == (None, "Plivo answered 400 to update: no")


async def test_a_change_returns_its_api_id_and_status():
    done = to_json({"api_id": API_ID, "message": "changed"})
    made = to_json({"auth_id": AUTH_ID, "auth_token": TOKEN, "api_id": API_ID})
    replies = [answer("202 Accepted", done), answer("201 Created", made), answer("204 No Content")]
    async with misbehaving(*replies) as server, provider_at(server.url) as provider:
        assert await one_call.update(provider, AUTH_ID, "key", name="Sales") == Confirmed(API_ID, 202)
        created = await one_call.create(provider, "Sales", "key")
        assert (created.api_id, created.status) == (API_ID, 201)
        assert await one_call.delete(provider, AUTH_ID, "key") == Confirmed(None, 204)


@every_call
async def test_a_failed_call_has_the_status_of_its_response(operation):
    assert (await fault_from(operation, answer("503 Oh", b"<html>"))).status == 503
    assert (await fault_from(operation, answer("200 OK", b"?"))).status == 200
    assert (await fault_from(operation, hang_up)).status is None


async def test_a_response_that_is_cut_off_has_its_status():
    """Once only: it takes the time of the timeout."""
    assert (await fault_from("create", BROKEN["cut-off"])).status == 201


async def test_each_failed_call_is_reported_once():
    failed: list[CallFault] = []
    replies = [answer("500 Oh", to_json({"api_id": API_ID})), hang_up, answer("200 OK", b"?")]
    async with (
        misbehaving(*replies) as server,
        provider_at(server.url, on_failure=failed.append) as provider,
    ):
        for _ in replies:
            await fault_of(one_call.update(provider, AUTH_ID, "key", name="Sales"))
    assert [fault.api_id for fault in failed] == [API_ID, None, None]


NO_WORDS = {
    "html": b"<html><body><h1>Bad Gateway</h1></body></html>",
    "empty": b"",
    "list": b"[1]",
    "text": b'"gone"',
    "object": to_json({"error": {"auth_token": TOKEN}}),
    "no-error": to_json({"message": "no"}),
    "not-utf8": b"\xff\xfe",
}


@pytest.mark.parametrize("body", NO_WORDS.values(), ids=NO_WORDS)
async def test_an_error_without_a_text_gives_its_status(body):
    fault = await fault_from("update", answer("502 Bad Gateway", body))
    assert (fault.kind, fault.detail) == (FaultKind.SERVER_ERROR, "Plivo answered 502 to update")


async def test_an_error_text_is_one_short_line_without_tokens():
    error = f"bad\r\nrequest\x00 {TOKEN} Bearer={TOKEN} {'word ' * 200}"
    fault = await fault_from("update", answer("400 Bad Request", to_json({"error": error})))
    assert fault.detail.startswith("Plivo answered 400 to update: badrequest *** *** word word")
    assert len(fault.detail) < 250


RETRY_AFTER = {
    "7": 7.0,
    "0": 0.0,
    "600": 600.0,
    "86400": 3600.0,  # capped: a mistaken value must not stop the worker for a day
    format_datetime(NOW + timedelta(seconds=30), usegmt=True): 30.0,
    format_datetime(NOW + timedelta(days=1), usegmt=True): 3600.0,
    format_datetime(NOW - timedelta(seconds=30), usegmt=True): 0.0,
    "Sat, 21 Nov 2026 12:00:09": 9.0,
    "soon": None,
    "-5": None,
    "1.5": None,
    "": None,
    "Sat, 99 Nov 2026 99:00:09 GMT": None,
}


@pytest.mark.parametrize(("value", "seconds"), RETRY_AFTER.items())
async def test_retry_after_is_read_in_both_forms(value, seconds):
    fault = await fault_from("update", answer("429 Too Many Requests", b"", f"Retry-After: {value}"))
    assert (fault.kind, fault.retry_after_seconds) == (FaultKind.RATE_LIMITED, seconds)


@pytest.mark.parametrize("operation", CALLS)
async def test_no_call_is_sent_twice_when_a_kept_connection_breaks(operation):
    empty = to_json({"objects": []})
    well = {"get": to_json(SHOWN), "list": empty, "count": empty, "create": MADE}.get(operation, CHANGED)
    async with misbehaving(answer("200 OK", well), hang_up) as server, provider_at(server.url) as provider:
        await CALLS[operation](provider)
        fault = await fault_of(CALLS[operation](provider))
    assert fault.kind is FaultKind.NO_ANSWER
    assert len(server.asked) == 2


async def test_each_call_is_reported_with_its_status_or_none():
    reported: list[tuple[str, int | None, float]] = []
    replies = [answer("204 No Content"), answer("500 Oh"), hang_up]
    async with (
        misbehaving(*replies) as server,
        provider_at(server.url, on_call=lambda *call: reported.append(call)) as provider,
    ):
        await one_call.delete(provider, AUTH_ID, "key")
        await fault_of(one_call.delete(provider, AUTH_ID, "key"))
        await fault_of(one_call.delete(provider, AUTH_ID, "key"))
    assert [(operation, status) for operation, status, _ in reported] == [
        ("delete", 204),
        ("delete", 500),
        ("delete", None),
    ]
    assert all(seconds >= 0 for _, _, seconds in reported)


def test_the_repr_of_an_account_shows_no_token():
    account = PlivoAccount(
        "http://x", "MA1", Rotating(SecretStr(MAIN_TOKEN)), timedelta(1), 1, RateLimit(1, timedelta(1))
    )
    assert MAIN_TOKEN not in repr(account)


@contextmanager
def closed_port() -> Iterator[int]:
    """A bound port without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose listener never accepts and whose backlog is full, so a further connect hangs."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for connection in waiting:
            connection.settimeout(0)
            connection.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for connection in waiting:
                connection.close()


class TalkingNoTls(asyncio.Protocol):
    def __init__(self, says: bytes) -> None:
        self._says = says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        transport.write(self._says)


@asynccontextmanager
async def talking_no_tls(says: bytes) -> AsyncIterator[str]:
    connections: list[TalkingNoTls] = []

    def connected() -> TalkingNoTls:
        connections.append(TalkingNoTls(says))
        return connections[-1]

    async with await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0) as listening:
        yield f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        for connection in connections:
            connection.transport.abort()
