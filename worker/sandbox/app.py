"""The HTTP layer: parses a request into an operation and writes its response, or a fault."""

import asyncio
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from worker.sandbox import wire
from worker.sandbox.credentials import Caller, authenticate
from worker.sandbox.faults import Effect, Fault, Faults, Sight
from worker.sandbox.journal import Entry, Journal
from worker.sandbox.limiter import Limiter
from worker.sandbox.operations import Scope, find_route
from worker.sandbox.requests import Call, ListView, Refusal, Response, read_body, read_query
from worker.sandbox.service import Invocation, Service, error_response

_ERRORS = {
    401: "authentication failed",
    402: "insufficient credit",
    403: "account is not verified or feature is not enabled",
    429: "too many requests",
}


@dataclass(slots=True)
class _Exchange:
    """A request and the facts parsed from it so far, for the log."""

    request: web.BaseRequest
    path: str
    query: str
    operation: str | None = None
    body: dict[str, Any] = field(default_factory=dict)
    fault: Fault | None = None


class App:
    """The aiohttp handler of the imitated API."""

    def __init__(
        self, service: Service, auth_token: str, faults: Faults, limiter: Limiter, journal: Journal
    ) -> None:
        self._service = service
        self._auth_token = auth_token
        self._faults = faults
        self._limiter = limiter
        self._journal = journal
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Release the requests that a fault keeps waiting without a response."""
        self._closing.set()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle one request to the provider's API or to the control API."""
        path, _, query = request.raw_path.partition("?")
        exchange = _Exchange(request, path, query)
        try:
            invocation = self._parse(exchange, await _read(request))
        except Refusal as refusal:
            return self._respond(exchange, error_response(refusal))
        exchange.fault = self._faults.choose(invocation.operation.name)
        if exchange.fault is None:
            return self._respond(exchange, self._service.perform(invocation))
        return await self._respond_with_fault(exchange, exchange.fault, invocation)

    def _parse(self, exchange: _Exchange, raw: bytes) -> Invocation:
        """Check route, credentials, rate limit, method and body, in this order; raises Refusal."""
        request, assumptions = exchange.request, self._service.state.assumptions
        route = find_route(request.method, exchange.path)
        if not exchange.path.endswith("/") and assumptions.missing_slash == "refused":
            raise Refusal(404, "not found")
        caller = self._admit(request, route.account_id)
        if route.operation is None:
            raise Refusal(405, "HTTP method is not allowed")
        exchange.operation = route.operation.name
        if route.operation.scope is Scope.MAIN_ACCOUNT and caller.sub_account:
            raise Refusal(assumptions.management_status, "not allowed for a subaccount")
        if request.method == "POST" and raw and assumptions.content_type == "required":
            _check_content_type(request)
        exchange.body = {} if request.method == "GET" else read_body(raw)
        call = Call(caller.sub_account, route.identifier, read_query(exchange.query), exchange.body)
        return Invocation(route.operation, call, request.headers.get("Idempotency-Key"))

    def _admit(self, request: web.BaseRequest, account_id: str) -> Caller:
        state = self._service.state
        caller = authenticate(state, self._auth_token, request.headers.get("Authorization"))
        if account_id != caller.auth_id:
            raise Refusal(state.assumptions.foreign_path_status, "authentication failed")
        shared = state.assumptions.rate_limit_scope == "account"
        if not self._limiter.admits("account" if shared else caller.auth_id):
            raise Refusal(429, "too many requests")
        return caller

    async def _respond_with_fault(
        self, exchange: _Exchange, fault: Fault, invocation: Invocation
    ) -> web.StreamResponse:
        """Carry the request out as the fault allows, then send what the fault lets the client see."""
        response = self._apply(_with_view(fault, invocation), fault)
        match fault.sight:
            case Sight.ERROR:
                return self._respond(
                    exchange, Response(fault.status, {"error": _ERRORS.get(fault.status, "server error")})
                )
            case Sight.ERROR_PAGE:
                self._log(exchange, fault.status)
                return wire.error_page(fault.status)
            case Sight.RESET | Sight.SILENCE:
                self._log(exchange, None)
                if fault.sight is Sight.SILENCE:
                    await self._closing.wait()
                return wire.reset()
            case Sight.WHOLE:
                await asyncio.sleep(fault.delay_seconds)
                return self._respond(exchange, response)
            case _:
                return await self._respond_damaged(exchange, fault, response)

    def _apply(self, invocation: Invocation, fault: Fault) -> Response:
        if fault.effect is Effect.NOW:
            return self._service.perform(invocation)
        if fault.effect is Effect.LATER:
            self._service.perform_later(invocation, fault.delay_seconds)
        return Response(fault.status)

    async def _respond_damaged(
        self, exchange: _Exchange, fault: Fault, response: Response
    ) -> web.StreamResponse:
        bodiless = response.status == HTTPStatus.NO_CONTENT
        if bodiless != (fault.sight is Sight.BODY_AFTER_204):
            return self._respond(exchange, response)
        self._log(exchange, response.status)
        if bodiless:
            return wire.body_after_204()
        body = self._encode(response)
        if fault.sight is Sight.DRIP:
            return await wire.drip(exchange.request, response.status, body, fault.delay_seconds)
        damaged = wire.half_json if fault.sight is Sight.HALF_JSON else wire.cut_off
        return damaged(response.status, body)

    def _respond(self, exchange: _Exchange, response: Response) -> web.StreamResponse:
        self._log(exchange, response.status)
        if response.status == HTTPStatus.NO_CONTENT:
            plain = self._service.state.assumptions.delete_body == "none"
            return web.Response(status=204) if plain else wire.body_after_204()
        return wire.json_response(
            response.status, self._encode(response), self._headers(exchange, response.status)
        )

    def _encode(self, response: Response) -> bytes:
        state, body = self._service.state, response.body or {}
        if response.status == HTTPStatus.UNAUTHORIZED and state.assumptions.api_id_on_401 == "no":
            return wire.encode(body)
        return wire.encode({"api_id": state.identifiers.api_id(), **body})

    def _headers(self, exchange: _Exchange, status: int) -> dict[str, str] | None:
        assumptions = self._service.state.assumptions
        if status == HTTPStatus.UNAUTHORIZED and assumptions.www_authenticate == "yes":
            return {"WWW-Authenticate": 'Basic realm="Plivo"'}
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            seconds = exchange.fault.retry_after if exchange.fault else assumptions.retry_after
            return None if seconds is None else {"Retry-After": str(seconds)}
        return None

    def _log(self, exchange: _Exchange, status: int | None) -> None:
        request = exchange.request
        headers = CIMultiDict(request.headers)
        headers.popall("Authorization", None)
        self._journal.add(
            Entry(
                method=request.method,
                path=exchange.path,
                query=exchange.query,
                operation=exchange.operation,
                status=status,
                fault=exchange.fault.name if exchange.fault else None,
                headers=headers,
                body=exchange.body,
                abandoned=request.transport is None or request.transport.is_closing(),
                at=asyncio.get_running_loop().time(),
            )
        )


async def _read(request: web.BaseRequest) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Refusal(400, "the request body is too large") from None


def _check_content_type(request: web.BaseRequest) -> None:
    if request.content_type != wire.JSON:
        raise Refusal(400, f"only {wire.JSON} is accepted")


def _with_view(fault: Fault, invocation: Invocation) -> Invocation:
    """Apply the view of the fault to a list. The first page is never shifted: no page was read before it."""
    view = fault.view
    if view.shift and invocation.call.query.get("offset", "0") == "0":
        view = ListView(view.lag_seconds)
    return replace(invocation, call=replace(invocation.call, view=view))
