"""Reads pages over HTTP: from one host, bounded in size and time, patient with a busy server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urljoin

import aiohttp
from pydantic import SecretStr

from worker.core.intake.pages import origin_of
from worker.ports import PageRefused

LARGEST_BYTES = 32 << 20
PAGE_SECONDS = 60.0
TRIES = 4
LONGEST_WAIT_SECONDS = 60.0
MOST_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
TOO_MANY, SERVER_ERROR = 429, 500


@asynccontextmanager
async def page_reader(header: str, value: SecretStr | None) -> AsyncIterator["HttpPages"]:
    """A reader for the time of the block. `value`: that of the header with the login."""
    timeout = aiohttp.ClientTimeout(total=PAGE_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield HttpPages(session, header, value)


class HttpPages:
    """The `PageReader` port."""

    def __init__(self, session: aiohttp.ClientSession, header: str, value: SecretStr | None) -> None:
        self._session = session
        self._headers = {"accept": "application/json"}
        self._header, self._value = header, value

    async def read(self, url: str) -> bytes:
        """See `PageReader.read`."""
        for tried in range(1, TRIES + 1):
            try:
                status, retry_after, body = await self._get(url)
            except (aiohttp.ClientError, TimeoutError) as error:
                why, wait = str(error) or type(error).__name__, float(tried)
            else:
                if status == 200:  # noqa: PLR2004 - OK
                    return body
                why, wait = f"the response is {status}", retry_after or float(tried)
                if status != TOO_MANY and status < SERVER_ERROR:
                    break
            if tried < TRIES:
                await asyncio.sleep(min(wait, LONGEST_WAIT_SECONDS))
        raise PageRefused(f"{_shown(url)} cannot be read: {why}")

    async def _get(self, url: str) -> tuple[int, float | None, bytes]:
        """Status, the seconds of Retry-After, and the body. Follows redirects within the host."""
        asked = url
        for _ in range(MOST_REDIRECTS + 1):
            secret = {} if self._value is None else {self._header: self._value.get_secret_value()}
            got = self._session.get(asked, headers=self._headers | secret, allow_redirects=False)
            async with got as response:
                if response.status not in REDIRECTS:
                    retry_after = response.headers.get("Retry-After", "")
                    wait = float(retry_after) if retry_after.isdigit() else None
                    return response.status, wait, await _limited(response)
                asked = urljoin(asked, response.headers.get("Location", ""))
            if not _is_same_host(asked, url):
                raise PageRefused(f"{_shown(url)} cannot be read: it redirects to another host")
        raise PageRefused(f"{_shown(url)} cannot be read: it redirects too often")


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_chunked(1 << 16):
        body += piece
        if len(body) > LARGEST_BYTES:
            raise PageRefused(f"{_shown(str(response.url))} cannot be read: a page of more than 32 MiB")
    return bytes(body)


def _is_same_host(asked: str, url: str) -> bool:
    try:
        return origin_of(asked) == origin_of(url)
    except ValueError:
        return False


def _shown(url: str) -> str:
    """The URL without its query, which may hold a key."""
    return url.partition("?")[0]
