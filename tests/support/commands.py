"""Runs `provisioner` as a process, as a person at another terminal does, or faster in this one."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from worker.cli import app

OUR_SETTINGS = ("PROVISIONER_", "PLIVO_", "AMQP_", "LEDGER_")


@dataclass(frozen=True)
class CommandOutput:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def started(
    environ: Mapping[str, str], *arguments: str, stdin: int = subprocess.PIPE
) -> asyncio.subprocess.Process:
    """Starts a command with these settings only."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", *arguments),
        env=_environ(environ),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_heed_ctrl_c,
    )


def _heed_ctrl_c() -> None:
    """A shell's background job ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


async def provisioner(environ: Mapping[str, str], *arguments: str, given: bytes = b"") -> CommandOutput:
    """Runs a command to its end. A traceback fails the test."""
    process = await started(environ, *arguments)
    out, err = await process.communicate(given)
    assert b"Traceback" not in err, err.decode()
    return CommandOutput(process.returncode or 0, out.decode(), err.decode())


async def in_process(environ: Mapping[str, str], *arguments: str) -> CommandOutput:
    """Runs a command in a thread: starting Python takes longer than most commands."""

    def run() -> CommandOutput:
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, _environ(environ), clear=True),
            patch.object(sys, "argv", ["provisioner", *arguments]),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = app._exit_code()
        return CommandOutput(code, out.getvalue(), err.getvalue())

    return await asyncio.to_thread(run)


def _environ(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment with these settings only."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OUR_SETTINGS)}
    return inherited | {"COLUMNS": "200"} | dict(settings)
