"""The conformance suite of department locks: one holder per department, and no leaked locks."""

import asyncio
import gc

import pytest

from tests.support.builders import SALES
from tests.support.settling_loop import settled
from worker.adapters.memory.locks import InProcessLocks
from worker.core.model.departments import Department
from worker.ports import DepartmentLocks, OpenedLedger

OTHER = Department("acme", "other")


@pytest.fixture
def locks(opened: OpenedLedger) -> DepartmentLocks:
    return opened.locks


async def test_a_department_has_one_holder_at_a_time_in_fifo_order(locks):
    journal: list[str] = []
    begun, release = asyncio.Event(), asyncio.Event()

    async def work(name: str) -> None:
        async with locks.hold(SALES):
            journal.append(f"{name} begins")
            begun.set()
            await release.wait()
            journal.append(f"{name} ends")

    tasks = [asyncio.create_task(work(name)) for name in ("first", "second", "third")]
    await begun.wait()
    await settled()
    assert journal == ["first begins"]
    release.set()
    await asyncio.gather(*tasks)
    assert journal == [
        f"{name} {what}" for name in ("first", "second", "third") for what in ("begins", "ends")
    ]


async def test_departments_do_not_wait_for_each_other(locks):
    async with locks.hold(SALES), locks.hold(OTHER), locks.hold(Department("globex", SALES.id)):
        pass


async def test_an_exception_releases_the_lock(locks):
    with pytest.raises(ZeroDivisionError):
        async with locks.hold(SALES):
            _ = 1 / 0
    async with asyncio.timeout(1), locks.hold(SALES):
        pass


async def test_a_cancelled_waiter_does_not_take_the_lock(locks):
    async with locks.hold(SALES):
        impatient = asyncio.create_task(hold_once(locks))
        patient = asyncio.create_task(hold_once(locks))
        await settled()
        impatient.cancel()
        await settled()
        assert not patient.done()
    await patient
    assert impatient.cancelled()


async def test_an_unused_lock_is_dropped():
    locks = InProcessLocks()
    async with locks.hold(SALES):
        waiting = asyncio.create_task(hold_once(locks))
        await settled()
        assert len(locks) == 1
    await waiting
    for number in range(100):
        async with locks.hold(Department("acme", str(number))):
            pass
    del waiting
    gc.collect()
    assert len(locks) == 0


async def hold_once(locks: DepartmentLocks) -> None:
    async with locks.hold(SALES):
        pass
