"""The only reader of the environment.

Every setting is a variable of its own; each `NAME` may come as `NAME_FILE`, the path of a file that holds the
value. What is wrong comes out as one line per mistake, without the value where it may be a secret.
"""

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from yarl import URL

from contracts.topology import DEFAULT_RETRY_DELAYS, delay_label
from worker.core.decide import Enable, Policy, Removal, UnknownRename
from worker.core.naming import NameTemplate
from worker.ports import ForPeople, RateLimit
from worker.settings.files import Recipients, check_tls, recipients_file, signing_key_file
from worker.telemetry.events import LogFormat

PREFIX = "PROVISIONER_"
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class SettingsError(ForPeople):
    """One line for each mistake."""

    exit_code = 2


class Address(NamedTuple):
    host: str
    port: int


LONGEST_DURATION = timedelta(days=49)


def _duration(text: object) -> object:
    match = re.fullmatch(r"([1-9][0-9]{0,8})(ms|s|m|h|d)", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("is not a duration above zero; write 500ms, 3s, 5m, 1h or 30d")
    duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if duration > LONGEST_DURATION:
        raise ValueError("is longer than 49d; RabbitMQ holds nothing back for longer")
    return duration


def _durations(text: object) -> object:
    return [_duration(part.strip()) for part in text.split(",")] if isinstance(text, str) else text


def _rate(text: object) -> object:
    calls, _, window = str(text).partition("/")
    if not calls.isdecimal() or int(calls) < 1:
        raise ValueError("is not a rate; write calls per duration, such as 300/5s")
    return RateLimit(int(calls), _duration(window))  # type: ignore[arg-type]


def _address(text: object) -> object:
    host, _, port = str(text).rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004
        raise ValueError("is not an address; write host:port, such as 127.0.0.1:8080")
    return Address(host.strip("[]"), int(port))


def _url(text: str, schemes: Container[str], otherwise: str) -> URL:
    """Raises `ValueError(otherwise)`: what the parser says of a URL may quote the login in it."""
    with suppress(ValueError):
        parsed = URL(text)
        # With a / or # in its password a URL has no user but an @, and what follows would show.
        misplaced = "@" in text and parsed.user is None
        if parsed.scheme in schemes and parsed.host and not misplaced and not re.search(r"\s", text):
            return parsed
    raise ValueError(otherwise)


def _amqp_urls(text: object) -> object:
    otherwise = "is not an AMQP URL; write amqp://user:password@host:5672/vhost"
    urls = tuple(url.strip() for url in str(text).split(","))
    for url in urls:
        check_tls(_url(url, {"amqp", "amqps"}, otherwise).query)
    return urls


def _on_loopback(urls: Sequence[str]) -> bool:
    return all(_is_loopback(URL(url).host or "") for url in urls)


def _is_loopback(host: str) -> bool:
    """A name other than localhost may mean any address, and another one tomorrow."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _sqlite_path(text: object) -> object:
    if isinstance(text, str) and text.startswith("sqlite:///") and len(text) > len("sqlite:///"):
        path = text.removeprefix("sqlite:///")
        if path == ":memory:":
            raise ValueError(
                "is a ledger in memory, which a restart would lose; write sqlite:////absolute/path.db"
            )
        return Path(path)
    raise ValueError("is not a ledger URL; write sqlite:///relative/path.db or sqlite:////absolute/path.db")


def _api_url(text: str) -> str:
    otherwise = "is not an http(s) URL without login and query, such as https://api.plivo.com"
    parsed = _url(text, {"http", "https"}, otherwise)
    if "@" in text or parsed.query_string or parsed.fragment:
        raise ValueError(otherwise)
    return text


def _token(secret: SecretStr) -> SecretStr:
    if re.search(r"[\s\x00-\x1f\x7f]", secret.get_secret_value()):
        raise ValueError("has white space or control characters in it; see how it was copied")
    return secret


def _management_url(secret: SecretStr) -> SecretStr:
    otherwise = "is not an http(s) URL; write http://user:password@host:15672"
    _url(secret.get_secret_value(), {"http", "https"}, otherwise)
    return secret


Duration = Annotated[timedelta, BeforeValidator(_duration)]
PlivoAuthId = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True)

    @field_validator("*")
    @classmethod
    def _noted(cls, value: Any, info: ValidationInfo) -> Any:
        """Tells the context: of settings that fail as a whole it is else not known which are valid."""
        if info.context is not None and info.field_name is not None:
            info.context[info.field_name] = value
        return value

    @classmethod
    def conflicts(cls, _valid: Mapping[str, Any]) -> Iterator[str]:
        """What does not fit together among the settings that are valid by themselves, a line for each."""
        return iter(())


class BrokerSettings(_Settings):
    amqp_url: Annotated[tuple[str, ...], BeforeValidator(_amqp_urls)] = Field(
        ("amqp://guest:guest@127.0.0.1:5672/",),
        alias="AMQP_URL",
        description="RabbitMQ; several hosts with commas between them",
        repr=False,
    )


class RecipientSettings(_Settings):
    recipients: Annotated[Recipients | None, BeforeValidator(recipients_file)] = Field(
        None,
        alias=f"{PREFIX}RECIPIENTS",
        description="file of the recipients' public keys (JWKS): credentials are sealed for each of them",
    )

    @property
    def recipient_names(self) -> tuple[str, ...]:
        return self.recipients.names if self.recipients else ()


class TopologySettings(BrokerSettings, RecipientSettings):
    retry_delays: Annotated[tuple[timedelta, ...], BeforeValidator(_durations)] = Field(
        DEFAULT_RETRY_DELAYS,
        alias=f"{PREFIX}RETRY_DELAYS",
        description="delays of the retry queues",
    )
    management_url: Annotated[SecretStr, AfterValidator(_management_url)] | None = Field(
        None,
        alias=f"{PREFIX}MANAGEMENT_URL",
        description="RabbitMQ's management API, for `topology check` to see bindings and policies",
    )

    @property
    def vhost(self) -> str:
        return URL(self.amqp_url[0]).path.removeprefix("/") or "/"


class LedgerSettings(_Settings):
    ledger: Annotated[Path, BeforeValidator(_sqlite_path)] = Field(
        Path("provisioner.db"), alias="LEDGER_URL", description="the ledger: what was done for whom"
    )


class SealingSettings(RecipientSettings, LedgerSettings):
    signing_key: Annotated[Path | None, BeforeValidator(signing_key_file)] = Field(
        None,
        alias=f"{PREFIX}SIGNING_KEY",
        description="file of the worker's private key (JWK); one is made beside the ledger",
    )

    @property
    def signing_key_path(self) -> Path:
        return self.signing_key or self.ledger.with_name(f"{self.ledger.name}.signing-key.json")


class PolicySettings(LedgerSettings):
    settle_window: Duration = Field(
        timedelta(seconds=120),
        alias=f"{PREFIX}SETTLE_WINDOW",
        description="how late a create may still show up at Plivo",
    )
    unknown_rename: UnknownRename = Field(
        UnknownRename.CREATE,
        alias=f"{PREFIX}UNKNOWN_RENAME",
        description="the rename of an unknown department: create or reject",
    )
    removal: Removal = Field(
        Removal.DISABLE_THEN_DELETE,
        alias=f"{PREFIX}REMOVAL",
        description="disable-then-delete, delete, disable or ignore",
    )

    @property
    def policy(self) -> Policy:
        return Policy(self.removal, self.unknown_rename, settle_window=self.settle_window)


class DeadLetterSettings(BrokerSettings, PolicySettings):
    """Whoever sees to dead letters needs no account at the provider."""


class WorkerSettings(TopologySettings, SealingSettings, PolicySettings):
    plivo_auth_id: PlivoAuthId = Field(alias="PLIVO_AUTH_ID", description="Plivo's main account")
    plivo_auth_token: Annotated[SecretStr, AfterValidator(_token)] = Field(
        alias="PLIVO_AUTH_TOKEN", min_length=1, description="its auth token"
    )
    plivo_api_url: Annotated[str, AfterValidator(_api_url)] = Field(
        "https://api.plivo.com", alias="PLIVO_API_URL", description="Plivo, or a sandbox"
    )
    owner: str = Field(
        "default",
        alias=f"{PREFIX}OWNER",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="this deployment's namespace in tags; two on one Plivo account need two",
    )
    name_template: str = Field(
        "{name} [{tag}]",
        alias=f"{PREFIX}NAME_TEMPLATE",
        description="the name sent to Plivo; the tag is how a subaccount is found again",
    )
    name_max: int = Field(
        60, alias=f"{PREFIX}NAME_MAX", description="longest name sent; the tag is never cut"
    )
    prefetch: int = Field(
        200,
        alias=f"{PREFIX}PREFETCH",
        ge=1,
        le=2000,
        description="messages in flight; a department's waiting ones among them collapse",
    )
    concurrency: int = Field(
        50, alias=f"{PREFIX}CONCURRENCY", ge=1, le=1000, description="calls to Plivo in flight"
    )
    rate_limit: Annotated[RateLimit, BeforeValidator(_rate)] = Field(
        RateLimit(300, timedelta(seconds=5)),
        alias=f"{PREFIX}RATE_LIMIT",
        description="calls to Plivo in any window",
    )
    api_timeout: Duration = Field(
        timedelta(seconds=20), alias=f"{PREFIX}API_TIMEOUT", description="for one call to Plivo"
    )
    retry_budget: Duration = Field(
        timedelta(seconds=60),
        alias=f"{PREFIX}RETRY_BUDGET",
        description="how long a failing message waits in its lane before it is parked",
    )
    max_attempts: int = Field(
        8,
        alias=f"{PREFIX}MAX_ATTEMPTS",
        ge=1,
        le=1000,
        description="parkings and one: then it is dead-lettered",
    )
    enable: Enable = Field(
        Enable.CREATED,
        alias=f"{PREFIX}ENABLE",
        description="when a new subaccount is enabled: created, or published (once its credentials are)",
    )
    plaintext_secrets: bool = Field(
        default=False,
        alias=f"{PREFIX}PLAINTEXT_SECRETS",
        description="allow unsealed credentials on a broker beyond loopback",
    )
    topology: Literal["declare", "assume"] = Field(
        "declare",
        alias=f"{PREFIX}TOPOLOGY",
        description="declare the broker's objects, or assume they are there",
    )
    http: Annotated[Address, BeforeValidator(_address)] = Field(
        Address("127.0.0.1", 8080),
        alias=f"{PREFIX}HTTP",
        description="where /livez, /readyz and /metrics are",
    )
    drain: Duration = Field(
        timedelta(seconds=25), alias=f"{PREFIX}DRAIN", description="time to finish after SIGTERM"
    )
    log_format: LogFormat | None = Field(
        None, alias=f"{PREFIX}LOG_FORMAT", description="json or console; console on a terminal"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", alias=f"{PREFIX}LOG_LEVEL", description="debug, info, warning or error"
    )

    @property
    def names(self) -> NameTemplate:
        return NameTemplate(self.name_template, self.name_max)

    @classmethod
    def conflicts(cls, valid: Mapping[str, Any]) -> Iterator[str]:
        for names, conflict in _CONFLICTS:
            if valid.keys() >= set(names) and (line := conflict(*(valid[name] for name in names))):
                yield line


def _no_room(template: str, longest: int) -> str | None:
    try:
        NameTemplate(template, longest)
    except ValueError as error:
        return f"{PREFIX}NAME_TEMPLATE {error}"
    return None


def _settled_too_soon(settle_window: timedelta, api_timeout: timedelta) -> str | None:
    if settle_window >= api_timeout:
        return None
    why = "a call could still be under way when its outcome is taken as settled"
    return f"{PREFIX}SETTLE_WINDOW must not be below {PREFIX}API_TIMEOUT: {why}"


def _drained_too_soon(api_timeout: timedelta, drain: timedelta) -> str | None:
    if api_timeout < drain:
        return None
    why = "a call begun before SIGTERM could not end in time"
    return f"{PREFIX}API_TIMEOUT must be below {PREFIX}DRAIN: {why}"


def _unsealed(recipients: Recipients | None, allowed: bool, urls: Sequence[str]) -> str | None:  # noqa: FBT001
    if recipients or allowed or _on_loopback(urls):
        return None
    why = "credentials would go unsealed through a broker that is not on loopback"
    return f"{PREFIX}PLAINTEXT_SECRETS is not true: {why}; set {PREFIX}RECIPIENTS to seal them"


_CONFLICTS: tuple[tuple[tuple[str, ...], Callable[..., str | None]], ...] = (
    (("name_template", "name_max"), _no_room),
    (("settle_window", "api_timeout"), _settled_too_soon),
    (("api_timeout", "drain"), _drained_too_soon),
    (("recipients", "plaintext_secrets", "amqp_url"), _unsealed),
)


S = TypeVar("S", bound=_Settings)


def load(model: type[S], environ: Mapping[str, str]) -> S:
    """Settings of one kind out of the environment; raises `SettingsError` with every mistake."""
    values, unread = _values_of(model, environ)
    valid = {
        name: field.default
        for name, field in model.model_fields.items()
        if not field.is_required() and field.alias not in values.keys() | unread.keys()
    }
    mistakes = list(unread.values())
    settings = None
    try:
        settings = model.model_validate(values, context=valid)
    except ValidationError as error:
        mistakes += _mistakes_in(error, values, unread)
    mistakes += model.conflicts(valid)
    if mistakes or settings is None:
        raise SettingsError("\n".join(mistakes))
    return settings


def described(model: type[_Settings]) -> list[tuple[str, str, str]]:
    """Name, default as one would write it, and meaning of each setting."""
    return [
        (
            field.alias or "",
            "required" if field.is_required() else written(field.default),
            field.description or "",
        )
        for field in model.model_fields.values()
    ]


def written(value: object) -> str:
    """A setting's value the way it is written in the environment."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case timedelta():
            return delay_label(value)
        case RateLimit(calls, window):
            return f"{calls}/{delay_label(window)}"
        case Address(host, port):
            return f"{host}:{port}"
        case Path():
            return f"sqlite:///{value}"
        case Recipients(path, _):
            return str(path)
        case tuple():
            return ",".join(written(part) for part in value)
        case _:
            return str(value)


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """What is set under our prefix but means nothing here: a slip of the pen, or of another version."""
    known = {name for alias in _aliases(WorkerSettings) for name in (alias, f"{alias}_FILE")}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def _aliases(model: type[BaseModel]) -> list[str]:
    return [field.alias for field in model.model_fields.values() if field.alias]


def _values_of(model: type[BaseModel], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What is set, and by name a line for whatever cannot be read."""
    values: dict[str, Any] = {}
    unread: dict[str, str] = {}
    for name in _aliases(model):
        path = environ.get(f"{name}_FILE")
        if path and environ.get(name):
            unread[name] = f"{name} and {name}_FILE are both set; keep one"
        elif path:
            try:
                values[name] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:  # without its path, which may be the secret itself by mistake
                unread[name] = f"{name}_FILE cannot be read: {error.strerror}"
            except ValueError:
                unread[name] = f"{name}_FILE cannot be read: it is not UTF-8 text"
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
            yield f"{name} is not set; `provisioner run --help` tells what it is"
