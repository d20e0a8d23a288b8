"""The provider port on Plivo's Subaccount API, over aiohttp.

Each call is sent once: no retry, no redirect.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, date, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

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
)
from pydantic_core import from_json, to_json

from worker.core.judge import CallFault, Operation
from worker.ports import CallFailed, Clock, NewSubaccount, ProvidedSubaccount, RateLimit
from worker.provider.rate import Pace, Stopping, Turn

PAGE = 20
T = TypeVar("T", bound="_Answer")
_TURN: ContextVar[Turn] = ContextVar("turn")
NOTHING_MORE = b"{}"
"""What a 204 says."""
LONGEST_ANSWER_BYTES = 2**20
"""Twenty subaccounts of a list page come to 20 kB."""
LONGEST_ERROR_TEXT = 200
LONGEST_RETRY_AFTER_SECONDS = 300.0
"""Told to wait longer we ask again then: messages must not stay unacked until the broker takes them back."""

# Anything this long without a space could be a credential: it stays out of error texts.
_COULD_BE_SECRET = re.compile(r"[\w+/=.-]{24,}")


@dataclass(frozen=True, slots=True)
class PlivoAccount:
    """Where the API is and who we are there. `timeout` is for a whole call, connecting included."""

    url: str
    auth_id: str
    auth_token: SecretStr
    timeout: timedelta
    concurrency: int
    rate: RateLimit


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


_AUTH_ID = re.compile(r"SA[A-Z0-9]{18}")
AuthId = Annotated[str, Field(pattern=f"^{_AUTH_ID.pattern}$")]
AuthToken = Annotated[SecretStr, Field(min_length=1)]


class _Done(_Answer):
    """That it is Plivo who answers: a JSON object. A proxy's page says nothing of what was carried out."""


class _Created(_Answer):
    """The auth id alone shows that it was created; a token that is missing can be read."""

    auth_id: AuthId
    auth_token: Annotated[SecretStr | None, BeforeValidator(lambda value: value or None)] = None


class _Shown(_Answer):
    auth_id: AuthId
    auth_token: AuthToken
    name: str
    enabled: bool
    created: Annotated[
        date, BeforeValidator(lambda value: str(value)[:10])
    ]  # should it ever come with a time


def _else(default: Any) -> WrapValidator:
    """What cannot be read counts as that."""

    def read(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            return default

    return WrapValidator(read)


class _Listed(_Answer):
    """As much of a list's item as looking for a tag needs: one odd item must not hide the others."""

    auth_id: Annotated[str, _else("")] = ""
    name: Annotated[str, _else("")] = ""
    enabled: Annotated[bool, _else(default=True)] = True
    created: Annotated[date, BeforeValidator(lambda value: str(value)[:10]), _else(date.max)] = date.max


class _Page(_Answer):
    objects: list[Annotated[_Listed, _else(_Listed())]]


@asynccontextmanager
async def plivo_provider(
    account: PlivoAccount,
    clock: Clock,
    stopping: asyncio.Event,
    on_call: Callable[[Operation, int | None, float], None] = lambda _operation, _status, _seconds: None,
) -> AsyncIterator["PlivoProvider"]:
    """Once `stopping` is set, calls under way are finished and no further one begins."""
    # Half of it for the connection: one that is not there by then has sent nothing.
    seconds = account.timeout.total_seconds()
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=account.concurrency + 1),  # one for a probe
        timeout=aiohttp.ClientTimeout(total=seconds, connect=seconds / 2),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            "Accept": "application/json",
            "Content-Type": "application/json",
            "Authorization": aiohttp.encode_basic_auth(
                account.auth_id, account.auth_token.get_secret_value()
            ),
        },
    )
    # aiohttp would send GET and DELETE a second time, unseen, when a kept connection breaks.
    session._retry_connection = False  # noqa: SLF001 - there is no public switch
    async with session:
        yield PlivoProvider(account, session, clock, stopping, on_call)


class PlivoProvider:
    def __init__(
        self,
        account: PlivoAccount,
        session: aiohttp.ClientSession,
        clock: Clock,
        stopping: asyncio.Event,
        on_call: Callable[[Operation, int | None, float], None],
    ) -> None:
        self._base = f"{account.url.rstrip('/')}/v1/Account/{account.auth_id}/Subaccount/"
        self._session = session
        self._clock = clock
        self._on_call = on_call
        self._slots = asyncio.Semaphore(account.concurrency)
        self._pace = Pace(account.rate, stopping)

    @asynccontextmanager
    async def permit(self, operation: Operation) -> AsyncIterator[None]:
        async with self._slots:
            with self._using(await _turn(operation, self._pace.turn())):
                yield

    @contextmanager
    def _using(self, turn: Turn) -> Iterator[None]:
        token = _TURN.set(turn)
        try:
            yield
        finally:
            _TURN.reset(token)
            if turn.sent:
                turn.answered()
            else:
                self._pace.give_back(turn)

    async def create(self, name: str, idempotency_key: str, *, enabled: bool = True) -> NewSubaccount:
        body = {"name": name, "enabled": enabled}
        made = _parsed("create", _Created, await self._send("create", "POST", "", body, idempotency_key))
        return NewSubaccount(made.auth_id, made.auth_token)

    async def update(
        self, auth_id: str, idempotency_key: str, *, name: str | None = None, enabled: bool | None = None
    ) -> None:
        given = {"name": name, "enabled": enabled}
        body = {field: value for field, value in given.items() if value is not None}
        answer = await self._send("update", "POST", f"{auth_id}/", body, idempotency_key)
        _parsed("update", _Done, answer)

    async def delete(self, auth_id: str, idempotency_key: str) -> None:
        answer = await self._send("delete", "DELETE", f"{auth_id}/", None, idempotency_key)
        _parsed("delete", _Done, answer)

    async def get(self, auth_id: str) -> ProvidedSubaccount:
        return _provided(await self._read("get", _Shown, f"{auth_id}/"))

    async def page(self, offset: int) -> Sequence[ProvidedSubaccount]:
        page = await self._read("list", _Page, f"?limit={PAGE}&offset={offset}")
        return [_listed(item) for item in page.objects]

    async def probe(self) -> None:
        """It has as long as any other call: an answer that takes long is one."""
        with self._using(await _turn("list", self._pace.next_turn())):
            _parsed("list", _Page, await self._send("list", "GET", "?limit=1&offset=0"))

    async def _read(self, operation: Operation, model: type[T], path: str) -> T:
        async with self.permit(operation):
            return _parsed(operation, model, await self._send(operation, "GET", path))

    async def _send(
        self,
        operation: Operation,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> bytes:
        """One request; the body of a 2xx answer, or `CallFailed`."""
        headers = {"Idempotency-Key": key} if key else {}
        data = None if body is None else to_json(body)
        loop = asyncio.get_running_loop()
        begun, status = loop.time(), None
        _TURN.get().begins()
        try:
            async with self._session.request(
                method, self._base + path, data=data, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
                return await self._body(operation, response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            fault = replace(_fault_of(operation, error), took_seconds=loop.time() - begun)
        finally:
            self._on_call(operation, status, loop.time() - begun)
        raise CallFailed(fault)  # not as the error's consequence: that holds our login, and what Plivo said

    async def _body(self, operation: Operation, response: aiohttp.ClientResponse) -> bytes:
        body = await _received(response)
        if response.status == HTTPStatus.NO_CONTENT:
            return NOTHING_MORE
        if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            return body
        retry_after = self._retry_after(response.headers.get("Retry-After"))
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            self._pace.slow_down(retry_after)
        detail = f"Plivo answered {response.status} to {operation}{_error_text(body)}"
        raise CallFailed(
            CallFault(operation, detail, status=response.status, retry_after_seconds=retry_after)
        )

    def _retry_after(self, value: str | None) -> float | None:
        """Seconds, from either form of the header; nothing from one that is neither."""
        if value is None:
            return None
        if value.strip().isdecimal():
            return min(float(value), LONGEST_RETRY_AFTER_SECONDS)
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return min(max(0.0, (at - self._clock.now()).total_seconds()), LONGEST_RETRY_AFTER_SECONDS)


async def _turn(operation: Operation, turn: Awaitable[Turn]) -> Turn:
    try:
        return await turn
    except Stopping:
        fault = CallFault(operation, "the worker stops; nothing was sent", sent=False, outage=True)
        raise CallFailed(fault) from None


def _provided(shown: _Shown) -> ProvidedSubaccount:
    return ProvidedSubaccount(shown.auth_id, shown.name, shown.enabled, shown.created, shown.auth_token)


def _listed(item: _Listed) -> ProvidedSubaccount:
    """Without a name, and so without a tag, where its auth id is none."""
    name = item.name if _AUTH_ID.fullmatch(item.auth_id) else ""
    return ProvidedSubaccount(item.auth_id, name, item.enabled, item.created, None)


def _parsed(operation: Operation, model: type[T], answer: bytes) -> T:
    with suppress(ValidationError):  # which holds the answer, tokens and all
        return model.model_validate_json(answer)
    raise CallFailed(CallFault(operation, f"Plivo's answer to {operation} cannot be read"))


def _fault_of(operation: Operation, error: Exception) -> CallFault:
    """What an exception of aiohttp tells: a connection that was never made has sent nothing.

    A `ClientResponseError` with status 400 is aiohttp's own word (for a 204 with a body, say), not Plivo's.
    """
    unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    what = "cannot be reached" if unsent else "gave no answer that can be read"
    return CallFault(operation, f"Plivo {what} ({type(error).__name__}) for {operation}", sent=not unsent)


async def _received(response: aiohttp.ClientResponse) -> bytes:
    """The body. What is too long is cut off, and its connection with it; a success is unreadable then."""
    content, body = response.content, b""
    while len(body) < LONGEST_ANSWER_BYTES and not content.at_eof():
        body += await content.read(LONGEST_ANSWER_BYTES - len(body))
    return body


def _error_text(body: bytes) -> str:
    """Plivo's own words, where it has any: for people, never to branch on."""
    try:
        error = from_json(body)["error"]
    except (ValueError, TypeError, KeyError):
        return ""
    if not isinstance(error, str):
        return ""
    text = _COULD_BE_SECRET.sub("***", "".join(filter(str.isprintable, error)))
    return f": {text[:LONGEST_ERROR_TEXT]}"
