"""The console blocks of the README: each command is run at a terminal, and prints what the block shows."""

import asyncio
import fcntl
import json
import os
import re
import struct
import sys
import termios
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path

import aiohttp
import pytest

from contracts import topology as names
from tests.support.commands import OUR_SETTINGS, provisioner
from tests.support.real import RealSystem
from worker.sandbox import Effect, Fault, Rule, Sight

pytestmark = [pytest.mark.xdist_group("broker"), pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
BLOCKS = [block for language, block in FENCED if not language and block.startswith("$ ")]
COLUMNS, LINES = 80, 40
ANYTHING = "…"
QUESTION = b"[y/N]: "
REFUSED = Fault("refused", Effect.NEVER, Sight.ERROR, 400)

# Text that differs from run to run, and its possible forms.
VARYING = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", r"[0-9a-f-]{36}"),
    (r"\bSA[A-Z0-9]{18}\b", r"SA[A-Z0-9]{18}"),
    (r"\b[0-9a-f]{24}\b", r"[0-9a-f]{24}"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"),
    (r"─+", "─+"),
    (r"worker-1 +4711", r"\S+ +\d+"),
    (r"yes +300", r"yes +\d+"),
)


def steps(block: str) -> list[tuple[str, list[str]]]:
    """The commands of a block, each with the lines that it prints. Blank lines do not matter."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif line.strip():
            found[-1][1].append(line.rstrip())
    return found


def pattern_of(line: str) -> str:
    """A regular expression for a line: widths of columns do not matter, nor does what varies.

    `…` at its end stands for the rest of the line.
    """
    if line.endswith(ANYTHING):
        return pattern_of(line.removesuffix(ANYTHING)) + ".*"
    whole = "|".join(f"(?:{shape})" for shape, _ in VARYING)
    pattern = ""
    for part in re.split(f"({whole})", line):
        shapes = [instead for shape, instead in VARYING if re.fullmatch(shape, part)]
        pattern += shapes[0] if shapes else re.sub(r"(?:\\ )+", r" +", re.escape(part))
    return pattern


def assert_printed(expected: list[str], printed: list[str]) -> None:
    """Each expected line follows the one before, or, after `…`, comes somewhere behind it."""
    at, anywhere = 0, False
    for line in expected:
        if line == ANYTHING:
            anywhere = True
            continue
        until = len(printed) if anywhere else at + 1
        found = [n for n in range(at, min(until, len(printed))) if re.fullmatch(pattern_of(line), printed[n])]
        assert found, f"{line!r} is not at {at} of\n" + "\n".join(printed)
        at, anywhere = found[0] + 1, False
    assert anywhere or at == len(printed), "more than the README shows: " + "\n".join(printed[at:])


async def at_a_terminal(command: str, environ: dict[str, str], folder: Path = ROOT) -> list[str]:
    """Runs a command of the shell at a terminal, agrees to its question, and returns its lines."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OUR_SETTINGS)}
    path = f"{Path(sys.executable).parent}:{inherited['PATH']}"
    size = {"COLUMNS": str(COLUMNS), "LINES": str(LINES)}  # rich takes them before those of the terminal
    terminal = {"PATH": path, "TERM": "dumb", "NO_COLOR": "1"} | size
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", command),
        env=inherited | environ | terminal,
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = await asyncio.to_thread(_read_all, ours)
    await process.wait()
    assert "Traceback" not in text, text
    return [line.rstrip() for line in text.replace("\r\n", "\n").split("\n") if line.strip()]


def _read_all(terminal: int) -> str:
    text = b""
    try:
        while part := os.read(terminal, 65_536):
            text += part
            if text.endswith(QUESTION):
                os.write(terminal, b"y\n")
    except OSError:  # nobody has the other end any more
        pass
    os.close(terminal)
    return text.decode()


async def emitted(system: RealSystem, *arguments: str) -> None:
    await provisioner(system.environ, "emit", *arguments, "--wait")


async def a_removed_department_and_an_active_one(system: RealSystem, _folder: Path) -> None:
    await emitted(system, "created", "--id", "field-ops", "--name", "Field Ops")
    await emitted(system, "created", "--id", "sales", "--name", "Sales")
    await emitted(system, "removed", "--id", "field-ops")


async def four_dead_letters(system: RealSystem, _folder: Path) -> None:
    await system.send(b'{"specversion": "1.0", "id":')
    while await system.depth(names.DEAD_LETTER_QUEUE) < 1:  # noqa: ASYNC110 - only the broker knows
        await asyncio.sleep(0.02)
    nameless = json.loads((ROOT / "contracts/examples/created-minimal.json").read_text())
    nameless |= {"id": "hr-4711", "data": {"department_id": "dept-4711", "name": " "}}
    await system.send(json.dumps(nameless).encode())
    system.sandbox.set_rules(Rule("create_subaccount", REFUSED))
    for number in (4712, 4713):
        named = ("--id", f"dept-{number}", "--name", "One", "--event-id", f"hr-{number}")
        await emitted(system, "created", *named)
    system.sandbox.set_rules()


async def two_departments_and_a_bad_message(system: RealSystem, folder: Path) -> None:
    await a_removed_department_and_an_active_one(system, folder)
    await system.send(b"{}")
    while (await provisioner(system.environ, "status", "--json")).json["dead_letters"] != 1:  # noqa: ASYNC110 - only the broker knows
        await asyncio.sleep(0.05)


async def nothing(_system: RealSystem, _folder: Path) -> None:
    return None


async def two_held_removals(system: RealSystem, _folder: Path) -> None:
    await emitted(system, "created", "--id", "sales", "--name", "Sales")
    await emitted(system, "created", "--id", "legal", "--name", "Legal")
    await emitted(system, "created", "--id", "berlin", "--name", "Berlin", "--tenant", "emea")
    await emitted(system, "removed", "--id", "legal", "--merged-into", "sales", "--event-id", "hr-4720")
    await emitted(system, "removed", "--id", "berlin", "--tenant", "emea", "--event-id", "hr-4721")


async def the_two_departments_of_a_merger(system: RealSystem, _folder: Path) -> None:
    for department, name in (("ENG-042", "Engineering"), ("MUC-007", "Munich")):
        named = ("--id", department, "--name", name, "--time", "2026-11-01T08:00:00Z")
        await emitted(system, "created", *named)


async def changes_by_hand(system: RealSystem, _folder: Path) -> None:
    await emitted(system, "created", "--id", "sales", "--name", "Sales")
    await emitted(system, "created", "--id", "support", "--name", "Support")
    found = {subaccount.name.split()[0]: subaccount for subaccount in system.sandbox.subaccounts()}
    sales, support = found["Sales"], found["Support"]
    await by_hand(system, f"{sales.auth_id}/", {"name": "Sales, EMEA"})
    await by_hand(system, f"{support.auth_id}/", {"name": support.name, "enabled": False})
    await by_hand(system, "", {"name": "Warehouse", "enabled": True})


async def existing_subaccounts(system: RealSystem, folder: Path) -> None:
    for name in ("Design Team", "R&D"):
        await by_hand(system, "", {"name": name, "enabled": True})
    found = {subaccount.name: subaccount.auth_id for subaccount in system.sandbox.subaccounts()}
    design, research = found["Design Team"], found["R&D"]
    lines = ("department_id,auth_id,name", f"design,{design},Design", f"research,{research},Research")
    (folder / "existing.csv").write_text("".join(f"{line}\n" for line in lines))


async def a_list_before(system: RealSystem, folder: Path) -> None:
    path, kept = folder / "departments.csv", str(folder / "before.plan")
    path.write_text("department_id,name\nsales,Sales\nlegal,Legal\n")
    as_of = ("--source", "hr", "--as-of", "2026-11-27")
    for command in (("plan", str(path), *as_of, "--plan", kept), ("apply", kept)):
        assert (await provisioner(system.environ, "snapshot", *command)).code == 0
    path.write_text("department_id,name\nsales,Sales EMEA\nops,Operations\n")


async def by_hand(system: RealSystem, path: str, body: dict[str, object]) -> None:
    """Makes or changes a subaccount at the sandbox, as a person would at Plivo's console."""
    account, token = system.environ["PLIVO_AUTH_ID"], system.environ["PLIVO_AUTH_TOKEN"]
    headers = {"Authorization": aiohttp.encode_basic_auth(account, token)}
    url = f"{system.sandbox.url}/v1/Account/{account}/Subaccount/{path}"
    async with (
        aiohttp.ClientSession(headers=headers, raise_for_status=True) as http,
        http.post(url, json=body),
    ):
        pass


ARRANGED: dict[str, Callable[[RealSystem, Path], Awaitable[None]]] = {
    "provisioner departments list": a_removed_department_and_an_active_one,
    "provisioner status": two_departments_and_a_bad_message,
    "provisioner dead-letters list": four_dead_letters,
    "provisioner holds list": two_held_removals,
    "provisioner plan --file contracts/examples/removed-merged.json": the_two_departments_of_a_merger,
    "provisioner sweep": changes_by_hand,
    "cat existing.csv": existing_subaccounts,
    "cat departments.csv": a_list_before,
}
WITHOUT_SETTINGS = "PROVISIONER_API_TIMEOUT=20 provisioner run"
WITHOUT_WORKER = "provisioner doctor"
"""Before the first start, and with a token of another account."""


@pytest.mark.parametrize("block", BLOCKS, ids=[steps(block)[0][0][:50] for block in BLOCKS])
async def test_a_console_block_is_what_the_commands_print(system: RealSystem, tmp_path: Path, block: str):
    first, _ = steps(block)[0]
    environ = {} if first == WITHOUT_SETTINGS else system.environ
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for folder in ("contracts", "deploy"):
        (checkout / folder).symlink_to(ROOT / folder)
    if first == WITHOUT_WORKER:
        environ = environ | {"PLIVO_AUTH_TOKEN": "of-another-account"}
    async with nullcontext() if first == WITHOUT_WORKER else system.worker():
        await ARRANGED.get(first, nothing)(system, checkout)
        for command, expected in steps(block):
            assert_printed(expected, await at_a_terminal(command, environ, checkout))


def test_each_arrangement_is_that_of_a_block():
    firsts = {steps(block)[0][0] for block in BLOCKS}
    assert len(BLOCKS) >= 6
    assert firsts >= {*ARRANGED, WITHOUT_SETTINGS, WITHOUT_WORKER}


def test_a_line_that_differs_is_noticed():
    shown = ["a  created  SAZIRLXQI854BQK9M0XA", ANYTHING, "end"]
    assert_printed(shown, ["a created SA000000000000000001", "x", "end"])
    for printed in (["a renamed SA000000000000000001", "end"], ["a created SA000000000000000001", "x"]):
        with pytest.raises(AssertionError):
            assert_printed(shown, printed)
