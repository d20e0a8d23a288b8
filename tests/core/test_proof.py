"""Proof of the sender: signatures of several vendors, tokens, rotation, freshness."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from worker.core.intake.expressions import compiled
from worker.core.intake.parsing import parse_profile
from worker.core.intake.profile import Algorithm, Bearer, Encoding, Hmac, NoProof
from worker.core.intake.proof import BadSecret, NotProven, require_usable, verify
from worker.core.intake.received import Received

NOW = datetime(2026, 11, 1, 8, 30, tzinfo=UTC)
BODY = b'{"department": {"id": 42, "name": "K\xc3\xbcche"}}'
SECRET = "It's a Secret to Everybody"
KEY = base64.b64encode(bytes(range(24))).decode()
STANDARD = Hmac(
    "x.secret",
    "webhook-signature",
    encoding=Encoding.BASE64,
    prefix="v1,",
    signed=("{id}", ".", "{timestamp}", ".", "{body}"),
    timestamp_header="webhook-timestamp",
    id_header="webhook-id",
)


def secrets(*texts):
    return [SecretStr(text) for text in texts]


def proven(auth, keys, headers, body=BODY, at=NOW):
    return verify(auth, secrets(*keys), Received(body, headers, at))


def cause(*arguments, **options):
    with pytest.raises(NotProven) as refused:
        proven(*arguments, **options)
    return refused.value.cause


def standard_headers(key=KEY, at=NOW, body=BODY):
    signature = Webhook(key).sign("msg_1", at, body.decode())
    timestamp = str(int(at.timestamp()))
    return {"webhook-id": "msg_1", "webhook-timestamp": timestamp, "webhook-signature": signature}


def test_the_example_of_githubs_documentation():
    # https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    auth = Hmac("x.secret", "x-hub-signature-256", prefix="sha256=")

    assert proven(auth, [SECRET], {"x-hub-signature-256": signature}, b"Hello, World!") == 0
    assert (
        proven(
            auth, [SECRET], {"x-hub-signature-256": signature.upper().replace("SHA", "sha")}, b"Hello, World!"
        )
        == 0
    )
    assert cause(auth, [SECRET], {"x-hub-signature-256": signature}, b"Hello, World?") == "wrong-signature"


def test_rfc_4231_for_sha512():
    key, text = "Jefe", b"what do ya want for nothing?"
    expected = (
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
    )

    assert proven(Hmac("x", "s", Algorithm.SHA512), [key], {"s": expected}, text) == 0


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("encoding", Encoding)
def test_each_algorithm_in_each_encoding(algorithm, encoding):
    digest = hmac.new(SECRET.encode(), BODY, getattr(hashlib, algorithm)).digest()
    written = {
        Encoding.HEX: digest.hex(),
        Encoding.BASE64: base64.b64encode(digest).decode(),
        Encoding.BASE64URL: base64.urlsafe_b64encode(digest).decode(),
    }[encoding]
    auth = Hmac("x", "s", algorithm, encoding)

    assert proven(auth, [SECRET], {"s": written}) == 0
    assert proven(auth, [SECRET], {"s": written.rstrip("=")}) == 0
    assert cause(auth, [SECRET + "!"], {"s": written}) == "wrong-signature"
    assert cause(auth, [SECRET], {"s": "?" + written}) == "unreadable-signature"


def test_what_the_library_of_standard_webhooks_signs():
    assert proven(STANDARD, [f"whsec_{KEY}"], standard_headers()) == 0


def test_what_we_prove_the_library_proves_too():
    now = datetime.now(UTC)
    headers = standard_headers(at=now)

    assert Webhook(KEY).verify(BODY, headers)
    assert proven(STANDARD, [f"whsec_{KEY}"], headers, at=now) == 0


def test_any_of_several_signatures_proves():
    old, new = (
        standard_headers()["webhook-signature"],
        standard_headers(base64.b64encode(b"n" * 24).decode())["webhook-signature"],
    )
    headers = standard_headers() | {"webhook-signature": f"v1a,unknown {new} {old}"}

    assert proven(STANDARD, [f"whsec_{KEY}"], headers) == 0


def test_each_of_several_secrets_proves_and_its_place_is_told():
    other = "whsec_" + base64.b64encode(b"other-secret-of-24-bytes").decode()

    assert proven(STANDARD, [other, f"whsec_{KEY}"], standard_headers()) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"webhook-id": "msg_2"}, "wrong-signature"),
        ({"webhook-id": ""}, "no-header"),
        ({"webhook-timestamp": "1793521801"}, "wrong-signature"),
        ({"webhook-timestamp": "soon"}, "unreadable-timestamp"),
        ({"webhook-timestamp": "-1"}, "unreadable-timestamp"),
        ({"webhook-timestamp": "9" * 40}, "unreadable-timestamp"),
        ({"webhook-signature": ""}, "no-header"),
        ({"webhook-signature": "v2,AAAA"}, "no-prefix"),
        ({"webhook-signature": "v1,AAAA"}, "wrong-signature"),
        ({"webhook-signature": "v1,"}, "wrong-signature"),
        ({"webhook-signature": "v1,\u00e4\u00f6"}, "unreadable-signature"),
        ({"webhook-signature": "v1," + "A" * 100_000}, "wrong-signature"),
    ],
)
def test_a_changed_header_proves_nothing(change, expected):
    assert cause(STANDARD, [f"whsec_{KEY}"], standard_headers() | change) == expected


@pytest.mark.parametrize("late", [timedelta(minutes=-6), timedelta(minutes=6)])
def test_a_timestamp_outside_the_tolerance_is_stale(late):
    assert cause(STANDARD, [f"whsec_{KEY}"], standard_headers(), at=NOW + late) == "stale-timestamp"


def test_a_timestamp_inside_the_tolerance_is_fresh_also_in_milliseconds():
    auth = Hmac("x", "s", signed=("v0:", "{timestamp}", ":", "{body}"), timestamp_header="t")
    milliseconds = str(int(NOW.timestamp() * 1000))
    signature = hmac.new(b"k", b"v0:" + milliseconds.encode() + b":" + BODY, "sha256").hexdigest()

    assert proven(auth, ["k"], {"s": signature, "t": milliseconds}, at=NOW + timedelta(minutes=4)) == 0


def test_without_secrets_nothing_is_proven():
    assert cause(STANDARD, [], standard_headers()) == "no-secret"
    assert cause(Bearer("x"), [], {"authorization": ""}) == "no-header"
    assert cause(Bearer("x"), [], {"authorization": "Bearer "}) == "no-secret"


@pytest.mark.parametrize("sent", ["t0ken", "Bearer t0ken", "bearer t0ken", "  Bearer  t0ken "])
def test_a_token_with_or_without_the_word_bearer(sent):
    assert proven(Bearer("x"), ["old", "t0ken"], {"authorization": sent}) == 1


@pytest.mark.parametrize("sent", ["T0ken", "t0ke", "t0ken2", "Basic t0ken", "Bearer", "Bearer Bearer t0ken"])
def test_another_token(sent):
    assert cause(Bearer("x"), ["t0ken"], {"authorization": sent}) == "wrong-token"


def test_a_token_in_a_header_of_choice():
    auth = Bearer("x", "x-factorial-wh-challenge")

    assert proven(auth, ["t0ken"], {"x-factorial-wh-challenge": "t0ken"}) == 0
    assert cause(auth, ["t0ken"], {"x-factorial-wh-challenge": "Bearer t0ken"}) == "wrong-token"
    assert cause(auth, ["t0ken"], {"authorization": "Bearer t0ken"}) == "no-header"


def test_a_token_after_a_prefix():
    assert proven(Bearer("x", prefix="Basic "), ["dTpw"], {"authorization": "Basic dTpw"}) == 0
    assert cause(Bearer("x", prefix="Basic "), ["dTpw"], {"authorization": "dTpw"}) == "no-prefix"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"header": {"token": "t0ken"}}', None),
        (b'{"token": "t0ken"}', None),
        (b'{"header": {"token": "other"}}', "wrong-token"),
        (b'{"header": {"token": ["t0ken"]}}', "no-token"),
        (b'{"encrypt": "..."}', "no-token"),
        (b"not json", "unreadable-body"),
        (b"[" * 100_000, "unreadable-body"),
    ],
)
def test_a_token_in_the_body(body, expected):
    auth = Bearer("x", field=compiled("body.header.token || body.token"))

    if expected is None:
        assert proven(auth, ["t0ken"], {}, body) == 0
    else:
        assert cause(auth, ["t0ken"], {}, body) == expected


def test_no_proof_proves_anything():
    assert proven(NoProof(), [], {}) == 0


@pytest.mark.parametrize("text", ["whsec_", "whsec_?", "whsec_AAA=A"])
def test_a_key_that_is_not_base64_is_named_without_being_shown(text):
    with pytest.raises(BadSecret) as refused:
        require_usable(STANDARD, SecretStr(text))

    assert str(refused.value) == "begins with whsec_, but the rest is not base64"


def test_the_signed_template_of_a_document():
    document = {
        "auth": {
            "kind": "hmac",
            "header": "X-Acme-Signature",
            "signed": "{timestamp}.{body}",
            "timestamp_header": "X-Acme-Time",
            "tolerance": "90s",
            "secret_file": "acme.secret",
        },
        "id": "item.id",
        "name": "item.name",
        "samples": [{"body": {"id": 1, "name": "A"}, "events": [{"department_id": "1"}]}],
    }
    auth = parse_profile("acme", document).auth

    assert isinstance(auth, Hmac)
    assert auth.signed == ("{timestamp}", ".", "{body}")
    assert auth.tolerance == timedelta(seconds=90)
    assert auth.header == "x-acme-signature"
