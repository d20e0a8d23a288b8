"""Fixtures of all test folders: quiet logs, real servers, and a loop that can tell when it is idle."""

import asyncio
import fcntl
import gc
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling

from contracts import topology as names
from contracts.topology import BrokerVersion, topology
from tests.support.nodes import running_node, skip_or_fail
from tests.support.port_tap import checked_taps
from tests.support.postgres_node import fresh_database, postgres_binaries, postgres_node
from tests.support.settling_loop import SettlingLoop
from worker.adapters.amqp.topology import state_of
from worker.adapters.brokers import open_connection
from worker.demo.private_node import Installation, NodeUnavailable, private_node
from worker.telemetry.logs import configure_logging

pytest.register_assert_rewrite("tests.support.world")  # here, before any other module imports it

# The objects that a test may leave at the broker, whatever their arguments.
LEFT_BEHIND = topology(BrokerVersion(4, 1))


INTEGRATION = "tests/integration/"

ALONE = "alone"
"""The group of the tests that measure real time: while one runs, no other process runs a test."""


class Turn(IntEnum):
    """The order of the tests. A long one near the end would leave cores idle."""

    WAITING = 0  # those of groups and of tests/integration: most wait for a server
    LONG = 1  # too long to measure their coverage
    SHORT = 2
    ALONE = 3


def pytest_configure(config: pytest.Config) -> None:
    """Stops the first of two coverage measurements in each worker of pytest-xdist.

    pytest-cov 7.1 starts one because `--cov` is among the worker's arguments, and then the worker's own. It
    pauses only the second in a test marked `no_cover`. Both together double the CPU time of a test.
    """
    coverage = config.pluginmanager.getplugin("_cov")
    if hasattr(config, "workerinput") and coverage is not None and coverage.cov_controller is not None:
        coverage.cov_controller.cov.stop()


LONGEST_SHOWN = 200


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A short id for a long parameter.

    pytest passes the id of the test to every process that the test starts, in an environment variable, of
    which Linux takes 128 KiB at most.
    """
    is_long = isinstance(val, str | bytes) and len(val) > LONGEST_SHOWN
    return f"{argname}-of-{len(val)}" if is_long else None  # type: ignore[arg-type]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> Turn:
    group = item.get_closest_marker("xdist_group")
    if group is not None:
        return Turn.ALONE if ALONE in group.args else Turn.WAITING
    if item.nodeid.startswith(INTEGRATION):
        return Turn.WAITING
    return Turn.LONG if item.get_closest_marker("no_cover") else Turn.SHORT


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Every test takes a lock that it shares, but one of the group `alone` does not share it.

    The wait for the lock does not count for the time limit of a test.
    """
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if _turn(item) is Turn.ALONE else fcntl.LOCK_SH)
        return (yield)


def pytest_collection_finish() -> None:
    """Spares the garbage collector the collected tests and the imported modules: a tenth of the CPU time."""
    gc.collect()
    gc.freeze()


class FilesOfBrokerTests(LoadGroupScheduling):
    """Runs the files of the group "broker" in any process: without AMQP_URL each has a node of its own.

    Keeps the tests of every other file of tests/integration together, too: they may share servers.
    """

    def _split_scope(self, nodeid: str) -> str:
        group: str = super()._split_scope(nodeid)
        is_ungrouped = group == nodeid
        by_file = group == "broker" or (is_ungrouped and nodeid.startswith(INTEGRATION))
        return nodeid.partition("::")[0] if by_file else group


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadGroupScheduling | None:
    if config.getvalue("dist") != "loadgroup" or "AMQP_URL" in os.environ:
        return None
    return FilesOfBrokerTests(config, log)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"settling": SettlingLoop}


@pytest.fixture(autouse=True)
def _quiet_logs() -> None:
    configure_logging("json", "error")


@pytest.fixture(autouse=True)
def _injected_faults_strike() -> Iterator[None]:
    with checked_taps():
        yield


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """The broker in AMQP_URL, or a private node. Where there is none: a skip, in CI a failure.

    Tests that use it are marked `xdist_group("broker")`: the broker in AMQP_URL is shared, so they run in one
    process then. A private node belongs to one process.
    """
    if url := os.environ.get("AMQP_URL"):
        asyncio.run(_refuse_in_use(url))
        yield url
        return
    with running_node(private_node()) as (node, _):
        yield node.url


@pytest.fixture
def rabbitmq_server() -> None:
    """For tests that run a node of their own, whatever AMQP_URL says: a skip without it, in CI a failure."""
    if not Installation.chosen().exists:
        skip_or_fail("rabbitmq-server is not installed")


@pytest.fixture
async def clean_broker(broker_url: str) -> AsyncIterator[str]:
    """The broker's URL. Nothing of the project is there before the test, and nothing after it."""
    await _clear(broker_url)
    yield broker_url
    await _clear(broker_url)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A database of the server in POSTGRES_URL, or of a private one. No server: a skip, in CI a failure.

    Tests leave nothing in it: what they keep goes to `postgres_database`.
    """
    if url := os.environ.get("POSTGRES_URL"):
        yield url
        return
    with running_node(postgres_node()) as (node, _):
        yield node.url()


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a database of the test's own, empty."""
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture
def postgres_server() -> None:
    """For tests that run a server of their own, whatever POSTGRES_URL says."""
    try:
        postgres_binaries()
    except NodeUnavailable as error:
        skip_or_fail(str(error))


async def _refuse_in_use(url: str) -> None:
    """Ends the run if the project's queues are in use there: the tests would delete them."""
    async with open_connection([url]) as there:
        for queue in (names.WORK_QUEUE, names.SECRETS_QUEUE, names.DEAD_LETTER_QUEUE):
            state = await state_of(there, queue)
            if state is not None and (state.messages or state.consumers):
                pytest.exit(
                    f"the queue {queue} at AMQP_URL is in use; the tests would delete it", returncode=1
                )


async def _clear(url: str) -> None:
    async with open_connection([url]) as there, there.channel() as channel:
        for queue in LEFT_BEHIND.queues:
            await channel.objects.queue_delete(queue.name)
        for exchange in LEFT_BEHIND.exchanges:
            await channel.objects.exchange_delete(exchange.name)
