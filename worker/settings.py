"""The only reader of the environment.

Every setting is a variable of its own; each `NAME` may come as `NAME_FILE`, the path of a file that holds the
value. What is wrong comes out as one line per mistake, without the value where it may be a secret.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from yarl import URL

from contracts.topology import DEFAULT_RETRY_DELAYS, delay_label
from worker.core.decide import Enable, Policy, Removal, UnknownRename
from worker.core.naming import NameTemplate
from worker.file_settings import Recipients, check_tls, recipients_file, signing_key_file
from worker.ports import ForPeople, RateLimit
from worker.telemetry import LogFormat

PREFIX = "PROVISIONER_"
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class SettingsError(ForPeople):
    """One line for each mistake."""

    exit_code = 2


class Address(NamedTuple):
    host: str
    port: int


def _duration(text: object) -> object:
    match = re.fullmatch(r"([1-9][0-9]{0,8})(ms|s|m|h|d)", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("is not a duration above zero; write 500ms, 3s, 5m, 1h or 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


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


def _amqp_urls(text: object) -> object:
    urls = [url.strip() for url in str(text).split(",")]
    for url in urls:
        parsed = URL(url)
        misplaced = (
            "@" in url and parsed.user is None
        )  # a password with a / or # in it: what follows would show
        if parsed.scheme not in {"amqp", "amqps"} or not parsed.host or misplaced:
            raise ValueError("is not an AMQP URL; write amqp://user:password@host:5672/vhost")
        check_tls(parsed.query)
    return tuple(urls)


def _sqlite_path(text: object) -> object:
    if isinstance(text, str) and text.startswith("sqlite:///") and len(text) > len("sqlite:///"):
        return Path(text.removeprefix("sqlite:///"))
    raise ValueError("is not a ledger URL; write sqlite:///relative/path.db or sqlite:////absolute/path.db")


def _http_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s@]+(/[^\s@]*)?", text):
        raise ValueError("is not an http(s) URL without a login, such as https://api.plivo.com")
    return text


Duration = Annotated[timedelta, BeforeValidator(_duration)]
PlivoAuthId = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True)


class BrokerSettings(_Settings):
    amqp_url: Annotated[tuple[str, ...], BeforeValidator(_amqp_urls)] = Field(
        ("amqp://guest:guest@127.0.0.1:5672/",),
        alias="AMQP_URL",
        description="RabbitMQ; several hosts with commas between them",
        repr=False,
    )

    @property
    def on_loopback(self) -> bool:
        return all(URL(url).host in _LOOPBACK for url in self.amqp_url)


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
    management_url: SecretStr | None = Field(
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
    plivo_auth_token: SecretStr = Field(alias="PLIVO_AUTH_TOKEN", min_length=1, description="its auth token")
    plivo_api_url: Annotated[str, AfterValidator(_http_url)] = Field(
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
    prefetch: int = Field(200, alias=f"{PREFIX}PREFETCH", ge=1, le=2000, description="messages in flight")
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

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        mistakes = list(self._conflicts())
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self

    def _conflicts(self) -> Iterator[str]:
        try:
            _ = self.names
        except ValueError as error:
            yield f"{PREFIX}NAME_TEMPLATE {error}"
        if self.settle_window < self.api_timeout:
            why = "a call could still be under way when its outcome is taken as settled"
            yield f"{PREFIX}SETTLE_WINDOW must not be below {PREFIX}API_TIMEOUT: {why}"
        if self.api_timeout >= self.drain:
            why = "a call begun before SIGTERM could not end in time"
            yield f"{PREFIX}API_TIMEOUT must be below {PREFIX}DRAIN: {why}"
        if not self.recipients and not self.plaintext_secrets and not self.on_loopback:
            why = "credentials would go unsealed through a broker that is not on loopback"
            yield f"{PREFIX}PLAINTEXT_SECRETS is not true: {why}; set {PREFIX}RECIPIENTS to seal them"


S = TypeVar("S", bound=_Settings)


def load(model: type[S], environ: Mapping[str, str]) -> S:
    """Settings of one kind out of the environment; raises `SettingsError` with every mistake."""
    values, mistakes = _values_of(model, environ)
    try:
        settings = model.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join([*mistakes, *_mistakes_in(error, values, mistakes)])) from None
    if mistakes:
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


def _values_of(model: type[BaseModel], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for name in _aliases(model):
        path = environ.get(f"{name}_FILE")
        if path and environ.get(name):
            mistakes.append(f"{name} and {name}_FILE are both set; keep one")
        elif path:
            try:
                values[name] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:  # without its path, which may be the secret itself by mistake
                mistakes.append(f"{name}_FILE cannot be read: {error.strerror}")
            except ValueError:
                mistakes.append(f"{name}_FILE cannot be read: it is not UTF-8 text")
        elif environ.get(name, "").strip():
            values[name] = environ[name].strip()
    return values, mistakes


def _mistakes_in(error: ValidationError, values: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        message = item["msg"].removeprefix("Value error, ")
        name = str(item["loc"][0]) if item["loc"] else ""
        if not name:  # settings that do not fit together bring their own names
            lines.extend(message.splitlines())
        elif name in values:
            lines.append(f"{name} {message[0].lower()}{message[1:]}")
        elif not any(f"{name}_FILE" in line for line in known):
            lines.append(f"{name} is not set; `provisioner run --help` tells what it is")
    return lines
