"""What a person sees: tables on a terminal, JSON for scripts."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_json
from rich import box
from rich.console import Console
from rich.table import Table

from worker.core.model import Answer, Entry

OUT = Console()
ERR = Console(stderr=True)

_STYLES = {
    "active": "green",
    "ok": "green",
    "created": "green",
    "claimed": "yellow",
    "disabled": "yellow",
    "in use": "green",
    "older": "dim",
    "unusable": "red",
    "unsafe": "yellow",
    "missing": "red",
    "differs": "red",
    "refused": "red",
    "deleting": "red",
    "removed": "dim",
    "absent": "dim",
}


def complain(lines: Iterable[str]) -> None:
    for line in lines:
        ERR.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def advise(*lines: str) -> None:
    """What to do next, beside what was asked for."""
    for line in lines:
        ERR.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    OUT.file.write(to_json(value, indent=2).decode() + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table, or one line where there is nothing to show. Words that are states get their colour."""
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*[_cell(value) for value in row])
    OUT.print(table if table.row_count else empty)


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    escaped = text.replace("[", r"\[")
    style = _STYLES.get(text)
    return f"[{style}]{escaped}[/]" if style else escaped


def entry_document(entry: Entry) -> dict[str, Any]:
    """An entry as scripts read it. A token's fingerprint is nobody's business outside the ledger."""
    document: dict[str, Any] = TypeAdapter(Entry).dump_python(entry, mode="json", exclude={"fingerprint"})
    tenant, department_id = document.pop("department")
    return {"tenant": tenant, "department_id": department_id} | document


def answer_document(answer: Answer) -> dict[str, Any]:
    document: dict[str, Any] = TypeAdapter(Answer).dump_python(answer, mode="json")
    document["event"] = dict(zip(("source", "id", "type"), document["event"], strict=True))
    return {name: value for name, value in document.items() if name not in {"department", "trace"}}
