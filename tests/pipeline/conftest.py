"""A new world for each test."""

import pytest

pytest.register_assert_rewrite("tests.support.world")

from tests.support.world import World  # noqa: E402 - after registering it for assertion rewriting


@pytest.fixture
def world() -> World:
    return World()
