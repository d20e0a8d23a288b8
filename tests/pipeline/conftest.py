"""A world for each test."""

import pytest

pytest.register_assert_rewrite("world")

from world import World  # noqa: E402 - not before pytest knows that it asserts


@pytest.fixture
def world() -> World:
    return World()
