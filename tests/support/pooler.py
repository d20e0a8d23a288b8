"""A PgBouncer between a client and PostgreSQL."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.nodes import skip_or_fail
from tests.support.postgres_node import Account
from worker.demo.private_node import Ports


@asynccontextmanager
async def pooler(server: int, settings: str) -> AsyncIterator[str]:
    """A PgBouncer in front of the server at this port; its address. It refuses to run as root."""
    if (program := shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")) is None:
        skip_or_fail("pgbouncer is not installed")
    port, account = Ports.free().amqp, Account.unprivileged()
    config = (
        f"[databases]\npostgres = host=127.0.0.1 port={server} user=postgres\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n{settings}\n"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as file:
        file.write(config)
        file.flush()
        os.chmod(file.name, 0o644)  # noqa: PTH101 - the name is text
        process = await asyncio.create_subprocess_exec(
            program, file.name, stderr=asyncio.subprocess.PIPE, **account.options
        )
        assert process.stderr is not None
        try:
            while b"process up" not in await process.stderr.readline():
                assert process.returncode is None
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            await process.communicate()
