"""The judgement of what `provisioner doctor` and the start of a worker have observed."""

from datetime import UTC, datetime, timedelta

import pytest

from contracts.topology import BrokerVersion
from worker.core.checks import (
    CheckStatus,
    broker_version,
    clock,
    consumer_timeout,
    disk,
    foreign_tags,
    lock_room,
    provider_advice,
    told,
    work_queue_cap,
)
from worker.core.judge import CallFault, FaultKind
from worker.core.listed import ListedSubaccount
from worker.core.naming import NameTemplate

MIB = 2**20
OK, WARN, FAIL = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL
RABBITMQ = BrokerVersion(3, 12)
MINUTE = timedelta(minutes=1)
TEMPLATE = NameTemplate()


@pytest.mark.parametrize(
    ("version", "status"), [("3.9.29", FAIL), ("3.10.0", OK), ("4.3.6", OK), ("4.4.0", WARN), ("5.0.0", WARN)]
)
def test_versions_of_the_broker(version: str, status: CheckStatus):
    assert broker_version(version).status is status


@pytest.mark.parametrize(
    ("seconds", "status", "words"),
    [(10, OK, "within"), (-10, OK, "within"), (11, FAIL, "behind"), (-11, FAIL, "ahead of")],
)
def test_a_clock_may_differ_by_ten_seconds(seconds: int, status: CheckStatus, words: str):
    found = clock("provider clock", "Plivo", timedelta(seconds=seconds))
    assert found.status is status
    assert words in found.detail
    assert bool(found.hint) is (status is FAIL)


def test_a_clock_that_nobody_tells_is_not_compared():
    assert clock("provider clock", "Plivo", None).status is OK


@pytest.mark.parametrize(
    ("free", "total", "status"),
    [
        (63 * MIB, 100 * MIB, FAIL),
        (65 * MIB, 100 * MIB, OK),
        (500 * MIB, 20_000 * MIB, WARN),
        (1100 * MIB, 1_000_000 * MIB, OK),
    ],
)
def test_room_on_the_disk(free: int, total: int, status: CheckStatus):
    assert disk("/var/lib/provisioner", free, total).status is status


@pytest.mark.parametrize(
    ("arguments", "version", "wait", "status"),
    [
        (None, (3, 10), 29, OK),
        (None, (3, 10), 30, FAIL),
        ({"x-consumer-timeout": 120_000}, (3, 10), 5, OK),  # 3.10 knows no such argument
        ({"x-consumer-timeout": 120_000}, (3, 12), 2, FAIL),
        ({"x-consumer-timeout": 7_200_000}, (3, 12), 90, OK),
    ],
)
def test_messages_that_wait_longer_than_the_broker_lets_them(
    arguments: dict[str, int] | None, version: tuple[int, int], wait: int, status: CheckStatus
):
    waits = {"PROVISIONER_SETTLE_WINDOW": wait * MINUTE, "PROVISIONER_RETRY_BUDGET": MINUTE}
    (found,) = consumer_timeout(arguments, BrokerVersion(*version), waits)
    assert found.status is status


@pytest.mark.parametrize(("cap", "status"), [(None, None), (999, FAIL), (1000, WARN)])
def test_a_cap_of_the_work_queue(cap: int | None, status: CheckStatus | None):
    arguments = {} if cap is None else {"x-max-length": cap}
    found = work_queue_cap("provisioner.departments", arguments, 1000)
    assert (found and found.status) is status


@pytest.mark.parametrize(("workers", "status"), [(0, OK), (3, OK), (4, WARN)])
def test_the_room_for_locks_is_used_by_half_at_most(workers: int, status: CheckStatus):
    assert lock_room(workers, 1000, 6400).status is status


def listed(number: int, name: str) -> ListedSubaccount:
    return ListedSubaccount(f"SA{number:018}", name, enabled=True, created=datetime.now(UTC).date())


OURS, THEIRS, BARE = "ours", "theirs", "bare"


@pytest.mark.parametrize(
    ("newest_first", "found"),
    [
        ([], [("ledger age", OK)]),
        ([OURS, BARE], [("ledger age", OK)]),
        ([BARE], [("ledger age", OK)]),
        ([THEIRS], [("ledger age", WARN)]),
        ([THEIRS, OURS], [("ledger age", WARN)]),
        ([OURS, THEIRS], [("ledger age", OK), ("owners", WARN)]),
        ([THEIRS, OURS, THEIRS], [("ledger age", WARN), ("owners", WARN)]),
    ],
)
def test_tags_that_the_ledger_does_not_know(newest_first: list[str], found: list[tuple[str, CheckStatus]]):
    page = [
        listed(number, "Sales" if whose is BARE else TEMPLATE.render("Sales", "0123456789"))
        for number, whose in enumerate(newest_first)
    ]
    on_record = {one.auth_id for one, whose in zip(page, newest_first, strict=True) if whose is OURS}
    assert [(one.check, one.status) for one in foreign_tags(page, TEMPLATE, on_record)] == found


@pytest.mark.parametrize("kind", FaultKind)
def test_each_fault_of_the_provider_has_advice(kind: FaultKind):
    advice = provider_advice(CallFault("list", kind, "detail"))
    assert advice
    assert "\n" not in advice


@pytest.mark.parametrize(
    ("line", "detail", "hint"),
    [
        ("the queue is full: empty it", "the queue is full", "empty it"),
        ("it is closed; LEDGER_URL must name another", "it is closed", "LEDGER_URL must name another"),
        ("crm (use is sig: it must be enc)", "crm (use is sig: it must be enc)", "otherwise"),
        ("no answer", "no answer", "otherwise"),
        ("a: b; set this: or that", "a: b", "set this: or that"),
    ],
)
def test_the_text_of_an_error_is_split_where_its_advice_begins(line: str, detail: str, hint: str):
    found = told("broker", line, "otherwise")
    assert (found.status, found.detail, found.hint) == (FAIL, detail, hint)
