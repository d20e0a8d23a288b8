"""The handshakes of senders: answered only where a profile declares them, and never as a reflector."""

import json
from typing import Any

import pytest

from worker.core.intake.handshake import LONGEST_CHALLENGE, handshake
from worker.core.intake.parsing import parse_profile
from worker.core.intake.profile import Handshakes

VALIDATION = [
    {
        "id": "1",
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "data": {"validationCode": "512d38b6"},
    }
]
VERIFICATION = {"type": "url_verification", "challenge": "ajls384k", "token": "t0ken"}


def profile(*handshakes):
    document = {
        "auth": {"kind": "none"},
        "id": "item.id",
        "name": "item.name",
        "samples": [{"body": {}, "events": []}],
        "handshake": list(handshakes),
    }
    return parse_profile("acme", document)


def asked(of, method="POST", headers=None, query=None, body=b""):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return handshake(of, method, headers or {}, query or {}, raw, per_minute=6000)


REQUESTS: dict[Handshakes, dict[str, Any]] = {
    Handshakes.CLOUDEVENTS: {
        "method": "OPTIONS",
        "headers": {"webhook-request-origin": "eventgrid.azure.net"},
    },
    Handshakes.OKTA: {"method": "GET", "headers": {"x-okta-verification-challenge": "ch4llenge"}},
    Handshakes.EVENT_GRID: {"headers": {"aeg-event-type": "SubscriptionValidation"}, "body": VALIDATION},
    Handshakes.URL_VERIFICATION: {"body": VERIFICATION},
    Handshakes.GRAPH: {"query": {"validationToken": "Validation: <b>token</b> 42"}},
}
ANSWERS = {
    Handshakes.CLOUDEVENTS: b"",
    Handshakes.OKTA: b'{"verification":"ch4llenge"}',
    Handshakes.EVENT_GRID: b'{"validationResponse":"512d38b6"}',
    Handshakes.URL_VERIFICATION: b'{"challenge":"ajls384k"}',
    Handshakes.GRAPH: b"Validation: <b>token</b> 42",
}


@pytest.mark.parametrize("kind", Handshakes)
def test_a_declared_handshake_is_answered(kind):
    answer = asked(profile(kind), **REQUESTS[kind])

    assert (answer.status, answer.body) == (200, ANSWERS[kind])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content_type in {None, "application/json", "text/plain; charset=utf-8"}


@pytest.mark.parametrize("kind", Handshakes)
def test_no_other_handshake_is(kind):
    others = profile(*(set(Handshakes) - {kind}))

    assert asked(others, **REQUESTS[kind]) is None


@pytest.mark.parametrize("kind", Handshakes)
def test_an_event_is_no_handshake(kind):
    assert asked(profile(kind), body={"type": "department.updated", "challenge": "x"}) is None
    assert asked(profile(kind), body=b"not json with url_verification") is None


def test_only_the_body_of_a_signed_or_secret_request_asks_for_the_proof():
    needing = {kind for kind in Handshakes if asked(profile(kind), **REQUESTS[kind]).needs_proof}

    assert needing == {Handshakes.URL_VERIFICATION}


def test_consent_names_the_sender_and_the_rate():
    headers = asked(profile("cloudevents"), **REQUESTS[Handshakes.CLOUDEVENTS]).headers

    assert headers["webhook-allowed-origin"] == "eventgrid.azure.net"
    assert headers["webhook-allowed-rate"] == "6000"
    assert headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("origin", ["", "*", "a b", "<script>", "x" * 300, "a\r\nb"])
def test_an_origin_that_is_no_name_gets_no_consent(origin):
    answer = asked(profile("cloudevents"), "OPTIONS", {"webhook-request-origin": origin})

    assert answer.status == 200
    assert not any(name.startswith("webhook-") for name in answer.headers)


@pytest.mark.parametrize("challenge", ["", "x" * (LONGEST_CHALLENGE + 1), "a\r\nb", "\x7f", "\ud800"])
def test_an_odd_challenge_is_refused_and_not_repeated(challenge):
    okta = asked(profile("okta"), "GET", {"x-okta-verification-challenge": challenge})
    graph = asked(profile("graph"), query={"validationToken": challenge})

    assert okta.status == graph.status == 400
    assert b"must be text of 1 to 1024 printable characters" in okta.body
    if challenge:
        assert challenge.encode(errors="replace") not in okta.body + graph.body


@pytest.mark.parametrize("code", [None, 7, {"a": 1}, ["x"]])
def test_a_challenge_that_is_no_text_is_not_repeated(code):
    body = [{"data": {"validationCode": code}}]
    answer = asked(profile("event-grid"), headers={"aeg-event-type": "SubscriptionValidation"}, body=body)

    assert answer is None or answer.status == 400
