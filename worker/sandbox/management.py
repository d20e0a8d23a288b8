"""The control API on the management port, for other processes.

It controls the sandbox without credentials, so it listens only on the loopback address.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.sandbox.control import Sandbox
from worker.sandbox.faults import ANY_OPERATION, Rule, fault
from worker.sandbox.operations import NAMES

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RuleBody(_Body):
    """The body of POST /faults."""

    fault: str
    operation: str = ANY_OPERATION
    times: int | None = Field(None, ge=1)
    after: int = Field(0, ge=0)
    probability: float = Field(1, gt=0, le=1)
    status: int | None = Field(None, ge=400, le=599)
    retry_after: int | None = Field(None, ge=0)
    delay_seconds: float | None = Field(None, ge=0)
    lag_seconds: float | None = Field(None, ge=0)

    def rule(self) -> Rule:
        """Convert it; raises ValueError for an unknown operation or fault."""
        if self.operation not in (*NAMES, ANY_OPERATION):
            raise ValueError(f"unknown operation {self.operation!r}; known are * and {', '.join(NAMES)}")
        chosen = fault(
            self.fault,
            status=self.status,
            retry_after=self.retry_after,
            delay_seconds=self.delay_seconds,
            lag_seconds=self.lag_seconds,
        )
        return Rule(self.operation, chosen, self.times, self.after, self.probability)


class TimeBody(_Body):
    """The body of POST /time."""

    advance_seconds: float = Field(0, ge=0, le=10**12)
    to: datetime | None = None


class AmountBody(_Body):
    """An amount in USD."""

    amount: str


class AutoRechargeBody(_Body):
    """The body of PUT /auto-recharge, in USD."""

    minimum: str
    amount: str


class ResourcesBody(_Body):
    """The body of POST /resources. Without `auth_id` they are the main account's."""

    auth_id: str | None = None
    numbers: int = Field(0, ge=0, le=10_000)
    applications: int = Field(0, ge=0, le=10_000)
    endpoints: int = Field(0, ge=0, le=10_000)


class SenderBody(_Body):
    """The body of POST /senders."""

    auth_id: str
    sender: str = Field(min_length=1)


def management_app(sandbox: Sandbox) -> web.Application:
    """Return the control API of a sandbox."""
    app = web.Application(middlewares=[_errors])
    handlers = _Handlers(sandbox)
    app.add_routes(
        [
            web.get("/state", handlers.state),
            web.get("/requests", handlers.requests),
            web.get("/invoices", handlers.invoices),
            web.get("/faults", handlers.faults),
            web.post("/faults", handlers.add_fault),
            web.delete("/faults", handlers.clear_faults),
            web.post("/late-calls", handlers.commit_late_calls),
            web.post("/time", handlers.move_time),
            web.post("/recharge", handlers.recharge),
            web.put("/credit", handlers.set_credit),
            web.put("/auto-recharge", handlers.set_auto_recharge),
            web.delete("/auto-recharge", handlers.stop_auto_recharge),
            web.post("/senders", handlers.allow_sender),
            web.post("/resources", handlers.seed_resources),
            web.patch("/assumptions", handlers.assume),
            web.post("/reset", handlers.reset),
        ]
    )
    return app


class _Handlers:
    """One method for each path; each returns JSON."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def state(self, _request: web.Request) -> web.Response:
        """Return the whole state except tokens; the imitated API gives those to authenticated callers."""
        sandbox, state = self._sandbox, self._sandbox.service.state
        sandbox.service.pass_time()
        live = [asdict(each) for each in sandbox.subaccounts()]
        for each in live:
            del each["auth_token"]
        return _json(
            {
                "url": sandbox.url,
                "seed": sandbox.seed,
                "now": sandbox.now(),
                "account": asdict(sandbox.account),
                "assumptions": sandbox.assumptions.model_dump(),
                "subaccounts": live,
                "applications": [asdict(each) for each in state.applications],
                "endpoints": [asdict(each) for each in state.endpoints],
                "numbers": [asdict(each) for each in state.numbers],
                "messages": len(state.messages),
            }
        )

    async def requests(self, request: web.Request) -> web.Response:
        """Return the `last` (1000) requests, oldest first; only those of `operation`, if given."""
        wanted, last = request.query.get("operation"), int(request.query.get("last", "1000"))
        entries = [entry for entry in self._sandbox.requests if wanted in (None, entry.operation)]
        shown = entries[-last:] if last > 0 else []
        return _json({"requests": [asdict(replace(each, headers=dict(each.headers))) for each in shown]})

    async def invoices(self, _request: web.Request) -> web.Response:
        return _json({"invoices": [asdict(each) for each in self._sandbox.invoices()]})

    async def faults(self, _request: web.Request) -> web.Response:
        return _json({"rules": [asdict(each) for each in self._sandbox.faults.rules]})

    async def add_fault(self, request: web.Request) -> web.Response:
        self._sandbox.add_rule((await _read(request, RuleBody)).rule())
        return await self.faults(request)

    async def clear_faults(self, request: web.Request) -> web.Response:
        self._sandbox.set_rules()
        return await self.faults(request)

    async def commit_late_calls(self, _request: web.Request) -> web.Response:
        return _json({"committed": self._sandbox.commit_late_calls()})

    async def move_time(self, request: web.Request) -> web.Response:
        body = await _read(request, TimeBody)
        if body.to is not None:
            self._sandbox.move_to(body.to.replace(tzinfo=body.to.tzinfo or UTC))
        self._sandbox.advance(timedelta(seconds=body.advance_seconds))
        return _json({"now": self._sandbox.now()})

    async def recharge(self, request: web.Request) -> web.Response:
        self._sandbox.recharge((await _read(request, AmountBody)).amount)
        return self._account()

    async def set_credit(self, request: web.Request) -> web.Response:
        self._sandbox.set_credit((await _read(request, AmountBody)).amount)
        return self._account()

    async def set_auto_recharge(self, request: web.Request) -> web.Response:
        body = await _read(request, AutoRechargeBody)
        self._sandbox.set_auto_recharge(body.minimum, body.amount)
        return self._account()

    async def stop_auto_recharge(self, _request: web.Request) -> web.Response:
        self._sandbox.stop_auto_recharge()
        return self._account()

    async def allow_sender(self, request: web.Request) -> web.Response:
        body = await _read(request, SenderBody)
        self._sandbox.allow_sender(body.auth_id, body.sender)
        return _json(body.model_dump())

    async def seed_resources(self, request: web.Request) -> web.Response:
        body = await _read(request, ResourcesBody)
        return _json(asdict(self._sandbox.seed_resources(**body.model_dump())))

    async def assume(self, request: web.Request) -> web.Response:
        self._sandbox.assume(**await _read_object(request))
        return _json(self._sandbox.assumptions.model_dump())

    async def reset(self, _request: web.Request) -> web.Response:
        self._sandbox.reset()
        return _json({"now": self._sandbox.now()})

    def _account(self) -> web.Response:
        return _json({"account": asdict(self._sandbox.account)})


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer an invalid request with 400 and one line. Writes must declare JSON, which a web page cannot."""
    if request.method in ("POST", "PUT", "PATCH") and request.content_type != "application/json":
        return _json({"error": "send Content-Type: application/json"}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    try:
        return await handler(request)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(each) for each in first["loc"])
        return _json(
            {"error": f"{where}: {first['msg'].removeprefix('Value error, ')}"}, HTTPStatus.BAD_REQUEST
        )
    except ValueError as error:
        return _json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
    except web.HTTPException as refusal:
        return _json({"error": refusal.reason}, refusal.status)


async def _read(request: web.Request, model: type[M]) -> M:
    return model.model_validate(await _read_object(request))


async def _read_object(request: web.Request) -> dict[str, Any]:
    body = json.loads(await request.read() or b"{}")
    if not isinstance(body, dict):
        raise ValueError("a JSON object is expected")  # noqa: TRY004 - invalid input, not a fault of this program
    return body


def _json(body: Any, status: int = HTTPStatus.OK) -> web.Response:
    return web.json_response(text=json.dumps(body, default=_plain), status=status)


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
        case _:
            return str(value)
