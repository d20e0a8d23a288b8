"""JSON Schemas of every message in structured mode, generated from the models."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from contracts.departments import DepartmentCreated, DepartmentRemoved, DepartmentRenamed
from contracts.envelope import HEADER_PREFIX, CloudEvent
from contracts.reissues import REISSUE, ReissueRequested
from contracts.subaccounts import CredentialsMessage, SealedCredentialsMessage, SubaccountResult

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
INBOUND = (DepartmentCreated, DepartmentRenamed, DepartmentRemoved)
OUTBOUND = (SubaccountResult, *_CREDENTIALS)

_TYPE_NOTE = (
    "Send exactly this. A reverse-DNS prefix (com.example.hr.department.created.v1)"
    " and a missing .v1 are accepted."
)


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
    for model in INBOUND:
        if model.__name__ in tidied:
            tidied[model.__name__]["properties"]["type"]["description"] = _TYPE_NOTE
    return tidied


def binary_headers(event: Schema) -> Schema:
    """Returns the schema of the headers of binary mode, given the schema of an event in structured mode."""
    elsewhere = {"data", "datacontenttype"}
    properties = {name: schema for name, schema in event["properties"].items() if name not in elsewhere}
    return {
        "title": "Headers of binary mode",
        "type": "object",
        "properties": {HEADER_PREFIX + name: schema for name, schema in properties.items()},
        "required": [HEADER_PREFIX + name for name in event["required"] if name in properties],
    }


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
