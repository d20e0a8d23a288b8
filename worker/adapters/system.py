"""The system's clock, randomness, fresh ids, user name and process. No other module reads them."""

import asyncio
import getpass
import os
import random
import socket
import time
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import count

from worker.core.presence import WorkerSeen


class SystemClock:
    """The `Clock` port on the machine's clock and randomness."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def jitter(self) -> float:
        """See `Clock.jitter`."""
        return random.random()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)


def fresh_id() -> str:
    """A random UUID (RFC 9562, version 4)."""
    return str(uuid.uuid4())


_PROCESS = uuid.uuid4().hex
_NUMBERS = count(1)


def fresh_message_id() -> str:
    """An AMQP message id, unique in flight: aiormq mixes up the confirms of two messages with one id.

    Randomness is read once in a process, since this is called for every message.
    """
    return f"{_PROCESS}-{next(_NUMBERS)}"


def this_process(started_at: datetime) -> WorkerSeen:
    """The running process as a worker that has not begun to work."""
    return WorkerSeen(
        id=fresh_id(),
        host=socket.gethostname(),
        pid=os.getpid(),
        version=version("subaccount-provisioner"),
        started_at=started_at,
        seen_at=started_at,
        consuming=False,
        rate_share=0,
    )


def os_user() -> str:
    """The name of the OS user, or `uid 1000`."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the uid has no name, as in a container
        return f"uid {os.getuid()}"
