"""Outgoing messages: ids, addresses, contents, and the only place of a token."""

import json
from dataclasses import replace
from itertools import product
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from contracts.envelope import STRUCTURED, Message, document
from contracts.subaccounts import (
    CredentialsMessage,
    DeadReason,
    ResultCode,
    ResultKind,
    SubaccountResult,
    outbound_id,
    plain_message,
)
from tests.support.builders import AUTH_ID, ISSUED, NOW, an_answer, an_entry, created, removed, renamed
from worker.core import messages
from worker.core.judge import DeadLetter
from worker.core.messages import Outgoing, Subject
from worker.core.model.causes import NO_TRACE, Reference, Trace
from worker.core.model.credentials import ANY_RECIPIENT, IssuedCredentials
from worker.core.model.departments import Department
from worker.core.model.entry import Entry, Status

OWNER = "default"
TOKEN = "NDU1ZmM4MTBmMzk3M2E4YTJiOGVkNGEyOWQwZjdk"
TRACE = Trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1", "order-7")
EVENT = created("Sales")
SUBJECT = Subject(EVENT.reference, "acme", "sales", "Sales", TRACE)
REJECTED = DeadLetter(DeadReason.REJECTED, "Plivo answered 400 to create")

OURS = {"x-dead-reason", "x-dead-detail", "x-dead-at", "x-attempts", "x-event-id", "x-department-id"}


def body_of(outgoing):
    assert outgoing.message.content_type == STRUCTURED
    return json.loads(outgoing.message.body)


def result_of(answer, now=NOW):
    return messages.result(answer, OWNER, now)


def credentials_for(recipient=ANY_RECIPIENT, entry=None, now=NOW):
    clear = messages.credentials(entry or an_entry(), recipient, SecretStr(TOKEN), OWNER, now)
    return messages.addressed(clear, recipient, plain_message(clear))


def failed_of(subject=SUBJECT, verdict=REJECTED):
    return messages.failed(subject, verdict, OWNER, NOW)


def buried(headers=(), body=b"{", content_type="application/json", verdict=REJECTED, subject=SUBJECT, **more):
    original = Outgoing(
        "departments", "department.created", Message(body, content_type, dict(headers)), **more
    )
    return messages.dead_letter(original, verdict, subject, 3, NOW)


class TestResults:
    @pytest.mark.parametrize("outcome", ResultKind)
    def test_each_outcome_has_its_type_and_routing_key(self, outcome):
        outgoing = result_of(an_answer(EVENT, outcome))

        assert (outgoing.exchange, outgoing.routing_key) == ("provisioner.results", f"subaccount.{outcome}")
        assert body_of(outgoing)["type"] == f"subaccount.{outcome}.v1"
        assert body_of(outgoing)["data"]["outcome"] == outcome

    def test_a_complete_result(self):
        answer = an_answer(
            replace(EVENT, trace=TRACE), ResultKind.CREATED, auth_id=AUTH_ID, reason="why", trace=TRACE
        )

        assert body_of(result_of(answer)) == {
            "specversion": "1.0",
            "id": "d782321f-ba5f-533b-822c-e7f83412d355",
            "source": "/subaccount-provisioner/default",
            "type": "subaccount.created.v1",
            "time": "2026-11-21T12:00:00Z",
            "subject": "sales",
            "tenant": "acme",
            "datacontenttype": "application/json",
            "traceparent": TRACE.traceparent,
            "tracestate": TRACE.tracestate,
            "correlationid": TRACE.correlationid,
            "causationid": "created-1",
            "data": {
                "tenant": "acme",
                "department_id": "sales",
                "name": "Sales",
                "auth_id": AUTH_ID,
                "outcome": "created",
                "code": "created",
                "reason": "why",
                "event": {"source": "/hr", "id": "created-1", "type": "department.created.v1"},
            },
        }

    @pytest.mark.parametrize("outcome", ResultKind)
    @pytest.mark.parametrize("known", [True, False], ids=["all known", "optional missing"])
    def test_a_result_matches_the_contract_model(self, outcome, known):
        newer = Reference("/crm", "7", "department.removed.v1") if known else None
        answer = an_answer(EVENT, outcome, auth_id=AUTH_ID, reason="why", superseded_by=newer, trace=TRACE)
        if not known:
            answer = replace(answer, auth_id=None, reason=None, name=None, trace=NO_TRACE)
        body = result_of(answer).message.body

        assert document(SubaccountResult.model_validate_json(body)) == json.loads(body)

    def test_each_hold_of_an_event_has_a_result_of_its_own(self):
        event = removed()
        first, second = (
            result_of(an_answer(event, ResultKind.HELD, hold_id=hold_id)) for hold_id in ("h-1", "h-2")
        )
        final = [
            result_of(an_answer(event, ResultKind.DISABLED, hold_id=hold_id)) for hold_id in (None, "h-1")
        ]

        assert first.id == outbound_id(("h-1",), "subaccount.held.v1") != second.id
        assert [body_of(one)["causationid"] for one in (first, second)] == [event.reference.id] * 2
        assert final[0].id == final[1].id == outbound_id(event.reference[:2], "subaccount.disabled.v1")

    def test_superseded_names_the_newer_event(self):
        newer = Reference("/crm", "7", "department.removed.v1")

        body = body_of(result_of(an_answer(EVENT, ResultKind.SUPERSEDED, superseded_by=newer)))

        assert body["data"]["superseded_by"] == newer._asdict()

    def test_a_result_quotes_the_type_as_the_producer_wrote_it(self):
        event = replace(EVENT, reference=EVENT.reference._replace(type="com.example.hr.department.created"))

        assert body_of(result_of(an_answer(event)))["data"]["event"]["type"] == event.reference.type

    def test_unknown_fields_are_left_out(self):
        body = body_of(result_of(an_answer(removed(), ResultKind.UNCHANGED)))

        assert not {"traceparent", "tracestate", "correlationid"} & set(body)
        assert not {"auth_id", "reason", "superseded_by"} & set(body["data"])
        assert body["data"]["name"] is None


class TestFailed:
    def test_a_failed_result_gives_the_reason_of_the_dead_letter(self):
        body = body_of(failed_of())

        assert (body["type"], body["causationid"]) == ("subaccount.failed.v1", "created-1")
        assert body["data"] == {
            "tenant": "acme",
            "department_id": "sales",
            "name": "Sales",
            "outcome": "failed",
            "code": "rejected",
            "reason": "rejected: Plivo answered 400 to create",
            "event": {"source": "/hr", "id": "created-1", "type": "department.created.v1"},
        }
        assert [body[name] for name in TRACE._fields] == list(TRACE)
        assert failed_of().routing_key == "subaccount.failed"

    @pytest.mark.parametrize("reason", DeadReason)
    def test_the_code_is_the_reason_unless_the_verdict_has_one(self, reason):
        gone = ResultCode.GONE_AT_PROVIDER
        verdicts = [DeadLetter(reason, "why", code) for code in (None, gone)]

        codes = [body_of(failed_of(verdict=verdict))["data"]["code"] for verdict in verdicts]

        assert codes == [reason, gone]

    def test_a_failed_result_may_lack_the_department(self):
        subject = Subject(Reference("/hr", "1", "department.created.v1"), "default")

        body = body_of(failed_of(subject))

        assert "subject" not in body
        assert (body["data"]["department_id"], body["data"]["name"]) == (None, None)


class TestCredentials:
    def test_a_complete_credentials_message(self):
        outgoing = credentials_for(
            entry=an_entry(issued=IssuedCredentials(EVENT.reference, TRACE, generation=3))
        )

        assert body_of(outgoing) == {
            "specversion": "1.0",
            "id": "a6a97bc9-707c-55e6-9925-78c8291f10ae",
            "source": "/subaccount-provisioner/default",
            "type": "subaccount.credentials.issued.v1",
            "time": "2026-11-21T12:00:00Z",
            "subject": "sales",
            "tenant": "acme",
            "datacontenttype": "application/json",
            "traceparent": TRACE.traceparent,
            "tracestate": TRACE.tracestate,
            "correlationid": TRACE.correlationid,
            "causationid": "created-1",
            "data": {
                "tenant": "acme",
                "department_id": "sales",
                "name": "Sales",
                "auth_id": AUTH_ID,
                "auth_token": TOKEN,
                "generation": 3,
            },
        }

    def test_the_next_incarnation_names_the_subaccount_before_it(self):
        issued = IssuedCredentials(EVENT.reference, generation=2, supersedes="SA0")
        data = body_of(credentials_for(entry=an_entry(issued=issued)))["data"]

        assert (data["supersedes"], data["generation"]) == ("SA0", 2)

    def test_a_credentials_message_matches_the_contract_model(self):
        CredentialsMessage.model_validate_json(credentials_for().message.body)

    @pytest.mark.parametrize(
        ("recipient", "routing_key"),
        [
            (ANY_RECIPIENT, "subaccount.credentials.issued"),
            ("crm", "subaccount.credentials.issued.crm"),
        ],
    )
    def test_the_routing_key_names_the_recipient(self, recipient, routing_key):
        outgoing = credentials_for(recipient)

        assert (outgoing.exchange, outgoing.routing_key) == ("provisioner.secrets", routing_key)

    @pytest.mark.parametrize(
        "entry", [Entry(EVENT.department), an_entry(Status.CLAIMED), an_entry(Status.REMOVED)]
    )
    def test_an_entry_without_a_subaccount_has_no_credentials(self, entry):
        with pytest.raises(ValueError, match=f"no subaccount: the department is {entry.status}") as raised:
            credentials_for(entry=entry)
        assert TOKEN not in str(raised.value)


class TestIds:
    """Consumers detect duplicates by id: it is stable over retries and replays, and unique."""

    def test_ids_are_fixed_forever(self):
        assert body_of(result_of(an_answer(EVENT)))["id"] == "d782321f-ba5f-533b-822c-e7f83412d355"
        assert body_of(failed_of())["id"] == "68bc2f8b-28f0-58cf-9fcc-4975a4b92e2e"
        issued = an_entry(issued=IssuedCredentials(EVENT.reference))
        assert body_of(credentials_for("", issued))["id"] == "e165cf54-ec28-51af-9c54-4acd7d9ce05b"
        assert body_of(credentials_for("crm", issued))["id"] == "6eaeef6a-f81b-55a4-baba-fd575c5819c6"

    def test_ids_ignore_the_time_and_content_of_a_repetition(self):
        later = NOW.replace(year=2027)
        answer = an_answer(EVENT)
        again = replace(answer, auth_id=AUTH_ID, reason="sent again", trace=TRACE, confirmed=True)

        assert body_of(result_of(answer))["id"] == body_of(result_of(again, later))["id"]
        restored = an_entry(name="Marketing", revision=12, issued=replace(ISSUED, trace=TRACE))
        assert body_of(credentials_for())["id"] == body_of(credentials_for("", restored, later))["id"]

    def test_each_cause_type_and_recipient_has_its_own_id(self):
        causes = [created(), renamed(), created(source="/crm"), created(id="other")]
        results = [result_of(an_answer(*each)) for each in product(causes, ResultKind)]
        issued = [
            credentials_for(
                recipient, an_entry(issued=IssuedCredentials(cause.reference, generation=generation))
            )
            for cause, recipient, generation in product(causes, [ANY_RECIPIENT, "crm", "billing"], [1, 2])
        ]

        ids = [body_of(outgoing)["id"] for outgoing in results + issued]

        assert len(set(ids)) == len(ids)
        assert {UUID(each).version for each in ids} == {5}


class TestTheToken:
    def test_the_token_is_in_the_body_of_its_message(self):
        assert credentials_for().message.body.count(TOKEN.encode()) == 1

    def test_the_token_is_nowhere_else_in_its_message(self):
        outgoing = credentials_for("crm", an_entry(issued=replace(ISSUED, trace=TRACE)))

        beside = f"{outgoing}{outgoing!r}{outgoing.message}{outgoing.message!r}"
        assert TOKEN not in beside + str(outgoing.message.headers) + str(outgoing.properties)
        assert TOKEN not in outgoing.routing_key + outgoing.exchange

    def test_the_repr_of_a_dead_letter_shows_no_content(self):
        """The content of a message must never reach a log."""
        outgoing = buried(body=TOKEN.encode(), headers={"from": TOKEN}, properties={"app_id": TOKEN})

        assert TOKEN not in f"{outgoing}{outgoing!r}"


class TestDeadLetters:
    def test_a_dead_letter_keeps_its_routing_key(self):
        outgoing = buried()

        assert (outgoing.exchange, outgoing.routing_key) == ("provisioner.dead-letters", "department.created")

    @given(st.binary())
    def test_a_dead_letter_keeps_the_body_byte_for_byte(self, body):
        assert buried(body=body).message.body == body

    @pytest.mark.parametrize("content_type", [None, "", "application/json; charset=utf-8", "text/plain"])
    def test_a_dead_letter_keeps_content_type_and_properties(self, content_type):
        properties = {"correlation_id": "7", "priority": 3, "app_id": "hr"}

        outgoing = buried(content_type=content_type, properties=properties)

        assert (outgoing.message.content_type, outgoing.properties) == (content_type, properties)

    def test_headers_give_the_reason_of_a_dead_letter(self):
        assert buried().message.headers == {
            "x-dead-reason": "rejected",
            "x-dead-detail": "Plivo answered 400 to create",
            "x-dead-at": "2026-11-21T12:00:00+00:00",
            "x-attempts": 3,
            "x-event-id": "created-1",
            "x-department-id": "sales",
        }

    def test_an_unreadable_message_has_no_subject_headers(self):
        assert set(buried(subject=None).message.headers) == OURS - {"x-event-id", "x-department-id"}

    def test_an_event_without_a_readable_department_has_its_id(self):
        subject = Subject(Reference("/hr", "1", "x"), "default")

        assert set(buried(subject=subject).message.headers) == OURS - {"x-department-id"}

    def test_headers_are_kept_except_those_of_the_broker(self):
        kept = {
            "cloudEvents_id": "1",
            "cloudEvents_sequence": 3,
            "x-custom": b"\xff\x00",
            "x-delivery": "not the broker's",
            "x-deaths": "neither",
            "first-death": "nor this",
            "list": [1, {"deep": None}],
            "nothing": None,
        }
        brokers = {
            "x-death": [{"queue": "provisioner.retry.30s", "count": 2}],
            "x-first-death-exchange": "provisioner.retry",
            "x-first-death-queue": "provisioner.retry.30s",
            "x-first-death-reason": "expired",
            "x-last-death-exchange": "provisioner.retry",
            "x-last-death-queue": "provisioner.retry.30s",
            "x-last-death-reason": "expired",
            "x-delivery-count": 21,
            "x-acquired-count": 22,
        }

        headers = buried(headers=kept | brokers).message.headers

        assert {name: value for name, value in headers.items() if name not in OURS} == kept

    def test_a_second_death_replaces_the_headers_of_the_first(self):
        first = buried(verdict=DeadLetter(DeadReason.INVALID, "data.name: missing"))

        again = messages.dead_letter(first, REJECTED, SUBJECT, 1, NOW)

        assert again.message.headers == buried().message.headers | {"x-attempts": 1}

    def test_the_original_message_is_unchanged(self):
        original = Outgoing("departments", "department.created", Message(b"{", None, {"x-death": 1}))

        messages.dead_letter(original, REJECTED, SUBJECT, 1, NOW)

        assert original.message.headers == {"x-death": 1}

    @pytest.mark.parametrize("reason", DeadReason)
    def test_the_reason_header_is_a_plain_string(self, reason):
        header = buried(verdict=DeadLetter(reason, "why")).message.headers["x-dead-reason"]

        assert (type(header), header) == (str, reason.value)

    def test_the_set_of_reasons_is_closed(self):
        assert {str(reason) for reason in DeadReason} == {
            "malformed",
            "invalid",
            "unsupported-type",
            "conflicting-duplicate",
            "rejected",
            "create-unknown",
            "exhausted",
            "delivery-limit",
        }


def test_each_deployment_is_its_own_source():
    ours = messages.result(an_answer(EVENT), "hr", NOW)

    assert body_of(ours)["source"] == "/subaccount-provisioner/hr"


def test_a_result_names_the_tenant_of_the_department():
    answer = an_answer(replace(EVENT, department=Department("other", "sales")))

    body = body_of(result_of(answer))

    assert (body["tenant"], body["data"]["tenant"], body["subject"]) == ("other", "other", "sales")
