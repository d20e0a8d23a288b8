"""`provisioner demo`: plays every kind of event on one machine and shows it live."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from pydantic import SecretStr
from pydantic_core import from_json, to_json
from rich import box
from rich.console import Console
from rich.table import Table

from contracts import topology as names
from contracts.envelope import STRUCTURED, CloudEvent, Message
from contracts.subaccounts import DeadReason, ResultKind
from worker.adapters.ledgers import open_ledger
from worker.adapters.system import SystemClock, fresh_id
from worker.bootstrap.running import running_worker
from worker.core.dead_letters import Selection
from worker.core.messages import Outgoing
from worker.core.model.answers import Answer
from worker.core.model.wishes import Approving
from worker.demo.playground import (
    existing_subaccount,
    exports,
    free_address,
    next_steps,
    things_to_try,
    worker_until_stopped,
    write_adoption,
    write_event,
)
from worker.demo.stage import Stage, stage
from worker.operations.dead_letters.replay import Replay
from worker.operations.dead_letters.session import Session
from worker.operations.emit import complete_event, inbound
from worker.operations.holds import HoldFilter, Rulings, holds
from worker.operations.wishes import Asking
from worker.ports import PublishFailed, UserError
from worker.sandbox import Effect, Fault, Rule, Sandbox, Sight, running_sandbox
from worker.sandbox import Entry as Call
from worker.settings.ledger_url import LedgerUrl
from worker.settings.load import load
from worker.settings.model import LedgerSettings, WorkerSettings
from worker.telemetry.events import Telemetry

T = TypeVar("T")

TIMEOUT_SECONDS = 15.0
READING_SECONDS = 0.6
ALIGNED = 60
"""Columns of the longest command whose purpose is aligned with those of others."""
REFUSED = Fault("refused", Effect.NEVER, Sight.ERROR, 400)
HR = "/demo/hr"
PROTECTED = ("finance", "sales")
PERSON = "ada"
CONSOLE = Console(highlight=False)


class DemoFailed(UserError):
    """The product behaved otherwise than the demo expects."""


class Timeline:
    """Prints the course of the demo, with the seconds since its start."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self._begun

    def chapter(self, title: str) -> None:
        """Prints a title."""
        CONSOLE.print(f"\n[bold]{title}[/]")

    def plain(self, text: str) -> None:
        """Prints a line that can be copied: never wrapped."""
        CONSOLE.print(text, markup=False, soft_wrap=True)

    def listed(self, commands: Sequence[tuple[str, str]]) -> None:
        """Prints commands, each with its purpose as a comment of the shell; long ones are not aligned."""
        width = max((len(command) for command, _ in commands if len(command) <= ALIGNED), default=0)
        for command, purpose in commands:
            self.plain(f"{command.ljust(width)}  # {purpose}")

    def line(self, part: str, text: str, style: str = "") -> None:
        """Prints the time, the part of the system that acts, and its action."""
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(width=7, justify="right", style="dim")
        row.add_column(width=7, style="cyan")
        row.add_column(style=style or None)
        row.add_row(f"{self.seconds:.2f}s", part, text)
        CONSOLE.print(row)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the closing table."""

    event: str
    calls: str
    result: str
    milliseconds: float


@dataclass
class Story:
    """State of the scenes: the running parts, and the credentials and results so far."""

    stage: Stage
    sandbox: Sandbox
    environ: Mapping[str, str]
    http: aiohttp.ClientSession
    timeline: Timeline
    folder: Path
    answers: "asyncio.Queue[Answer]" = field(default_factory=asyncio.Queue)
    tokens: dict[str, tuple[str, SecretStr]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def ledger_url(self) -> LedgerUrl:
        """Where the worker's ledger is."""
        return load(LedgerSettings, self.environ).ledger_url


async def tell(environ: Mapping[str, str], *, memory: bool, stay: bool = False) -> None:
    """Plays every scene; raises `DemoFailed` at the first unexpected outcome.

    With `stay` everything then runs on until a signal, for a person to use from another terminal.
    """
    timeline = Timeline()
    if memory:
        CONSOLE.print(
            "[black on yellow] IN MEMORY [/] no RabbitMQ: an imitation stands in for it, which proves less"
        )
    async with _set_up(environ, timeline, memory=memory) as story:
        async with _working(story):
            for scene in SCENES:
                await _play_scene(scene, story)
                await asyncio.sleep(READING_SECONDS if CONSOLE.is_terminal else 0)
        if stay:
            _sum_up(story)
            await _stay(story)
    if not stay:
        _sum_up(story)
        timeline.chapter("next:")
        timeline.listed(next_steps())
        timeline.plain("README.md, On your machine: from here to a first event of your own")


async def _play_scene(scene: Callable[[Story], Awaitable[None]], story: Story) -> None:
    try:
        await scene(story)
    except PublishFailed as error:
        raise DemoFailed(f"the demo failed: {error}") from None


@asynccontextmanager
async def _set_up(environ: Mapping[str, str], timeline: Timeline, *, memory: bool) -> AsyncIterator[Story]:
    timeline.chapter("Setting up")
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="provisioner-demo-"))
        place = await stack.enter_async_context(
            stage(environ, lambda line: timeline.line("broker", line), memory=memory)
        )
        work_queue = place.namespace.of(names.WORK_QUEUE)
        timeline.line("broker", f"{place.where}, with {work_queue} and its like in place")
        sandbox = await stack.enter_async_context(running_sandbox(state=Path(folder) / "sandbox.db"))
        timeline.line("sandbox", f"{sandbox.url} imitates Plivo; this is NOT Plivo")
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Story(place, sandbox, _environ(folder, place, sandbox), http, timeline, Path(folder))
        timeline.chapter("Clearing away")
    timeline.line("demo", "worker, sandbox and broker stopped; nothing left behind")


def _environ(folder: str, place: Stage, sandbox: Sandbox) -> dict[str, str]:
    return {
        "AMQP_URL": place.amqp_url,
        "PLIVO_AUTH_ID": sandbox.auth_id,
        "PLIVO_AUTH_TOKEN": sandbox.auth_token,
        "PLIVO_API_URL": sandbox.url,
        "LEDGER_URL": f"sqlite:///{Path(folder) / 'demo.db'}",
        "PROVISIONER_OWNER": "demo",
        "PROVISIONER_PLAINTEXT_SECRETS": "true",
        "PROVISIONER_PROTECTED": ",".join(PROTECTED),
        **({"PROVISIONER_NAMESPACE": prefix} if (prefix := place.namespace.prefix) else {}),
    }


@asynccontextmanager
async def _working(story: Story) -> AsyncIterator[None]:
    """Runs the worker of the scenes, which reports every answer to the story."""
    telemetry = Telemetry(on_answered=lambda _, answer: story.answers.put_nowait(answer))
    async with running_worker(load(WorkerSettings, story.environ), telemetry, story.stage.broker):
        story.timeline.line("worker", "consuming")
        yield


async def _stay(story: Story) -> None:
    """Runs `provisioner run` until a signal, and prints how to use it from another terminal."""
    timeline, environ = story.timeline, {**story.environ, "PROVISIONER_HTTP": free_address()}
    async with worker_until_stopped(environ, story.http) as stopped:
        timeline.chapter("Broker, sandbox and worker keep running until Ctrl-C. In another terminal:")
        for line in exports(environ):
            timeline.plain(line)
        env_file = story.folder / "demo.env"
        env_file.write_text("".join(f"{name}={value}\n" for name, value in environ.items()))
        timeline.plain(f"# or give each command: --env-file {env_file}")
        timeline.chapter("Then try:")
        adoption = write_adoption(story.folder, await existing_subaccount(environ, story.http))
        event = write_event(story.folder, _event("removed", "legal", None))
        timeline.listed(things_to_try(environ["PROVISIONER_HTTP"], adoption, event, PROTECTED[-1]))
        timeline.chapter("The log of the worker follows.")
        await stopped


async def _created(story: Story) -> None:
    story.timeline.chapter("Three departments are founded")
    for department, name in (("sales", "Sales"), ("support", "Support"), ("field-ops", "Field Ops")):
        await _play(story, _event("created", department, name), ResultKind.CREATED, credentials=True)
        await _show_token(story, department, works=True)


async def _renamed(story: Story) -> None:
    story.timeline.chapter("One is renamed: the name alone is sent, so it stays enabled")
    await _play(story, _event("renamed", "support", "Customer Care"), ResultKind.RENAMED)
    await _show_token(story, "support", works=True)


async def _duplicate(story: Story) -> None:
    story.timeline.chapter("The same message is delivered twice")
    event = _event("created", "legal", "Legal")
    await _play(story, event, ResultKind.CREATED, credentials=True)
    await _play(story, event, None)


async def _late(story: Story) -> None:
    story.timeline.chapter("An old message comes late: the newer one holds")
    event = _event("renamed", "support", "Support Desk")
    late = event.model_copy(update={"time": SystemClock().now() - timedelta(hours=1)})
    await _play(story, late, ResultKind.SUPERSEDED)


async def _invalid(story: Story) -> None:
    story.timeline.chapter("Two messages are bad; their neighbours do not notice")
    await _play_invalid(story, "not JSON", b'{"specversion": "1.0", "id":', DeadReason.MALFORMED)
    nameless = _event("created", "nameless", "x").model_dump(mode="json", exclude_none=True)
    nameless["data"]["name"] = "  "
    await _play_invalid(story, "created nameless, no name", to_json(nameless), DeadReason.INVALID)


async def _replayed(story: Story) -> None:
    story.timeline.chapter("Plivo refuses one; once the cause is gone, its dead letter is replayed")
    event = _event("created", "finance", "Finance")
    story.sandbox.set_rules(Rule("create_subaccount", REFUSED))
    await _play_refused(story, event)
    story.sandbox.set_rules()
    await _play(story, event, ResultKind.CREATED, credentials=True, replay=True)


async def _removed(story: Story) -> None:
    story.timeline.chapter("One is removed: its subaccount is disabled, to be deleted after 30 days")
    await _play(story, _event("removed", "field-ops", None), ResultKind.DISABLED)
    await _show_token(story, "field-ops", works=False)


async def _restored(story: Story) -> None:
    story.timeline.chapter("It comes back before that: the same subaccount and credentials work again")
    await _play(story, _event("created", "field-ops", "Field Ops"), ResultKind.RESTORED)
    await _show_token(story, "field-ops", works=True)


async def _held(story: Story) -> None:
    story.timeline.chapter("A protected one is removed: the removal is held until a person approves it")
    event = _event("removed", "finance", None)
    await _play(story, event, ResultKind.HELD)
    await _show_token(story, "finance", works=True)
    await _play_approved(story, event)
    await _show_token(story, "finance", works=False)


SCENES = (_created, _renamed, _duplicate, _late, _invalid, _replayed, _removed, _restored, _held)


def _event(kind: str, department: str, name: str | None) -> CloudEvent:
    """A valid event of now. It has no sequence, so that the reader's own events are newer."""
    data = {"department_id": department} | ({"name": name} if name else {})
    given = {"type": f"department.{kind}.v1", "source": HR, "data": data}
    return complete_event(given, SystemClock().now(), fresh_id)


async def _play(
    story: Story,
    event: CloudEvent,
    expected: ResultKind | None,
    *,
    credentials: bool = False,
    replay: bool = False,
) -> None:
    """Sends an event, shows its outcome and checks that it is `expected`; None: no second answer.

    With `replay` its dead letter is sent to work instead.
    """
    label = _label(event)
    part = "replay" if replay else "event"
    story.timeline.line(part, label, "bold")
    begun, calls_before = story.timeline.seconds, len(story.sandbox.requests)
    await (_replay(story) if replay else story.stage.publisher.publish(inbound(event)))
    auth_id = await _receive_credentials(story, event.data.department_id) if credentials else None
    result = await _final(story, event, expected)
    calls = _show_calls(story, calls_before)
    if auth_id:
        story.timeline.line("secret", f"auth_id {auth_id}, auth_token {'•' * 12}", "magenta")
    story.timeline.line("result", result, "green")
    milliseconds = (story.timeline.seconds - begun) * 1_000
    story.rows.append(Row(f"{label}{', replayed' * replay}", calls, result, milliseconds))


async def _replay(story: Story) -> None:
    """Does what `provisioner dead-letters replay --reason rejected` does."""
    async with (
        story.stage.dead_letters() as queue,
        open_ledger(story.ledger_url, must_exist=True) as opened,
    ):
        session = Session(
            queue,
            story.stage.publisher,
            opened.audit,
            SystemClock(),
            by="demo",
            run=fresh_id(),
            asked=f"--reason {DeadReason.REJECTED}",
            selection=Selection(reason=(DeadReason.REJECTED,)),
        )
        report = await Replay(session).send_and_track(None, opened.ledger)
        _must(report.answered == 1 and not report.is_bad, "the replay did not end in one answer")


async def _play_approved(story: Story, event: CloudEvent) -> None:
    """Approves the one held removal, and shows that it is carried out."""
    begun, calls_before = story.timeline.seconds, len(story.sandbox.requests)
    await _approve(story)
    document = await _hear(story, names.RESULTS)
    _must(document["type"] == "subaccount.disabled.v1", f"the approval: heard {document['type']}")
    _must(document["causationid"] == event.id, "the approval ended in the result of another event")
    calls = _show_calls(story, calls_before)
    story.timeline.line("result", result := f"subaccount.{ResultKind.DISABLED}", "green")
    milliseconds = (story.timeline.seconds - begun) * 1_000
    story.rows.append(Row(f"{_label(event)}, approved", calls, result, milliseconds))


async def _approve(story: Story) -> None:
    """Does what `provisioner holds approve ID` does."""
    clock = SystemClock()
    async with open_ledger(story.ledger_url, must_exist=True) as opened:
        (hold,) = await holds(opened.ledger, clock.now(), HoldFilter())
        story.timeline.line(PERSON, f"provisioner holds approve {hold.id}", "bold")
        asking = Asking(opened.ledger, opened.audit, clock, PERSON, fresh_id)
        (outcome,) = await Rulings(asking).ask([Approving(hold.id)])
    _must(outcome.well, f"the approval was not carried out: {outcome.detail}")


async def _final(story: Story, event: CloudEvent, expected: ResultKind | None) -> str:
    document: Mapping[str, Any] = {}
    if expected is not None:
        document = await _hear(story, names.RESULTS)
        heard = document["type"]
        _must(heard == f"subaccount.{expected}.v1", f"{_label(event)}: heard {heard}")
    answer = await _in_time(story.answers.get(), f"the worker never answered {_label(event)}")
    _must(answer.event.id == event.id, "the worker answered another event")
    if expected is None:
        _must(answer.confirmed and story.stage.heard.empty(), "a duplicate was answered twice")
        return "known, and answered before"
    why = f", {document['data']['code']}" if expected is ResultKind.HELD else ""
    return f"subaccount.{expected}{why}"


async def _play_refused(story: Story, event: CloudEvent) -> None:
    message = inbound(event).message
    await _play_invalid(story, _label(event), message.body, DeadReason.REJECTED)


async def _play_invalid(story: Story, label: str, body: bytes, reason: DeadReason) -> None:
    """Sends a message and shows why it becomes a dead letter, for `reason`."""
    story.timeline.line("event", label, "bold")
    begun, calls_before = story.timeline.seconds, len(story.sandbox.requests)
    await story.stage.publisher.publish(
        Outgoing(names.DEPARTMENTS, "department.created", Message(body, STRUCTURED))
    )
    _must((await _hear(story, names.RESULTS))["type"] == "subaccount.failed.v1", "no failed result")
    dead = await _next(story, names.DEAD_LETTERS)
    headers = dead.message.headers
    _must(dead.message.body == body, "the dead letter is not what was sent, byte for byte")
    _must(headers["x-dead-reason"] == reason, f"dead-lettered as {headers['x-dead-reason']}")
    calls = _show_calls(story, calls_before)
    story.timeline.line("result", f"dead letter, {reason}: {headers['x-dead-detail']}", "yellow")
    milliseconds = (story.timeline.seconds - begun) * 1_000
    story.rows.append(Row(label, calls, f"dead letter: {reason}", milliseconds))


async def _receive_credentials(story: Story, department: str) -> str:
    """Keeps the token for later and returns the auth id."""
    data = (await _hear(story, names.SECRETS))["data"]
    _must(data["department_id"] == department, f"credentials of {data['department_id']} came")
    story.tokens[department] = (data["auth_id"], SecretStr(data["auth_token"]))
    return str(data["auth_id"])


async def _show_token(story: Story, department: str, *, works: bool) -> None:
    """Sends a message through the sandbox with the department's own credentials."""
    auth_id, token = story.tokens[department]
    authorization = aiohttp.encode_basic_auth(auth_id, token.get_secret_value())
    async with story.http.post(
        f"{story.sandbox.url}/v1/Account/{auth_id}/Message/",
        json={"src": "14155550123", "dst": "14155550100", "text": "Hello"},
        headers={"Authorization": authorization},
    ) as response:
        _must(response.ok is works, f"the sandbox answered {response.status} to {department}'s token")
        verdict = "takes" if works else "refuses"
        story.timeline.line("token", f"the sandbox {verdict} a message sent with it ({response.status})")


def _show_calls(story: Story, before: int) -> str:
    """Shows the calls since then; returns them in short."""
    calls = _calls_since(story, before)
    story.timeline.line("call", ", ".join(map(_in_full, calls)) or "none")
    return ", ".join(map(_in_short, calls)) or "none"


def _calls_since(story: Story, before: int) -> list[Call]:
    return [call for call in story.sandbox.requests[before:] if "/Subaccount/" in call.path]


def _in_short(call: Call) -> str:
    return f"{(call.operation or 'unknown').removesuffix('s').removesuffix('_subaccount')} → {call.status}"


def _in_full(call: Call) -> str:
    return f"{_in_short(call)}, sent: {', '.join(call.body or ()) or 'nothing'}"


def _label(event: CloudEvent) -> str:
    name = f" “{event.data.name}”" if event.data.name else ""
    return f"{event.type.split('.')[1]} {event.data.department_id}{name}"


async def _hear(story: Story, exchange: str) -> dict[str, Any]:
    document: dict[str, Any] = from_json((await _next(story, exchange)).message.body)
    return document


async def _next(story: Story, exchange: str) -> Outgoing:
    heard = await _in_time(story.stage.heard.get(), f"nothing was published on {exchange}")
    _must(heard.exchange == exchange, f"heard from {heard.exchange}, not from {exchange}")
    return heard


async def _in_time(awaited: Awaitable[T], otherwise: str) -> T:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await awaited
    except TimeoutError:
        raise DemoFailed(f"the demo failed: {otherwise} within {TIMEOUT_SECONDS:.0f} s") from None


def _must(held: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not held:
        raise DemoFailed(f"the demo failed: {otherwise}")


def _sum_up(story: Story) -> None:
    table = Table("event", "calls to Plivo", "result", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("time", justify="right")
    for row in story.rows:
        table.add_row(row.event, row.calls, row.result, f"{row.milliseconds:.0f} ms")
    CONSOLE.print(table)
    totals = f"{len(story.rows)} steps, {len(story.tokens)} departments with a subaccount each"
    CONSOLE.print(f"{totals}, {story.timeline.seconds:.1f} s in all")
