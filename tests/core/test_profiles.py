"""The document of a source profile: what it may say, and what is said about its mistakes."""

from copy import deepcopy
from typing import Any

import pytest

from worker.core.intake.parsing import notes_on, parse_profile
from worker.core.intake.profile import Bearer, Handshakes, Hmac, NoProof, ProfileInvalid
from worker.core.intake.samples import failures

DOCUMENT: dict[str, Any] = {
    "auth": {"kind": "hmac", "header": "X-Acme-Signature", "secret_file": "acme.secret"},
    "each": "body.changes",
    "removed_when": "item.action == 'deleted'",
    "id": "item.id",
    "name": "item.name",
    "time": "item.at",
    "samples": [
        {
            "body": {"changes": [{"id": 42, "name": "Sales", "at": "2026-11-01T08:30:00Z"}]},
            "events": [{"type": "department.created.v1", "department_id": "42", "name": "Sales"}],
        }
    ],
}


def changed(**changes):
    document = deepcopy(DOCUMENT) | changes
    return {key: value for key, value in document.items() if value is not ...}


def mistakes(document, name="acme"):
    with pytest.raises(ProfileInvalid) as refused:
        parse_profile(name, document)
    return list(refused.value.lines)


def auth(**changes):
    return changed(auth=DOCUMENT["auth"] | changes)


def test_it_has_the_defaults_of_the_specification():
    profile = parse_profile("acme", DOCUMENT)

    assert (profile.source, profile.answer, profile.on_unmappable) == ("/in/acme", 202, "keep")
    assert isinstance(profile.auth, Hmac)
    assert (profile.auth.algorithm, profile.auth.encoding, profile.auth.signed) == (
        "sha256",
        "hex",
        ("{body}",),
    )
    assert profile.secret_file == "acme.secret"
    assert failures(profile) == []
    assert notes_on(profile) == []


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (None, "file: must be a mapping of keys and values"),
        (changed(nmae="item.name"), "nmae: unknown key; did you mean name?"),
        (changed(**{"a b": 1}), "a key: unknown key; the keys are auth,"),
        (changed(id=...), "id: missing; a JMESPath expression for the department's id"),
        (changed(samples=...), "samples: missing; give a payload"),
        (changed(samples=[]), "samples: must be a list of payloads"),
        (changed(auth=...), "auth: missing; say how the sender proves itself"),
        (changed(auth="none"), "auth: must be a mapping of keys and values"),
        (changed(auth={}), "auth.kind: missing; hmac, bearer, or none"),
        (changed(auth={"kind": "hmca"}), "auth.kind: must be one of hmac, bearer, none; did you mean hmac?"),
        (changed(auth={"kind": "none", "header": "x"}), "auth.header: unknown key"),
        (auth(secret_file="../x"), "auth.secret_file: must be the name of a file beside the profile"),
        (auth(secret_file="/etc/x"), "auth.secret_file: must be the name of a file beside the profile"),
        (auth(header="X Acme"), "auth.header: must be the name of a header"),
        (auth(algorithm="md5"), "auth.algorithm: must be one of sha1, sha256, sha512"),
        (
            auth(encoding="base32"),
            "auth.encoding: must be one of hex, base64, base64url; did you mean base64?",
        ),
        (auth(signed="{timestamp}"), "auth.signed: must be body, or a template with {body} once"),
        (auth(signed="{url}{body}"), "auth.signed: has {url}; the placeholders are"),
        (auth(signed="{timestamp}.{body}"), "auth.timestamp_header: missing; auth.signed has {timestamp}"),
        (auth(signed="{id}.{body}"), "auth.id_header: missing; auth.signed has {id}"),
        (auth(tolerance="5 minutes"), "auth.tolerance: must be a duration, such as 5m"),
        (auth(tolernace="5m"), "auth.tolernace: unknown key; did you mean tolerance?"),
        (changed(auth={"kind": "bearer"}), "auth.secret_file: missing"),
        (
            changed(auth={"kind": "bearer", "secret_file": "x", "field": "item.token"}),
            "auth.field: may read body only",
        ),
        (changed(handshake="okat"), "handshake: must be one of cloudevents, okta"),
        (changed(each="item.changes"), "each: reads item, which it is about to choose; begin with body"),
        (
            changed(id="department.id"),
            "id: begins with department, but payloads are under item, body and headers",
        ),
        (changed(id=42), "id: must be a JMESPath expression in quotes"),
        (changed(id="item.[id"), "id: is no JMESPath expression"),
        (changed(id="item." + "a" * 3000), "id: must have at most 2,000 characters"),
        (
            changed(name="upper(item.name)"),
            "name: calls upper(), which is no function of JMESPath; there are abs",
        ),
        (
            changed(name="to_sting(item.name)"),
            "name: calls to_sting(), which is no function of JMESPath; did you mean",
        ),
        (changed(removed_when="item.active == false"), "removed_when: has false, which JMESPath takes for"),
        (changed(removed_when=True), "removed_when: must be a JMESPath expression in quotes"),
        (changed(time_format="iso"), "time_format: must be one of rfc3339, date, epoch-s, epoch-ms"),
        (changed(time=..., time_format="date"), "time_format: there is no time"),
        (
            changed(removed_when=..., cause="'deleted'"),
            "cause: it is that of a removal, and there is no removed_when",
        ),
        (changed(answer=201), "answer: must be 200, 202 or 204"),
        (changed(answer=True), "answer: must be 200, 202 or 204"),
        (changed(on_unmappable="drop"), "on_unmappable: must be one of keep, reject"),
        (changed(samples=[{}]), "samples[0].body: missing; the payload"),
        (changed(samples=[{"body": 1, "events": {}}]), "samples[0].events: must be a list of events"),
        (
            changed(samples=[{"body": 1, "events": [{"departmentid": 1}]}]),
            "samples[0].events[0].departmentid: unknown key; did you mean department_id?",
        ),
        (changed(samples=[{"body": {1, 2}, "events": []}]), "samples[0].body: is no JSON"),
    ],
)
def test_a_mistake_is_named_by_its_key(document, expected):
    (line,) = [line for line in mistakes(document) if line.startswith(expected)]

    assert "\n" not in line


def test_every_mistake_is_a_line():
    document = changed(id=1, answer=5, each="item.x", auth={"kind": "hmac", "header": "x"}, colour="red")

    assert sorted(line.partition(":")[0] for line in mistakes(document, "Acme HR")) == [
        *("answer", "auth.secret_file", "colour", "each", "file", "id"),
    ]


def test_no_mistake_shows_a_secret_that_stands_in_the_wrong_place():
    canary = "s3cr3t/value:with,odd=characters"
    document = auth(secret_file=canary, header=canary, algorithm=canary, prefix=canary, signed=canary)

    assert canary not in "\n".join(mistakes(document))


@pytest.mark.parametrize("name", ["acme", "7shifts", "acme-hr-2"])
def test_a_name(name):
    assert parse_profile(name, DOCUMENT).name == name


@pytest.mark.parametrize("name", ["Acme", "acme_hr", "acme hr", "-acme", "", "a" * 65, "acme/hr"])
def test_a_name_that_makes_no_path(name):
    assert mistakes(DOCUMENT, name)[0].startswith("file: its name is the profile's")


def test_several_handshakes():
    profile = parse_profile("acme", changed(handshake=["cloudevents", "event-grid"]))

    assert profile.handshakes == {Handshakes.CLOUDEVENTS, Handshakes.EVENT_GRID}


def test_no_proof_is_for_loopback():
    profile = parse_profile("acme", changed(auth={"kind": "none"}))

    assert profile.auth == NoProof()
    assert profile.needs_loopback
    assert profile.secret_file is None
    assert notes_on(profile) == ["auth.kind: nothing proves the sender, so it is served on loopback only"]


def test_what_has_no_effect_is_noted():
    document = auth(timestamp_header="X-Acme-Time", tolerance="5m") | {
        "event_id": 'headers."X-Delivery"',
        "tenant": "headers.authorization",
    }
    del document["time"]

    assert notes_on(parse_profile("acme", document)) == [
        "auth.timestamp_header: not read, because auth.signed has no {timestamp}",
        "tenant: headers.authorization holds a secret, so it is never seen",
        "event_id: headers.x-delivery is not signed, so it is never seen: anybody could set it",
        "time: neither time nor sequence, so the order of arrival decides: a late retry may win",
    ]


def test_a_token_proves_all_headers_but_none_that_holds_a_secret():
    document = changed(auth={"kind": "bearer", "secret_file": "x", "header": "X-Token"})
    document |= {"event_id": 'headers."x-delivery"', "tenant": 'headers."x-token"'}
    profile = parse_profile("acme", document)

    assert profile.auth == Bearer("x", "x-token")
    assert notes_on(profile) == ["tenant: headers.x-token holds a secret, so it is never seen"]


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ({"events": []}, ["samples[0].events: expected 0, got 1"]),
        ({"ignored": 1}, ["samples[0].ignored: expected 1, got 0"]),
        ({"unmapped": 1}, ["samples[0].body: 1 items must not map, but all of it maps"]),
        (
            {"events": [{"department_id": 42, "name": "Salez", "sequence": 7, "cause": "deleted"}]},
            [
                "samples[0].events[0].name: expected Salez, got Sales",
                "samples[0].events[0].sequence: expected 7, got nothing",
                "samples[0].events[0].cause: expected deleted, got nothing",
            ],
        ),
        (
            {"events": [{"time": "2026-11-01T09:30:00Z"}]},
            ["samples[0].events[0].time: expected 2026-11-01T09:30:00Z, got 2026-11-01T08:30:00+00:00"],
        ),
        ({"events": [{"time": "2026-11-01T09:30:00+01:00", "tenant": "default", "parent_id": None}]}, []),
    ],
)
def test_a_sample_that_maps_otherwise_says_so(sample, expected):
    document = changed(samples=[DOCUMENT["samples"][0] | sample])

    assert failures(parse_profile("acme", document)) == expected


def test_a_sample_that_does_not_map_says_why():
    document = changed(samples=[{"body": {"changes": [{"id": None}]}, "events": []}])

    assert failures(parse_profile("acme", document)) == [
        "samples[0].body: 0 items must not map, but item 0: id: missing"
    ]
