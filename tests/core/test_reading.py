"""What a glimpse makes out of a message is what a reader would."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from contracts.envelope import STRUCTURED, Message
from tests.support.builders import department_created, department_removed, department_renamed
from worker.core.model import Reference
from worker.pipeline.reading import glimpse, subject_of, validate

EVENTS = [department_created(), department_renamed(), department_removed()]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
@pytest.mark.parametrize("write", [Message.structured, Message.binary], ids=["structured", "binary"])
def test_of_a_valid_event_it_tells_the_same(event, write):
    message = write(event)

    assert glimpse(message) == subject_of(validate(message))


def test_of_an_event_that_breaks_the_contract_too():
    message = Message.structured(
        EVENTS[0].model_copy(update={"data": {"department_id": "sales", "name": ""}})
    )
    seen = glimpse(message)

    assert seen == subject_of(validate(message))
    assert (seen.department_id, seen.name) == ("sales", None)


def test_it_reads_a_name_as_it_was_written():
    message = Message.structured(
        EVENTS[0].model_copy(update={"data": {"department_id": "s", "name": " A  B "}})
    )

    assert glimpse(message) == replace(subject_of(validate(message)), name=" A  B ")


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (b'{"source": "/hr", "id": "1", "type": "any"}', Reference("/hr", "1", "any")),
        (b'{"source": "/hr", "id": 1, "type": "any"}', None),
        (b'{"id": "1", "type": "any"}', None),
        (b"[]", None),
        (b"\xff", None),
    ],
)
def test_what_is_no_event_may_still_say_which_it_is(body, seen):
    subject = glimpse(Message(body, STRUCTURED))

    assert (subject and subject.reference) == seen


@given(st.binary(), st.sampled_from([STRUCTURED, "application/json", None]))
def test_whatever_comes_it_does_not_fail(body, content_type):
    glimpse(Message(body, content_type))


@pytest.mark.parametrize("id_", ["a\u00a0b", "soft\u00adhyphen", "x" * 1024])
def test_an_event_is_known_by_any_id_the_contract_allows_though_its_data_breaks_it(id_):
    message = Message.structured(EVENTS[0].model_copy(update={"id": id_, "data": {"department_id": "sales"}}))

    assert glimpse(message).reference.id == subject_of(validate(message)).reference.id == id_


@pytest.mark.parametrize("id_", ["", "a\u0007b", "x" * 1025])
def test_but_by_no_other(id_):
    body = to_json({"specversion": "1.0", "source": "/hr", "type": "any", "id": id_})

    assert subject_of(validate(Message(body, STRUCTURED))) is None
