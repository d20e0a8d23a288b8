"""A glimpse at a message finds the same subject as the full validation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from contracts.envelope import STRUCTURED, Message
from tests.support.builders import department_created, department_removed, department_renamed
from worker.core.model.causes import Reference
from worker.pipeline.reading import Unreadable, glimpse, subject_of, validate

EVENTS = [department_created(), department_renamed(), department_removed()]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
@pytest.mark.parametrize("write", [Message.structured, Message.binary], ids=["structured", "binary"])
def test_a_glimpse_of_a_valid_event_equals_its_subject(event, write):
    message = write(event)

    assert glimpse(message) == subject_of(validate(message))


def test_a_glimpse_of_an_invalid_event_equals_its_subject():
    message = Message.structured(
        EVENTS[0].model_copy(update={"data": {"department_id": "sales", "name": ""}})
    )
    seen = glimpse(message)

    assert seen == subject_of(validate(message))
    assert seen is not None
    assert (seen.department_id, seen.name) == ("sales", None)


def test_a_glimpse_has_the_one_spelling_of_id_tenant_and_name():
    event = EVENTS[0].model_copy(update={"data": {"department_id": 42, "name": " A  B "}, "tenant": "emea\n"})
    seen = glimpse(Message.structured(event))

    assert seen == subject_of(validate(Message.structured(event)))
    assert seen is not None
    assert (seen.tenant, seen.department_id, seen.name) == ("emea", "42", "A B")


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (b'{"source": "/hr", "id": "1", "type": "any"}', Reference("/hr", "1", "any")),
        (b'{"source": "/hr", "id": 1, "type": "any"}', Reference("/hr", "1", "any")),
        (b'{"source": "/hr", "id": "1"}', Reference("/hr", "1", "")),
        (b'{"source": "/hr", "id": "1", "type": ["any"]}', Reference("/hr", "1", "")),
        (b'{"source": "/hr", "id": [1], "type": "any"}', None),
        (b'{"id": "1", "type": "any"}', None),
        (b'{"source": "/hr", "id": "1", "data_base64": "?"}', Reference("/hr", "1", "")),
        (b"[]", None),
        (b"\xff", None),
    ],
)
def test_an_invalid_event_may_still_have_a_reference(body, seen):
    subject = glimpse(Message(body, STRUCTURED))

    assert (subject and subject.reference) == seen


@pytest.mark.parametrize("content_encoding", [None, "br", "gzip"])
def test_headers_identify_an_event_whose_body_cannot_be_read(content_encoding):
    headers = Message.binary(EVENTS[0]).headers
    message = Message(b"\xff", "application/json", headers, content_encoding)

    seen, unreadable = glimpse(message), validate(message)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.verdict.reason == "malformed"
    assert seen == unreadable.subject
    assert seen is not None
    assert seen.reference == Reference(EVENTS[0].source, EVENTS[0].id, EVENTS[0].type)


@given(st.binary(), st.sampled_from([STRUCTURED, "application/json", None]))
def test_a_glimpse_never_raises(body, content_type):
    glimpse(Message(body, content_type))


@pytest.mark.parametrize("id_", ["a\u00a0b", "soft\u00adhyphen", "x" * 1024])
def test_an_event_with_invalid_data_keeps_any_valid_id(id_):
    message = Message.structured(EVENTS[0].model_copy(update={"id": id_, "data": {"department_id": "sales"}}))

    seen, invalid = glimpse(message), subject_of(validate(message))
    assert seen is not None
    assert invalid is not None
    assert seen.reference.id == invalid.reference.id == id_


@pytest.mark.parametrize("id_", ["", "a\u0007b", "x" * 1025])
def test_an_invalid_id_gives_no_subject(id_):
    body = to_json({"specversion": "1.0", "source": "/hr", "type": "any", "id": id_})

    assert subject_of(validate(Message(body, STRUCTURED))) is None
