"""Makes checks at the same time, each with a time limit."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from worker.core.checks import Check, fail, told
from worker.ports import UserError

LIMIT_SECONDS = 30.0
END_SECONDS = 1.0
"""How long a check may take to end after its time is over."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Some checks that are made together. A `UserError` of `look` is the failure of `check`.

    `otherwise`: the advice for an error without any.
    """

    check: str
    otherwise: str
    look: Callable[[], Awaitable[Sequence[Check]]]


async def examine(
    probes: Sequence[Probe],
    limit_seconds: float = LIMIT_SECONDS,
    on_done: Callable[[int], None] = lambda _more: None,
) -> Sequence[Check]:
    """Makes all checks, and returns them in the order of the probes. Raises nothing.

    `on_done` gets 1 for each probe that is done.
    """

    async def one(probe: Probe) -> Sequence[Check]:
        checks = await _examined(probe, limit_seconds)
        on_done(1)
        return checks

    found = await asyncio.gather(*map(one, probes))
    return [check for checks in found for check in checks]


async def _examined(probe: Probe, limit_seconds: float) -> Sequence[Check]:
    looking = asyncio.ensure_future(probe.look())
    try:
        await asyncio.wait([looking], timeout=limit_seconds)
        if not looking.done():
            looking.cancel()
            await asyncio.wait([looking], timeout=END_SECONDS)
            return [fail(probe.check, f"no answer within {limit_seconds:g} s", probe.otherwise)]
        return looking.result()
    except UserError as error:
        return [told(probe.check, line, probe.otherwise) for line in str(error).splitlines()]
    except Exception as error:  # noqa: BLE001 - the other checks are worth showing; its text may hold a secret
        return [fail(probe.check, f"it ended with {type(error).__name__}", probe.otherwise)]
    finally:
        looking.cancel()
