"""JSON Schemas of every message in structured mode, generated from the models."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from contracts.departments import (
    TYPE_PATTERNS,
    Created,
    DepartmentCreated,
    DepartmentRemoved,
    DepartmentRenamed,
    Removed,
    Renamed,
)
from contracts.envelope import CARRIED, HEADER_PREFIX, CloudEvent
from contracts.reissues import REISSUE, TYPE_PATTERN, ReissueRequested, ReissueWish
from contracts.subaccounts import CredentialsMessage, SealedCredentialsMessage, SubaccountResult
from contracts.times import EARLIEST_MILLISECONDS

Schema = dict[str, Any]

ISSUED = "subaccount.credentials.issued.v1"
REISSUED = "subaccount.credentials.reissued.v1"
_CREDENTIALS = (CredentialsMessage, SealedCredentialsMessage)
# Each name is one document. A message of that name matches one of the models.
DOCUMENTS: dict[str, tuple[type[CloudEvent], ...]] = {
    "department.created.v1": (DepartmentCreated,),
    "department.renamed.v1": (DepartmentRenamed,),
    "department.removed.v1": (DepartmentRemoved,),
    REISSUE: (ReissueRequested,),
    "subaccount.result.v1": (SubaccountResult,),
    ISSUED: _CREDENTIALS,
    REISSUED: _CREDENTIALS,
}
REQUESTS = (ReissueRequested,)
_DATA = tuple(model.__name__ for model in (Created, Renamed, Removed, ReissueWish))
INBOUND = (DepartmentCreated, DepartmentRenamed, DepartmentRemoved)
OUTBOUND = (SubaccountResult, *_CREDENTIALS)

_TYPES = {
    "DepartmentCreated": ("department.created.v1", ""),
    "DepartmentRenamed": ("department.renamed.v1", " department.updated means the same."),
    "DepartmentRemoved": ("department.removed.v1", " department.deleted means the same."),
    "ReissueRequested": (REISSUE, ""),
}
_PATTERNS = TYPE_PATTERNS | {REISSUE: TYPE_PATTERN}
_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def document(name: str) -> Schema:
    """Returns a self-contained JSON Schema 2020-12 document; `name` is one of `DOCUMENTS`."""
    models = DOCUMENTS[name]
    definitions = schemas(models, "#/$defs/{model}")
    if name in {ISSUED, REISSUED}:
        for model in models:
            definitions[model.__name__]["properties"]["type"] = {"const": name}
    if len(models) == 1:
        root = definitions.pop(models[0].__name__)
    else:
        root = {"title": "Credentials", "anyOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in models]}
    place = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:subaccount-provisioner:{name}",
    }
    return place | root | ({"$defs": definitions} if definitions else {})


def schemas(models: Iterable[type[BaseModel]], ref_template: str) -> dict[str, Schema]:
    """Returns the schemas of these models and of all models they refer to, by class name."""
    _, generated = models_json_schema(
        [(model, "validation") for model in models], ref_template=ref_template, schema_generator=_Plain
    )
    definitions: dict[str, Schema] = generated["$defs"]
    tidied = {name: _tidied(name, schema) for name, schema in definitions.items()}
    accepted = {name: _as_sent(name, tidied[name]) for name in (*_TYPES, *_DATA) if name in tidied}
    return tidied | accepted


def binary_headers(event: Schema) -> Schema:
    """Returns the schema of the headers of binary mode, given the schema of an event in structured mode."""
    elsewhere = {"data", "data_base64", "datacontenttype"}
    properties = {name: schema for name, schema in event["properties"].items() if name not in elsewhere}
    time = {key: value for key, value in properties["time"].items() if key != "description"}
    milliseconds = {"type": "integer", "minimum": EARLIEST_MILLISECONDS, "description": "Since 1970."}
    properties["time"] = {"anyOf": [time, milliseconds], "description": properties["time"]["description"]}
    return {
        "title": "Headers of binary mode",
        "type": "object",
        "properties": {HEADER_PREFIX + name: schema for name, schema in properties.items()},
        "required": [HEADER_PREFIX + name for name in event["required"] if name in properties],
    }


def _as_sent(name: str, schema: Schema) -> Schema:
    """Returns the schema of what is accepted: `null` for what may be left out, and all spellings."""
    properties = {
        key: value if key in schema["required"] else _or_null(value)
        for key, value in schema["properties"].items()
    }
    if name not in _TYPES:
        return schema | {"properties": properties}
    properties |= {key: {"description": properties[key]["description"]} for key in CARRIED}
    canonical, more = _TYPES[name]
    properties["type"] = {
        "type": "string",
        "pattern": _PATTERNS[canonical],
        "examples": [canonical],
        "description": f"Send {canonical}. A reverse-DNS prefix (com.example.hr.{canonical})"
        f" and a missing .v1 are accepted.{more}",
    }
    properties["data"] = _or_null(properties["data"])
    properties["data_base64"] = {
        "type": ["string", "null"],
        "pattern": _BASE64,
        "contentEncoding": "base64",
        "contentMediaType": "application/json",
        "description": "`data` as base64 of its JSON; only one of the two may be given.",
    }
    required = [key for key in schema["required"] if key != "data"]
    either = [
        {"required": [one], "properties": {one: {"type": type_}, other: {"type": "null"}}}
        for one, type_, other in (("data", "object", "data_base64"), ("data_base64", "string", "data"))
    ]
    return schema | {"properties": properties, "required": required, "oneOf": either}


def _or_null(schema: Schema) -> Schema:
    match schema:
        case {"enum": [*words]}:
            return schema | {"enum": [*words, None], "type": ["string", "null"]}
        case {"type": str(kind)}:
            return schema | {"type": [kind, "null"]}
        case {"anyOf": [*options]}:
            return schema | {"anyOf": [*options, {"type": "null"}]}
        case {"$ref": _}:
            return {"anyOf": [schema, {"type": "null"}]}
        case _:
            return schema


class _Plain(GenerateJsonSchema):
    """Omits titles of fields, and `null` for fields that may be left out; sorts nothing."""

    def sort(self, value: Schema, parent_key: str | None = None) -> Schema:  # noqa: ARG002 - overrides
        return value

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - overrides
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        inner = schema["schema"]
        if schema.get("default", ...) is None and inner["type"] == "nullable":
            return self.generate_inner(inner["schema"])
        return super().default_schema(schema)


def _tidied(name: str, schema: Schema) -> Schema:
    title = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()
    text = {"description": " ".join(schema["description"].split())} if "description" in schema else {}
    if "properties" not in schema:
        return {"title": title} | text | {key: schema[key] for key in ("type", "enum")}
    # An extension that events of this type do not have is `Any`, so its schema is empty.
    properties = {key: value for key, value in schema["properties"].items() if value.keys() - {"default"}}
    # A constant has a default in Python, but every message must carry it.
    required = {key for key, value in properties.items() if "const" in value or key in schema["required"]}
    for value in properties.values():
        if "const" in value:
            value.pop("default", None)
    ordered = {"properties": properties, "required": [key for key in properties if key in required]}
    return {"title": title} | text | {"type": "object"} | ordered
