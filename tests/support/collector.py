"""A collector of OpenTelemetry's spans, which keeps what it gets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def collector(received: bytearray) -> AsyncIterator[str]:
    """Yields its URL; the headers and bodies of what is exported to it are added to `received`."""

    async def take(request: web.Request) -> web.Response:
        received.extend(repr(request.headers).encode() + await request.read())
        return web.Response(content_type="application/x-protobuf")

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
