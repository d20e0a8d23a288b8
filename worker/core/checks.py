"""The checks of an installation: what was observed, judged, with what to do about it.

The worker makes the cheap ones at its start, with the same texts; `provisioner doctor` makes them all.
"""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from contracts.topology import BrokerVersion
from worker.core.clock_skew import in_words
from worker.core.judge import CallFault, FaultKind
from worker.core.listed import ListedSubaccount
from worker.core.naming import NameTemplate

OLDEST_BROKER = BrokerVersion(3, 10)
"""Older quorum queues have no message TTL, so what is parked would never come back.
https://www.rabbitmq.com/docs/ttl"""
NEWEST_BROKER = BrokerVersion(4, 3)
"""The newest version that was tested."""

CLOCK_TOLERATED = timedelta(seconds=10)

CONSUMER_TIMEOUT = timedelta(minutes=30)
"""RabbitMQ's default: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout"""
TIMEOUT_PER_QUEUE = BrokerVersion(3, 12)
"""The first version with a consumer timeout for each queue."""

MEBIBYTE = 2**20
DISK_FULL_BYTES = 64 * MEBIBYTE
DISK_LOW_BYTES, DISK_LOW_SHARE = 1024 * MEBIBYTE, 0.05
"""Low is what is below both."""

_ADVICE = re.compile(
    r"[:;] (?=(?:add|allow|chmod|correct|create|delete|does it|empty|give|grant|is that|is time|let|make"
    r"|raise|remove|restore|run|set|start|stop|unbind|use(?! is)|write|[A-Z_]+ must)\b)"
)
"""Where the advice in a text for people begins."""

BY_ITSELF = "nothing: `provisioner run` does it at its start"


class CheckStatus(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARN = "warn"
    """The worker would correct it by itself, or it could not be seen, or it may be meant so."""
    FAIL = "fail"
    """A worker would refuse to start, stop taking messages, or put something at risk."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, what was found, and what to do about it; `hint` is empty if ok."""

    check: str
    status: CheckStatus
    detail: str
    hint: str = ""


def ok(check: str, detail: str) -> Check:
    """All is well."""
    return Check(check, CheckStatus.OK, detail)


def warn(check: str, detail: str, hint: str) -> Check:
    """See `CheckStatus.WARN`."""
    return Check(check, CheckStatus.WARN, detail, hint)


def fail(check: str, detail: str, hint: str) -> Check:
    """See `CheckStatus.FAIL`."""
    return Check(check, CheckStatus.FAIL, detail, hint)


def told(check: str, line: str, otherwise: str, status: CheckStatus = CheckStatus.FAIL) -> Check:
    """The text of an error, `what is wrong: what to do` or `what is wrong; what to do`.

    `otherwise`: the advice for one that says only what is wrong.
    """
    if found := _ADVICE.search(line):
        return Check(check, status, line[: found.start()], line[found.end() :])
    return Check(check, status, line, otherwise)


def too_old(version: BrokerVersion) -> str | None:
    """Why a broker cannot be used; None for one of a supported version."""
    if version >= OLDEST_BROKER:
        return None
    return (
        f"RabbitMQ {version.major}.{version.minor} is too old: its quorum queues never give back what was"
        " parked; use 3.10 or newer"
    )


def broker_version(text: str) -> Check:
    """Judges the version that the broker tells, such as 3.10.8."""
    version = BrokerVersion.parse(text)
    if why := too_old(version):
        return told("broker version", why, "")
    if version > NEWEST_BROKER:
        return warn(
            "broker version",
            f"RabbitMQ {text} is newer than {NEWEST_BROKER.major}.{NEWEST_BROKER.minor}, the newest tested",
            "try it with a copy of the deployment first",
        )
    return ok("broker version", f"RabbitMQ {text}")


def clock(check: str, whose: str, skew: timedelta | None) -> Check:
    """Judges how far another clock is ahead of ours; None: it does not tell its time."""
    if skew is None:
        return ok(check, f"{whose} sends no date, so our clock is not compared with it")
    if abs(skew) <= CLOCK_TOLERATED:
        return ok(check, f"within {CLOCK_TOLERATED.seconds} s of {whose}'s clock")
    return told(check, in_words(skew, whose), "")


def disk(folder: str, free: int, total: int) -> Check:
    """Judges the room, in bytes, for a ledger in a file."""
    shown = f"{free // MEBIBYTE:,} MiB of {total // MEBIBYTE:,} MiB are free in {folder}"
    hint = "make room there, or move the ledger with `provisioner ledger copy`"
    if free < DISK_FULL_BYTES:
        return fail("disk", f"nearly full: {shown}", hint)
    if free < DISK_LOW_BYTES and free < total * DISK_LOW_SHARE:
        return warn("disk", f"room is short: {shown}", hint)
    return ok("disk", shown)


def consumer_timeout(
    arguments: Mapping[str, Any] | None, version: BrokerVersion, waits: Mapping[str, timedelta]
) -> Iterator[Check]:
    """Judges how long settings let a message stay unacked; `waits`: by the names of the settings.

    `arguments`: those in effect on the work queue; None if they are not seen. The broker gives a message back
    that is unacked for longer than its consumer timeout.
    """
    given = (arguments or {}).get("x-consumer-timeout") if version >= TIMEOUT_PER_QUEUE else None
    timeout = timedelta(milliseconds=given) if isinstance(given, int) else CONSUMER_TIMEOUT
    source = "of the work queue" if isinstance(given, int) else "(RabbitMQ's default)"
    shown = f"the broker's consumer timeout {source} is {_minutes(timeout)}"
    long = [f"{name} is {_minutes(wait)}" for name, wait in waits.items() if wait >= timeout]
    for one in long:
        yield fail(
            "consumer timeout",
            f"{one}, and {shown}: messages would be given back while they wait",
            f"set {one.partition(' ')[0]} well below {_minutes(timeout)}, or raise consumer_timeout",
        )
    if not long:
        yield ok("consumer timeout", shown)


def _minutes(period: timedelta) -> str:
    seconds = period.total_seconds()
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"  # noqa: PLR2004 - of a minute


def work_queue_cap(queue: str, arguments: Mapping[str, Any], prefetch: int) -> Check | None:
    """Judges a length limit of the work queue, by its arguments in effect; None without one.

    With fewer messages than a worker wants, producers are refused, or lose messages, in ordinary work.
    """
    cap = arguments.get("x-max-length")
    if not isinstance(cap, int):
        return None
    if cap < prefetch:
        return fail(
            "work queue",
            f"{queue} holds at most {cap:,} messages, below PROVISIONER_PREFETCH ({prefetch:,})",
            "remove max-length from its policy, or raise it far above PROVISIONER_PREFETCH",
        )
    return warn(
        "work queue",
        f"{queue} holds at most {cap:,} messages; beyond that producers are refused, or messages dropped",
        "remove max-length from its policy, unless that is meant",
    )


def provider(fault: CallFault) -> Check:
    """Judges a call that failed. Where too many calls are under way, the login may be right."""
    judge = warn if fault.kind is FaultKind.RATE_LIMITED else fail
    return judge("provider", fault.detail, provider_advice(fault))


def provider_advice(fault: CallFault) -> str:
    """Advice for a call that failed for everybody, in one line."""
    match fault.kind:
        case FaultKind.LOGIN_REFUSED:
            return "set PLIVO_AUTH_ID and PLIVO_AUTH_TOKEN to those that Plivo's console shows"
        case FaultKind.NO_CREDIT:
            return "add credit to the account at Plivo's console"
        case FaultKind.FORBIDDEN:
            return "ask Plivo's support why the account is closed or restricted"
        case FaultKind.NOT_SENT:
            return "correct PLIVO_API_URL, or the way there: name server, firewall, proxy, authorities of TLS"
        case FaultKind.RATE_LIMITED:
            return "try again in a minute; lower PROVISIONER_RATE_LIMIT if other programs use the account"
        case FaultKind.SERVER_ERROR | FaultKind.TIMED_OUT:
            return "wait for Plivo (https://status.plivo.com); if it is well, correct PLIVO_API_URL"
        case _:
            return "set PLIVO_API_URL to https://api.plivo.com, without a path; no gateway may change answers"


def foreign_tags(
    page: Sequence[ListedSubaccount], template: NameTemplate, on_record: Container[str]
) -> Iterator[Check]:
    """Compares the newest page of the provider's list, the newest first, with the ledger.

    `on_record`: the auth ids of the page that the ledger knows. A subaccount with a tag above all that are on
    record is newer than the ledger. One below them was there before it, and is another owner's.
    """
    known = [number for number, one in enumerate(page) if one.auth_id in on_record]
    first_known = known[0] if known else len(page)
    unknown = [
        number
        for number, one in enumerate(page)
        if template.tag_in(one.name) is not None and one.auth_id not in on_record
    ]
    newer = sum(number < first_known for number in unknown)
    if newer:
        yield warn(
            "ledger age",
            f"{newer} of the newest {len(page)} subaccounts have a tag and are not on record: the ledger is"
            " new, lost or restored, or a deployment of another owner shares the account",
            "nothing, if this is the right ledger: `provisioner run` reads the whole list before its first"
            " create, and adopts its own; another deployment needs another PROVISIONER_OWNER",
        )
    elif not page:
        yield ok("ledger age", "the account has no subaccounts that it could lack")
    else:
        yield ok("ledger age", f"it is not behind the newest {len(page)} subaccounts of the account")
    if len(unknown) > newer:
        yield warn(
            "owners",
            f"{len(unknown) - newer} of the newest {len(page)} subaccounts have tags that are not this"
            " ledger's, among its own: a deployment of another owner shares the account",
            "keep their PROVISIONER_OWNER different, and give each a part of the account's rate limit in"
            " PROVISIONER_RATE_LIMIT; `provisioner sweep --check` lists them",
        )


def lock_room(workers: int, for_each: int, room: int) -> Check:
    """Judges the room of PostgreSQL's lock table: `workers` that run, with so many locks each at most.

    A full table refuses logins, too:
    https://www.postgresql.org/docs/current/runtime-config-locks.html
    """
    needed = max(1, workers) * for_each
    shown = f"room for {room:,} locks, and {max(1, workers)} workers take up to {needed:,}"
    if needed > room // 2:
        return warn(
            "ledger locks", f"PostgreSQL has {shown}", "raise max_locks_per_transaction, or run fewer workers"
        )
    return ok("ledger locks", shown)
