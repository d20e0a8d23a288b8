"""A world with departments and a worker that sweeps it: steps that several tests of sweeps share."""

import asyncio
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

from contracts.topology import SECRETS, SECRETS_QUEUE
from tests.support.builders import SALES, department_created
from tests.support.port_tap import do_nothing
from tests.support.settling_loop import settled
from tests.support.world import World
from worker.adapters.memory.provider import StoredSubaccount
from worker.bootstrap.running import RunningWorker
from worker.core.drift import Report
from worker.core.model.answers import Answer
from worker.core.model.credentials import ANY_RECIPIENT
from worker.core.model.departments import EVERY_DEPARTMENT, Department
from worker.core.model.wishes import Correcting, Sweeping, Wish
from worker.core.wishes import VALID_FOR, reference_of

T = TypeVar("T")


async def passing(world: World, work: Coroutine[Any, Any, T]) -> T:
    """The result of work that waits for time to pass: the clock advances whenever nothing else can run."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await settled()
            if not task.done() and world.clock.sleepers:
                world.clock.advance(world.clock.seconds_to_next())
        return task.result()
    finally:
        task.cancel()


async def a_world(departments: int = 1, **fields: Any) -> World:
    """SALES, and as many others as asked for, are active with issued credentials."""
    world = World(**fields)
    if world.policy.recipients != {ANY_RECIPIENT}:
        world.broker.bind(SECRETS, SECRETS_QUEUE, "#")
    created = [
        department_created(f"Name {n}", department_id=f"other-{n}", id=f"c{n}") for n in range(1, departments)
    ]
    await world.handle(department_created("Sales"), *created)
    world.witness.journal.clear()
    world.provider.calls.clear()
    return world


async def sweep(world: World, *, fixes: bool = False, id_: str = "sweep") -> Report | None:
    """The report of a sweep that a person asks a worker for; None if there is none."""
    await world.ledger.wish(Wish(id_, EVERY_DEPARTMENT, "ada", world.clock.now(), Sweeping(fixes)))
    async with world.working() as running:
        await passing(world, attended(running))
    kept = await world.ledger.sweep(id_)
    return Report.from_json(kept) if kept is not None else None


async def attended(running: RunningWorker) -> None:
    """The worker looks at the wishes once, and sweeps."""
    await running.worker.scheduler.file_wishes()
    await running.worker.sweeps.attend()
    await running.worker.lanes.idle()


async def kinds(world: World, **asked: Any) -> list[str]:
    report = await sweep(world, **asked)
    assert report is not None
    return [finding.kind for finding in report.findings]


async def leave(
    world: World, finding: str, auth_id: str, department: Department = SALES, id_: str = "wish"
) -> Wish:
    wish = Wish(id_, department, "ada", world.clock.now(), Correcting(finding, auth_id))
    await world.ledger.wish(wish)
    return wish


async def corrected(world: World, finding: str, auth_id: str | None = None) -> Answer:
    """The answer to the wish to correct a finding of SALES."""
    auth_id = auth_id or (await world.entry()).auth_id or ""
    return await answered(world, await leave(world, finding, auth_id))


async def answered(world: World, wish: Wish) -> Answer:
    """A worker works until the wish is closed."""
    async with world.working() as running:
        while wish in await world.ledger.wishes():
            await running.worker.scheduler.file_wishes()
            await passing(world, running.worker.lanes.idle())
            world.clock.advance(1)
            assert world.clock.now() - wish.asked_at < VALID_FOR["correct"], world.witness.journal[-20:]
    answer = (await world.ledger.recall(wish.department, reference_of(wish))).answer
    assert answer is not None
    return answer


def stored(world: World, auth_id: str | None = None) -> StoredSubaccount:
    """The subaccount at the provider; that of SALES is the first created."""
    return next(one for one in reversed(world.provider.subaccounts) if auth_id in {None, one.auth_id})


async def dies_at(world: World, work: Any, moment: int) -> bool:
    """Whether a worker that does `work(running)` reached the n-th moment around a port call and died."""
    moments, died = count(1), asyncio.Event()

    async def around() -> None:
        if next(moments) == moment:
            died.set()
        if died.is_set():
            await asyncio.Event().wait()

    async with world.working() as running:
        world.witness.around = around
        ends = [asyncio.ensure_future(end) for end in (passing(world, work(running)), died.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
    world.witness.around = do_nothing
    return died.is_set()
