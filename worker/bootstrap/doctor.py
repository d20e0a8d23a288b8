"""The checks of `provisioner doctor`, from the settings: each opens what it looks at, and changes nothing."""

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial

from contracts.topology import BrokerVersion, Topology
from worker.adapters.amqp import rights
from worker.adapters.amqp.connect import close, connect, unavailable_if_lost
from worker.adapters.amqp.errors import BrokerRefuses, BrokerUnavailable
from worker.adapters.amqp.management import (
    InEffect,
    ManagementUnavailable,
    read_in_effect,
    server_date,
)
from worker.adapters.amqp.owner import ForeignOwner, OwnerLease, OwnerUnseen
from worker.adapters.amqp.seam import Connection
from worker.adapters.brokers import AmqpObjects
from worker.adapters.jose.key_files import KeyFileError, is_there, read_signing_key
from worker.adapters.ledgers import open_ledger, require_place
from worker.adapters.memory.ledger import MemoryLedger
from worker.adapters.plivo.client import plivo_provider
from worker.adapters.system import SystemClock
from worker.bootstrap.intake_doctor import has_intake, has_worker, intake_probes
from worker.bootstrap.running import missing_keys, plivo_account
from worker.core.checks import (
    BY_ITSELF,
    Check,
    CheckStatus,
    broker_version,
    clock,
    disk,
    lock_room,
    ok,
    provider,
    told,
    warn,
)
from worker.core.clock_skew import skew_of
from worker.core.listed import ListedSubaccount
from worker.core.presence import PRESENT_FOR
from worker.flow.plaintext import SEALED_BEFORE
from worker.operations.doctor.broker import queue_checks, topology_checks
from worker.operations.doctor.examine import Probe
from worker.operations.doctor.ledger import OF_LEDGER, account_checks, ledger_checks
from worker.operations.topology import TopologyOptions
from worker.ports import CallFailed, LedgerFailed, LedgerForeign, LedgerMissing, OpenedLedger
from worker.provider.scan import page_of
from worker.settings.ledger_url import SqliteUrl
from worker.settings.load import SettingsError, load
from worker.settings.model import WorkerSettings
from worker.settings.names import unknown_lines
from worker.settings.parse import PREFIX
from worker.settings.warnings import exposures, shared_owner
from worker.telemetry.events import Telemetry

LONGEST_CALL = timedelta(seconds=20)
"""Of the provider, so that its own words are shown before the time of the check is over."""

TO_BROKER = "start RabbitMQ, or correct host and port in AMQP_URL"
TO_LOGIN = "correct the login, the virtual host or the certificates in AMQP_URL"
TO_MANAGEMENT = (
    f"correct {PREFIX}MANAGEMENT_URL; its user needs the tag management, and a right in the virtual host"
)
TO_PROVIDER = "correct PLIVO_API_URL"
TO_SETTINGS = "correct it; `provisioner run --help` describes each setting"
NOT_LOOKED_AT = warn(
    "other checks", "not made: they need the settings", "correct the settings, then run `provisioner doctor`"
)
TO_KEYS = f"repair the file of {PREFIX}RECIPIENTS; `provisioner keys new` makes a key pair"


def probes(environ: Mapping[str, str]) -> Sequence[Probe]:
    """The checks for an environment: of a worker, of an intake, or of both.

    With wrong settings there is nothing to look at but them.
    """
    intake = intake_probes(environ) if has_intake(environ) else []
    if intake and not has_worker(environ):
        return [*intake, _of_settings(environ, [])]
    return [*_of_worker(environ), *intake]


def _of_worker(environ: Mapping[str, str]) -> Sequence[Probe]:
    try:
        settings = load(WorkerSettings, environ)
    except SettingsError as error:
        mistakes = [told("settings", line, TO_SETTINGS) for line in str(error).splitlines()]
        return [_of_settings(environ, [*mistakes, NOT_LOOKED_AT])]
    return [
        _of_settings(environ, [ok("settings", "all are valid")]),
        Probe("files", "correct the modes of these files", partial(_files, settings, environ)),
        Probe("recipients", TO_KEYS, partial(_recipients, settings)),
        Probe("broker", TO_BROKER, partial(_broker, settings)),
        Probe("ledger", OF_LEDGER, partial(_ledger, settings)),
        Probe("provider", TO_PROVIDER, partial(_provider, settings)),
    ]


def _of_settings(environ: Mapping[str, str], found: Sequence[Check]) -> Probe:
    async def look() -> Sequence[Check]:
        unknown = unknown_lines(environ)
        return [*found, *(warn("settings", line, "correct the name, or remove it") for line in unknown)]

    return Probe("settings", TO_SETTINGS, look)


async def _files(settings: WorkerSettings, environ: Mapping[str, str]) -> Sequence[Check]:
    exposed = exposures(settings, environ)
    return [
        *(told("exposure", line, "close it") for line in exposed),
        *([] if exposed else [ok("exposure", "no secret is readable for others, and peers are verified")]),
        *(told("owner", line, "set another owner", CheckStatus.WARN) for line in shared_owner(settings)),
    ]


async def _recipients(settings: WorkerSettings) -> Sequence[Check]:
    if settings.recipients is None:
        return [ok("recipients", "credentials are not sealed, as the settings allow")]
    if missing := list(missing_keys(settings)):
        return [told("recipients", line, TO_KEYS) for line in missing]
    names = ", ".join(settings.recipient_names)
    return [ok("recipients", f"a usable key for {names}"), _signing_key(settings)]


def _signing_key(settings: WorkerSettings) -> Check:
    path = settings.signing_key_path
    try:
        if path is not None and is_there(path):
            read_signing_key(path)
            return ok("signing key", f"{path} can be used")
    except KeyFileError as error:
        return told("signing key", str(error), "restore it, or make one: `provisioner keys new --signing`")
    return warn("signing key", f"there is none at {path} yet", BY_ITSELF)


@dataclass(frozen=True, slots=True)
class _Rights:
    """Our user's rights over one connection; see `operations.doctor.broker.Rights`."""

    connection: Connection
    settings: WorkerSettings

    async def missing_to_work(self) -> Sequence[str]:
        return await rights.missing_to_work(self.connection, self.settings.namespace)

    async def missing_to_declare(self, wanted: Topology, absent: Sequence[str]) -> Sequence[str]:
        return await rights.missing_to_declare(self.connection, wanted, self.settings.namespace, absent)


async def _broker(settings: WorkerSettings) -> Sequence[Check]:
    """Each host of AMQP_URL, then everything over the first that accepts a connection."""
    async with AsyncExitStack() as stack:
        tried = await asyncio.gather(*(_connected(url) for url in settings.amqp_url))
        open_ = [one for one in tried if isinstance(one, Connection)]
        for connection in open_:
            stack.push_async_callback(close, connection)
        found = [_told_connection(one, anyway=bool(open_)) for one in tried]
        if not open_:
            return found
        connection = open_[0]
        version = broker_version(connection.server_version)
        if version.status is CheckStatus.FAIL:
            return [*found, version]
        return [*found, version, *await _objects(connection, settings)]


async def _connected(url: str) -> Connection | BrokerUnavailable:
    try:
        return await connect(url, "provisioner doctor")
    except BrokerUnavailable as error:
        return error


def _told_connection(tried: Connection | BrokerUnavailable, *, anyway: bool) -> Check:
    if isinstance(tried, BrokerUnavailable):
        status = CheckStatus.WARN if anyway else CheckStatus.FAIL
        otherwise = TO_LOGIN if isinstance(tried, BrokerRefuses) else TO_BROKER
        return told("broker", str(tried), otherwise, status)
    return ok("broker", "it accepts the login to the virtual host of AMQP_URL")


async def _objects(connection: Connection, settings: WorkerSettings) -> Sequence[Check]:
    in_effect, shown = await _in_effect(settings)
    options = TopologyOptions(settings.retry_delays, settings.recipient_names, settings.namespace)
    version = BrokerVersion.parse(connection.server_version)
    waits = {
        f"{PREFIX}SETTLE_WINDOW": settings.settle_window,
        f"{PREFIX}RETRY_BUDGET": settings.retry_budget,
    }
    with unavailable_if_lost():
        return [
            *shown,
            *await topology_checks(
                AmqpObjects(connection),
                _Rights(connection, settings),
                in_effect,
                options,
                declares=settings.topology == "declare",
            ),
            *queue_checks(in_effect, options, version, settings.prefetch, waits),
            await _owner(connection, settings),
        ]


async def _in_effect(settings: WorkerSettings) -> tuple[InEffect | None, Sequence[Check]]:
    """The state that the management API shows, and its clock; None if it is not asked, or does not answer."""
    if settings.management_url is None:
        return None, []
    ours = SystemClock()
    try:
        in_effect = await read_in_effect(settings.management_url, settings.vhost)
        sent_at = ours.now()
        date = await server_date(settings.management_url)
    except ManagementUnavailable as error:
        return None, [told("management", str(error), TO_MANAGEMENT)]
    at = _parsed(date)
    skew = skew_of(at, sent_at, ours.now()) if at else None
    return in_effect, [
        ok("management", "bindings and policies can be read"),
        clock("broker clock", "the broker", skew),
    ]


def _parsed(date: str | None) -> datetime | None:
    try:
        at = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


async def _owner(connection: Connection, settings: WorkerSettings) -> Check:
    try:
        await OwnerLease(settings.namespace, settings.owner).look(connection)
    except ForeignOwner as error:
        return told("owner", str(error), f"set {PREFIX}NAMESPACE")
    except OwnerUnseen as error:
        return warn(
            "owner",
            f"workers of another owner on the work queue are not seen: {error}",
            "grant the user the rights on provisioner.owner, as deploy/rabbitmq/definitions.json does",
        )
    return ok("owner", "no worker of another owner reads the work queue")


async def _ledger(settings: WorkerSettings) -> Sequence[Check]:
    found: list[Check] = []
    if isinstance(settings.ledger_url, SqliteUrl):
        folder = settings.ledger_url.path.absolute().parent
        if folder.is_dir():
            room = shutil.disk_usage(folder)
            found.append(disk(str(folder), room.free, room.total))
    try:
        locks = await require_place(settings.ledger_url)
        async with open_ledger(settings.ledger_url, read_only=True) as opened:
            found = [*await ledger_checks(opened, settings.owner, settings.plivo_auth_id), *found]
            if found[0].status is not CheckStatus.OK:
                return found
            if locks is not None:
                running = await opened.ledger.workers(PRESENT_FOR)
                found.append(lock_room(len(running), locks.for_each_worker, locks.locks))
            found += await _sealed(opened, settings)
    except LedgerMissing as error:
        detail = str(error).partition(";")[0]
        hint = f"{BY_ITSELF}; unless this deployment has run before: then {OF_LEDGER}, or restore a backup"
        return [warn("ledger", detail, hint), *found]
    except LedgerFailed as error:
        return [told("ledger", str(error), OF_LEDGER), *found]
    return found


async def _sealed(opened: OpenedLedger, settings: WorkerSettings) -> Sequence[Check]:
    """Whether credentials would go out in the clear that were sealed before."""
    allowed = settings.recipients is not None or settings.plaintext_secrets
    if allowed or not await opened.ledger.sealed_for():
        return []
    return [told("recipients", SEALED_BEFORE, TO_KEYS)]


async def _provider(settings: WorkerSettings) -> Sequence[Check]:
    """The login, by the newest page of the list; the clock; and the page against the ledger."""
    skews: list[timedelta | None] = []
    account = plivo_account(settings, Telemetry())
    account = replace(account, timeout=min(account.timeout, LONGEST_CALL))
    ours = SystemClock()
    opening = plivo_provider(account, ours, asyncio.Event(), on_clock=skews.append)
    async with opening as opened:
        try:
            page = await page_of(opened, 0)
        except CallFailed as failed:
            return [provider(failed.fault), *_provider_clock(skews)]
    return [
        ok("provider", f"Plivo accepts the login of {settings.plivo_auth_id}"),
        *_provider_clock(skews),
        *await _against_ledger(settings, page),
    ]


def _provider_clock(skews: Sequence[timedelta | None]) -> Sequence[Check]:
    return [clock("provider clock", "Plivo", skews[-1])] if skews else []


async def _against_ledger(settings: WorkerSettings, page: Sequence[ListedSubaccount]) -> Sequence[Check]:
    """Compares the newest page of the list. Empty if the ledger cannot be read, as its own check tells."""
    try:
        async with open_ledger(settings.ledger_url, read_only=True) as opened:
            return await account_checks(opened.ledger, page, settings.names)
    except LedgerMissing:  # a new ledger, or a lost one
        return await account_checks(MemoryLedger(), page, settings.names)
    except (LedgerFailed, LedgerForeign):
        return []
