"""How `provisioner doctor` makes its checks, and what the README says of them."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

from worker.core.checks import BY_ITSELF, Check, CheckStatus, fail, ok, provider_advice
from worker.core.judge import CallFault, FaultKind
from worker.operations.doctor.examine import Probe, examine
from worker.ports import UserError

README = (Path(__file__).parents[2] / "README.md").read_text()


def probe(check: str, *found: Check, error: Exception | None = None, seconds: float = 0.0) -> Probe:
    async def look() -> Sequence[Check]:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return found

    return Probe(check, "do this", look)


async def test_checks_are_made_at_the_same_time_and_shown_in_order():
    both = asyncio.Barrier(2)

    def waiting(name: str) -> Probe:
        async def look() -> Sequence[Check]:
            await both.wait()
            return [ok(name, "fine")]

        return Probe(name, "", look)

    async with asyncio.timeout(5):
        found = await examine([waiting("one"), waiting("two")])
    assert [one.check for one in found] == ["one", "two"]


async def test_a_check_that_hangs_ends_with_a_time_limit():
    found = await examine([probe("broker", seconds=60), probe("ledger", ok("ledger", "fine"))], 0.05)
    assert found == [fail("broker", "no answer within 0.05 s", "do this"), ok("ledger", "fine")]


async def test_a_check_that_heeds_no_cancellation_ends_too(monkeypatch):
    monkeypatch.setattr("worker.operations.doctor.examine.END_SECONDS", 0.05)
    released = asyncio.Event()

    async def look() -> Sequence[Check]:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return []

    found = await examine([Probe("ledger", "do this", look)], 0.05)
    released.set()
    assert [one.status for one in found] == [CheckStatus.FAIL]


async def test_an_error_is_a_failure_with_advice():
    found = await examine([probe("broker", error=UserError("it is away: start it\nit is closed"))])
    assert found == [fail("broker", "it is away", "start it"), fail("broker", "it is closed", "do this")]


async def test_an_unexpected_error_is_a_failure_without_its_text():
    found = await examine([probe("broker", error=ValueError("amqp://user:s3cr3t@host"))])
    assert found == [fail("broker", "it ended with ValueError", "do this")]


def test_the_readme_shows_what_the_code_says():
    section = README.partition("### Check an installation\n")[2].partition("\n### ")[0]
    shown = " ".join(re.search(r"```\n(\$ provisioner doctor\n.*?)```", section, re.DOTALL)[1].split())  # type: ignore[index]
    assert f"what to do: {BY_ITSELF}" in shown
    refused = CallFault("list", FaultKind.LOGIN_REFUSED, "Plivo answered 401 to list: authentication failed")
    assert f"{refused.detail} what to do: {provider_advice(refused)}" in shown
    assert {*re.findall(r"`(ok|warn|fail)`", section)} == {*CheckStatus}
    keys = '{"check", "status", "detail", "hint"}'
    assert keys in section
    assert re.findall(r'"(\w+)"', keys) == [*Check.__dataclass_fields__]
