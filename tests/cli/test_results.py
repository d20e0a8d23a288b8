"""Results: which are taken for answers, and how they are shown."""

import asyncio
import io
import json
from typing import Any

import pytest
from rich.console import Console

from contracts import topology as names
from contracts.envelope import STRUCTURED, Message
from contracts.subaccounts import ResultKind
from tests.messages.test_examples import EXAMPLES
from worker.adapters.system import SystemClock, fresh_id
from worker.cli import results as shown
from worker.cli import terminal
from worker.core.messages import Outgoing
from worker.operations.emit import complete_event
from worker.operations.results import Answers, Heard, ResultFilter, heard_in, results

EVENT_ID = EXAMPLES["result-created"]["data"]["event"]["id"]
SOURCE = EXAMPLES["result-created"]["data"]["event"]["source"]


class Published:
    """A listener that has heard these messages."""

    def __init__(self, *documents: Any) -> None:
        self._messages: asyncio.Queue[Outgoing] = asyncio.Queue()
        for document in documents:
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self._messages.put_nowait(
                Outgoing(names.RESULTS, "subaccount.created", Message(body, STRUCTURED))
            )

    async def next(self) -> Outgoing:
        return await self._messages.get()


def answer(kind: str, event_id: str = EVENT_ID, **data: Any) -> dict[str, Any]:
    document = EXAMPLES[f"result-{kind}"]
    event = {"source": SOURCE, "id": event_id, "type": "department.created.v1"}
    return document | {"data": document["data"] | {"event": event} | data}


def heard(kind: str, **data: Any) -> Heard:
    found = heard_in(
        Outgoing(names.RESULTS, "", Message(json.dumps(answer(kind, **data)).encode(), STRUCTURED))
    )
    assert found is not None
    return found


def event(event_id: str, source: str = SOURCE) -> Any:
    given = {"id": event_id, "source": source, "type": "department.created.v1"}
    data = {"department_id": "sales", "name": "Sales"}
    return complete_event(given | {"data": data}, SystemClock().now(), fresh_id)


async def test_answers_of_others_and_other_messages_are_passed_over():
    listener = Published(
        b"\xff", {"type": "another"}, answer("created", "another"), answer("created", "mine")
    )
    answers = Answers(listener, [event("mine"), event("missing")])
    assert [one.event.id async for one in answers.come(0.05) if one.event] == ["mine"]
    assert list(answers.missing) == [(SOURCE, "missing")]


async def test_the_same_id_of_another_source_is_another_event():
    answers = Answers(Published(answer("created", "mine")), [event("mine", "/another")])
    assert [one async for one in answers.come(0.05)] == []


@pytest.mark.parametrize("kind", list(ResultKind))
def test_failed_and_held_are_not_done(kind: ResultKind):
    assert shown.is_done([heard("created"), heard(kind)]) is (kind not in {"failed", "held"})


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (ResultFilter(), 3),
        (ResultFilter(outcomes=(ResultKind.CREATED,)), 2),
        (ResultFilter(departments=("sales",), outcomes=(ResultKind.CREATED,)), 1),
        (ResultFilter(tenants=("emea",)), 1),
        (ResultFilter(tenants=("emea", "default"), departments=("nobody",)), 0),
    ],
)
async def test_filters(chosen: ResultFilter, count: int):
    listener = Published(
        answer("created", department_id="sales", tenant="default"),
        answer("created", department_id="crm", tenant="emea"),
        answer("failed", department_id="sales", tenant="default"),
    )
    assert len([one async for one in results(listener, chosen, 0.05)]) == count


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(terminal, "OUT", Console(file=text, width=80, force_terminal=True, color_system=None))
    return text


def test_no_id_is_broken_at_80_columns(screen: io.StringIO):
    event_id = "3ee81960-b1c5-41b9-8050-7948c403ee19"
    shown._print(heard("superseded", event_id=event_id, department_id="d" * 40), as_json=False)
    lines = screen.getvalue().splitlines()
    assert event_id in lines[1]
    assert all(len(line) <= 80 for line in lines[:2])


def test_the_reason_and_the_newer_event_are_shown(screen: io.StringIO):
    newer = {"source": "/hr", "id": "hr-9", "type": "department.renamed.v1"}
    shown._print(heard("superseded", superseded_by=newer, reason="older\x1b[31m"), as_json=False)
    assert screen.getvalue().splitlines()[-1].strip() == r"older\x1b[31m; superseded by hr-9 of /hr"


def test_json_is_one_line_each(screen: io.StringIO):
    shown._print(heard("created"), as_json=True)
    shown._print(heard("failed"), as_json=True)
    assert [json.loads(line)["data"]["outcome"] for line in screen.getvalue().splitlines()] == [
        "created",
        "failed",
    ]
