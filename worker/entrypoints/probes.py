"""`/livez`, `/readyz`, `/metrics`, and the worker's public keys."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from worker.adapters.key_files import KeyFileError, public_jwks
from worker.bootstrap import Worker
from worker.core.model import Department, Reference
from worker.ports import ForPeople, LedgerFailed
from worker.settings import Address


class AddressTaken(ForPeople):
    """Somebody else listens there."""


@asynccontextmanager
async def serving(worker: Worker, address: Address) -> AsyncIterator[None]:
    runner = web.AppRunner(_app(worker), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, address.host, address.port).start()
        except OSError as error:
            raise AddressTaken(
                f"cannot listen on {address.host}:{address.port} ({error.strerror}); set PROVISIONER_HTTP"
            ) from None
        yield
    finally:
        await runner.cleanup()


def _app(worker: Worker) -> web.Application:
    async def livez(_request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(_request: web.Request) -> web.Response:
        wrong = await not_ready(worker)
        status = "ready" if not wrong else "not ready"
        return web.json_response({"status": status, "wrong": wrong}, status=503 if wrong else 200)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(worker.telemetry.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def jwks(_request: web.Request) -> web.Response:
        try:
            return web.json_response(public_jwks(worker.settings.signing_key_path))
        except KeyFileError as error:
            return web.json_response({"error": str(error)}, status=503)

    answers = {"/livez": livez, "/readyz": readyz, "/metrics": metrics, "/.well-known/jwks.json": jwks}
    app = web.Application()
    app.add_routes([web.get(path, handler) for path, handler in answers.items()])
    return app


async def not_ready(worker: Worker) -> list[str]:
    """What keeps the worker from doing its job now. Being connected is not enough: it must be consuming."""
    wrong = [] if worker.consumer.consuming else ["no consumer is registered at the broker"]
    try:
        await worker.ledger.recall(Department("", ""), Reference("", "", ""))
    except LedgerFailed as error:
        wrong.append(str(error))
    return wrong
