"""Clock, randomness, fresh ids and who is at the terminal. The only place where they come from."""

import asyncio
import getpass
import os
import random
import time
import uuid
from datetime import UTC, datetime
from itertools import count


class SystemClock:
    """The clock port on the machine's own clock and randomness."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def jitter(self) -> float:
        return random.random()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def fresh_id() -> str:
    return str(uuid.uuid4())


_PROCESS = uuid.uuid4().hex
_NUMBERS = count(1)


def fresh_message_id() -> str:
    """For AMQP: two messages of one id in flight swap their confirms in aiormq. Chance is asked once."""
    return f"{_PROCESS}-{next(_NUMBERS)}"


def os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for the number, as in a container
        return f"uid {os.getuid()}"
