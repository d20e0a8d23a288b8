"""Loads settings from the environment; no other module reads it.

Each setting is one variable `NAME`, or `NAME_FILE`, the path of a file that holds the value. Each mistake is
one line, without the value if that may be a secret.
"""

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from worker.ports import UserError
from worker.settings.files import NotText, decoded, why_unreadable
from worker.settings.model import Settings, WorkerSettings
from worker.settings.parse import PREFIX

S = TypeVar("S", bound=Settings)


class SettingsError(UserError):
    """The settings are invalid; the text has one line for each mistake."""

    exit_code = 2


def load(model: type[S], environ: Mapping[str, str]) -> S:
    """Loads the settings of one model; raises `SettingsError` with every mistake."""
    values, unread = _values_of(model, environ)
    mistakes = list(unread.values())
    settings = None
    try:
        settings = model.model_validate(values)
        valid = {name: value for name, value in settings if model.model_fields[name].alias not in unread}
    except ValidationError as error:
        mistakes += _mistakes_in(error, values, unread)
        valid = _valid_alone(model, values, unread.keys() | _names_in(error))
    mistakes += _conflicts_among(valid, model)
    if mistakes or settings is None:
        raise SettingsError("\n".join(mistakes))
    return settings


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that this version does not know: misspelt, or of another version."""
    known = {name for alias in _aliases(WorkerSettings) for name in (alias, f"{alias}_FILE")}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def _aliases(model: type[BaseModel]) -> list[str]:
    return [field.alias for field in model.model_fields.values() if field.alias]


def _values_of(model: type[BaseModel], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the values that are set by name, and a line for each that cannot be read."""
    values: dict[str, Any] = {}
    unread: dict[str, str] = {}
    for name in _aliases(model):
        path = environ.get(f"{name}_FILE")
        if path and environ.get(name):
            unread[name] = f"{name} and {name}_FILE are both set; keep one"
        elif path:
            try:
                values[name] = decoded(Path(path).read_bytes()).strip()
            except OSError as error:
                unread[name] = f"{name}_FILE cannot be read: {why_unreadable(error, path)}"
            except NotText as error:
                unread[name] = f"{name}_FILE cannot be read: it {error}"
        elif environ.get(name, "").strip():
            values[name] = environ[name].strip()
    return values, unread


def _mistakes_in(error: ValidationError, values: Mapping[str, Any], unread: Container[str]) -> Iterator[str]:
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        message = item["msg"].removeprefix("Value error, ")
        name = str(item["loc"][0])
        if name in values:
            yield f"{name} {message[0].lower()}{message[1:]}"
        elif name not in unread:
            yield f"{name} is not set; `provisioner run --help` describes it"


def _names_in(error: ValidationError) -> set[str]:
    return {str(item["loc"][0]) for item in error.errors(include_url=False)}


def _valid_alone(model: type[Settings], values: Mapping[str, Any], wrong: Container[str]) -> dict[str, Any]:
    """The values of the valid fields, for settings that are invalid as a whole."""
    return {
        name: _value_of(field, values)
        for name, field in model.model_fields.items()
        if field.alias not in wrong and not (field.is_required() and field.alias not in values)
    }


def _value_of(field: FieldInfo, values: Mapping[str, Any]) -> Any:
    if (name := field.alias or "") not in values:
        return field.default
    return TypeAdapter(field.rebuild_annotation()).validate_python(values[name])


def _conflicts_among(valid: Mapping[str, Any], model: type[Settings]) -> Iterator[str]:
    """Yields a line for each conflict whose fields are all valid."""
    for names, conflict in model.conflicts:
        if valid.keys() >= set(names) and (line := conflict(*(valid[name] for name in names))):
            yield line
