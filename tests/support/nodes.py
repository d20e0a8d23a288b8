"""Servers for tests. Where one cannot run, its tests are skipped on a laptop and fail in CI."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import NoReturn, TypeVar

import pytest

from worker.demo.private_node import NodeUnavailable

N = TypeVar("N")


def skip_or_fail(reason: str) -> NoReturn:
    """Skips the test; fails it in CI, where no test may be skipped."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def running_node(
    node: AbstractAsyncContextManager[N],
) -> Iterator[tuple[N, asyncio.Runner]]:
    """Runs the node during the block; yields it with a runner for the coroutines of fixtures."""
    with asyncio.Runner() as runner:
        try:
            running = runner.run(node.__aenter__())
        except NodeUnavailable as error:
            skip_or_fail(str(error))
        try:
            yield running, runner
        finally:
            runner.run(node.__aexit__(None, None, None))
