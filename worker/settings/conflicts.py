"""Conflicts between settings that are valid one by one.

Each check takes the values of its fields and returns one line, or None if they fit together.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from worker.core.decide import Removal
from worker.core.naming import NameTemplate
from worker.settings.files import Recipients
from worker.settings.ledger_url import LedgerUrl, SqliteUrl
from worker.settings.parse import PREFIX, Address, is_loopback, on_loopback

NO_SIGNING_KEY = (
    f"{PREFIX}SIGNING_KEY is not set: with a PostgreSQL ledger all workers share one key, and none is made at"
    " the start; `provisioner keys new --signing --out FILE` makes it"
)

Conflict = tuple[tuple[str, ...], Callable[..., str | None]]
"""The names of the fields, and the check that takes their values in this order."""


def _name_template_too_long(template: str, longest: int) -> str | None:
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
    if recipients or allowed or on_loopback(urls):
        return None
    why = "credentials would go unsealed through a broker that is not on loopback"
    return f"{PREFIX}PLAINTEXT_SECRETS is not true: {why}; set {PREFIX}RECIPIENTS to seal them"


def _unsigned(url: LedgerUrl, recipients: Recipients | None, signing_key: Path | None) -> str | None:
    if recipients is None or signing_key is not None or isinstance(url, SqliteUrl):
        return None
    return NO_SIGNING_KEY


def _deleted_at_once(removal: Removal, grace: timedelta) -> str | None:
    if grace or removal is not Removal.DISABLE_THEN_DELETE:
        return None
    choice = f"set a grace such as 30d, or {PREFIX}REMOVAL={Removal.DELETE} to delete at once"
    return f"{PREFIX}REMOVAL_GRACE is none although {PREFIX}REMOVAL is {removal}: {choice}"


def _open_to_everybody(address: Address, tokens: Path | None) -> str | None:
    if tokens is not None or is_loopback(address.host):
        return None
    why = f"{PREFIX}INTAKE is beyond loopback, and anybody there could send events"
    return f"{PREFIX}INTAKE_TOKENS is not set: {why}; name a file of `name: token` lines"


INTAKE_CONFLICTS: tuple[Conflict, ...] = ((("intake", "intake_tokens"), _open_to_everybody),)

POLICY_CONFLICTS: tuple[Conflict, ...] = ((("removal", "removal_grace"), _deleted_at_once),)

PROVIDER_CONFLICTS: tuple[Conflict, ...] = ((("name_template", "name_max"), _name_template_too_long),)

SEALING_CONFLICTS: tuple[Conflict, ...] = ((("ledger_url", "recipients", "signing_key"), _unsigned),)

WORKER_CONFLICTS: tuple[Conflict, ...] = (
    *POLICY_CONFLICTS,
    *PROVIDER_CONFLICTS,
    *SEALING_CONFLICTS,
    (("settle_window", "api_timeout"), _settled_too_soon),
    (("api_timeout", "drain"), _drained_too_soon),
    (("recipients", "plaintext_secrets", "amqp_url"), _unsealed),
)
