"""A worker that halts at one stage of the pipeline, so that its parent can kill it there.

`python -m tests.soak.halting_worker STAGE FILE`: once FILE exists, each call of that stage logs a line
`halted` and blocks forever.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any

from contracts import topology as names
from worker.adapters.amqp.channel import RabbitDelivery
from worker.adapters.amqp.publisher import RabbitPublisher
from worker.adapters.plivo.client import PlivoCall
from worker.adapters.sqlite.ledger import SqliteLedger
from worker.cli.app import main
from worker.core.messages import Outgoing
from worker.core.model.answers import Answer


@dataclass(frozen=True)
class Halt:
    """The adapter calls before which the worker halts."""

    adapter: type
    methods: tuple[str, ...]
    when: Callable[..., bool] = lambda *_, **__: True


def _answer_in(values: tuple[object, ...]) -> Answer | None:
    return next((value for value in values if isinstance(value, Answer)), None)


def _intends(*values: object) -> bool:
    return _answer_in(values) is None


def _answers(*values: object) -> bool:
    answer = _answer_in(values)
    return answer is not None and not answer.confirmed


def _confirms(*values: object) -> bool:
    answer = _answer_in(values)
    return answer is not None and answer.confirmed


def _is_result(outgoing: Outgoing) -> bool:
    return outgoing.exchange == names.RESULTS


STAGES: Mapping[str, Halt] = MappingProxyType(
    {
        "received": Halt(SqliteLedger, ("record",), _intends),
        "claimed": Halt(PlivoCall, ("create", "update", "delete")),
        "done": Halt(SqliteLedger, ("record", "record_answer"), _answers),
        "recorded": Halt(RabbitPublisher, ("publish",)),
        "credentials published": Halt(RabbitPublisher, ("publish",), _is_result),
        "published": Halt(SqliteLedger, ("record", "record_answer"), _confirms),
        "noted": Halt(RabbitDelivery, ("ack",)),
    }
)
"""The last stage that the worker has completed when it halts."""


def halt_after(stage: str, armed: Callable[[], bool]) -> None:
    """Replaces the adapter calls of the next stage by ones that halt while `armed` is true."""
    halt = STAGES[stage]
    for method in halt.methods:
        setattr(halt.adapter, method, _halting(getattr(halt.adapter, method), halt.when, armed))


def _halting(
    call: Callable[..., Awaitable[Any]], when: Callable[..., bool], armed: Callable[[], bool]
) -> Callable[..., Awaitable[Any]]:
    @wraps(call)
    async def halting(self: object, *values: Any, **named: Any) -> Any:
        if armed() and when(*values, **named):
            print(json.dumps({"event": "halted"}), file=sys.stderr, flush=True)  # noqa: T201 - for the parent
            await asyncio.Event().wait()
        return await call(self, *values, **named)

    return halting


if __name__ == "__main__":
    halt_after(sys.argv[1], Path(sys.argv[2]).exists)
    sys.argv[1:] = ["run"]
    main()
