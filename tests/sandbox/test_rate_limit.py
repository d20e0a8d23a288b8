"""The limit of 300 requests in any 5 seconds is exact."""

from datetime import timedelta

import pytest

from worker.sandbox import Assumptions
from worker.sandbox.clock import Clock
from worker.sandbox.limiter import Limiter, RateLimit


async def test_more_than_the_limit_is_429(start):
    async with start(rate_limit="3/5s") as world:
        statuses = [(await world.api.get()).status for _ in range(5)]
        refused = await world.api.get()
        world.sandbox.advance(timedelta(seconds=5))
        later = await world.api.get()

    assert statuses == [200, 200, 200, 429, 429]
    assert (refused.body["error"], later.status) == ("too many requests", 200)
    assert "Retry-After" not in refused.headers


async def test_by_default_300_go_through(start):
    async with start() as world:
        statuses = [(await world.api.get()).status for _ in range(301)]

    assert statuses.count(429) in (0, 1)
    assert statuses[:300] == [200] * 300


class SetClock(Clock):
    """A clock that stands still, at times that a float represents exactly."""

    reads = 0.0

    def seconds(self) -> float:
        return self.reads


@pytest.mark.parametrize(
    "step", [1 / 128, 1 / 64 + 1 / 4096], ids=["five seconds are whole steps", "they are not"]
)
def test_no_window_has_more_than_the_limit(step):
    clock = SetClock()
    limiter = Limiter(RateLimit(300, 5), clock)
    admitted = []
    for _ in range(3000):
        clock.reads += step
        if limiter.admits("account"):
            admitted.append(clock.reads)

    assert all(late - early > 5 for early, late in zip(admitted, admitted[300:], strict=False))
    assert len(admitted) > 1000


@pytest.mark.parametrize(("scope", "status"), [("account", 429), ("credentials", 202)])
async def test_whether_subaccounts_share_the_limit_is_an_assumption(start, scope, status):
    message = {"src": "14155550100", "dst": "14155550101", "text": "hello"}
    async with start(rate_limit="2/5s", assumptions=Assumptions(rate_limit_scope=scope)) as world:
        sales = await world.subaccount()
        await world.api.get()

        assert (await world.api.as_subaccount(sales).post("Message/", message)).status == status


async def test_retry_after_can_be_assumed(start):
    async with start(rate_limit="1/5s", assumptions=Assumptions(retry_after=2)) as world:
        await world.api.get()

        assert (await world.api.get()).headers["Retry-After"] == "2"


async def test_bad_credentials_do_not_count(start):
    async with start(rate_limit="1/5s") as world:
        await world.api.get(headers={"Authorization": "Basic x"})

        assert (await world.api.get()).status == 200


@pytest.mark.parametrize("text", ["", "300", "300/5", "0/5s", "5/0s", "-1/5s", "x/ys"])
def test_an_invalid_limit_is_refused(text):
    with pytest.raises(ValueError, match="write 300/5s, or off"):
        RateLimit.parse(text)
