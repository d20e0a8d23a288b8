"""`settled` returns when nothing is ready, and not before."""

import asyncio

import pytest

from tests.support.settling_loop import NeverSettles, settled


async def test_settled_waits_for_a_chain_of_tasks_of_any_length():
    told = list[int]()

    async def work(number: int) -> None:
        told.append(number)
        if number:
            await asyncio.create_task(work(number - 1))

    task = asyncio.create_task(work(100))
    await settled()
    assert task.done()
    assert len(told) == 101


async def test_settled_does_not_wait_for_timers():
    sleeping = asyncio.create_task(asyncio.sleep(3600))
    await settled()
    assert not sleeping.done()
    sleeping.cancel()


async def test_several_tasks_may_wait_for_settled():
    await asyncio.gather(settled(), settled())


async def test_a_task_that_never_waits_is_reported():
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def spin() -> None:
        if not over.is_set():
            loop.call_soon(spin)

    spin()
    with pytest.raises(NeverSettles):
        await settled()
    over.set()
