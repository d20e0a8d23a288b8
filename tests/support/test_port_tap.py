"""A fault that does not strike fails its test."""

from collections.abc import Awaitable, Callable

import pytest

from tests.support.port_tap import PortTap, checked_taps


async def nothing() -> None:
    """A call, or an action, without effect."""


async def test_a_fault_that_strikes_is_fine():
    with checked_taps():
        tap = PortTap()
        tap.fail("create", ConnectionError())
        with pytest.raises(ConnectionError):
            await tap.see("create", nothing)


@pytest.mark.parametrize("struck", [0, 1])
async def test_a_fault_that_strikes_too_seldom_is_reported(struck):
    async def make() -> None:
        tap = PortTap()
        tap.fail("create", ConnectionError(), times=2)
        for _ in range(struck):
            with pytest.raises(ConnectionError):
                await tap.see("create", nothing)

    await is_reported("create", make)


async def test_an_endless_fault_must_strike_at_least_once():
    with checked_taps():
        tap = PortTap()
        tap.fail("create", ConnectionError(), times=None)
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await tap.see("create", nothing)

    async def make() -> None:
        PortTap().fail("create", ConnectionError(), times=None)

    await is_reported("create", make)


async def test_an_interruption_that_does_not_happen_is_reported():
    async def make() -> None:
        PortTap().before("delete", nothing)

    await is_reported("delete", make)


async def test_a_forgotten_fault_must_have_struck_in_some_tap():
    with checked_taps():
        for strikes in (True, False):
            tap = PortTap()
            tap.before("create", nothing)
            if strikes:
                await tap.see("create", nothing)
            tap.forget()

    async def make() -> None:
        tap = PortTap()
        tap.fail("craete", ConnectionError())
        tap.forget()

    await is_reported("craete", make)


async def is_reported(what: str, make: Callable[[], Awaitable[None]]) -> None:
    async def checked() -> None:
        with checked_taps():
            await make()

    with pytest.raises(AssertionError, match=f"never struck: .'{what}'"):
        await checked()
