"""Outbound messages: ids, routing keys, omitted members, and the token in only one place."""

import copy
import json
import pprint
import traceback
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError
from pydantic_core import to_json, to_jsonable_python
from rich.pretty import pretty_repr

from contracts.envelope import Message, document, read
from contracts.subaccounts import (
    Credentials,
    CredentialsMessage,
    EventReference,
    Result,
    ResultCode,
    ResultKind,
    SealedCredentialsMessage,
    SubaccountResult,
    content_to_seal,
    outbound_id,
    plain_message,
    result_type,
    routing_key,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TOKEN = "xyzzy-not-a-real-token"
ISSUED = "subaccount.credentials.issued.v1"
REFERENCE = EventReference(source="/hr", id="1", type="hr.department.created")


def a_result(outcome: ResultKind = ResultKind.CREATED, **data: Any) -> SubaccountResult:
    whole: dict[str, Any] = {"tenant": "default", "department_id": "ENG-042", "name": "Engineering"}
    return SubaccountResult(
        id="1",
        source="/worker",
        type=result_type(outcome),
        time=NOON,
        tenant="default",
        causationid="1",
        data=Result(**whole | {"outcome": outcome, "code": ResultCode.LIMIT, "event": REFERENCE} | data),
    )


def credentials(**data: Any) -> CredentialsMessage:
    return CredentialsMessage(
        id="1",
        source="/worker",
        type="subaccount.credentials.issued.v1",
        time=NOON,
        tenant="default",
        causationid="1",
        data=Credentials(
            tenant="default",
            department_id="ENG-042",
            name="Engineering",
            auth_id="SA000000000000000042",
            auth_token=SecretStr(TOKEN),
            generation=1,
            **data,
        ),
    )


@pytest.mark.parametrize("outcome", ResultKind)
def test_each_outcome_has_its_type_and_round_trips(outcome: ResultKind) -> None:
    message = Message.structured(a_result(outcome))
    assert read(message).type == f"subaccount.{outcome}.v1"
    assert SubaccountResult.model_validate_json(message.body) == a_result(outcome)


def test_type_and_outcome_cannot_differ() -> None:
    shown = document(a_result(ResultKind.CREATED)) | {"type": "subaccount.failed.v1"}
    with pytest.raises(ValidationError, match="type must name"):
        SubaccountResult.model_validate(shown)


def test_null_is_kept_for_required_members() -> None:
    shown = document(a_result(ResultKind.FAILED, department_id=None, name=None))
    assert shown["data"] == {
        "tenant": "default",
        "department_id": None,
        "name": None,
        "outcome": "failed",
        "code": "limit",
        "event": {"source": "/hr", "id": "1", "type": "hr.department.created"},
    }
    assert "subject" not in shown
    assert SubaccountResult.model_validate(shown).data.name is None


def test_ids_depend_only_on_cause_type_and_recipient() -> None:
    arguments: list[tuple[Any, ...]] = [
        (("/hr", "1"), ISSUED),
        (("/hr", "2"), ISSUED),
        (("/hr2", "1"), ISSUED),
        (("/hr1", ""), ISSUED),
        (("/hr,1",), ISSUED),
        (('/hr","1',), ISSUED),
        (("/hr", "1"), "subaccount.credentials.reissued.v1"),
        (("/hr", "1"), ISSUED, "crm"),
        (("/hr", "1", ISSUED), "crm"),
    ]
    ids = [outbound_id(*given) for given in arguments]
    assert ids == [outbound_id(*given) for given in arguments]
    assert len(set(ids)) == len(ids)
    assert {uuid.UUID(each).version for each in ids} == {5}


def test_an_id_never_changes_between_versions_of_this_code() -> None:
    assert outbound_id(("/hr", "1"), ISSUED) == "cf79961e-1f48-5cde-b196-fc5ac3252c72"
    assert outbound_id(("/hr", "1"), ISSUED, "crm") == "09a83f21-1da4-53cf-b0c5-0c241723aedf"


def test_routing_keys() -> None:
    assert routing_key("subaccount.created.v1") == "subaccount.created"
    assert routing_key(ISSUED) == "subaccount.credentials.issued"
    assert routing_key(ISSUED, "") == "subaccount.credentials.issued"
    assert routing_key(ISSUED, "crm") == "subaccount.credentials.issued.crm"


@pytest.mark.parametrize("recipient", ["*", "#", "a.b", ".", "a b", "crm\n", "x" * 101])
def test_a_recipient_is_one_word(recipient: str) -> None:
    with pytest.raises(ValueError, match="a recipient is named by"):
        routing_key(ISSUED, recipient)


def test_sealed_credentials_are_a_compact_jwe() -> None:
    shown = document(credentials()) | {"datacontenttype": "application/jose", "data": "e30.a.b.c.d"}
    assert SealedCredentialsMessage.model_validate(shown).data == "e30.a.b.c.d"
    for wrong in ("e30.a.b", "a.b.c.d.e.f", "", f"{TOKEN} in the clear", {"auth_token": TOKEN}):
        with pytest.raises(ValidationError) as caught:
            SealedCredentialsMessage.model_validate(shown | {"data": wrong})
        assert TOKEN not in str(caught.value)


WAYS: dict[str, Callable[[CredentialsMessage], object]] = {
    "str": str,
    "repr": repr,
    "f-string": lambda event: f"{event} {event.data} {event.data.auth_token} {event.data.auth_token!r}",
    "percent": lambda event: "%s %r" % (event, event.data),  # noqa: UP031 - as loggers do it
    "model_dump": lambda event: event.model_dump(),
    "model_dump of the data": lambda event: event.data.model_dump(),
    "model_dump as JSON": lambda event: event.model_dump(mode="json"),
    "model_dump_json": lambda event: event.model_dump_json(),
    "model_dump_json, round trip": lambda event: event.model_dump_json(round_trip=True),
    "document": document,
    "structured mode": lambda event: Message.structured(event).body,
    "binary mode": lambda event: Message.binary(event).body,
    "dict": dict,
    "vars": vars,
    "items": lambda event: list(event.data),
    "json": lambda event: json.dumps(event, default=str),
    "json of the dump": lambda event: json.dumps(event.model_dump(), default=repr),
    "to_json": to_json,
    "to_jsonable_python": to_jsonable_python,
    "TypeAdapter": lambda event: TypeAdapter(CredentialsMessage).dump_json(event),
    "TypeAdapter of anything": lambda event: TypeAdapter(Any).dump_json(event),
    "copies": lambda event: [copy.deepcopy(event), event.model_copy(update={"id": "2"})],
    "pprint": pprint.pformat,
    "rich": lambda event: pretty_repr(event, expand_all=True),
    "message": lambda event: [plain_message(event), repr(plain_message(event))],
    "message in a tuple": lambda event: f"{(plain_message(event),)}",
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_token_does_not_show(way: Callable[[CredentialsMessage], object]) -> None:
    shown = way(credentials())
    assert TOKEN not in str(shown)
    assert TOKEN not in repr(shown)


def test_the_token_does_not_show_in_an_error() -> None:
    good = json.loads(plain_message(credentials()).body)
    for wrong in (
        good | {"type": "other"},
        good | {"time": TOKEN},
        good | {"data": good["data"] | {"generation": 0}},
        good | {"data": {"auth_token": TOKEN}},
        good | {"data": good["data"] | {"auth_token": [TOKEN]}},
        good | {"data": TOKEN},
    ):
        with pytest.raises(ValidationError) as caught:
            CredentialsMessage.model_validate_json(json.dumps(wrong))
        assert TOKEN not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValidationError) as caught:
        CredentialsMessage.model_validate_json(plain_message(credentials()).body[:-2])
    assert TOKEN not in str(caught.value)


def test_the_token_does_not_show_in_a_failed_construction() -> None:
    for wrong in ({"generation": 0}, {"auth_token": [TOKEN]}, {"generation": TOKEN}):
        with pytest.raises(ValidationError) as caught:
            Credentials.model_validate({"tenant": "default", "auth_token": TOKEN} | wrong)
        assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "data_of",
    [
        lambda event: json.loads(plain_message(event).body)["data"],
        lambda event: json.loads(content_to_seal(event, "crm")),
    ],
    ids=["plain", "sealed"],
)
def test_credentials_name_the_subaccount_before_this_one_if_there_was_one(
    data_of: Callable[[CredentialsMessage], dict[str, Any]],
) -> None:
    before = "SA000000000000000041"
    assert data_of(credentials(supersedes=before))["supersedes"] == before
    assert "supersedes" not in data_of(credentials())


def test_the_plain_message_has_the_token_and_round_trips() -> None:
    body = plain_message(credentials()).body
    assert json.loads(body)["data"]["auth_token"] == TOKEN
    assert CredentialsMessage.model_validate_json(body) == credentials()
