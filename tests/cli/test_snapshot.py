"""`provisioner snapshot`: what its commands say of files, of documents by a profile, and of paged URLs."""

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.commands import CommandOutput, in_process
from worker.adapters import pages as http_pages
from worker.core.intake.parsing import parse_profile
from worker.core.intake.profile import ProfileInvalid

CANARY = "canary-of-the-hr-system"
PROFILE: dict[str, Any] = {
    "auth": {"kind": "bearer", "secret_file": "acme.secret"},
    "ignore": "item.kind == 'team'",
    "removed_when": "item.closed == `true`",
    "id": "item.id",
    "name": "item.title",
    "samples": [{"body": {"id": 1, "title": "A"}, "events": [{"department_id": "1", "name": "A"}]}],
}
PAGES: dict[str, Any] = {
    "rows": "body.data",
    "next": "body.next",
    "prefix": "Bearer ",
    "secret_file": "api.secret",
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        "PROVISIONER_SOURCES": str(tmp_path),
    }


async def plan(environ: Mapping[str, str], list_: Path | str, *more: str) -> CommandOutput:
    return await in_process(environ, "snapshot", "plan", str(list_), "--source", "hr", *more)


def a_file(folder: Path, content: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def a_profile(folder: Path, **keys: Any) -> None:
    a_file(folder, json.dumps(PROFILE | keys), "acme.yaml")
    a_file(folder, "token", "acme.secret")
    a_file(folder, f"{CANARY}\n", "api.secret")


async def test_a_plan_is_shown_kept_and_printed(environ, tmp_path):
    list_ = a_file(tmp_path, "department_id,name\n1,Sales\n2,Küche\n")
    kept = tmp_path / "hr.plan"
    done = await plan(environ, list_, "--as-of", "2026-11-01T08:00:00+01:00", "--plan", str(kept))
    assert done.code == 0
    assert "created  default  2           Küche" in done.out
    assert done.out.endswith(
        "hr as of 2026-11-01T07:00:00Z: 2 created, 0 renamed, 0 same, 0 missing, 0 refused\n"
    )
    assert "this is planned as on a new one" in done.err
    printed = await plan(environ, list_, "--as-of", "2026-11-01T07:00:00Z", "--json")
    assert printed.out == kept.read_text()
    assert printed.out.isascii()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")]


async def test_a_refused_line_is_named_and_exits_1(environ, tmp_path):
    list_ = a_file(tmp_path, "department_id,name\n1,Sales\n2\n")
    kept = tmp_path / "hr.plan"
    done = await plan(environ, list_, "--plan", str(kept))
    assert done.code == 1
    assert f"{list_}:3: 1 fields, and the header has 2\n" in done.err
    refused = await in_process(environ, "snapshot", "apply", str(kept))
    assert refused.code == 1
    assert refused.err.startswith("lines of the list were refused (1), and nothing is sent")
    empty = await plan(environ, a_file(tmp_path, "department_id,name\n"), "--json")
    assert (empty.code, empty.out) == (1, "")
    assert f"{list_}: no rows" in empty.err


async def test_a_plan_that_is_none_or_was_changed_is_refused(environ, tmp_path):
    kept = tmp_path / "hr.plan"
    await plan(environ, a_file(tmp_path, "department_id,name\n1,Sales\n"), "--plan", str(kept))
    kept.write_text(kept.read_text().replace("Sales", "Sale"))
    for path, words in ((kept, "it was changed"), (tmp_path / "list.csv", "not a plan")):
        done = await in_process(environ, "snapshot", "apply", str(path))
        assert done.code == 1
        assert words in done.err


async def test_a_file_is_of_the_moment_at_which_it_was_written(environ, tmp_path):
    list_ = a_file(tmp_path, "department_id,name\n1,Sales\n")
    os.utime(list_, ns=(0, 1_790_000_000_123_456_789))
    assert (await plan(environ, list_, "--json")).json["as_of"] == "2026-09-21T14:13:20.123456Z"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("https://hr.example/departments", "--source", "hr"), "a URL needs --profile"),
        (("list.csv", "--source", "h/r"), "a source has 1 to 64 letters"),
        (("list.csv", "--source", "hr", "--encoding", "x"), "is no encoding"),
        (("list.csv", "--source", "hr", "--profile", "none"), "there is no profile none"),
        (("https://hr.example/", "--source", "hr", "--profile", "okta"), "profile okta has no pages"),
    ],
)
async def test_misuse_is_told(environ, tmp_path, arguments, words):
    a_file(tmp_path, "department_id,name\n1,A\n")
    list_, *more = arguments
    place = list_ if "://" in list_ else str(tmp_path / list_)
    done = await in_process(environ, "snapshot", "plan", place, *more)
    assert done.code == 2
    assert words in done.err


async def test_a_missing_file_is_told(environ, tmp_path):
    done = await plan(environ, tmp_path / "none.csv")
    assert (done.code, done.err) == (1, f"{tmp_path}/none.csv cannot be read: No such file or directory\n")


async def test_a_profile_reads_documents_lines_and_columns_of_its_own(environ, tmp_path):
    a_profile(tmp_path)
    lines = a_file(
        tmp_path,
        '{"id": 1, "title": "A"}\n{"id": 2, "kind": "team"}\n'
        '{"id": 3, "title": "C", "closed": true}\n{"id": 4}\n',
        "lines.jsonl",
    )
    done = await plan(environ, lines, "--profile", "acme", "--json")
    assert [one["department_id"] for one in done.json["created"]] == ["1"]
    assert done.json["refused"] == [{"line": 4, "error": "name: missing"}]
    table = a_file(tmp_path, "id,title,cost\n1,A,3\n1E+5,B,3\n")
    done = await plan(environ, table, "--profile", "acme", "--json")
    assert [one["department_id"] for one in done.json["created"]] == ["1"]
    assert "exponent" in done.json["refused"][0]["error"]
    a_profile(tmp_path, each="body.changes")
    whole = a_file(tmp_path, json.dumps({"changes": [{"id": 7, "title": "G"}]}), "whole.json")
    done = await plan(environ, whole, "--profile", "acme", "--json")
    assert [one["department_id"] for one in done.json["created"]] == ["7"]


Respond = Callable[[web.Request], Any]


@asynccontextmanager
async def hr_system(respond: Respond) -> AsyncIterator[str]:
    """A list over HTTP. `respond` gives a document, or a whole response."""

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.headers["authorization"] == f"Bearer {CANARY}"
        found = respond(request)
        return found if isinstance(found, web.Response) else web.json_response(found)

    application = web.Application()
    application.router.add_get("/{path:.*}", handle)
    async with TestServer(application) as server:
        yield f"http://127.0.0.1:{server.port}/departments"


def rows(first: int, last: int) -> list[dict[str, Any]]:
    return [{"id": number, "title": f"D{number}"} for number in range(first, last)]


async def planned_pages(environ: dict[str, str], respond: Respond, **pages: Any) -> CommandOutput:
    folder = Path(environ["PROVISIONER_SOURCES"])
    async with hr_system(respond) as url:
        whole = {key: value for key, value in (PAGES | {"url": url} | pages).items() if value is not None}
        a_profile(folder, pages=whole)
        done = await plan(environ, f"{url}?limit=2", "--profile", "acme", "--json")
    assert CANARY not in done.out + done.err
    return done


def ids(done: CommandOutput) -> list[str]:
    assert done.code == 0, done.err
    return sorted(one["department_id"] for one in done.json["created"])


def by_link(request: web.Request) -> Any:
    page = int(request.query.get("page", 0))
    return {"data": rows(2 * page, 2 * page + 2), "next": f"?page={page + 1}" if page < 2 else None, "n": 6}


def by_cursor(request: web.Request) -> Any:
    assert request.query["limit"] == "2"
    page = int(request.query.get("after", 0))
    return {"data": rows(2 * page, 2 * page + 2), "next": page + 1 if page < 2 else ""}


def by_offset(request: web.Request) -> Any:
    at = int(request.query.get("start", 0))
    return {"data": rows(at, min(at + 2, 5))}


async def test_every_page_is_read(environ):
    assert ids(await planned_pages(environ, by_link, total="body.n", size=2)) == list("012345")
    assert ids(await planned_pages(environ, by_cursor, cursor="after")) == list("012345")
    assert ids(await planned_pages(environ, by_offset, next=None, offset="start", size=2)) == list("01234")


async def test_a_busy_server_is_asked_again(environ, monkeypatch):
    monkeypatch.setattr(http_pages, "LONGEST_WAIT_SECONDS", 0.01)
    statuses = [429, 503, 200]

    def respond(_request: web.Request) -> Any:
        status = statuses.pop(0)
        return (
            {"data": rows(0, 1)}
            if status == 200
            else web.Response(status=status, headers={"Retry-After": "9"})
        )

    assert ids(await planned_pages(environ, respond)) == ["0"]
    assert statuses == []


def of(document: Any) -> Respond:
    return lambda _request: document


@pytest.mark.parametrize(
    ("respond", "pages", "words"),
    [
        (of({"data": []}), {}, "no rows"),
        (of({"data": None}), {}, "page 1: rows: must give a list"),
        (of([]), {}, "page 1: rows: must give a list"),
        (of({"data": rows(0, 2), "n": 3}), {"total": "body.n"}, "2 rows were read, and total says 3"),
        (of({"data": rows(0, 2), "n": "2"}), {"total": "body.n"}, "page 1: total: must be a whole number"),
        (by_link, {"size": 3}, "page 1: it is short, and more pages follow"),
        (by_link, {"size": 1}, "page 1: 2 rows, and size is 1"),
        (of({"data": rows(0, 2), "next": "?limit=2"}), {}, "page 1: next: it leads back"),
        (
            of({"data": rows(0, 2), "next": "http://localhost:1/x"}),
            {},
            "page 1: next: it leads to another host",
        ),
        (of({"data": rows(0, 2), "next": "ftp://x/"}), {}, "page 1: next: must be a URL"),
        (
            of({"data": rows(0, 2), "next": "http://169.254.169.254/x"}),
            {},
            "page 1: next: must begin with https",
        ),
        (of({"data": rows(0, 2), "next": {"a": 1}}), {}, "page 1: next: must be text"),
        (lambda _: web.Response(status=404), {}, "the response is 404"),
        (
            lambda _: web.Response(status=302, headers={"Location": "http://localhost:1/"}),
            {},
            "to another host",
        ),
        (lambda _: web.Response(status=302, headers={"Location": "/departments"}), {}, "redirects too often"),
        (lambda _: web.Response(text="<html>"), {}, "page 1:1: not JSON"),
        (of({"data": rows(0, 1)}), {"url": "http://127.0.0.1:1/"}, "only the one in the profile is asked"),
    ],
)
async def test_a_page_that_is_not_as_the_profile_says_is_an_error(environ, respond, pages, words):
    done = await planned_pages(environ, respond, **pages)
    assert done.code in {1, 2}
    assert words in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("pages", "line"),
    [
        ({}, "pages.url: missing"),
        ({"url": "http://hr.example/"}, "pages.url: must begin with https:// beyond loopback"),
        ({"url": "https://u:p@hr.example/"}, "pages.url: must have no login in it"),
        ({"url": "file:///etc/passwd"}, "pages.url: must be a URL that begins with https://"),
        ({"offset": "start"}, "pages.offset: there is next as well"),
        ({"next": None, "cursor": "after"}, "pages.cursor: it needs next"),
        ({"size": 0}, "pages.size: must be a whole number above 0"),
        ({"secret_file": "../x"}, "pages.secret_file: must be the name of a file beside the profile"),
        ({"nxt": "body.next"}, "pages.nxt: unknown key; did you mean next?"),
    ],
)
def test_a_mistake_in_the_pages_of_a_profile_is_told(pages, line):
    given = PAGES | ({"url": "https://hr.example/"} if pages else {}) | pages
    with pytest.raises(ProfileInvalid) as caught:
        parse_profile("acme", PROFILE | {"pages": given})
    assert caught.value.lines[0].startswith(line)
