"""The OpenAPI 3.1 document of the intake, for senders of CloudEvents and of foreign payloads."""

from collections.abc import Mapping
from typing import Any

from contracts.asyncapi import CONTRACT_VERSION
from contracts.envelope import BATCH, JSON, STRUCTURED
from contracts.intake import (
    EVENTS_PATH,
    MAX_BATCH,
    MAX_BODY_BYTES,
    PROFILE_PATH,
    Accepted,
    Mistakes,
    Refused,
)
from contracts.json_schema import INBOUND, Schema, schemas

_REFERENCE = "#/components/schemas/{model}"
_ATTRIBUTES: Mapping[str, str] = {
    "specversion": "1.0",
    "id": "Identifies the event together with ce-source.",
    "source": "The system that sends the event: a URI reference.",
    "type": "Such as department.created.v1.",
    "time": "The time of the change: RFC 3339 with an offset.",
    "sequence": "Increases with every event of the department.",
    "subject": "If given, equal to data.department_id.",
    "tenant": "The owner of the department.",
}
_REQUIRED = ("specversion", "id", "source", "type", "time")
_EXAMPLE = {
    "specversion": "1.0",
    "id": "hr-4711",
    "source": "/acme/hr",
    "type": "department.created.v1",
    "time": "2026-11-21T08:30:00Z",
    "sequence": "7",
    "data": {"department_id": "sales", "name": "Sales"},
}
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_ALLOW = {"Allow": {"description": "The methods of this path.", "schema": {"type": "string"}}}
_CHALLENGE = {"WWW-Authenticate": {"schema": {"type": "string"}}}
_OURS = {
    "413": (f"The body has more than {MAX_BODY_BYTES:,} bytes, or a batch more than {MAX_BATCH} events.", {}),
    "408": ("The body did not arrive in time.", {}),
    "415": ("The content type is not one of those above, or there is a Content-Encoding.", {}),
    "401": ("The request is not authentic; one text for every cause.", _CHALLENGE),
    "429": ("Too many requests of this sender.", _RETRY),
    "503": ("RabbitMQ has not confirmed, or the intake is overloaded. Try again with the same ids.", _RETRY),
}


def document() -> dict[str, Any]:
    """Returns the OpenAPI document."""
    components = schemas((*INBOUND, Accepted, Mistakes, Refused), _REFERENCE)
    components["DepartmentEvent"] = {"anyOf": [_to(model.__name__) for model in INBOUND]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Intake of Subaccount Provisioner",
            "version": CONTRACT_VERSION,
            "description": "Department events over HTTP. A response 202 means that RabbitMQ has confirmed"
            " everything in the request. After any other one, repeat the request with the same ids, or"
            " correct it.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "http://127.0.0.1:8082"}],
        "paths": {
            EVENTS_PATH: {"post": _post_events(), "options": _handshake()},
            f"{PROFILE_PATH}{{profile}}": {"post": _post_payload()},
            "/livez": {"get": _probe("isAlive", "Whether the process answers.", unready=False)},
            "/readyz": {"get": _probe("isReady", "Whether RabbitMQ confirms at the moment.", unready=True)},
            "/metrics": {"get": _metrics()},
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": components,
        },
    }


def _to(name: str) -> Schema:
    return {"$ref": _REFERENCE.format(model=name)}


def _post_events() -> Schema:
    data = {"type": "object", "description": "The data of the event; the attributes are ce- headers."}
    batch = {"type": "array", "maxItems": MAX_BATCH, "items": _to("DepartmentEvent")}
    return {
        "operationId": "postEvents",
        "summary": "Sends CloudEvents 1.0 in structured, binary or batched mode.",
        "security": [{"token": []}],
        "parameters": [_header(name, text) for name, text in _ATTRIBUTES.items()],
        "requestBody": {
            "required": True,
            "content": {
                STRUCTURED: {"schema": _to("DepartmentEvent"), "example": _EXAMPLE},
                f"{BATCH}+json": {"schema": batch, "example": [_EXAMPLE]},
                JSON: {"schema": data, "example": _EXAMPLE["data"]},
            },
        },
        "responses": {
            "202": _json("RabbitMQ has confirmed every event.", "Accepted"),
            "400": _json("The body is not JSON.", "Mistakes"),
            "422": _json("Events break the contract. None of them was published.", "Mistakes"),
            **_refusals(),
        },
    }


def _header(attribute: str, text: str) -> Schema:
    return {
        "name": f"ce-{attribute}",
        "in": "header",
        "required": False,
        "description": f"Binary mode{': required' if attribute in _REQUIRED else ''}. {text}",
        "schema": {"type": "string"},
    }


def _handshake() -> Schema:
    origin = {"name": "WebHook-Request-Origin", "in": "header", "schema": {"type": "string"}}
    allowed = {
        name: {"schema": {"type": "string"}} for name in ("WebHook-Allowed-Origin", "WebHook-Allowed-Rate")
    }
    return {
        "operationId": "shakeHands",
        "summary": "The handshake of CloudEvents web hooks. It needs no token.",
        "parameters": [origin],
        "responses": {"200": {"description": "Events may be sent.", "headers": _ALLOW | allowed}},
    }


def _post_payload() -> Schema:
    profile = {"name": "profile", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "operationId": "postPayload",
        "summary": "Sends a payload of another system, which the source profile maps to events.",
        "description": "The profile says how the sender proves itself, and which status a payload that was"
        " taken gets.",
        "parameters": [profile],
        "requestBody": {"required": True, "content": {"*/*": {"schema": {}}}},
        "responses": {
            "200": {"description": "As 202, if the profile says so; or the answer to a handshake."},
            "202": _json(
                "RabbitMQ has confirmed every event, and the payload if some of it could not be mapped.",
                "Accepted",
            ),
            "204": {"description": "As 202, if the profile says so."},
            "400": {"description": "A handshake without a usable challenge, or a body that cannot be read."},
            "404": _json("There is no such profile.", "Refused"),
            "422": _json("It cannot be mapped, and the profile refuses such payloads.", "Mistakes"),
            **_refusals(),
        },
    }


def _refusals() -> Schema:
    return {
        status: _json(text, "Refused") | ({"headers": headers} if headers else {})
        for status, (text, headers) in _OURS.items()
    }


def _json(text: str, model: str) -> Schema:
    return {"description": text, "content": {JSON: {"schema": _to(model)}}}


def _probe(name: str, summary: str, *, unready: bool) -> Schema:
    schema = {
        "type": "object",
        "properties": {
            "status": {"type": "string"},
            "wrong": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["status", "wrong"],
    }
    content = {JSON: {"schema": schema}}
    responses = {"200": {"description": "Yes.", "content": content}}
    if unready:
        responses["503"] = {"description": "No; `wrong` says why.", "content": content}
    return {"operationId": name, "summary": summary, "responses": responses}


def _metrics() -> Schema:
    content = {"text/plain": {"schema": {"type": "string"}}}
    responses = {"200": {"description": "The metrics.", "content": content}}
    return {"operationId": "getMetrics", "summary": "Metrics for Prometheus.", "responses": responses}
