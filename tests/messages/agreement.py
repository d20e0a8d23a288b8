"""`python -m tests.messages.agreement --events 100000 --seed 1`: compares the schemas with the worker.

Each event is validated by both. The schema may accept what the worker refuses only where JSON Schema cannot
say it, and each such case is proven from the event itself; it never refuses what the worker accepts.
"""

# ruff: noqa: T201 - a command line program prints

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema_rs

import contracts
from contracts import text
from contracts.departments import Invalid, UnsupportedType, department_event
from contracts.envelope import STRUCTURED, Malformed, Message, read
from tests.messages.variants import Variants, written

SCHEMAS = {
    kind: jsonschema_rs.Draft202012Validator(
        json.loads((Path(contracts.__file__).parent / "schemas" / f"department.{kind}.v1.json").read_text())
    )
    for kind in ("created", "renamed", "removed")
}
_CHANGED = re.compile(text.CHANGED_BY_NFC)
_SPACE = re.compile(text.WHITE_SPACE)


def compare(event: dict[str, Any]) -> str:
    """`accepted` or `refused` by both, `beyond`: what a schema cannot say, or else a disagreement."""
    refusal = refused(event)
    allowed = any(schema.is_valid(event) for schema in SCHEMAS.values())
    if allowed is (refusal is None):
        return "accepted" if allowed else "refused"
    if refusal is None:
        return "the worker accepts what the schema refuses"
    return "beyond" if is_beyond(event, refusal) else f"the schema accepts what the worker refuses: {refusal}"


def refused(event: dict[str, Any]) -> str | None:
    """Why the worker refuses it; None if it does not."""
    try:
        department_event(read(Message(written(event), STRUCTURED)))
    except (Malformed, UnsupportedType, Invalid) as error:
        return str(error)
    return None


def is_beyond(event: dict[str, Any], refusal: str) -> bool:
    """Whether every line of the refusal is about something that JSON Schema cannot say."""
    return all(_is_beyond(event, line) for line in refusal.split("; "))


def _is_beyond(event: dict[str, Any], line: str) -> bool:
    place, _, why = line.partition(": ")
    if event.get("data_base64") is not None and place.partition(".")[0] in {"data_base64", "data", "event"}:
        return True
    value = event.get(place)
    if place.startswith("data.") and isinstance(event.get("data"), dict):
        value = event["data"].get(place.removeprefix("data."))
    if why.startswith("subject must equal"):
        return text.identifier(event["subject"]) != text.identifier(event["data"]["department_id"])
    if place == "time":
        return isinstance(value, str) and _is_no_day(value)
    if why.startswith("must have at most") and isinstance(value, str):
        return bool(_CHANGED.search(value) or (place == "data.name" and _SPACE.search(value)))
    return False


def _is_no_day(value: str) -> bool:
    """Whether the date does not exist, or is a first or last day whose UTC is outside the years 1 to 9999."""
    date = value[:10]
    try:
        datetime.strptime(date, "%Y-%m-%d")  # noqa: DTZ007 - a date
    except ValueError:
        return True
    return date in {"0001-01-01", "9999-12-31"}


def run(events: int, seed: int) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Compares so many events; returns how often each outcome occurred, and the events in disagreement."""
    variants, counts, wrong = Variants(seed), Counter[str](), []
    for _ in range(events):
        event = variants.event()
        outcome = compare(event)
        counts[outcome] += 1
        if outcome.startswith("the "):
            wrong.append(event)
    return counts, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, metavar="N")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), metavar="N")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    counts, wrong = run(options.events, options.seed)
    for outcome, number in counts.most_common():
        print(f"{number:>9,}  {outcome}")
    for event in wrong[:10]:
        print(json.dumps(event))
    print(f"seed {options.seed}: {len(wrong)} disagreements in {time.monotonic() - began:.0f} s")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
