"""The `Provider` port on Plivo's Subaccount API, over aiohttp.

Each call is sent once: no retry, no redirect.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import SimpleNamespace
from typing import Annotated, Any, Generic, Self, TypeVar

import aiohttp
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import from_json, to_json

from worker.adapters.plivo.access import Access, is_proxys_refusal
from worker.adapters.plivo.causes import explain, refused_by_proxy
from worker.adapters.plivo.status import is_own_error, kind_of
from worker.core.capabilities import EVERYTHING
from worker.core.clock_skew import skew_of
from worker.core.inventory import ProvidedResource, ResourceKind
from worker.core.judge import CallFault, FaultKind, Operation
from worker.ports import CallFailed, CallRate, Clock, Confirmed, NewSubaccount, ProvidedSubaccount
from worker.provider.rate import NoShare, RateLimiter, Resting, Slot, Stopping
from worker.settings.rotation import Rotating

PAGE = 20
SUBACCOUNTS = "Subaccount/"
T = TypeVar("T", bound="_Response")
NOTHING_MORE = b'{"message": "deleted"}'
"""The body that a 204 stands for."""
LONGEST_RESPONSE_BYTES = 2**20
"""A list page of twenty subaccounts has 20 kB."""
LONGEST_ERROR_TEXT = 200
LONGEST_RETRY_AFTER_SECONDS = 3600.0
"""The longest wait accepted: a mistaken value must not stop the worker for a day."""

LONGEST_AGE_DIGITS = 10
"""A longer `Age` is no number of seconds, and beyond what a date can hold."""

# Words of this length could be credentials, so error texts omit them.
_COULD_BE_SECRET = re.compile(r"[\w+/=.-]{24,}")


@dataclass(frozen=True, slots=True)
class PlivoAccount:
    """The API's URL, our login and the limits of calls. `timeout` is for a whole call with its connect.

    `auth_token` and `proxy`, whose URL may hold a login, are read again once they were refused.
    """

    url: str
    auth_id: str
    auth_token: Rotating[SecretStr]
    timeout: timedelta
    concurrency: int
    rate: CallRate
    proxy: Rotating[SecretStr | None] = field(default_factory=lambda: Rotating(None))


class _Response(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


_AUTH_ID = re.compile(r"SA[A-Z0-9]{18}")
_MAIN_AUTH_ID = re.compile(r"MA[A-Z0-9]{18}")
AuthId = Annotated[str, Field(pattern=f"^{_AUTH_ID.pattern}$")]
AuthToken = Annotated[SecretStr, Field(min_length=1)]
# Plivo's id of a call. It is shown and goes into headers, so anything but a UUID is dropped.
_API_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def api_id_of(value: object) -> str | None:
    """The value, if it looks like Plivo's id of a call."""
    return value if isinstance(value, str) and _API_ID.fullmatch(value) else None


class _Done(_Response):
    """A JSON object with one of these proves a response by Plivo. A page of a proxy would prove nothing."""

    api_id: str | None = None
    message: str | None = None

    @model_validator(mode="after")
    def is_of_plivo(self) -> Self:
        """Raises `ValueError` for an object of something else."""
        if self.api_id is None and self.message is None:
            raise ValueError
        return self


class _Created(_Response):
    """The auth id alone proves the create; a missing token can be read later."""

    auth_id: AuthId
    auth_token: Annotated[SecretStr | None, BeforeValidator(lambda value: value or None)] = None
    api_id: Annotated[str | None, BeforeValidator(api_id_of)] = None


class _Shown(_Response):
    auth_id: AuthId
    auth_token: AuthToken
    name: str
    enabled: bool
    created: Annotated[date, BeforeValidator(lambda value: str(value)[:10])]  # tolerates a time


def _or(default: Any) -> WrapValidator:
    """Replaces an invalid value by a default."""

    def read(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            return default

    return WrapValidator(read)


class _Listed(_Response):
    """The fields of a list item that are needed: one odd item, or field, must not hide the others."""

    auth_id: Annotated[str, _or("")] = ""
    auth_token: Annotated[AuthToken | None, _or(None)] = None
    name: Annotated[str, _or("")] = ""
    enabled: Annotated[bool, _or(default=True)] = True
    created: Annotated[date, BeforeValidator(lambda value: str(value)[:10]), _or(date.max)] = date.max


class _Page(_Response):
    objects: list[Annotated[_Listed, _or(_Listed())]]


def owner_of(value: object) -> str | None:
    """The subaccount that owns a resource, by its `sub_account`; None for the main account.

    Plivo shows null, the bare id, or a URI that ends with it. Raises `ValueError` for anything else: a
    resource of unknown owner must not be taken for another's.
    """
    if value is None:
        return None
    segments = value.partition("?")[0].split("/") if isinstance(value, str) else []
    subaccounts = {segment for segment in segments if _AUTH_ID.fullmatch(segment)}
    if len(subaccounts) == 1:
        return subaccounts.pop()
    if not subaccounts and any(map(_MAIN_AUTH_ID.fullmatch, segments)):
        return None
    raise ValueError("it is not clear whose it is")


ResourceId = Annotated[
    str, BeforeValidator(lambda value: str(value) if type(value) is int else value), Field(min_length=1)
]


class _Owned(_Response):
    sub_account: Annotated[str | None, BeforeValidator(owner_of)]


class _Number(_Owned):
    id: ResourceId = Field(alias="number")


class _Application(_Owned):
    id: ResourceId = Field(alias="app_id")


class _Endpoint(_Owned):
    id: ResourceId = Field(alias="endpoint_id")


R = TypeVar("R", _Number, _Application, _Endpoint)


class _Meta(_Response):
    total_count: Annotated[int | None, _or(None)] = None


class _Resources(_Response, Generic[R]):
    """A page of resources. None stands for an item whose id or owner cannot be read."""

    objects: list[Annotated[R | None, _or(None)]]
    meta: Annotated[_Meta, _or(_Meta())] = _Meta()


_LISTS: Mapping[ResourceKind, tuple[str, type[_Resources[Any]]]] = {
    ResourceKind.NUMBERS: ("Number", _Resources[_Number]),
    ResourceKind.APPLICATIONS: ("Application", _Resources[_Application]),
    ResourceKind.ENDPOINTS: ("Endpoint", _Resources[_Endpoint]),
}


Traced = Callable[[Operation], AbstractContextManager[Mapping[str, str]]]
"""The span of a request, with the headers that carry its trace."""


def untraced(_operation: Operation) -> AbstractContextManager[Mapping[str, str]]:
    """A `Traced` without a trace."""
    return nullcontext({})


@asynccontextmanager
async def plivo_provider(
    account: PlivoAccount,
    clock: Clock,
    stopping: asyncio.Event,
    on_call: Callable[[Operation, int | None, float], None] = lambda _operation, _status, _seconds: None,
    on_clock: Callable[[timedelta | None], None] = lambda _skew: None,
    on_failure: Callable[[CallFault], None] = lambda _fault: None,
    traced: Traced = untraced,
) -> AsyncIterator["PlivoProvider"]:
    """Opens a session. Once `stopping` is set, calls in flight are finished and no further one begins.

    `on_call` gets operation, HTTP status (None without a response) and seconds of each request. `on_clock`
    gets how far Plivo's clock is ahead of ours, by each of its own responses; None: it has no date.
    `on_failure` gets each call that was sent in vain. `traced` gives the trace headers of a request.
    """
    # Half of the time is for the connect, which sends nothing.
    seconds = account.timeout.total_seconds()
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=account.concurrency + 1),  # one for a probe
        timeout=aiohttp.ClientTimeout(total=seconds, connect=seconds / 2),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "application/json", "Content-Type": "application/json"},
        trace_configs=[_noting_what_is_sent()],
    )
    # aiohttp would silently repeat GET and DELETE when a kept connection breaks.
    session._retry_connection = False  # noqa: SLF001 - there is no public switch
    async with session:
        yield PlivoProvider(account, session, clock, stopping, on_call, on_clock, on_failure, traced)


class PlivoProvider:
    """The `Provider` port on one account: gives permits within its concurrency and rate limit."""

    capabilities = EVERYTHING

    def __init__(
        self,
        account: PlivoAccount,
        session: aiohttp.ClientSession,
        clock: Clock,
        stopping: asyncio.Event,
        on_call: Callable[[Operation, int | None, float], None],
        on_clock: Callable[[timedelta | None], None],
        on_failure: Callable[[CallFault], None],
        traced: Traced = untraced,
    ) -> None:
        self._traced = traced
        self.on_failure = on_failure
        self._base = f"{account.url.rstrip('/')}/v1/Account/{account.auth_id}/"
        self._access = Access(
            url=account.url,
            auth_id=account.auth_id,
            auth_token=account.auth_token,
            proxy=account.proxy,
            timeout=session.timeout,
        )
        self._session = session
        self._clock = clock
        self._on_call = on_call
        self.on_clock = on_clock
        self._concurrency = asyncio.Semaphore(account.concurrency)
        self._limiter = RateLimiter(account.rate, clock, stopping)

    @property
    def rate_used(self) -> float:
        """See `RateLimiter.used`."""
        return self._limiter.used

    @asynccontextmanager
    async def permit(self, operation: Operation) -> AsyncIterator["PlivoCall"]:
        """See `Provider.permit`."""
        async with self._concurrency, self._using(operation, self._limiter.slot()) as call:
            yield call

    async def probe(self) -> None:
        """See `Provider.probe`. It has the timeout of any other call: a slow response is a response."""
        async with self._using("list", self._limiter.priority_slot()) as call:
            await call.page(0, limit=1)

    @asynccontextmanager
    async def _using(self, operation: Operation, next_slot: Awaitable[Slot]) -> AsyncIterator["PlivoCall"]:
        try:
            slot = await next_slot
        except Stopping:
            detail = "the worker stops; nothing was sent"
            raise CallFailed(CallFault(operation, FaultKind.NOT_SENT, detail, outage=True)) from None
        except Resting as rest:
            detail = f"Plivo asked for no call within the next {rest.seconds:.0f} s; nothing was sent"
            fault = CallFault(operation, FaultKind.NOT_SENT, detail, rest.seconds, outage=True)
            raise CallFailed(fault) from None
        except NoShare:
            raise CallFailed(_without_share(operation)) from None
        try:
            yield PlivoCall(self, slot)
        finally:
            if slot.sent:
                slot.arrived()
            else:
                self._limiter.give_back(slot)

    async def send(self, slot: Slot, request: "_Request") -> "_Answer":
        """Sends one request and returns the 2xx response; raises `CallFailed`."""
        with self._traced(request.operation) as trace_headers:
            return await self._send(slot, request, trace_headers)

    async def _send(self, slot: Slot, request: "_Request", trace_headers: Mapping[str, str]) -> "_Answer":
        way = self._access.way()
        key = {"Idempotency-Key": request.key} if request.key else {}
        headers = {**way.headers, **key, **trace_headers}
        data = None if request.body is None else to_json(request.body)
        try:
            slot.begin()
        except NoShare:
            raise CallFailed(_without_share(request.operation)) from None
        begun, sent_at = self._clock.monotonic(), self._clock.now()
        status, sent = None, Sent()
        try:
            async with self._session.request(
                request.method,
                self._base + request.path,
                data=data,
                headers=headers,
                allow_redirects=False,
                proxy=way.proxy,
                proxy_headers=way.proxy_headers,
                trace_request_ctx=sent,
            ) as response:
                status = response.status
                self._access.answered(status, way)
                if is_proxys_refusal(status, way.route):
                    why = refused_by_proxy(way.route)
                    raise CallFailed(_fault_of(request.operation, FaultKind.NOT_SENT, why))
                return await self._answer(request.operation, response, sent_at)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._access.failed(error)
            kind = FaultKind.NO_ANSWER if sent.headers else FaultKind.NOT_SENT
            seconds = self._clock.monotonic() - begun
            fault = _fault_of(request.operation, kind, explain(error, way.route), seconds, status)
        finally:
            self._on_call(request.operation, status, self._clock.monotonic() - begun)
        raise CallFailed(fault)  # outside `except`: the error as cause would hold our login and Plivo's text

    async def _answer(
        self, operation: Operation, response: aiohttp.ClientResponse, sent_at: datetime
    ) -> "_Answer":
        body, now = await _received(response), self._clock.now()
        date = _date_of(response.headers)
        skew = skew_of(date, sent_at, now) if date else None
        if response.status == HTTPStatus.NO_CONTENT:
            return _Answer(response.status, NOTHING_MORE, skew)
        if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            return _Answer(response.status, body, skew)
        error = _document(body)
        own = is_own_error(error)
        if own:
            self.on_clock(skew)
        kind = kind_of(response.status, own=own)
        retry_after = _retry_after(response.headers.get("Retry-After"), date or now)
        if kind is FaultKind.RATE_LIMITED:
            self._limiter.slow_down(retry_after)
        detail = f"Plivo answered {response.status} to {operation}{_error_text(error)}"
        if kind is FaultKind.UNEXPECTED:
            detail += "; Plivo documents no such answer: is there a gateway or proxy on the way?"
        fault = CallFault(
            operation, kind, detail, retry_after, api_id=_api_id_in(error), status=response.status
        )
        raise CallFailed(fault)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A 2xx response, which may be of something on the way; how far its sender's clock is ahead of ours."""

    status: int
    body: bytes
    skew: timedelta | None


@dataclass(frozen=True, slots=True)
class _Request:
    operation: Operation
    method: str
    path: str  # below the account
    body: dict[str, Any] | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class PlivoCall:
    """The `Call` port: one permitted call. Its slot under the rate limit is for one request."""

    provider: PlivoProvider
    slot: Slot

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        """See `Call.create`."""
        body = {"name": name, "enabled": enabled}
        request = _Request("create", "POST", SUBACCOUNTS, body, idempotency_key)
        made, status = await self._send(_Created, request)
        return NewSubaccount(made.auth_id, made.auth_token, made.api_id, status)

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> Confirmed:
        """See `Call.update`."""
        given = {"name": name, "enabled": enabled}
        body = {field: value for field, value in given.items() if value is not None}
        return await self._confirmed(
            _Request("update", "POST", f"{SUBACCOUNTS}{auth_id}/", body, idempotency_key)
        )

    async def delete(self, auth_id: str, idempotency_key: str, *, cascade: bool = False) -> Confirmed:
        """See `Call.delete`.

        Plivo's reference names the query for `cascade`, and its SDKs send a body: so both say it.
        """
        path, body = f"{SUBACCOUNTS}{auth_id}/", None
        if cascade:
            path, body = f"{path}?cascade=true", {"cascade": True}
        return await self._confirmed(_Request("delete", "DELETE", path, body, idempotency_key))

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        """See `Call.get`."""
        shown, _ = await self._send(_Shown, _Request("get", "GET", f"{SUBACCOUNTS}{auth_id}/"))
        return _provided(shown)

    async def page(self, offset: int, limit: int = PAGE) -> Sequence[ProvidedSubaccount]:
        """See `Call.page`."""
        request = _Request("list", "GET", f"{SUBACCOUNTS}?limit={limit}&offset={offset}")
        page, _ = await self._send(_Page, request)
        return [_listed(item) for item in page.objects]

    async def resources(self, kind: ResourceKind, auth_id: str, offset: int) -> Sequence[ProvidedResource]:
        """See `Call.resources`."""
        folder, model = _LISTS[kind]
        path = f"{folder}/?subaccount={auth_id}&limit={PAGE}&offset={offset}"
        page, status = await self._send(model, _Request("count", "GET", path))
        read = [ProvidedResource(item.id, item.sub_account) for item in page.objects if item is not None]
        problem = None
        if len(read) < len(page.objects):
            problem = "has an item that does not show whose it is"
        elif len(read) <= 1 and (page.meta.total_count or 0) > offset + len(read):
            problem = f"ends before the {page.meta.total_count} items that it should have"
        if problem:
            fault = CallFault(
                "count", FaultKind.UNEXPECTED, f"Plivo's list of {kind} {problem}", status=status
            )
            self.provider.on_failure(fault)
            raise CallFailed(fault)
        return read

    async def _confirmed(self, request: _Request) -> Confirmed:
        done, status = await self._send(_Done, request)
        return Confirmed(api_id_of(done.api_id), status)

    async def _send(self, model: type[T], request: _Request) -> tuple[T, int]:
        """Sends the request; returns what the 2xx response says, and its status. Raises `CallFailed`."""
        try:
            answer = await self.provider.send(self.slot, request)
            parsed = _parsed(request.operation, model, answer)
        except CallFailed as failed:
            self.provider.on_failure(failed.fault)
            raise
        self.provider.on_clock(answer.skew)  # it is Plivo's own
        return parsed, answer.status


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds, from either form of the header (RFC 9110, 10.2.3); None if it has neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), LONGEST_RETRY_AFTER_SECONDS)
    at = _http_date(value)
    if at is None:
        return None
    return min(max(0.0, (at - now).total_seconds()), LONGEST_RETRY_AFTER_SECONDS)


def _date_of(headers: Mapping[str, str]) -> datetime | None:
    """The sender's time by its `Date`. A cached response is older by its `Age` (RFC 9111, 5.1)."""
    date, age = _http_date(headers.get("Date", "")), headers.get("Age", "0").strip()
    if date is None:
        return None
    return date + timedelta(seconds=int(age) if age.isdecimal() and len(age) < LONGEST_AGE_DIGITS else 0)


def _http_date(value: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _provided(shown: _Shown) -> ProvidedSubaccount:
    return ProvidedSubaccount(shown.auth_id, shown.name, shown.enabled, shown.created, shown.auth_token)


def _listed(item: _Listed) -> ProvidedSubaccount:
    """An item with an invalid auth id gets no name, and so has no tag; and no token."""
    if not _AUTH_ID.fullmatch(item.auth_id):
        return ProvidedSubaccount(item.auth_id, "", item.enabled, item.created, None)
    return ProvidedSubaccount(item.auth_id, item.name, item.enabled, item.created, item.auth_token)


def _parsed(operation: Operation, model: type[T], answer: _Answer) -> T:
    with suppress(ValidationError):  # the error holds the response with its tokens
        return model.model_validate_json(answer.body)
    detail, api_id = f"Plivo's answer to {operation} cannot be read", _api_id_in(_document(answer.body))
    fault = CallFault(operation, FaultKind.NO_ANSWER, detail, api_id=api_id, status=answer.status)
    raise CallFailed(fault)


def _fault_of(
    operation: Operation, kind: FaultKind, why: str, took_seconds: float = 0.0, status: int | None = None
) -> CallFault:
    """The fault of a call without a response. What was not sent cannot have had an effect.

    A `ClientResponseError` with status 400 comes from aiohttp (as for a 204 with a body), not from Plivo.
    """
    what = "cannot be reached" if kind is FaultKind.NOT_SENT else "gave no readable response"
    detail = f"Plivo {what} for {operation}: {why}"
    return CallFault(operation, kind, detail, took_seconds=took_seconds, status=status)


def _without_share(operation: Operation) -> CallFault:
    detail = "this worker has no share of the rate limit now; nothing was sent"
    return CallFault(operation, FaultKind.NOT_SENT, detail, outage=True)


@dataclass(slots=True)
class Sent:
    """How far a request got. `headers`: they may have left, so that Plivo may have read them."""

    headers: bool = False


def _noting_what_is_sent() -> aiohttp.TraceConfig:
    """Sets `Sent.headers` right before the first byte of a request, a proxy's `CONNECT` apart."""

    async def note(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceRequestHeadersSentParams,
    ) -> None:
        context.trace_request_ctx.headers = True

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(note)
    return trace


async def _received(response: aiohttp.ClientResponse) -> bytes:
    """The body, cut off after `LONGEST_RESPONSE_BYTES`; a body that is cut off cannot be parsed."""
    content, body = response.content, b""
    while len(body) < LONGEST_RESPONSE_BYTES and not content.at_eof():
        body += await content.read(LONGEST_RESPONSE_BYTES - len(body))
    return body


def _document(body: bytes) -> Any:
    """The JSON document; None if it is none."""
    with suppress(ValueError):
        return from_json(body)
    return None


def _api_id_in(document: Any) -> str | None:
    """Plivo's id of a call, in a response of any kind."""
    return api_id_of(document.get("api_id")) if isinstance(document, dict) else None


def _error_text(document: Any) -> str:
    """Plivo's error text, if any: for people only, never to branch on."""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, str):
        return ""
    text = _COULD_BE_SECRET.sub("***", "".join(filter(str.isprintable, error)))
    return f": {text[:LONGEST_ERROR_TEXT]}"
