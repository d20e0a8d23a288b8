"""Accept everything that the official clients send; refuse all else."""

import asyncio
import io

import aiohttp
import pytest

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(("sent", "meant"), [("true", True), ("false", False), ("True", True), (True, True)])
async def test_booleans_may_come_as_text(world, sent, meant):
    created = await world.api.post("Subaccount/", {"name": "x", "enabled": sent})

    assert created.status == 201
    assert world.sandbox.subaccounts()[0].enabled is meant


@pytest.mark.parametrize("sent", [1, "yes", "", [], {"a": 1}])
async def test_an_invalid_boolean_is_refused(world, sent):
    refused = await world.api.post("Subaccount/", {"name": "x", "enabled": sent})

    assert refused.status == 400
    assert "enabled" in refused.body["error"]


@pytest.mark.parametrize("body", [b'""', b"{}", b"", b"not json"])
async def test_a_get_may_carry_a_body(world, body):
    assert (await world.api.send("GET", "Subaccount/", data=body, headers=JSON)).status == 200


@pytest.mark.parametrize("body", [b'""', b"{}", b"", b'{"auth_id": "SA", "other": 1}'])
async def test_a_delete_may_carry_a_body(world, body):
    made = await world.subaccount()

    assert (
        await world.api.send("DELETE", f"Subaccount/{made.auth_id}/", data=body, headers=JSON)
    ).status == 204


async def test_slashes_may_repeat(world):
    assert (await world.api.get(f"/v1/Account/{world.api.auth_id}//")).status == 200
    assert (await world.api.get("/Subaccount//")).status == 404
    assert (await world.api.get("Subaccount//")).status == 200


async def test_unknown_fields_are_ignored(world):
    made = await world.subaccount("x")

    changed = await world.api.post(f"Subaccount/{made.auth_id}/", {"auth_id": "SA1", "name": "y", "z": [1]})

    assert changed.status == 202
    assert world.find(made.auth_id).name == "y"


@pytest.mark.parametrize("body", ['{"name": "R\\u00e9s"}', '{"name": "Rés"}'])
async def test_escaped_and_raw_characters_mean_the_same(world, body):
    created = await world.api.send("POST", "Subaccount/", data=body.encode(), headers=JSON)

    assert created.status == 201
    assert world.sandbox.subaccounts()[0].name == "Rés"


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"1", b'"text"', b"null", b'{"name": "\\ud800"}', b"\xff\xfe{}", b"[" * 100_000, b"name=x"],
)
async def test_a_body_that_is_not_a_json_object_is_refused(world, body):
    refused = await world.api.send("POST", "Subaccount/", data=body, headers=JSON)

    assert refused.status == 400
    assert set(refused.body) == {"api_id", "error"}
    assert world.sandbox.subaccounts() == []


async def test_a_form_is_refused(world):
    refused = await world.api.send("POST", "Subaccount/", data={"name": "x"})

    assert (refused.status, refused.body["error"]) == (400, "only application/json is accepted")


@pytest.mark.parametrize("name", [1, True, ["x"], {"a": "b"}])
async def test_a_name_that_is_not_text_is_refused(world, name):
    assert (await world.api.post("Subaccount/", {"name": name})).status == 400


@pytest.mark.parametrize(
    "query", ["limit=-1", "limit=x", "offset=-1", "offset=1.5", "limit=", "offset=" + "9" * 30]
)
async def test_an_invalid_limit_or_offset_is_refused(world, query):
    assert (await world.api.get(f"Subaccount/?{query}")).status == 400


async def test_a_very_large_body_is_refused(world):
    body = io.BytesIO(b'{"name": "' + b"x" * 2_000_000 + b'"}')

    refused = await world.api.send("POST", "Subaccount/", data=body, headers=JSON)

    assert (refused.status, refused.body["error"]) == (400, "the request body is too large")


@pytest.mark.parametrize(
    "path", ["/", "/v1/", "/v1/Account/", "/v2/Account/MA/", "Nothing/", "Subaccount/SA/more/", "Call/x/"]
)
async def test_a_path_that_is_not_imitated_is_404(world, path):
    found = await world.api.get(path)

    assert (found.status, found.body["error"]) == (404, "not found")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods_are_405(world, method):
    refused = await world.api.send(method, "Subaccount/")

    assert (refused.status, refused.body["error"]) == (405, "HTTP method is not allowed")


async def test_head_is_405_without_a_body(world):
    assert (await world.api.send("HEAD", "Subaccount/")).status == 405


async def test_a_path_without_its_trailing_slash_is_404(world):
    assert (await world.api.get("Subaccount")).status == 404


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer x",
        "Basic",
        "Basic %%%",
        "Basic /w==",
        aiohttp.encode_basic_auth("MASANDBOX00000000000", "wrong"),
        aiohttp.encode_basic_auth("SA000000000000000000", "sandbox"),
        aiohttp.encode_basic_auth("", ""),
    ],
)
async def test_bad_credentials_are_401(world, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    path = f"{world.api.url}/v1/Account/{world.api.auth_id}/"
    async with world.api.session.get(path, headers=headers) as response:
        assert response.status == 401
        assert set(await response.json()) == {"api_id", "error"}
        assert response.headers["WWW-Authenticate"].startswith("Basic")


async def test_the_path_of_another_account_is_401(world):
    assert (await world.api.get("/v1/Account/MAOTHER0000000000000/")).status == 401


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX\r\n\r\n"]
)
async def test_invalid_http_is_400_without_a_traceback(world, caplog, sent):
    host, port = world.sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    response = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert response.split()[1] == b"400"
    assert caplog.records == []
