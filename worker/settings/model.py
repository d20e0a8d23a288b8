"""The table of settings: name, type, default and meaning of each, once.

A command loads the model that holds the settings it needs, and no other.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
)
from yarl import URL

from contracts.topology import DEFAULT_RETRY_DELAYS, NO_NAMESPACE, Namespace, delay_label
from worker.core.decide import Enable, Policy, Removal, UnknownRename
from worker.core.limits import DEFAULT_LIMIT, RemovalLimit
from worker.core.naming import NameTemplate
from worker.core.protected import NOBODY_PROTECTED, Protected
from worker.ports import RateLimit
from worker.settings import parse, show
from worker.settings.conflicts import (
    INTAKE_CONFLICTS,
    POLICY_CONFLICTS,
    PROVIDER_CONFLICTS,
    SEALING_CONFLICTS,
    WORKER_CONFLICTS,
    Conflict,
)
from worker.settings.files import Recipients, recipients_file, signing_key_file
from worker.settings.ledger_url import LedgerUrl, SqliteUrl
from worker.settings.parse import PREFIX, Address
from worker.settings.show import Printed
from worker.settings.tokens import tokens_file
from worker.telemetry.logs import LogFormat

Duration = Annotated[timedelta, BeforeValidator(parse.duration), Printed(delay_label)]
Durations = Annotated[tuple[timedelta, ...], BeforeValidator(parse.durations), Printed(show.durations)]
PlivoAuthId = Annotated[str, AfterValidator(parse.main_account)]


class Settings(BaseModel):
    """Base of all settings: frozen, and errors quote no value."""

    model_config = ConfigDict(
        frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True, defer_build=True
    )

    conflicts: ClassVar[tuple[Conflict, ...]] = ()

    _files: Mapping[str, Path] = PrivateAttr(default_factory=dict)

    @property
    def files(self) -> Mapping[str, Path]:
        """The files that values came from, by the name of the setting."""
        return self._files

    def read_from(self, files: Mapping[str, Path]) -> Self:
        """These settings, with the files that their values came from."""
        self._files = files
        return self


class BrokerSettings(Settings):
    """Where RabbitMQ is, and the names of our objects there."""

    amqp_url: Annotated[tuple[str, ...], BeforeValidator(parse.amqp_urls), Printed(",".join)] = Field(
        ("amqp://guest:guest@127.0.0.1:5672/",),
        alias="AMQP_URL",
        description="RabbitMQ; several hosts with commas between them",
        repr=False,
    )
    namespace: Annotated[Namespace, BeforeValidator(parse.namespace), Printed(show.namespace)] = Field(
        NO_NAMESPACE,
        alias=f"{PREFIX}NAMESPACE",
        description="prefix of every exchange and queue, for two deployments on one virtual host",
    )


class SourceSettings(Settings):
    """The source profiles of the intake."""

    sources: Path | None = Field(
        None,
        alias=f"{PREFIX}SOURCES",
        description="folder of source profiles (YAML) and their secrets, added to those that are shipped",
    )


class RemapSettings(BrokerSettings, SourceSettings):
    """For `intake remap`, which publishes what a repaired profile makes of kept payloads."""


class RecipientSettings(Settings):
    """The recipients that credentials are sealed for."""

    recipients: Annotated[Recipients | None, BeforeValidator(recipients_file), Printed(show.path_of)] = Field(
        None,
        alias=f"{PREFIX}RECIPIENTS",
        description="file of the recipients' public keys (JWKS): credentials are sealed for each of them",
    )

    @property
    def recipient_names(self) -> tuple[str, ...]:
        """The recipients; empty if credentials are not sealed."""
        return self.recipients.names if self.recipients else ()


class QueueSettings(BrokerSettings):
    """The queues, and where the broker tells more of them than AMQP does."""

    retry_delays: Durations = Field(
        DEFAULT_RETRY_DELAYS,
        alias=f"{PREFIX}RETRY_DELAYS",
        description="delays of the retry queues",
    )
    management_url: Annotated[SecretStr, AfterValidator(parse.management_url)] | None = Field(
        None,
        alias=f"{PREFIX}MANAGEMENT_URL",
        description="RabbitMQ's management API, which shows bindings and policies",
    )

    @property
    def vhost(self) -> str:
        """The virtual host in the first AMQP URL."""
        return URL(self.amqp_url[0]).path.removeprefix("/") or "/"


class TopologySettings(QueueSettings, RecipientSettings):
    """The inputs of the broker's exchanges, queues and bindings."""


class LedgerSettings(Settings):
    """Where the ledger is."""

    ledger_url: Annotated[LedgerUrl, BeforeValidator(parse.ledger_url)] = Field(
        SqliteUrl(Path("provisioner.db")),
        alias="LEDGER_URL",
        description="the ledger of departments and their subaccounts; postgresql://user@host/database for"
        " more than one worker",
    )


class SealingSettings(RecipientSettings, LedgerSettings):
    """The keys that credentials are sealed and signed with."""

    conflicts = SEALING_CONFLICTS

    signing_key: Annotated[Path | None, BeforeValidator(signing_key_file)] = Field(
        None,
        alias=f"{PREFIX}SIGNING_KEY",
        description="file of the worker's private key (JWK); one is made beside an SQLite ledger",
    )

    @property
    def signing_key_path(self) -> Path | None:
        """The file of the signing key, by default beside the ledger; None with a ledger in PostgreSQL.

        There, credentials that are sealed need a `signing_key`.
        """
        if self.signing_key is None and isinstance(self.ledger_url, SqliteUrl):
            ledger = self.ledger_url.path
            return ledger.with_name(f"{ledger.name}.signing-key.json")
        return self.signing_key


class KeyCheckSettings(TopologySettings, SealingSettings):
    """For `keys check`, which looks at who needs a key, too."""


class ReissueSettings(BrokerSettings, LedgerSettings):
    """For `reissue`, which names the queues that the credentials went to."""


class StatusSettings(QueueSettings, LedgerSettings):
    """For `status`, which looks at the queues and the ledger, and needs no account at the provider."""


class SnapshotSettings(BrokerSettings, LedgerSettings, SourceSettings):
    """For `snapshot`, which reads lists and publishes events."""


class PolicySettings(LedgerSettings):
    """The policy of decisions about departments."""

    conflicts = POLICY_CONFLICTS

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
    removal_grace: Annotated[timedelta, BeforeValidator(parse.grace), Printed(show.period)] = Field(
        timedelta(days=30),
        alias=f"{PREFIX}REMOVAL_GRACE",
        description="the time from disabling to deleting; a change applies to those that wait, too",
    )
    removal_limit: Annotated[
        RemovalLimit, BeforeValidator(parse.removal_limit), Printed(show.removal_limit)
    ] = Field(
        DEFAULT_LIMIT,
        alias=f"{PREFIX}REMOVAL_LIMIT",
        description="removals of a tenant per rolling window, in % of its departments (never below 3) or in"
        " number; more are held. off lifts it, and the hold of a tenant's last active department",
    )
    protected: Annotated[Protected, BeforeValidator(parse.protected), Printed(show.protected)] = Field(
        NOBODY_PROTECTED,
        alias=f"{PREFIX}PROTECTED",
        description="departments whose removal is always held: department_id or tenant/department_id, with"
        " commas between them; * may end each",
    )

    @property
    def policy(self) -> Policy:
        """The policy for `decide`."""
        return Policy(
            removal=self.removal,
            grace=self.removal_grace,
            limit=self.removal_limit,
            protected=self.protected,
            unknown_rename=self.unknown_rename,
            settle_window=self.settle_window,
        )


class PlanSettings(PolicySettings):
    """For `plan`, which counts the calls of a create too."""

    enable: Enable = Field(
        Enable.CREATED,
        alias=f"{PREFIX}ENABLE",
        description="when a new subaccount is enabled: created, or published (once its credentials are)",
    )

    @property
    def policy(self) -> Policy:
        """The policy for `forecast`."""
        return replace(super().policy, enable=self.enable)


class DeadLetterSettings(BrokerSettings, PolicySettings):
    """For the dead-letter commands, which need no account at the provider."""


class EventSettings(DeadLetterSettings):
    """For `events`, which also asks where messages wait."""

    retry_delays: Durations = Field(
        DEFAULT_RETRY_DELAYS,
        alias=f"{PREFIX}RETRY_DELAYS",
        description=TopologySettings.model_fields["retry_delays"].description,
    )


class ProviderSettings(LedgerSettings):
    """The account at Plivo, and the names of the subaccounts there."""

    conflicts = PROVIDER_CONFLICTS

    plivo_auth_id: PlivoAuthId = Field(alias="PLIVO_AUTH_ID", description="Plivo's main account")
    plivo_auth_token: Annotated[SecretStr, AfterValidator(parse.token)] = Field(
        alias="PLIVO_AUTH_TOKEN", min_length=1, description="its auth token"
    )
    plivo_api_url: Annotated[str, AfterValidator(parse.api_url)] = Field(
        "https://api.plivo.com", alias="PLIVO_API_URL", description="Plivo, or a sandbox"
    )
    plivo_proxy_url: Annotated[SecretStr, AfterValidator(parse.proxy_url)] | None = Field(
        None,
        alias="PLIVO_PROXY_URL",
        description="HTTP proxy for calls to Plivo; by default that of HTTPS_PROXY and NO_PROXY",
    )
    owner: Annotated[str, AfterValidator(parse.owner)] = Field(
        "default",
        alias=f"{PREFIX}OWNER",
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
    concurrency: int = Field(
        50, alias=f"{PREFIX}CONCURRENCY", ge=1, le=1000, description="calls to Plivo in flight"
    )
    rate_limit: Annotated[RateLimit, BeforeValidator(parse.rate_limit), Printed(show.rate_limit)] = Field(
        RateLimit(300, timedelta(seconds=5)),
        alias=f"{PREFIX}RATE_LIMIT",
        description="calls to Plivo in any window, of all workers on one ledger together",
    )
    api_timeout: Duration = Field(
        timedelta(seconds=20), alias=f"{PREFIX}API_TIMEOUT", description="for one call to Plivo"
    )

    @property
    def names(self) -> NameTemplate:
        """The template of the names sent to Plivo."""
        return NameTemplate(self.name_template, self.name_max)


class WorkerSettings(ProviderSettings, TopologySettings, SealingSettings, PolicySettings):
    """All settings, for `provisioner run`."""

    conflicts = WORKER_CONFLICTS

    prefetch: int = Field(
        1000,
        alias=f"{PREFIX}PREFETCH",
        ge=1,
        le=2000,
        description="messages in flight; waiting messages of one department collapse",
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
        description="failed attempts after which a message is dead-lettered",
    )
    enable: Enable = Field(
        Enable.CREATED,
        alias=f"{PREFIX}ENABLE",
        description="when a new subaccount is enabled: created, or published (once its credentials are)",
    )
    sweep: Annotated[
        timedelta | None, BeforeValidator(parse.interval), Printed(show.period, none=parse.OFF)
    ] = Field(
        timedelta(hours=24),
        alias=f"{PREFIX}SWEEP",
        description="how often all subaccounts are compared with the ledger, or off",
    )
    sweep_fix: bool = Field(
        default=False,
        alias=f"{PREFIX}SWEEP_FIX",
        description="let these sweeps correct their findings",
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
    http: Annotated[Address, BeforeValidator(parse.address), Printed(show.address)] = Field(
        Address("127.0.0.1", 8080),
        alias=f"{PREFIX}HTTP",
        description="address of /livez, /readyz and /metrics",
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


class IntakeSettings(BrokerSettings, SourceSettings):
    """For `intake`, which has no ledger and no account at the provider."""

    conflicts = INTAKE_CONFLICTS

    intake: Annotated[Address, BeforeValidator(parse.address), Printed(show.address)] = Field(
        Address("127.0.0.1", 8082),
        alias=f"{PREFIX}INTAKE",
        description="address of `provisioner intake`; beyond loopback it needs tokens",
    )
    intake_tokens: Annotated[Path | None, BeforeValidator(tokens_file)] = Field(
        None,
        alias=f"{PREFIX}INTAKE_TOKENS",
        description="file of `name: token` lines, for those who post CloudEvents; several lines of one name"
        " while a token is rotated",
    )
    intake_rate: Annotated[RateLimit, BeforeValidator(parse.rate_limit), Printed(show.rate_limit)] = Field(
        RateLimit(100, timedelta(seconds=1)),
        alias=f"{PREFIX}INTAKE_RATE",
        description="requests of one token name, or to one profile, in any window",
    )
    drain: Duration = Field(
        WorkerSettings.model_fields["drain"].default,
        alias=f"{PREFIX}DRAIN",
        description=WorkerSettings.model_fields["drain"].description,
    )
    log_format: LogFormat | None = Field(
        None, alias=f"{PREFIX}LOG_FORMAT", description=WorkerSettings.model_fields["log_format"].description
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", alias=f"{PREFIX}LOG_LEVEL", description=WorkerSettings.model_fields["log_level"].description
    )
