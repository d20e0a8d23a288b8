"""`provisioner intake check` and `try`: what a person who writes a profile is told."""

import json

import pytest

from tests.support.commands import in_process, provisioner

ACME = """
auth: {kind: hmac, header: X-Acme-Signature, secret_file: acme.secret}
each: body.changes
ignore: item.kind != 'department'
removed_when: item.gone
id: item.id
name: item.name
time: item.at
event_id: headers."X-Acme-Id"
samples:
  - body: {changes: [{kind: department, id: 42, name: Sales, at: 2026-11-01T08:30:00Z}]}
    events: [{department_id: "42", name: Sales}]
"""
FIXED = ACME.replace('event_id: headers."X-Acme-Id"\n', "")
PAYLOAD = {
    "changes": [
        {"kind": "department", "id": 42, "name": "K\u00fcche \u202e", "at": "2026-11-01T08:30:00Z"},
        {"kind": "role"},
        {"kind": "department", "id": None},
    ]
}


@pytest.fixture
def environ(tmp_path):
    (tmp_path / "acme.yaml").write_text(FIXED)
    (tmp_path / "payload.json").write_text(json.dumps(PAYLOAD))
    return {"PROVISIONER_SOURCES": str(tmp_path)}


async def test_check_runs_the_samples_of_all_profiles(environ):
    done = await in_process(environ, "intake", "check", "--json")

    assert done.code == 0
    found = {one["profile"]: one for one in done.json}
    assert {"okta", "acme", "standard-webhooks"} <= found.keys()
    assert all(one["failures"] == [] and one["samples"] > 0 for one in found.values())
    assert found["acme"]["secret"] == f"missing: {environ['PROVISIONER_SOURCES']}/acme.secret"
    assert (found["acme"]["enabled"], found["okta"]["enabled"]) == (True, False)


async def test_check_needs_no_folder():
    done = await in_process({}, "intake", "check", "okta")

    assert done.code == 0
    assert "/in/okta" in done.out
    assert "missing: set PROVISIONER_SOURCES" in done.out


async def test_a_sample_that_maps_otherwise_fails_the_check(environ, tmp_path):
    (tmp_path / "acme.yaml").write_text(FIXED.replace("name: Sales}]\n", "name: Salez}]\n"))
    done = await in_process(environ, "intake", "check", "acme")

    assert done.code == 1
    assert done.err == "acme.yaml: samples[0].events[0].name: expected Salez, got Sales\n"


async def test_a_header_that_is_not_signed_fails_the_check_and_the_note_says_why(environ, tmp_path):
    (tmp_path / "acme.yaml").write_text(ACME)
    done = await in_process(environ, "intake", "check", "acme")

    assert done.code == 1
    assert "acme.yaml: event_id: headers.x-acme-id is not signed, so it is never seen" in done.out
    assert "item 0: event_id: missing" in done.err


async def test_a_refused_profile_is_a_line_for_each_mistake(environ, tmp_path):
    (tmp_path / "acme.yaml").write_text(FIXED.replace("name: item.name", "nmae: item.name"))
    done = await provisioner(environ, "intake", "check")

    assert done.code == 2
    assert done.err.splitlines() == [
        "acme.yaml: nmae: unknown key; did you mean name?",
        "acme.yaml: name: missing; a JMESPath expression for the department's name, such as item.name",
    ]


async def test_an_unknown_profile_is_named_with_the_nearest_one(environ):
    done = await in_process(environ, "intake", "check", "acm")

    assert (done.code, done.err) == (2, "there is no profile acm; did you mean acme?\n")


async def test_try_shows_what_a_payload_would_become(environ, tmp_path):
    done = await in_process(environ, "intake", "try", "acme", "--file", str(tmp_path / "payload.json"))

    assert done.code == 1
    assert "department.created.v1" in done.out
    assert "2026-11-01 08:30:00Z" in done.out
    assert "\\u202e" in done.out
    assert "1 ignored" in done.out
    assert done.err == "not mapped: item 2: id: missing\n"


async def test_try_as_json_is_what_would_be_published(environ, tmp_path):
    done = await in_process(
        environ, "intake", "try", "acme", "--json", "--file", str(tmp_path / "payload.json")
    )

    (event,) = done.json["events"]
    assert (event["source"], event["time"]) == ("/in/acme", "2026-11-01T08:30:00Z")
    assert event["data"] == {"department_id": "42", "name": "K\u00fcche \u202e"}
    assert (done.json["ignored"], done.json["unmapped"]) == (1, ["item 2: id: missing"])
    assert done.out.isascii()


async def test_try_reads_stdin_and_headers():
    body = {"type": "department.deleted", "timestamp": "2026-11-01T08:30:00Z", "data": {"id": "d-1"}}
    arguments = ("try", "standard-webhooks", "--file", "-", "--header", "Webhook-Id: msg_1", "--json")
    done = await provisioner({}, "intake", *arguments, given=json.dumps(body).encode())

    assert done.code == 0, done.err
    assert done.json["events"][0]["id"] == "msg_1"


@pytest.mark.parametrize("header", ["webhook-id", ": x", ""])
async def test_a_header_without_a_value_is_a_misuse(header, environ, tmp_path):
    done = await in_process(
        environ, "intake", "try", "acme", "--file", str(tmp_path / "payload.json"), "--header", header
    )

    assert done.code == 2
    assert done.err.startswith("write a header as NAME:VALUE, such as webhook-id:msg_1")


async def test_a_payload_that_is_no_json_is_told(environ, tmp_path):
    (tmp_path / "payload.json").write_bytes(b"\xffPing")
    done = await in_process(environ, "intake", "try", "acme", "--file", str(tmp_path / "payload.json"))

    assert (done.code, done.err) == (1, "not mapped: body: not UTF-8\n")
