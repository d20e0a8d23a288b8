"""A world for each test."""

import pytest

pytest.register_assert_rewrite("tests.support.world")

from tests.support.world import World  # noqa: E402 - not before pytest knows that it asserts


@pytest.fixture
def world() -> World:
    return World()
