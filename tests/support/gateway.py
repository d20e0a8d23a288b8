"""A gateway between worker and sandbox: passes calls on, answers them itself, or changes their date."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
from aiohttp import web

PAGE = "<html><head><title>{status} The plain HTTP request was sent to HTTPS port</title></head></html>"


@dataclass(frozen=True)
class Refusal:
    """The gateway's own response. `only`: words of the request lines that meet it; None: every one."""

    status: int
    body: str = PAGE
    content_type: str = "text/html"
    retry_after: int | None = None
    only: str | None = None


@dataclass
class Gateway:
    """`dated`: how far the date of each response is from the truth; None: it has none."""

    upstream: str
    url: str = ""
    refusal: Refusal | None = None
    dated: timedelta | None = timedelta(0)
    passed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    async def serve(self, http: aiohttp.ClientSession, request: web.Request) -> web.Response:
        refusal = self.refusal
        line = f"{request.method} {request.path_qs}"
        if refusal is not None and (refusal.only is None or refusal.only in line):
            self.refused[request.method] += 1
            headers = {"Location": "/elsewhere/"}
            headers |= {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
            return web.Response(
                status=refusal.status,
                text=refusal.body.replace("{status}", str(refusal.status)),
                content_type=refusal.content_type,
                headers=headers,
            )
        self.passed[request.method] += 1
        kept = {"Authorization", "Content-Type", "Idempotency-Key", "Accept"}
        headers = {name: value for name, value in request.headers.items() if name in kept}
        body = await request.read()
        async with http.request(
            request.method, self.upstream + request.path_qs, data=body or None, headers=headers
        ) as reply:
            content, kind = await reply.read(), reply.content_type
        return web.Response(status=reply.status, body=content, content_type=kind)

    async def date(self, _request: web.Request, response: web.StreamResponse) -> None:
        del response.headers["Date"]
        if self.dated is not None:
            response.headers["Date"] = format_datetime(datetime.now(UTC) + self.dated, usegmt=True)


@asynccontextmanager
async def gateway(upstream: str) -> AsyncIterator[Gateway]:
    made = Gateway(upstream)
    app = web.Application()
    async with aiohttp.ClientSession() as http:

        async def handle(request: web.Request) -> web.Response:
            return await made.serve(http, request)

        app.router.add_route("*", "/{path:.*}", handle)
        app.on_response_prepare.append(made.date)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            made.url = f"http://{host}:{port}"
            yield made
        finally:
            await runner.cleanup()
