"""Commands run on uvloop where it is installed, and on asyncio elsewhere."""

import asyncio
import sys

import pytest
import uvloop

from worker.cli.loop import run


async def loop_in_use() -> tuple[type, str]:
    """The loop, once it has run a subprocess and a timer as the worker does."""
    process = await asyncio.create_subprocess_exec("echo", "said", stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    await asyncio.sleep(0.001)
    return type(asyncio.get_running_loop()), said.decode().strip()


def test_a_command_runs_on_uvloop():
    assert run(loop_in_use()) == (uvloop.Loop, "said")


def test_without_uvloop_a_command_runs_on_asyncio(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop, said = run(loop_in_use())
    assert (issubclass(loop, asyncio.BaseEventLoop), said) == (True, "said")
