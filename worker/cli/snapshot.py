"""`provisioner snapshot`."""

import codecs
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from contracts.envelope import rfc3339
from worker.cli import terminal
from worker.cli.files import FileUnusable, output_file, read_bytes, writing_to
from worker.cli.loop import run_to_exit
from worker.cli.options import By, Json, Shown, Yes, one_of, time_option
from worker.core.snapshots import SOURCE_NAME
from worker.ports import UserError
from worker.settings.files import closed_to_us
from worker.settings.load import load
from worker.settings.model import SnapshotSettings

if TYPE_CHECKING:
    from worker.core.snapshots import Row
    from worker.operations.snapshot_lists import Refused
    from worker.operations.snapshot_plan import Plan, Planned
    from worker.operations.snapshots import Applied
    from worker.settings.sources import Source

AT_ONCE = 1000
LARGEST_DOCUMENT = 64 << 20
SHOWN = 10
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

app = typer.Typer(no_args_is_help=True, help="Compare complete lists of departments, and send what changed.")


class WithMissing(StrEnum):
    """The treatment of departments that the list is without."""

    REPORT = "report"
    REMOVE = "remove"


def _source(text: str) -> str:
    if not SOURCE_NAME.fullmatch(text):
        raise typer.BadParameter("a source has 1 to 64 letters, digits, dots, dashes and underscores")
    return text


def _encoding(text: str) -> str:
    try:
        return codecs.lookup(text).name
    except LookupError:
        raise typer.BadParameter(f"{text!r} is no encoding; write utf-8, utf-16 or cp1252") from None


@dataclass(frozen=True, slots=True)
class _Request:
    """The input of `plan`. `list_`: a path, `-`, or a URL."""

    list_: str
    source: str
    as_of: datetime | None
    profile: str | None
    file: Path | None
    encoding: str | None

    @property
    def name(self) -> str:
        """The list in errors."""
        return "standard input" if self.list_ == "-" else self.list_.partition("?")[0]

    @property
    def is_url(self) -> bool:
        return self.list_.startswith(("http://", "https://"))


@app.command()
def plan(
    list_: Annotated[
        str,
        typer.Argument(
            metavar="FILE|URL",
            help="CSV with the header department_id,name and optionally parent_id,tenant; a JSON array or"
            " JSON Lines with these members; - for stdin; or a URL, with --profile.",
        ),
    ],
    *,
    source: Annotated[
        str,
        typer.Option(parser=_source, metavar="NAME", help="Whose list it is: each source has its own past."),
    ],
    as_of: Annotated[
        datetime | None,
        time_option("When the list was exported; by default the time at which the file was written."),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Read the list's items by this source profile."),
    ] = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Keep the plan there, for `snapshot apply`."),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            parser=_encoding, metavar="NAME", help="Of a file without byte order mark, if not UTF-8."
        ),
    ] = None,
    shown: Shown = SHOWN,
    as_json: Json = False,
) -> None:
    """Compare a complete list of departments with what its source said before. It changes nothing.

    Exit 1 if a line is refused: then no department counts as missing, because the line may be its own.
    """
    settings = load(SnapshotSettings, os.environ)
    request = _Request(list_, source, as_of, profile, plan_file, encoding)
    if request.is_url and profile is None:
        raise typer.BadParameter("a URL needs --profile, which says how its pages are read")
    run_to_exit(_plan(settings, request, shown=shown, as_json=as_json))


@app.command()
def apply(
    plan_file: Annotated[
        Path, typer.Argument(metavar="PLAN", help="The file that `snapshot plan --plan` has written.")
    ],
    *,
    missing: Annotated[
        WithMissing,
        typer.Option(
            parser=one_of(WithMissing),
            metavar="report|remove",
            help="remove: departments that two lists in a row are without. The guards of removals apply.",
        ),
    ] = WithMissing.REPORT,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Apply the other lines although some are refused.")
    ] = False,
    yes: Yes = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Send the events of a plan, exactly those, and remember what was said.

    A command that was stopped goes on where it was when it is given again. Applied twice, a plan sends the
    same events under the same ids, which the worker answers once.
    """
    from worker.adapters.system import os_user
    from worker.cli.consent import ask, is_interactive
    from worker.operations.snapshot_plan import read_plan

    settings = load(SnapshotSettings, os.environ)
    planned = read_plan(read_bytes(plan_file), str(plan_file))
    removes = missing is WithMissing.REMOVE
    if planned.refused and not skip_bad:
        raise PlanHasRefused(
            f"lines of the list were refused ({planned.refused:,}), and nothing is sent: correct them and"
            " plan the list again, or give --skip-bad to send the others"
        )
    if planned.refused and removes:
        terminal.advise("a plan with refused lines trusts no absence: nothing is removed")
    if not yes and is_interactive() and str(plan_file) != "-":
        ask(_question(planned, removes=removes))
    options = [f"--missing={missing}"] * removes + ["--skip-bad"] * skip_bad
    selection = " ".join([str(plan_file), *options])
    run_to_exit(_apply(settings, planned, selection, by or os_user(), removes=removes, as_json=as_json))


def _question(planned: "Plan", *, removes: bool) -> str:
    removals = f", {len(planned.removable):,} removed" if removes else ""
    return (
        f"Send {len(planned.created):,} created, {len(planned.renamed):,} renamed{removals} of"
        f" {planned.source}, as of {terminal.moment(planned.as_of)}?"
    )


async def _plan(settings: SnapshotSettings, request: _Request, *, shown: int, as_json: bool) -> bool:
    """Returns whether no line was refused."""
    from worker.adapters.sqlite.draft import draft
    from worker.adapters.system import SystemClock
    from worker.cli import open_ports
    from worker.cli.progress import progress
    from worker.operations.snapshot_plan import Planning, PlanWriter

    now = SystemClock().now()
    as_of = (request.as_of or _written_at(request, now)).astimezone(UTC)
    with ExitStack() as stack:
        temporary, writer = stack.enter_context(draft()), PlanWriter(stack)
        async with open_ports.snapshots_to_plan(settings) as snapshots:
            planning = Planning(snapshots, temporary, writer, request.source, request.name, as_of, now)
            await planning.begin()
            with progress("rows read") as display:
                async for rows in _rows(settings, request, as_of):
                    planning.take(rows)
                    display.more(len(rows))
            planned = await planning.plan()
        if request.file is not None:
            _keep(planned, request.file)
        if as_json:
            planned.writer.write(planned.head, terminal.write)
        else:
            _show(planned, request, shown)
        terminal.complain(
            f"{request.name}:{one['line']}: {one['error']}" for one in planned.writer.items("refused", shown)
        )
        _advise(planned, request, shown)
    return not planned.counts["refused"]


def _written_at(request: _Request, now: datetime) -> datetime:
    """When the list was written: running the command twice on one file makes no second list of it."""
    if request.is_url or request.list_ == "-":
        return now
    with _reading(Path(request.list_)):
        return EPOCH + timedelta(microseconds=Path(request.list_).stat().st_mtime_ns // 1000)


async def _rows(
    settings: SnapshotSettings, request: _Request, as_of: datetime
) -> AsyncIterator[Sequence["Row | Refused"]]:
    """The rows of the list, some at a time."""
    if request.is_url:
        async for rows in _rows_of_url(settings, request, as_of):
            yield rows
        return
    rows_of_file = _rows_of_file(settings, request, as_of)
    while rows := list(islice(rows_of_file, AT_ONCE)):
        yield rows


def _rows_of_file(
    settings: SnapshotSettings, request: _Request, as_of: datetime
) -> Iterator["Row | Refused"]:
    from worker.operations import snapshot_lists as lists
    from worker.operations.snapshot_pages import ProfileRows, items_of_document

    source = _profile(settings, request.profile)
    with _opened(request.list_) as file:
        if source is None:
            items = lists.items_in(file, request.name, request.encoding)
            yield from lists.rows_of(items, lists.row_by_contract)
            return
        make = ProfileRows(source.profile, as_of)
        if source.profile.each is not None:
            content = file.read(LARGEST_DOCUMENT + 1)
            if len(content) > LARGEST_DOCUMENT:
                raise lists.ListUnreadable(
                    f"{request.name}: a document of more than 64 MiB; write JSON Lines"
                )
            document = lists.document_in(content, request.name)
            yield from lists.rows_of(items_of_document(source.profile, document, request.name), make)
            return
        items = lists.items_in(file, request.name, request.encoding, columns=None)
        yield from lists.rows_of(items, make)


async def _rows_of_url(
    settings: SnapshotSettings, request: _Request, as_of: datetime
) -> AsyncIterator[Sequence["Row | Refused"]]:
    from pydantic import SecretStr

    from worker.adapters.pages import page_reader
    from worker.adapters.system import SystemClock
    from worker.core.intake.pages import PageInvalid, Paging
    from worker.operations.snapshot_pages import ProfileRows, rows_of_pages

    source = _profile(settings, request.profile)
    if source is None or source.profile.pages is None:
        raise NoPages(f"profile {request.profile} has no pages: it says nothing of how a URL is read")
    pages = source.profile.pages
    try:
        paging = Paging(pages, request.list_)
    except (PageInvalid, ValueError) as error:
        raise NoPages(f"profile {request.profile}: {error}") from None
    secret = None
    if pages.secret_file is not None:
        path = (source.folder or Path()) / pages.secret_file
        first = (read_bytes(path).decode(errors="replace").split() or [""])[0]
        secret = SecretStr(pages.prefix + first)
    async with page_reader(pages.header, secret) as reader:
        make = ProfileRows(source.profile, as_of)
        async for rows in rows_of_pages(reader, paging, make, SystemClock()):
            yield rows


def _profile(settings: SnapshotSettings, name: str | None) -> "Source | None":
    from worker.settings.sources import load_sources

    if name is None:
        return None
    sources = load_sources(settings.sources)
    if name not in sources:
        raise NoPages(f"there is no profile {name}; there are {', '.join(sources)}")
    return sources[name]


class PlanHasRefused(UserError):
    """The plan has refused lines, and the command does not skip them."""


class NoPages(UserError):
    """The list cannot be read by this profile."""

    exit_code = 2


@contextmanager
def _opened(list_: str) -> Iterator[BinaryIO]:
    if list_ == "-":
        yield sys.stdin.buffer
        return
    with _reading(Path(list_)):
        file = Path(list_).open("rb")  # noqa: SIM115 - closed below
    with file:
        yield file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = f"; {closed_to_us(path)}" if isinstance(error, PermissionError) else ""
        raise FileUnusable(f"{path} cannot be read: {error.strerror}{advice}") from None


def _keep(planned: "Planned", file: Path) -> None:
    """Writes the plan beside its place first, so that no half of one is ever there."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with output_file(beside) as out:
            planned.writer.write(planned.head, lambda text: out.write(text.encode()))
        with writing_to(file):
            beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def _show(planned: "Planned", request: _Request, shown: int) -> None:
    columns = ("change", "tenant", "department", "name", "detail")
    rows = [
        (section, item["tenant"], item["department_id"], item["name"], _detail(section, item))
        for section in ("created", "renamed", "missing")
        for item in planned.writer.items(section, shown)
    ]
    terminal.print_table(columns, rows, "nothing differs from what the source said before")
    counts = planned.counts
    told = [f"{counts[section]:,} {section}" for section in counts]
    told.insert(2, f"{planned.head['same']:,} same")
    terminal.say(f"{request.source} as of {planned.head['as_of']}: {', '.join(told)}")


def _detail(section: str, item: dict[str, Any]) -> str | None:
    if section == "renamed":
        return f"was {item['previous_name']}"
    if section == "missing":
        return f"since {item['since']}" if item["since"] else "for the first time"
    return None


def _advise(planned: "Planned", request: _Request, shown: int) -> None:
    counts = planned.counts
    if counts["refused"] > shown:
        terminal.advise(f"{counts['refused'] - shown:,} more lines are refused; --json has all")
    if counts["refused"]:
        terminal.advise("with refused lines no department counts as missing; `apply` needs --skip-bad")
    if planned.removable:
        terminal.advise(
            f"`apply --missing=remove` would remove {planned.removable:,}: two lists are without them"
        )
    if planned.unsent:
        terminal.advise(
            "an earlier plan of this source was not sent to its end: `apply` sends its rest first"
        )
    terminal.advise(*planned.warnings)
    if request.file is not None and terminal.ERR.is_terminal:
        terminal.advise(f"nothing was changed; `provisioner snapshot apply {request.file}` sends it")


async def _apply(
    settings: SnapshotSettings, planned: "Plan", selection: str, by: str, *, removes: bool, as_json: bool
) -> bool:
    """Returns True: an apply that does not come to its end raises."""
    from worker.adapters.system import SystemClock, fresh_id
    from worker.cli import open_ports
    from worker.cli.progress import progress
    from worker.operations.snapshots import Applying

    total = len(planned.created) + len(planned.renamed) + removes * len(planned.removable)
    async with (
        open_ports.snapshots_to_write(settings) as (snapshots, audit),
        open_ports.publisher(settings) as publisher,
    ):
        with progress("sending", total) as display:
            applying = Applying(
                snapshots, publisher, audit, SystemClock(), by=by, run=fresh_id(), on_sent=display.more
            )
            applied = await applying.apply(planned, selection, removes=removes)
    _show_applied(planned, applied, as_json=as_json)
    return True


def _show_applied(planned: "Plan", applied: "Applied", *, as_json: bool) -> None:
    if as_json:
        terminal.print_json(
            {
                "source": planned.source,
                "as_of": rfc3339(planned.as_of),
                "digest": planned.digest,
                "sent": applied.sent,
                "skipped": applied.skipped,
                "removed": applied.removed,
                "left": [
                    {"tenant": tenant, "department_id": id_, "reason": reason}
                    for (tenant, id_), reason in applied.left
                ],
            }
        )
        return
    terminal.say(f"events sent: {applied.sent:,}; removals among them: {applied.removed:,}")
    if applied.left_before:
        terminal.say(f"rest of an earlier command among them: {applied.left_before:,}")
    if applied.skipped:
        terminal.say(f"sent by an earlier command: {applied.skipped:,}")
    rows = [(tenant, id_, reason) for (tenant, id_), reason in applied.left[:SHOWN]]
    if rows:
        terminal.say(f"missing departments left alone: {len(applied.left):,}")
        terminal.print_table(("tenant", "department", "reason"), rows, "")
