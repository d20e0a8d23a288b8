"""Generates the OpenAPI 3.1 document of the imitated API: `python -m worker.sandbox.openapi [--check]`."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from worker.sandbox.operations import OPERATIONS, Operation
from worker.sandbox.schemas import BODIES, COMPONENTS, Schema, reference

DOCUMENT = Path(__file__).with_name("openapi.json")
_JSON = "application/json"
_CREATED, _CHANGED, _FOUND, _GONE = "201", "202", "200", "204"
_RESPONSES: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {
        "get_account": (_FOUND, "Account"),
        "create_subaccount": (_CREATED, "SubaccountCreated"),
        "create_application": (_CREATED, "ApplicationCreated"),
        "create_endpoint": (_CREATED, "EndpointCreated"),
        "search_numbers": (_FOUND, "NumberOfferList"),
        "buy_number": (_CREATED, "NumberBought"),
        "send_message": (_CHANGED, "MessageQueued"),
        "make_call": (_CREATED, "CallFired"),
    }
)
_ERRORS = {
    "400": "a parameter is missing or invalid, or the body is not JSON",
    "401": "authentication failed",
    "402": "no credit",
    "403": "not allowed",
    "404": "not found",
    "429": "rate limit exceeded",
}
_SPENDING = ("buy_number", "send_message", "make_call")
_PAGING = (
    ("limit", {"type": "integer", "minimum": 0, "maximum": 10**9, "default": 20}),
    ("offset", {"type": "integer", "minimum": 0, "maximum": 10**9, "default": 0}),
)
_FILTERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "list_applications": ("subaccount",),
        "list_endpoints": ("subaccount",),
        "list_numbers": ("subaccount",),
        "list_messages": ("subaccount",),
    }
)


def document() -> Schema:
    """Return the document as JSON values."""
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        path = paths.setdefault(f"/v1/Account/{{account_id}}/{operation.path}", {})
        path[operation.method.lower()] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Plivo sandbox",
            "version": "1",
            "description": "An imitation of a part of Plivo's API. Plivo did not write this document.",
        },
        "servers": [{"url": "http://127.0.0.1:8090"}],
        "security": [{"basic": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
            "schemas": dict(COMPONENTS),
        },
    }


def main(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if the file is out of date.")
    ] = False,
) -> None:
    """Write the OpenAPI document beside the code, or check that it is up to date."""
    text = json.dumps(document(), indent=1) + "\n"
    if not check:
        DOCUMENT.write_text(text)
        return
    if not DOCUMENT.exists() or DOCUMENT.read_text() != text:
        typer.echo(f"{DOCUMENT.name} is stale: run python -m worker.sandbox.openapi", err=True)
        raise typer.Exit(1)


def _describe(operation: Operation) -> Schema:
    described: Schema = {
        "operationId": operation.name,
        "parameters": [*_path_parameters(operation), *_query_parameters(operation)],
        "responses": {**_success(operation), **_failures(operation)},
    }
    body = BODIES.get(operation.name)
    if body:
        described["requestBody"] = {"required": bool(body["required"]), "content": {_JSON: {"schema": body}}}
    return described


def _path_parameters(operation: Operation) -> list[Schema]:
    _, brace, rest = operation.path.partition("{")
    names = ["account_id", *([rest.partition("}")[0]] if brace else [])]
    schema = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _query_parameters(operation: Operation) -> list[Schema]:
    parameters: dict[str, Any] = {}
    if operation.name.startswith(("list_", "search_")):
        parameters.update(_PAGING)
    if operation.name == "search_numbers":
        parameters["country_iso"] = {"type": "string", "minLength": 2, "maxLength": 2}
        parameters["type"] = {"enum": ["fixed", "local", "national", "mobile", "tollfree"]}
    if operation.name == "delete_subaccount":
        parameters["cascade"] = {"enum": ["true", "false"]}
    parameters.update({name: {"type": "string"} for name in _FILTERS.get(operation.name, ())})
    needed = ("country_iso",)
    return [
        {"name": name, "in": "query", "required": name in needed, "schema": schema}
        for name, schema in parameters.items()
    ]


def _success(operation: Operation) -> Schema:
    status, name = _RESPONSES.get(operation.name) or _usual_response(operation)
    response: Schema = {"description": "done"}
    if name:
        response["content"] = {_JSON: {"schema": reference(name)}}
    return {status: response}


def _usual_response(operation: Operation) -> tuple[str, str | None]:
    resource = operation.path.partition("/")[0]
    if operation.method == "DELETE":
        return _GONE, None
    if operation.method == "POST":
        return _CHANGED, "Changed"
    return _FOUND, resource if "{" in operation.path else f"{resource}List"


def _failures(operation: Operation) -> Schema:
    content = {_JSON: {"schema": reference("Error")}}
    return {
        status: {"description": text, "content": content}
        for status, text in _ERRORS.items()
        if status != "402" or operation.name in _SPENDING
    }


if __name__ == "__main__":
    typer.run(main)
