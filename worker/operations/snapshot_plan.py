"""Plans a snapshot: compares a list with what its source said before. It changes nothing."""

import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

from contracts.departments import DEFAULT_TENANT
from contracts.envelope import rfc3339
from contracts.times import instant
from worker.core.model.departments import Department
from worker.core.snapshots import (
    Create,
    Difference,
    Missing,
    PlanDigest,
    Rename,
    Row,
    Said,
    Same,
    Standing,
    difference,
    may_go,
    why_refused,
)
from worker.operations.snapshot_lists import ListUnreadable, Refused
from worker.ports import SnapshotDraft, Snapshots, UserError

AT_ONCE = 1000
CREATED, RENAMED, MISSING, REFUSED = "created", "renamed", "missing", "refused"
SECTIONS = (CREATED, RENAMED, MISSING, REFUSED)
CONTRADICTS = "line {} says otherwise of this department; neither is used"
ZEROS_KEPT = 1000
IN_MEMORY = 1 << 18
"""Bytes of a section of a plan that are not on disk."""


class PlanRefused(UserError):
    """The list cannot be planned; nothing was changed."""


class PlanUnusable(UserError):
    """The file is no plan, or not as it was written."""


class PlanWriter:
    """Takes the items of a plan as they come and writes the plan. Use it in an `ExitStack`."""

    def __init__(self, stack: ExitStack) -> None:
        self._digest = PlanDigest(SECTIONS)
        self._files: Mapping[str, IO[bytes]] = {
            section: stack.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115
            for section in SECTIONS
        }
        self.counts = dict.fromkeys(SECTIONS, 0)

    def add(self, section: str, item: Mapping[str, Any]) -> None:
        """Adds an item to a section."""
        self._digest.add(section, item)
        comma = ",\n    " if self.counts[section] else "\n    "
        self._files[section].write((comma + json.dumps(item)).encode())
        self.counts[section] += 1

    def items(self, section: str, most: int) -> Sequence[dict[str, Any]]:
        """The first items of a section."""
        file = self._files[section]
        file.seek(0)
        lines = (file.readline() for _ in range(min(most, self.counts[section]) + 1))
        found = [json.loads(line.strip().rstrip(b",")) for line in lines if line.strip()]
        file.seek(0, 2)
        return found

    def digest(self, head: Mapping[str, Any]) -> str:
        """The digest of the plan with this head."""
        return self._digest.hexdigest(head)

    def write(self, head: Mapping[str, Any], write: Callable[[str], object]) -> None:
        """Writes the plan as JSON in ASCII, piece by piece."""
        write("{")
        for member in ("source", "as_of"):
            write(f'\n  "{member}": {json.dumps(head[member])},')
        write(f'\n  "digest": "{self.digest(head)}",')
        self._write_section(CREATED, write)
        self._write_section(RENAMED, write)
        write(f'\n  "same": {head["same"]},')
        self._write_section(MISSING, write)
        self._write_section(REFUSED, write)
        write(f'\n  "previous": {json.dumps(head["previous"])}\n}}\n')

    def _write_section(self, section: str, write: Callable[[str], object]) -> None:
        file = self._files[section]
        write(f'\n  "{section}": [')
        file.seek(0)
        while piece := file.read(1 << 16):
            write(piece.decode("ascii"))
        write("\n  ]," if self.counts[section] else "],")


@dataclass(slots=True)
class Planned:
    """The result of planning. `warnings`: a line for each id that a spreadsheet may have changed."""

    head: Mapping[str, Any]
    writer: PlanWriter
    removable: int
    unsent: bool
    warnings: Sequence[str] = ()

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of items in each section."""
        return self.writer.counts


@dataclass(slots=True)
class Planning:
    """Plans one list. `name` is that of the list in errors, `now` the time of the command."""

    snapshots: Snapshots
    draft: SnapshotDraft
    writer: PlanWriter
    source: str
    name: str
    as_of: datetime
    now: datetime
    _last: Standing | None = None
    _rows: int = 0
    _removable: int = 0
    _first_missing: int = 0
    _same: int = 0
    _zeros: list[Department] = field(default_factory=list)

    async def begin(self) -> None:
        """Raises `PlanRefused` for a list of the future, or of before the last one."""
        self._last = await self.snapshots.standing(self.source)
        if why := why_refused(self.as_of, self._last, self.now):
            raise PlanRefused(f"{self.name}: {why}")

    def take(self, rows: Iterable[Row | Refused]) -> None:
        """Takes the next rows of the list."""
        good, refused = [], []
        for row in rows:
            self._rows += 1
            if isinstance(row, Refused):
                refused.append(row)
            else:
                good.append(row)
        refused += [Refused(row.line, CONTRADICTS.format(first)) for row, first in self.draft.add(good)]
        for one in sorted(refused, key=lambda one: one.line):
            self.writer.add(REFUSED, {"line": one.line, "error": one.error})

    async def plan(self) -> Planned:
        """The plan of all rows that were taken. Raises `PlanRefused`, `ListUnreadable`."""
        if not self._rows:
            raise ListUnreadable(f"{self.name}: no rows; a list of no department at all is not believed")
        async for one in self._differences():
            self._note(one)
        self._refuse_contradiction()
        head = {
            "source": self.source,
            "as_of": rfc3339(self.as_of),
            "same": self._same,
            "previous": None
            if self._last is None
            else {"as_of": rfc3339(self._last.as_of), "revision": self._last.revision},
        }
        unsent = bool(await self.snapshots.unsent(self.source, 1))
        return Planned(head, self.writer, self._removable, unsent, self._warnings())

    async def _differences(self) -> AsyncIterator[Difference]:
        """Both sides are in the same order, so each is read once."""
        rows = self.draft.rows()
        row = next(rows, None)
        async for said in self._said():
            while row is not None and row.department < said.department:
                yield difference(row, None)
                row = next(rows, None)
            if row is not None and row.department == said.department:
                yield difference(row, said)
                row = next(rows, None)
            else:
                yield difference(None, said)
        while row is not None:
            yield difference(row, None)
            row = next(rows, None)

    async def _said(self) -> AsyncIterator[Said]:
        last: Department | None = None
        while part := await self.snapshots.said_after(self.source, last, AT_ONCE):
            for said in part:
                yield said
            last = part[-1].department

    def _note(self, one: Difference) -> None:
        match one:
            case Create(row):
                self.writer.add(CREATED, _item(row))
            case Rename(row, previous_name):
                self.writer.add(RENAMED, {**_item(row), "previous_name": previous_name})
            case Missing(said):
                self._note_missing(said)
            case Same():
                self._same += 1

    def _note_missing(self, said: Said) -> None:
        """A department that a refused line may have named is not missing, so with one none is."""
        if self.writer.counts[REFUSED]:
            return
        since = said.missing_since
        self._removable += may_go(since, self.as_of)
        self._first_missing += since is None
        tenant, id_ = said.department
        if id_.startswith("0") and id_.isdigit() and len(self._zeros) < ZEROS_KEPT:
            self._zeros.append(said.department)
        item = {"tenant": tenant, "department_id": id_, "name": said.name}
        self.writer.add(MISSING, {**item, "since": rfc3339(since) if since else None})

    def _refuse_contradiction(self) -> None:
        """Two lists of one moment cannot both be right; one with refused lines may be mended."""
        last, counts = self._last, self.writer.counts
        if last is None or last.as_of != self.as_of or not (last.finished and last.complete):
            return
        if counts[CREATED] or counts[RENAMED] or self._first_missing:
            raise PlanRefused(
                f"{self.name}: another list of {rfc3339(self.as_of)} was applied, and this one differs: give"
                " --as-of the moment of this export"
            )

    def _warnings(self) -> Sequence[str]:
        return [
            f"department {id_} is missing, and there is {shorter}: did a spreadsheet drop the leading zeros?"
            for tenant, id_ in self._zeros
            if (shorter := id_.lstrip("0")) and self.draft.has(Department(tenant, shorter))
        ]


def _item(row: Row) -> dict[str, Any]:
    item = {"tenant": row.department.tenant, "department_id": row.department.id, "name": row.name}
    return item if row.parent_id is None else {**item, "parent_id": row.parent_id}


@dataclass(frozen=True, slots=True)
class Gone:
    """A missing department of a plan, and the first snapshot without it, if it is not this one."""

    row: Row
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as it was written. `revision`: that of the ledger it was made on; None: of a new source."""

    source: str
    as_of: datetime
    digest: str
    created: Sequence[Row]
    renamed: Sequence[Row]
    missing: Sequence[Gone]
    refused: int
    revision: int | None

    @property
    def removable(self) -> Sequence[Gone]:
        """The missing departments that a snapshot before was without already."""
        return [gone for gone in self.missing if may_go(gone.since, self.as_of)]


def read_plan(content: bytes, name: str) -> Plan:
    """The plan in a file. Raises `PlanUnusable` if it is none, or was changed since it was written."""
    try:
        document = json.loads(content)
        digest, sections = document["digest"], {section: document[section] for section in SECTIONS}
        head = {key: value for key, value in document.items() if key not in {"digest", *SECTIONS}}
        found = PlanDigest(SECTIONS)
        for section, items in sections.items():
            for item in items:
                found.add(section, item)
        is_whole = found.hexdigest(head) == digest
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise PlanUnusable(f"{name}: not a plan of `provisioner snapshot plan --plan FILE`") from None
    if not is_whole:
        raise PlanUnusable(f"{name}: it was changed since it was written, or cut: plan the list again")
    previous = head["previous"]
    return Plan(
        source=head["source"],
        as_of=instant(head["as_of"]),
        digest=digest,
        created=[_row(item) for item in sections[CREATED]],
        renamed=[_row(item) for item in sections[RENAMED]],
        missing=[
            Gone(_row(item), instant(item["since"]) if item["since"] else None) for item in sections[MISSING]
        ],
        refused=len(sections[REFUSED]),
        revision=previous["revision"] if previous else None,
    )


def _row(item: Mapping[str, Any]) -> Row:
    department = Department(item.get("tenant", DEFAULT_TENANT), item["department_id"])
    return Row(department, item["name"], 0, item.get("parent_id"))
