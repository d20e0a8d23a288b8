"""The product with a real broker, the sandbox over HTTP and a ledger file."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aio_pika
import pytest

from tests.support.real import RealSystem
from worker.sandbox import running_sandbox


@pytest.fixture
async def system(clean_broker: str, tmp_path: Path) -> AsyncIterator[RealSystem]:
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(running_sandbox(rate_limit="off"))
        connection = await stack.enter_async_context(await aio_pika.connect(clean_broker))
        environ = {
            "AMQP_URL": clean_broker,
            "PLIVO_AUTH_ID": sandbox.auth_id,
            "PLIVO_AUTH_TOKEN": sandbox.auth_token,
            "PLIVO_API_URL": sandbox.url,
            "LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
            "PROVISIONER_PLAINTEXT_SECRETS": "true",
            "PROVISIONER_RATE_LIMIT": "100000/1s",
        }
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        yield RealSystem(clean_broker, sandbox, environ, channel)
