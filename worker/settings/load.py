"""Loads settings from the environment; no other module reads it.

Each setting is one variable `NAME`, or `NAME_FILE`, the path of a file that holds the value. Each mistake is
one line, without the value if that may be a secret.
"""

from collections.abc import Container, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from worker.ports import UserError
from worker.settings import parse
from worker.settings.files import NotText, decoded, why_unreadable
from worker.settings.ledger_url import LedgerUrl, is_same_ledger
from worker.settings.model import Settings
from worker.settings.proxy import proxy_in_environment
from worker.settings.rotation import OnRead, Rotating

S = TypeVar("S", bound=Settings)
PROXY = "PLIVO_PROXY_URL"


class SettingsError(UserError):
    """The settings are invalid; the text has one line for each mistake."""

    exit_code = 2


def load(model: type[S], environ: Mapping[str, str]) -> S:
    """Loads the settings of one model; raises `SettingsError` with every mistake."""
    values, unread = _values_of(model, environ)
    values |= _environment_proxy(model, environ, values, unread)
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
    paths = {name: environ.get(f"{name}_FILE") for name in _aliases(model)}
    return settings.read_from({name: Path(path) for name, path in paths.items() if path})


def rotating(settings: Settings, name: str, on_read: OnRead) -> Rotating[Any]:
    """The value of one field, which can be read again if it came from a file.

    A new value has to be valid, alone and beside the other settings.
    """
    field = type(settings).model_fields[name]
    alias = field.alias or ""
    path = settings.files.get(alias)
    read = None if path is None else partial(_read_again, settings, name, field, path)
    return Rotating(getattr(settings, name), alias, read, on_read)


def _read_again(settings: Settings, name: str, field: FieldInfo, path: Path) -> Any:
    """Raises `SettingsError`."""
    value = _valid_in_file(field, path)
    if name == "plivo_auth_token":
        _refuse_another_account(settings)
    if name == "ledger_url":
        _refuse_another_ledger(getattr(settings, name), value)
    if conflicts := list(_conflicts_among(dict(settings) | {name: value}, type(settings))):
        raise SettingsError(conflicts[0])
    return value


def _valid_in_file(field: FieldInfo, path: Path) -> Any:
    """The valid value in a setting's file; raises `SettingsError`."""
    name = field.alias or ""
    text, mistake = _text_of(name, path)
    if mistake:
        raise SettingsError(mistake)
    if not text:
        raise SettingsError(f"{name}_FILE is empty")
    try:
        return _value_of(field, {name: text})
    except ValidationError as error:
        (wrong, *_) = error.errors(include_url=False, include_input=False)
        raise SettingsError(f"{name} {_in_our_words(wrong)}") from None


def _refuse_another_account(settings: Settings) -> None:
    """A token of another main account is no rotation: the ledger belongs to the account in use."""
    name = "plivo_auth_id"
    field = type(settings).model_fields[name]
    path = settings.files.get(field.alias or "")
    if path is not None and _valid_in_file(field, path) != getattr(settings, name):
        raise SettingsError(
            "PLIVO_AUTH_ID_FILE names another main account, but the ledger is that of the one in use:"
            " restore the id, or restart with a ledger of its own"
        )


def _refuse_another_ledger(in_use: LedgerUrl, found: LedgerUrl) -> None:
    """A worker keeps its ledger until it is restarted: half of what it has begun would be on each."""
    if not is_same_ledger(in_use, found):
        raise SettingsError(
            f"LEDGER_URL_FILE names another ledger ({found}) than the one in use: restore it, or restart"
        )


def _text_of(name: str, path: Path) -> tuple[str, str | None]:
    """The text of a setting's file, and what is wrong with it, if anything."""
    try:
        return decoded(path.read_bytes()).strip(), None
    except OSError as error:
        return "", f"{name}_FILE cannot be read: {why_unreadable(error, str(path))}"
    except NotText as error:
        return "", f"{name}_FILE cannot be read: it {error}"


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
            text, mistake = _text_of(name, Path(path))
            if mistake:
                unread[name] = mistake
            else:
                values[name] = text
        elif environ.get(name, "").strip():
            values[name] = environ[name].strip()
    return values, unread


def _environment_proxy(
    model: type[BaseModel], environ: Mapping[str, str], values: Mapping[str, Any], unread: dict[str, str]
) -> dict[str, Any]:
    """The proxy that the environment names, where `PLIVO_PROXY_URL` does not."""
    if PROXY not in _aliases(model) or PROXY in values or PROXY in unread:
        return {}
    fields = {field.alias: field for field in model.model_fields.values()}
    try:
        api_url = _value_of(fields["PLIVO_API_URL"], values)
    except ValidationError:
        return {}  # that is a mistake of its own
    if (found := proxy_in_environment(environ, api_url)) is None:
        return {}
    name, value = found
    try:
        parse.proxy_url(SecretStr(value))
    except ValueError as error:
        unread[PROXY] = f"{name} {error}; or set {PROXY}, or NO_PROXY for a direct connection"
        return {}
    return {PROXY: value}


def _mistakes_in(error: ValidationError, values: Mapping[str, Any], unread: Container[str]) -> Iterator[str]:
    for item in error.errors(include_url=False, include_input=False):
        name = str(item["loc"][0])
        if name in values:
            yield f"{name} {_in_our_words(item)}"
        elif name not in unread:
            yield f"{name} is not set; `provisioner run --help` describes it"


def _in_our_words(mistake: ErrorDetails) -> str:
    """The mistake without the words of the library, which speaks to programmers."""
    known = mistake.get("ctx", {})
    match mistake["type"]:
        case "value_error":
            return mistake["msg"].removeprefix("Value error, ")
        case "greater_than_equal":
            return f"must be at least {known['ge']}"
        case "less_than_equal":
            return f"must be at most {known['le']}"
        case "int_parsing" | "int_from_float" | "int_parsing_size":
            return "is not a whole number"
        case "bool_parsing":
            return "is not true or false"
        case "enum" | "literal_error":
            return f"is not {known['expected'].replace(chr(39), '')}"
        case _:
            return "is not valid; `provisioner run --help` describes it"


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
