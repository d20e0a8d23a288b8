"""The checks of `provisioner doctor` for an intake: settings, profiles, secrets, the broker's user."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

from contracts import topology as names
from worker.adapters.amqp import rights
from worker.adapters.amqp.connect import close, connect, unavailable_if_lost
from worker.adapters.amqp.errors import BrokerRefuses, BrokerUnavailable
from worker.adapters.amqp.seam import ChannelClosed, ChannelNotFoundEntity, Connection
from worker.adapters.amqp.topology import state_of
from worker.core.checks import Check, fail, ok, told, warn
from worker.operations.doctor.examine import Probe
from worker.settings.load import SettingsError, load
from worker.settings.model import IntakeSettings
from worker.settings.parse import PREFIX
from worker.settings.sources import SourcesInvalid, open_to_everybody, ready_sources
from worker.settings.warnings import intake_exposures

OF_INTAKE = tuple(f"{PREFIX}{name}" for name in ("INTAKE", "INTAKE_TOKENS", "INTAKE_RATE", "SOURCES"))
"""The settings of an intake alone."""

TO_SETTINGS = "correct it; `provisioner intake --help` describes each setting"
TO_SOURCES = "correct the file, then run `provisioner intake check`"
TO_BROKER = "start RabbitMQ, or correct host and port in AMQP_URL"
TO_LOGIN = "correct the login, the virtual host or the certificates in AMQP_URL"
GRANT = "grant it with `rabbitmqctl set_permissions`, as deploy/rabbitmq/definitions.json does"
APPLY = "run `provisioner topology apply` as a user who may configure the objects"


def has_intake(environ: Mapping[str, str]) -> bool:
    """Whether the settings are those of an intake, or of a worker and an intake."""
    return any(environ.get(name) for name in OF_INTAKE)


def has_worker(environ: Mapping[str, str]) -> bool:
    """Whether the settings name an account at the provider, which an intake does not have."""
    return any(environ.get(f"PLIVO_AUTH_{name}") for name in ("ID", "ID_FILE", "TOKEN", "TOKEN_FILE"))


def intake_probes(environ: Mapping[str, str]) -> Sequence[Probe]:
    """The checks of an intake. With wrong settings there is nothing to look at but them."""
    try:
        settings = load(IntakeSettings, environ)
    except SettingsError as error:
        mistakes = [told("intake settings", line, TO_SETTINGS) for line in str(error).splitlines()]
        return [_found("intake settings", mistakes)]
    return [
        _found("intake settings", [ok("intake settings", "all are valid")]),
        Probe("intake sources", TO_SOURCES, partial(_sources, settings, environ)),
        Probe("intake broker", TO_BROKER, partial(_broker, settings)),
    ]


def _found(check: str, checks: Sequence[Check]) -> Probe:
    async def look() -> Sequence[Check]:
        return checks

    return Probe(check, TO_SETTINGS, look)


async def _sources(settings: IntakeSettings, environ: Mapping[str, str]) -> Sequence[Check]:
    """The profiles, their samples and secrets, and who may read these."""
    try:
        sources = ready_sources(settings.sources)
    except SourcesInvalid as error:
        return [fail("intake sources", line, TO_SOURCES) for line in str(error).splitlines()]
    enabled = [name for name, source in sources.items() if source.is_enabled]
    paths = [source.secret_path for source in sources.values() if source.is_enabled]
    exposed = intake_exposures(settings, environ, [path for path in paths if path is not None])
    return [
        ok("intake sources", f"profiles in use: {', '.join(enabled) or 'none'}"),
        *(told("intake sources", line, TO_SOURCES) for line in open_to_everybody(settings.intake, sources)),
        *(told("intake exposure", line, "close it") for line in exposed),
    ]


async def _broker(settings: IntakeSettings) -> Sequence[Check]:
    """The login, what the user may publish to, and the queue of unmapped payloads, over the first host."""
    async with AsyncExitStack() as stack:
        failed: list[Check] = []
        for url in settings.amqp_url:
            try:
                connection = await connect(url, "provisioner doctor")
            except BrokerUnavailable as error:
                otherwise = TO_LOGIN if isinstance(error, BrokerRefuses) else TO_BROKER
                failed.append(told("intake broker", str(error), otherwise))
                continue
            stack.push_async_callback(close, connection)
            return [
                ok("intake broker", "it accepts the login to the virtual host of AMQP_URL"),
                *await _exchanges(connection, settings),
                await _unmapped(connection, settings),
            ]
        return failed


async def _exchanges(connection: Connection, settings: IntakeSettings) -> Sequence[Check]:
    exchanges = (names.DEPARTMENTS, names.UNMAPPED)
    missing = [one for one in exchanges if await _is_missing(connection, settings.namespace.of(one))]
    lacking = await rights.missing_to_publish(
        connection, settings.namespace, [one for one in exchanges if one not in missing]
    )
    return [
        *(
            fail("intake broker", f"exchange {settings.namespace.of(one)} is missing", APPLY)
            for one in missing
        ),
        *(told("intake rights", line, GRANT) for line in lacking),
        *([] if lacking or missing else [ok("intake rights", "our user may publish what an intake does")]),
    ]


async def _is_missing(connection: Connection, exchange: str) -> bool:
    with unavailable_if_lost():
        channel = await connection.open_channel()
        try:
            await channel.objects.check_exchange(exchange)
        except ChannelNotFoundEntity:
            return True
        except ChannelClosed:
            return False  # the user may not ask, since RabbitMQ 4.2.6
        finally:
            await channel.close()
    return False


async def _unmapped(connection: Connection, settings: IntakeSettings) -> Check:
    queue = settings.namespace.of(names.UNMAPPED_QUEUE)
    try:
        state = await state_of(connection, queue)
    except ChannelClosed:
        return warn(
            "unmapped payloads",
            f"our user may not look at the queue {queue}",
            "nothing: the metric provisioner_unmapped_payloads of a worker counts them",
        )
    if state is None:
        detail = f"queue {queue} is missing: a payload that no profile maps is refused with 503"
        return fail("unmapped payloads", detail, APPLY)
    if state.messages:
        return warn(
            "unmapped payloads",
            f"payloads that wait, because no profile could map them: {state.messages:,}",
            "correct the profile, then run `provisioner intake remap`; `--dry-run` lists them",
        )
    return ok("unmapped payloads", "none waits")
