"""`provisioner sandbox`: runs the sandbox until SIGTERM or SIGINT."""

import asyncio
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from worker.sandbox.assumptions import Assumptions
from worker.sandbox.control import Sandbox
from worker.sandbox.guide import assumptions_table, directions
from worker.sandbox.server import AUTH_ID, AUTH_TOKEN, LOOPBACK, RATE_LIMIT, running_sandbox
from worker.sandbox.store import StoreError

_FAILED, _USAGE = 1, 2
_LAST_PORT = 65535
_SEEDS = 10**9
_MANAGEMENT = "Port of the control API, always on 127.0.0.1."
_TOKEN = "Auth token of the main account; preferably set in the environment."  # noqa: S105 - a help text

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=_LAST_PORT)]
ManagementPort = Annotated[
    int | None, typer.Option(help=_MANAGEMENT, min=0, max=_LAST_PORT, show_default="the one after --port")
]
AuthId = Annotated[str, typer.Option(help="Auth ID of the main account.")]
AuthToken = Annotated[str, typer.Option(envvar="SANDBOX_AUTH_TOKEN", help=_TOKEN, show_default=AUTH_TOKEN)]
Faults = Annotated[Literal["none", "mild", "harsh"], typer.Option(help="Profile of random faults.")]
Seed = Annotated[
    int | None, typer.Option(help="Seed of identifiers and faults.", show_default="a new one at each start")
]
State = Annotated[
    Path | None, typer.Option(help="File that keeps the state.", dir_okay=False, show_default="memory")
]
RateLimit = Annotated[str, typer.Option(help="Requests per window, or off.")]
Start = Annotated[
    datetime | None,
    typer.Option(help="Simulated time (UTC) at which a new state begins.", show_default="now"),
]
AccountType = Annotated[Literal["standard", "developer"], typer.Option(help="developer is a trial account.")]
BillingMode = Annotated[Literal["prepaid", "postpaid"], typer.Option(help="Whether credit can run out.")]
CashCredits = Annotated[str, typer.Option(help="Balance in USD.")]
Assume = Annotated[list[str] | None, typer.Option(help="NAME=VALUE of an assumption above; repeatable.")]


def sandbox(  # noqa: D103 - its help text, `__doc__`, is assigned below
    *,
    host: Host = LOOPBACK,
    port: Port = 8090,
    management_port: ManagementPort = None,
    auth_id: AuthId = AUTH_ID,
    auth_token: AuthToken = AUTH_TOKEN,
    faults: Faults = "none",
    seed: Seed = None,
    state: State = None,
    rate_limit: RateLimit = RATE_LIMIT,
    start: Start = None,
    account_type: AccountType = "standard",
    billing_mode: BillingMode = "prepaid",
    cash_credits: CashCredits = "100",
    assume: Assume = None,
) -> None:
    with _errors_in_one_line():
        asyncio.run(
            _run(
                auth_id,
                auth_token,
                host,
                port,
                management_port=_next_port(port) if management_port is None else management_port,
                faults=faults,
                seed=_drawn_seed() if seed is None else seed,
                rate_limit=rate_limit,
                state=state,
                start=start and start.replace(tzinfo=UTC),
                assumptions=Assumptions.from_switches(assume or []),
                account_type=account_type,
                billing_mode=billing_mode,
                cash_credits=cash_credits,
            )
        )


sandbox.__doc__ = f"""Imitate Plivo's subaccounts on this machine. It is not Plivo.

Plivo's documentation leaves these questions open. Change an assumption with --assume NAME=VALUE:

{assumptions_table()}
"""


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        _end(str(error), _USAGE)
    except StoreError as error:
        _end(str(error), _FAILED)
    except OSError as error:
        _end(f"cannot start: {error.strerror or error}; --port and --management-port choose others", _FAILED)


async def _run(*places: Any, **options: Any) -> None:
    async with running_sandbox(*places, **options) as running:
        await _serve_until_stopped(running)


async def _serve_until_stopped(running: Sandbox) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    typer.echo(directions(running))
    await stopped.wait()


def _drawn_seed() -> int:
    """Draw a seed, so that a sandbox begun anew gives no identifier of an earlier one again."""
    return secrets.randbelow(_SEEDS)


def _next_port(port: int) -> int:
    """Return the next port, or 0 (any free port) after 0 and after the last port."""
    return port + 1 if 0 < port < _LAST_PORT else 0


def _end(text: str, code: int) -> NoReturn:
    typer.secho(text, err=True, fg=typer.colors.RED)
    raise typer.Exit(code)
