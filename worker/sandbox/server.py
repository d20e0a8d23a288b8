"""Starts and stops a sandbox: its state and its ports."""

import logging
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from worker.sandbox.app import App
from worker.sandbox.assumptions import Assumptions
from worker.sandbox.clock import Clock, real_now
from worker.sandbox.control import InitialState, Sandbox, usd
from worker.sandbox.faults import PROFILES, Faults, Rule
from worker.sandbox.identifiers import Identifiers
from worker.sandbox.journal import Journal
from worker.sandbox.limiter import Limiter, RateLimit
from worker.sandbox.management import management_app
from worker.sandbox.records import Account
from worker.sandbox.service import Service
from worker.sandbox.state import State
from worker.sandbox.store import FileStore, NoStore, Store, StoreError

AUTH_ID = "MASANDBOX00000000000"
AUTH_TOKEN = "sandbox"  # noqa: S105 - the well-known token of a made-up account
RATE_LIMIT = "300/5s"
LOOPBACK = "127.0.0.1"
ACCOUNT_TYPES = ("standard", "developer")
BILLING_MODES = ("prepaid", "postpaid")
_MAIN_AUTH_ID = re.compile("MA[A-Z0-9]{18}")
_DRAIN_SECONDS = 1.0


@asynccontextmanager
async def running_sandbox(
    auth_id: str = AUTH_ID,
    auth_token: str = AUTH_TOKEN,
    host: str = LOOPBACK,
    port: int = 0,
    *,
    management_port: int | None = None,
    faults: str | Sequence[Rule] = "none",
    seed: int = 0,
    rate_limit: str = RATE_LIMIT,
    state: Path | None = None,
    start: datetime | None = None,
    assumptions: Assumptions | None = None,
    account_type: str = "standard",
    billing_mode: str = "prepaid",
    cash_credits: str = "100",
) -> AsyncIterator[Sandbox]:
    """Run a sandbox in this event loop until the block ends.

    Port 0 is any free port. Without `management_port` there is no control API; the yielded object has the
    same functions. `faults` is a profile (none, mild, harsh) or a list of rules; `rate_limit` is `300/5s` or
    `off`; `state` is the file that keeps the state; `start` is the simulated time at which a new state
    begins; `account_type` is standard or developer (a trial); `billing_mode` is prepaid or postpaid;
    `cash_credits` is the balance in USD. Raises ValueError for invalid options, StoreError for an unusable
    file, and OSError for a port in use.
    """
    account = _new_account(auth_id, account_type, billing_mode, cash_credits)
    initial = InitialState(account, _rules(faults), assumptions or Assumptions())
    limit = RateLimit.parse(rate_limit)
    journal, chosen = Journal(), Faults(seed, list(initial.rules))
    async with AsyncExitStack() as stack:
        service = stack.enter_context(_opened(state, initial, seed, start))
        limiter = Limiter(limit, service.state.clock)
        url = await stack.enter_async_context(
            _api(App(service, auth_token, chosen, limiter, journal), host, port)
        )
        sandbox = Sandbox(url, auth_id, auth_token, seed, service, chosen, journal, limiter, initial)
        if management_port is not None:
            managed = await stack.enter_async_context(_management(sandbox, management_port))
            sandbox = replace(sandbox, management_url=managed)
        yield sandbox


def _new_account(auth_id: str, account_type: str, billing_mode: str, cash_credits: str) -> Account:
    if not _MAIN_AUTH_ID.fullmatch(auth_id):
        raise ValueError(f"{auth_id!r} is not the auth id of a main account: MA and 18 capitals or digits")
    if account_type not in ACCOUNT_TYPES:
        raise ValueError(f"{account_type!r} is not an account type: {' or '.join(ACCOUNT_TYPES)}")
    if billing_mode not in BILLING_MODES:
        raise ValueError(f"{billing_mode!r} is not a billing mode: {' or '.join(BILLING_MODES)}")
    return Account(auth_id, account_type, billing_mode, usd(cash_credits), month="")


def _rules(faults: str | Sequence[Rule]) -> tuple[Rule, ...]:
    if not isinstance(faults, str):
        return tuple(faults)
    if faults not in PROFILES:
        raise ValueError(f"{faults!r} is not a fault profile: {', '.join(PROFILES)}")
    return PROFILES[faults]


@contextmanager
def _opened(path: Path | None, initial: InitialState, seed: int, start: datetime | None) -> Iterator[Service]:
    """Load the state from the file, or begin a new one."""
    store: Store = FileStore(path) if path else NoStore()
    try:
        begun = start - real_now() if start and not store.runs else store.ahead
        state = State(Clock(begun), initial.assumptions, Identifiers(seed, store.runs))
        for record, sequence in store.load():
            state.restore(record, sequence)
        service = Service(state, store)
        store.save_ahead(begun)
        if not len(state.accounts):
            service.reset(initial.account)
        elif state.account.auth_id != initial.account.auth_id:
            raise StoreError(f"{path} belongs to the main account {state.account.auth_id}: use --auth-id")
        yield service
        service.cancel_late()
    finally:
        store.close()


@asynccontextmanager
async def _api(app: App, host: str, port: int) -> AsyncIterator[str]:
    async with _serving(web.ServerRunner(_server(app), shutdown_timeout=_DRAIN_SECONDS), host, port) as url:
        try:
            yield url
        finally:
            app.close()


def _server(app: App) -> web.Server:
    """Return a server that cancels a handler when its client has gone, such as one held by a fault."""
    return web.Server(app, handler_cancellation=True, access_log=None, logger=_http_log())


def _http_log() -> logging.Logger:
    """Return a logger that drops invalid HTTP and lost clients; faults of the sandbox are logged."""
    log = logging.getLogger("worker.sandbox.http")
    log.addFilter(_is_our_fault)
    return log


def _is_our_fault(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))


@asynccontextmanager
async def _management(sandbox: Sandbox, port: int) -> AsyncIterator[str]:
    runner = web.AppRunner(management_app(sandbox), access_log=None, shutdown_timeout=_DRAIN_SECONDS)
    async with _serving(runner, LOOPBACK, port) as url:
        yield url


@asynccontextmanager
async def _serving(runner: web.BaseRunner, host: str, port: int) -> AsyncIterator[str]:
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
