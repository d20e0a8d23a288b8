"""`python -m contracts.export` writes `schemas/`, `asyncapi.yaml`, `openapi.yaml`; `--check` compares them.

They are generated from the models, the topology and the examples.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from contracts import asyncapi, block_yaml, json_schema, openapi

FOLDER = Path(__file__).parent


def generated() -> dict[Path, str]:
    """Returns the content of each generated file, by path."""
    files = {
        FOLDER / "schemas" / f"{name}.json": json.dumps(json_schema.document(name), indent=2) + "\n"
        for name in json_schema.DOCUMENTS
    }
    document = asyncapi.document(dict(_examples()))
    notice = "# Written by `python -m contracts.export`. Do not edit.\n"
    return files | {
        FOLDER / "asyncapi.yaml": notice + block_yaml.dump(document),
        FOLDER / "openapi.yaml": notice + block_yaml.dump(openapi.document()),
    }


def stale(files: dict[Path, str]) -> Iterator[str]:
    """Yields a line for each file that is missing, differs or is no longer generated."""
    for path, content in files.items():
        if not path.exists():
            yield f"{_shown(path)} is missing"
        elif path.read_text(encoding="utf-8") != content:
            yield f"{_shown(path)} is out of date"
    yield from (f"{_shown(path)} is generated no more" for path in _left_over(files))


def write(files: dict[Path, str]) -> None:
    """Writes the files, and deletes schemas that are no longer generated."""
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="\n")
    for path in _left_over(files):
        path.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m contracts.export", description="Writes schemas/, asyncapi.yaml and openapi.yaml."
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is not fresh")
    files = generated()
    if not parser.parse_args(arguments).check:
        write(files)
        return 0
    found = list(stale(files))
    for line in found:
        sys.stderr.write(f"{line}; run python -m contracts.export\n")
    return 1 if found else 0


def _left_over(files: dict[Path, str]) -> list[Path]:
    return sorted(set((FOLDER / "schemas").glob("*.json")) - files.keys())


def _shown(path: Path) -> str:
    return path.relative_to(FOLDER.parent).as_posix()


def _examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the AsyncAPI example of each message, by the message's name."""
    for message, name in asyncapi.EXAMPLES.items():
        content = json.loads((FOLDER / "examples" / f"{name}.json").read_text(encoding="utf-8"))
        parts = {"headers": content["headers"], "payload": content["body"]} if "body" in content else None
        yield message, {"name": name} | (parts or {"payload": content})


if __name__ == "__main__":
    sys.exit(main())
