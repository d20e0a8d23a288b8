"""The OpenAPI document of the intake matches its responses to random requests."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from contracts.openapi import document
from tests.intake.conftest import TOKEN, running_intake


def loose(schema: Any) -> Any:
    """The document without the patterns of ids and names, of which Hypothesis generates few in a second.

    tests/messages compares the events that the schemas allow with those that are accepted.
    """
    if isinstance(schema, list):
        return [loose(each) for each in schema]
    if isinstance(schema, dict):
        return {name: loose(each) for name, each in schema.items() if name != "pattern"}
    return schema


SCHEMA = schemathesis.openapi.from_dict(loose(document()))
EXAMPLES = 8
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An intake in a thread, for a client that blocks."""
    tokens = tmp_path_factory.mktemp("intake") / "tokens"
    tokens.write_text(f"hr: {TOKEN}\n")
    begun, ended = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve(path: Path) -> None:
        async with running_intake(path) as intake:
            found.append(intake.url)
            begun.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve(tokens)))
    thread.start()
    assert begun.wait(30)
    yield found[0]
    ended.set()
    thread.join()


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_response_conforms(case: schemathesis.Case, url: str):
    response = case.call(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"})
    case.validate_response(response, checks=CHECKS)


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+json", "application/cloudevents-batch+json"]
)
def test_the_example_of_the_document_is_accepted(content_type: str, url: str):
    content = document()["paths"]["/v1/events"]["post"]["requestBody"]["content"][content_type]
    case = SCHEMA["/v1/events"]["POST"].Case(body=content["example"], media_type=content_type)
    response = case.call(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"})
    assert response.status_code == 202
    case.validate_response(response, checks=CHECKS)
