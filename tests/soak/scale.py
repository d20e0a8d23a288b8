"""Many workers that come and go: `python -m tests.soak.scale --events 100000 --workers 8 --seed 7`.

Up to so many `run` processes work on one PostgreSQL and one RabbitMQ, beside a fast sandbox. Departments are
created, renamed and sometimes removed; most events are sent more than once. As answers come in, a worker gets
SIGKILL or SIGTERM, the number of workers goes from one to the most and back, and the database restarts. With
`--steady` there are always the most, so `--steady --workers 4 --kills 200 --drains 0 --restarts 0` kills 200
times. Nothing may be lost, made twice or answered twice, no name may go back to an older one within the
settle window or a minute, and each drain must end well; otherwise the exit code is 1. No bound is of real
time, but that answers must come at all.
"""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.soak import verdict
from tests.soak.client import SoakClient, soak_client
from tests.soak.command import ERR, Report, parser, run_and_report
from tests.soak.leftovers import left_in_queues
from tests.soak.statements import WORDS, Statement
from tests.soak.verdict import Violation
from tests.soak.worker_process import WorkerEnded, WorkerProcess, start
from tests.support.postgres_node import postgres_node
from worker.core.model.entry import BEGUN_FOR
from worker.demo.private_node import private_node
from worker.sandbox import AUTH_ID, AUTH_TOKEN, Entry, Sandbox, running_sandbox
from worker.settings.load import load
from worker.settings.model import TopologySettings

Turn = Literal["kill", "drain", "restart"]

EVENTS_OF_A_DEPARTMENT = 16
REPEATED = 0.6
OUT_OF_ORDER = 0.1
REMOVED = 0.1
AT_ONCE = 100
AHEAD = 3000
"""Events that are sent before their answers have come."""
WITHOUT_ANSWER_SECONDS = 600.0
OUTAGES = ("RabbitMQ cannot be used", "the ledger cannot be reached", "the connection to the ledger was lost")
"""The last words of a worker that could not start in time."""
POLL_SECONDS = 0.5
CALL_SECONDS = 1.0

Restart = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class ScalePlan:
    """`events`: about so many are sent. `workers`: the most at once, or with `steady` always so many.

    `kills`, `drains` and `restarts` (of the database) come in an order drawn from the seed, spread evenly
    over the answers. `settle_seconds`: the settle window, and the timeout of calls: so long that on a busy
    machine, too, few but those of killed workers have no response.
    """

    events: int
    seed: int
    workers: int = 8
    kills: int = 20
    drains: int = 20
    restarts: int = 3
    steady: bool = False
    settle_seconds: int = 30

    @property
    def window_seconds(self) -> float:
        """How long a worker waits for the outcome of a change."""
        return max(self.settle_seconds, BEGUN_FOR.total_seconds())

    def turns(self, rng: random.Random) -> list[Turn]:
        """The changes, in this order."""
        counts: dict[Turn, int] = {"kill": self.kills, "drain": self.drains, "restart": self.restarts}
        return rng.sample(list(counts), counts=counts.values(), k=sum(counts.values()))

    def wanted(self, done: float) -> int:
        """How many workers run when this part of the turns is done: twice from one to the most and back."""
        if self.steady:
            return self.workers
        wave = 1 - abs(2 * (2 * done % 1) - 1)
        return 1 + round(wave * (self.workers - 1))


def draw_events(events: int, rng: random.Random) -> list[Statement]:
    """About so many events of as many departments as fit, mixed, with repeats."""
    timed: list[tuple[float, Statement]] = []
    for number in range(max(1, events // EVENTS_OF_A_DEPARTMENT)):
        of_department = _about(f"d{number:06}", rng)
        moments = sorted(rng.random() for _ in of_department)
        if rng.random() < OUT_OF_ORDER:
            rng.shuffle(moments)
        for at, one in zip(moments, of_department, strict=True):
            timed.append((at, one))
            while rng.random() < REPEATED:
                timed.append((rng.uniform(at, 1.0), one))
    return [statement for _, statement in sorted(timed, key=lambda pair: pair[0])]


def _about(department: str, rng: random.Random) -> list[Statement]:
    """A department that is created, renamed, and perhaps removed; each name has the number of its event."""
    kinds = ["created", *("renamed" for _ in range(rng.randint(2, 9)))]
    if rng.random() < REMOVED:
        kinds += ["removed", "created"][: rng.randint(1, 2)]
    return [
        Statement(
            department,
            kind,
            number,
            None if kind == "removed" else f"{department} {rng.choice(WORDS)} {number}",
        )
        for number, kind in enumerate(kinds, start=1)
    ]


@dataclass
class Effects:
    """The names that subaccounts got, in order. `went_back`: those older than one set just before.

    Three kinds of names may go back, and the final state shows that they are set right. A call whose worker
    was killed, or gave it up, may be carried out late, over a newer one: `late` counts these. The outcome of
    a newer one may not be on record when its settle window is over, because its worker was killed and its
    message has not come back yet: then a check, or an older event, acts on what is on record
    (`after_the_window`). The window counts from the record before the call, so it is over a little sooner
    than the sandbox can tell. And one whose worker was killed may be superseded before its message has come
    back, by a removal for example: then a check sets the name on record. So `went_back` has the events whose
    names were replaced.
    """

    window_seconds: float
    newest: dict[str, tuple[int, float]] = field(default_factory=dict)  # number in the name, since when
    calls: Counter[str] = field(default_factory=Counter)
    late: int = 0
    after_the_window: int = 0
    went_back: list[tuple[str, Violation]] = field(default_factory=list)

    def read(self, sandbox: Sandbox) -> None:
        """Reads the requests since the last time. The sandbox forgets them: it keeps only the latest."""
        entries = sandbox.journal.entries
        for entry in entries:
            self.calls[entry.operation or "-"] += 1
            name = entry.body.get("name") if isinstance(entry.body, dict) else None
            is_change = entry.operation in {"create_subaccount", "update_subaccount"}
            if is_change and name and entry.status is not None and entry.status < 300:
                self._named(str(name), entry)
        entries.clear()

    def _named(self, name: str, call: Entry) -> None:
        department, _, number, _ = name.split()
        before, since = self.newest.get(department, (0, 0.0))
        if int(number) >= before:
            self.newest[department] = int(number), call.at
        elif call.abandoned:
            self.late += 1
        elif call.at - since >= self.window_seconds - CALL_SECONDS:
            self.after_the_window += 1
        else:
            seconds = call.at - since
            what = f"named {name!r} after number {before}, which is {seconds:.1f} s old"
            self.went_back.append((f"{department}-{before}", Violation(department, what)))


@dataclass
class Scale:
    """One run. `restart`: restarts the database."""

    plan: ScalePlan
    environ: dict[str, str]
    sandbox: Sandbox
    client: SoakClient
    restart: Restart | None
    on_turn: Callable[[int, int], None]
    workers: list[WorkerProcess] = field(default_factory=list)
    ended: list[WorkerProcess] = field(default_factory=list)
    draining: list[asyncio.Task[None]] = field(default_factory=list)
    effects: Effects = field(init=False)
    did: Counter[str] = field(default_factory=Counter)
    most: int = 0
    broken: list[Violation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.effects = Effects(self.plan.window_seconds)

    async def run(self) -> None:
        """Sends the events while workers come and go, and judges once all are answered."""
        rng = random.Random(self.plan.seed)
        statements = draw_events(self.plan.events, rng)
        answers = len({one.id for one in statements})
        feeding = asyncio.create_task(self._feed(statements))
        try:
            await self._scale(rng, 0.0)
            turns = self.plan.turns(rng)
            for number, turn in enumerate(turns, start=1):
                await self._answered(number * answers // (len(turns) + 1))
                await self._take(turn, rng)
                await self._scale(rng, number / len(turns))
                self.on_turn(number, len(self.client.answered))
            await feeding
            await self._answered(answers)
            await self._nothing_queued()
            await self._set_right()
            await self._end_all()
        except TimeoutError:
            missing = len(self.client.unanswered(list(self.client.sent.values())))
            self._broke(f"no answer for {WITHOUT_ANSWER_SECONDS:.0f} s, and {missing} are missing")
        finally:
            feeding.cancel()
            await asyncio.gather(*(one.kill() for one in self.workers), *self.draining)
        await self._judge()

    async def _feed(self, statements: Sequence[Statement]) -> None:
        """Sends the events in order, so many before their answers."""
        for first in range(0, len(statements), AT_ONCE):
            await asyncio.gather(*map(self.client.send, statements[first : first + AT_ONCE]))
            self.did["events sent"] = min(first + AT_ONCE, len(statements))
            due = len(self.client.sent) - AHEAD
            await self.client.wait_until(lambda due=due: len(self.client.answered) >= due)  # type: ignore[misc]

    async def _answered(self, count: int) -> None:
        """Returns once so many events are answered; raises `TimeoutError` if no answer comes for long."""
        answered = self.client.answered
        while len(answered) < count:
            next_ = min(count, len(answered) + AT_ONCE)
            async with asyncio.timeout(WITHOUT_ANSWER_SECONDS):
                await self.client.wait_until(lambda next_=next_: len(answered) >= next_)  # type: ignore[misc]
            self.effects.read(self.sandbox)

    async def _take(self, turn: Turn, rng: random.Random) -> None:
        self.did[turn] += 1
        match turn:
            case "kill":
                worker = self.workers.pop(rng.randrange(len(self.workers)))
                await worker.kill()
                self.ended.append(worker)
            case "drain":
                await self._drain(rng)
            case "restart":
                assert self.restart is not None
                await self.restart()

    async def _scale(self, rng: random.Random, done: float) -> None:
        """Starts or drains workers until there are as many as wanted."""
        wanted = self.plan.wanted(done)
        for number, worker in enumerate(self.workers):
            if worker.has_ended:
                self.workers[number] = await self._succeeded(worker)
        while len(self.workers) < wanted:
            self.workers.append(await start(self.environ))
            self.did["start"] += 1
        while len(self.workers) > wanted:
            await self._drain(rng)
        self.most = max(self.most, len(self.workers))

    async def _drain(self, rng: random.Random) -> None:
        """Drains one that has begun to consume: before that, nothing takes its SIGTERM. It goes on beside."""
        worker = await self._consuming(self.workers.pop(rng.randrange(len(self.workers))))
        self.draining.append(asyncio.create_task(self._stopped(worker)))

    async def _consuming(self, worker: WorkerProcess) -> WorkerProcess:
        """The worker once it consumes, or its successor if it could not start."""
        while not worker.count("consuming"):
            try:
                await worker.logged("consuming")
            except TimeoutError:
                continue
            except WorkerEnded:
                worker = await self._succeeded(worker)
        return worker

    async def _succeeded(self, worker: WorkerProcess) -> WorkerProcess:
        """Starts another one, as a supervisor does. Only at its start may a worker end by itself."""
        self.did["ended at its start"] += 1
        if not (worker.log and str(worker.log[-1].get("text")).startswith(OUTAGES)):
            self._broke(f"a worker ended by itself: {worker.log[-3:]}")
        await worker.kill()
        self.ended.append(worker)
        return await start(self.environ)

    async def _stopped(self, worker: WorkerProcess) -> None:
        code = await worker.stop()
        self.ended.append(worker)
        if code:
            self._broke(f"a worker ended with {code} after SIGTERM: {worker.log[-3:]}")

    async def _nothing_queued(self) -> None:
        """Waits for the repeats, whose events have been answered before."""
        async with asyncio.timeout(WITHOUT_ANSWER_SECONDS):
            while await left_in_queues(self.environ["AMQP_URL"]):  # noqa: ASYNC110 - a server
                await asyncio.sleep(POLL_SECONDS)

    async def _set_right(self) -> None:
        """Waits for the checks after late calls. The last one is due a window after the last change."""
        end = time.monotonic() + 2 * self.plan.window_seconds
        while time.monotonic() < end:
            if not verdict.wrong_states(self.client.sent.values(), self.sandbox.subaccounts()):
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _end_all(self) -> None:
        """Drains all. A repeat that one gives back is taken by one more; the judge finds any other."""
        for is_last in (False, False, True):
            consuming = [await self._consuming(worker) for worker in self.workers]
            await asyncio.gather(*(self._stopped(worker) for worker in consuming), *self.draining)
            self.workers.clear()
            if is_last or not await left_in_queues(self.environ["AMQP_URL"]):
                return
            self.workers.append(await start(self.environ))
            await self._nothing_queued()

    async def _judge(self) -> None:
        client, there = self.client, self.sandbox.subaccounts()
        self.effects.read(self.sandbox)
        superseded = {
            result["data"]["event"]["id"]
            for result in client.results
            if result["data"]["outcome"] == "superseded"
        }
        self.broken += [broken for replaced, broken in self.effects.went_back if replaced not in superseded]
        self.broken += verdict.judge(client.sent.values(), client.results, client.credentials, there)
        self.broken += await left_in_queues(self.environ["AMQP_URL"])
        if made := verdict.duplicates(there):
            self._broke(f"{made} duplicates were made")
        if crashes := sum(one.count("step_crashed") for one in self.ended):
            self._broke(f"{crashes} steps crashed")

    def _broke(self, what: str) -> None:
        self.broken.append(Violation("-", what))

    def figures(self, seconds: float) -> list[tuple[str, str]]:
        """The rows of the report."""
        client, there = self.client, self.sandbox.subaccounts()
        calls = ", ".join(f"{name} {count}" for name, count in sorted(self.effects.calls.items()))
        return [
            ("events sent, copies included", f"{self.did['events sent']} ({len(client.sent)} different)"),
            ("events answered", str(len(client.answered))),
            ("departments", str(len({one.department for one in client.sent.values()}))),
            ("workers started, most at once", f"{self.did['start']}, {self.most}"),
            ("SIGKILLs, SIGTERMs", f"{self.did['kill']}, {len(self.draining)}"),
            ("restarts of the database", str(self.did["restart"])),
            ("workers that could not start meanwhile", str(self.did["ended at its start"])),
            ("lost", str(len(client.sent.keys() - client.answered))),
            ("duplicates made", str(verdict.duplicates(there))),
            ("answers published again", str(verdict.republished(client.results))),
            ("credentials published again", str(verdict.republished(client.credentials))),
            ("names set late by abandoned calls", str(self.effects.late)),
            ("names set back after the settle window", str(self.effects.after_the_window)),
            ("calls", calls),
            ("time in all, events per second", f"{seconds:.0f} s, {self.did['events sent'] / seconds:.0f}"),
        ]


async def scale(
    plan: ScalePlan,
    broker: str,
    database: str,
    restart: Restart | None = None,
    on_turn: Callable[[int, int], None] = lambda _turns, _answered: None,
) -> Report:
    """Runs the soak on a broker and an empty database, which `restart` restarts if the plan has it."""
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(running_sandbox(seed=plan.seed, rate_limit="off"))
        client = await stack.enter_async_context(soak_client(load(TopologySettings, {"AMQP_URL": broker})))
        environ = {
            "AMQP_URL": broker,
            "PLIVO_AUTH_ID": AUTH_ID,
            "PLIVO_AUTH_TOKEN": AUTH_TOKEN,
            "PLIVO_API_URL": sandbox.url,
            "LEDGER_URL": database,
            "PROVISIONER_PLAINTEXT_SECRETS": "true",
            "PROVISIONER_RATE_LIMIT": "100000/1s",
            "PROVISIONER_PREFETCH": "200",
            "PROVISIONER_API_TIMEOUT": f"{plan.settle_seconds}s",
            "PROVISIONER_SETTLE_WINDOW": f"{plan.settle_seconds}s",
            "PROVISIONER_RETRY_DELAYS": "2s,5s,10s",  # what is parked comes back within the settle window
            "PROVISIONER_DRAIN": "600s",
            "PROVISIONER_REMOVAL_LIMIT": "off",
        }
        run = Scale(plan, environ, sandbox, client, restart, on_turn)
        await run.run()
        return Report(run.broken, run.figures(time.monotonic() - began))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("scale", __doc__, departments=False)
    options.add_argument("--events", type=int, default=100_000)
    options.add_argument("--workers", type=int, default=8, help="the most at once")
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--drains", type=int, default=20)
    options.add_argument("--restarts", type=int, default=3, help="of the database")
    options.add_argument("--steady", action="store_true", help="always the most workers")
    asked = options.parse_args(arguments)
    plan = ScalePlan(
        asked.events, asked.seed, asked.workers, asked.kills, asked.drains, asked.restarts, asked.steady
    )

    async def run(_folder: Path) -> Report:
        async with private_node() as node, postgres_node() as database:
            return await scale(plan, node.url, database.url(), database.restart, _say)

    return run_and_report(asked.seed, run)


def _say(turns: int, answered: int) -> None:
    ERR.print(f"turn {turns}: {answered} events answered", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
