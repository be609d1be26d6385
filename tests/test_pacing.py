"""Pace: limits are found and kept, with and without headers. In virtual time, so two minutes take milliseconds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rolloutops.errors import EngineError
from rolloutops.formats.openai_replies import rate_limits
from rolloutops.limits.circuit_breaker import CircuitBreaker
from rolloutops.limits.concurrency import ConcurrencyLimit
from rolloutops.limits.rate_limit import RateLimit
from rolloutops.limits.shared_rate import SharedRate
from rolloutops.types import Limits, ModelCall
from tests.virtual_time import run


@dataclass
class Provider:
    """An endpoint with a bucket that fills at `rate` a second up to `burst`, or that bears `most` requests at once."""

    rate: Callable[[float], float] = lambda _: 1e9
    burst: float = 1e9
    most: float = 1e9
    latency: Callable[[int], float] = lambda _: 1.0
    tell: tuple[str, str] | None = None
    """The headers that tell the limit for a minute and what is left of it."""
    retry_after: float | None = 1.0
    done: int = 0
    refused: int = 0
    working: int = 0
    sent: list[float] = field(default_factory=list)
    _left: float = -1.0
    _at: float = 0.0

    async def ask(self, pace: RateLimit) -> bool:
        permit = pace.at_once() or await pace.admit()
        now = asyncio.get_running_loop().time()
        self.sent.append(now)
        self._left = self.burst if self._left < 0 else min(self.burst, self._left + self.rate(now) * (now - self._at))
        self._at = now
        fine = self._left >= 1 and self.working < self.most
        self._left -= fine
        told = (str(self.rate(now) * 60), str(int(self._left)))
        limits = rate_limits(dict(zip(self.tell, told, strict=True))) if self.tell else None
        if not fine:
            self.refused += 1
            await asyncio.sleep(0.001)
            pace.failed(permit, "rate_limited", self.retry_after, limits)
            return False
        self.working += 1
        await asyncio.sleep(self.latency(self.working))
        self.working -= 1
        self.done += 1
        pace.answered(permit, 100, 50, limits)
        return True


async def collect(provider: Provider, tasks: int, pace: RateLimit, until: float = 1e9) -> float:
    """Ask for so many answers, as the window does; what is refused comes back. Returns the seconds that it took."""
    loop, rng = asyncio.get_running_loop(), random.Random(7)
    queue: asyncio.Queue[int] = asyncio.Queue()
    for task in range(tasks):
        queue.put_nowait(task)
    left, flying, changed = tasks, 0, asyncio.Event()

    async def one(task: int) -> None:
        nonlocal left, flying
        pace.concurrency.started()
        if await provider.ask(pace):
            left -= 1
        else:
            loop.call_later(rng.uniform(0, 1), queue.put_nowait, task)
            loop.call_later(1, changed.set)
        pace.concurrency.ended(flying)
        flying -= 1
        changed.set()

    running = set()
    while left and loop.time() < until:
        while flying < pace.concurrency.now and not queue.empty():
            flying += 1
            running.add(asyncio.create_task(one(queue.get_nowait())))
        changed.clear()
        await asyncio.wait([asyncio.create_task(changed.wait())], timeout=until - loop.time())
    return loop.time()


def seconds(provider: Provider, tasks: int, level: ConcurrencyLimit | None = None, until: float = 1e9) -> float:
    async def main() -> float:
        return await collect(provider, tasks, RateLimit(level or ConcurrencyLimit(16, adapts=True)), until)

    return run(main())


def test_an_unknown_limit_is_found() -> None:
    for retry_after in (1.0, None):
        provider = Provider(lambda _: 20, 20, retry_after=retry_after)
        assert seconds(provider, 600) <= 31
        assert provider.refused <= 22


def test_a_limit_without_any_burst_is_found() -> None:
    """One request each 50 ms, strictly: of two that are closer to each other, the second is refused."""
    for retry_after in (1.0, None):
        provider = Provider(lambda _: 20, 1, retry_after=retry_after)
        assert seconds(provider, 600) <= 55
        assert provider.refused <= 25


def test_an_unknown_limit_is_kept_with_a_fixed_number_in_flight() -> None:
    provider = Provider(lambda _: 20, 20)
    assert seconds(provider, 600, ConcurrencyLimit(64)) <= 33
    assert provider.refused <= 25 + 44, "44 of the first 64 could not be known to be too many"


@pytest.mark.parametrize(
    "names",
    [
        ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"),
        ("x-ratelimit-limit-req-minute", "x-ratelimit-remaining-req-minute"),
        ("x-ratelimit-limit-requests-minute", "x-ratelimit-remaining-requests-minute"),
        ("anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining"),
    ],
)
def test_a_limit_that_headers_tell_is_not_exceeded(names: tuple[str, str]) -> None:
    provider = Provider(lambda _: 20, 20, tell=names)
    assert seconds(provider, 600) <= 30 / 0.95
    assert provider.refused <= 2


def test_limits_are_read_from_the_headers_of_each_provider() -> None:
    """As Mistral and Cerebras sent them; what holds for a day or has no unit says nothing of a minute."""
    mistral = {
        "x-ratelimit-limit-req-minute": "60",
        "x-ratelimit-remaining-req-minute": "59",
        "x-ratelimit-limit-tokens-minute": "50000",
        "x-ratelimit-remaining-tokens-minute": "47196",
        "x-ratelimit-limit-tokens-month": "4000000",
        "x-ratelimit-remaining-tokens-month": "3950246",
    }
    cerebras = {
        "x-ratelimit-limit-requests-day": "14400",
        "x-ratelimit-remaining-requests-day": "14399",
        "x-ratelimit-limit-tokens-minute": "60000",
        "x-ratelimit-remaining-tokens-minute": "59995",
    }
    anthropic = {
        f"anthropic-ratelimit-{kind}-{which}": value
        for kind, values in {"requests": ("4000", "3999"), "tokens": ("80000", "79000")}.items()
        for which, value in zip(("limit", "remaining"), values, strict=True)
    }
    assert rate_limits(mistral) == Limits(60, 59, 50000, 47196)
    assert rate_limits(cerebras) == Limits(None, None, 60000, 59995)
    assert rate_limits(anthropic) == Limits(4000, 3999, 80000, 79000)
    assert rate_limits({**mistral, "x-ratelimit-limit-requests": "many"}) == Limits(60, 59, 50000, 47196)
    for unread in ({}, {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "19"}, {"x-ratelimit-limit-requests": "9"}):
        assert rate_limits(unread) is None


def test_a_limit_that_is_halved_and_doubled_is_followed() -> None:
    def rate(now: float) -> float:
        return 10.0 if 40 <= now < 80 else 20.0

    provider = Provider(rate, 20)
    seconds(provider, 10_000, until=120)
    assert provider.done >= 0.92 * 2000
    assert provider.refused <= 45


def test_a_limit_of_requests_at_once_is_found() -> None:
    provider = Provider(most=50)
    assert seconds(provider, 3000) <= 60 / 0.75
    assert provider.refused <= 50


def test_places_of_refused_requests_stay_empty_until_a_later_one_is_answered() -> None:
    async def main() -> list[int]:
        level, places = ConcurrencyLimit(16, adapts=True), list[int]()
        pace = RateLimit(level)
        pace.answered(await pace.admit(), 1, 1, None)
        permits = [await pace.admit() for _ in range(8)]
        for permit in permits[:3]:
            pace.failed(permit, "rate_limited", 1.0, None)
            places.append(level.now)
        pace.answered(permits[3], 1, 1, None)
        return [*places, level.now]

    assert run(main()) == [15, 14, 13, 16]


def test_without_a_limit_the_number_in_flight_grows_while_that_helps() -> None:
    assert seconds(Provider(), 20_000) <= 30, "1,024 at once after some seconds"
    level = ConcurrencyLimit(16, adapts=True)
    busy = Provider(latency=lambda working: max(1.0, working / 40))
    assert seconds(busy, 4000, level) <= 110
    assert 30 <= level.now <= 170, "the server bears 40; more in flight only wait there"


def test_a_slow_task_is_no_limit_but_many_timeouts_are() -> None:
    async def main() -> tuple[int, int]:
        level = ConcurrencyLimit(16, adapts=True)
        level.started()
        for n in range(64):
            level.ended(level.now, timed_out=n == 5)
        calm = level.now
        for _ in range(3 * calm):
            level.ended(level.now, timed_out=True)
        return calm, level.now

    calm, after = run(main())
    assert calm >= 16
    assert after < calm


def test_a_pause_is_everyones() -> None:
    async def main() -> list[float]:
        pace, loop = RateLimit(ConcurrencyLimit(8)), asyncio.get_running_loop()
        pace.failed(await pace.admit(), "rate_limited", 30.0, None)
        went = []

        async def go() -> None:
            await pace.admit()
            went.append(loop.time())

        await asyncio.gather(*(go() for _ in range(8)))
        return went

    assert min(run(main())) >= 30


def test_an_endpoint_that_is_down_is_looked_at_now_and_then_and_taken_back() -> None:
    async def main() -> tuple[int, float]:
        pace, loop = RateLimit(ConcurrencyLimit(64)), asyncio.get_running_loop()
        requested = 0

        async def go() -> None:
            nonlocal requested
            while True:
                permit = pace.at_once() or await pace.admit()
                requested += 1
                await asyncio.sleep(0.01)
                if loop.time() > 600:
                    pace.answered(permit, 1, 1, None)
                    return
                pace.failed(permit, "unreachable", None, None)

        await asyncio.gather(*(go() for _ in range(64)))
        return requested, loop.time()

    requested, back = run(main())
    assert requested <= 64 + 64 + 30
    assert back <= 600 + 31


def test_tokens_a_minute_are_kept_in_every_minute(tmp_path: Path) -> None:
    async def main() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        budget = SharedRate(tmp_path, "budget", tokens_per_minute=20_000, clock=loop.time)
        pace, rng, spent = RateLimit(ConcurrencyLimit(16), budget), random.Random(3), []
        pace._output = 0.0
        for _ in range(50):
            tokens = rng.choice([10, 200, 2000, 8000])
            call = ModelCall([{"role": "user", "content": "x" * 4 * tokens}], None, {})
            permit = pace.at_once(call) or await pace.admit(call)
            spent.append((loop.time(), tokens))
            pace.answered(permit, tokens, 0, None)
        return spent

    spent = run(main())
    for start, _ in spent:
        assert sum(tokens for at, tokens in spent if start <= at < start + 60) <= 20_000 * 1.02


def test_two_who_share_a_budget_stay_under_it(tmp_path: Path) -> None:
    """Each has opened the file itself, as two processes do, and takes its lock for each request."""

    async def main() -> list[float]:
        loop, times = asyncio.get_running_loop(), list[float]()

        async def spend(pace: RateLimit) -> None:
            while loop.time() < 6:
                pace.at_once() or await pace.admit()
                times.append(loop.time())

        budgets = [SharedRate(tmp_path, "budget", requests_per_minute=1200, clock=loop.time) for _ in range(2)]
        await asyncio.gather(*(spend(RateLimit(ConcurrencyLimit(64), budget)) for budget in budgets for _ in range(4)))
        return times

    times: list[float] = run(main())
    assert 0.9 * 1200 * 6 / 60 <= len(times) <= 1200 * 6 / 60 + 20, "a second's worth may be saved up"
    for n, start in enumerate(times):
        assert sum(1 for at in times[n:] if at < start + 1) <= 20 + 20


def test_a_run_that_fails_as_a_whole_ends() -> None:
    def fails_after(breaker: CircuitBreaker, kinds: list[str | None]) -> int:
        for n, kind in enumerate(kinds, 1):
            try:
                breaker.attempted(kind, "because")
            except EngineError:
                return n
        return 0

    assert fails_after(CircuitBreaker(), ["server_error"] * 50) == 10
    assert fails_after(CircuitBreaker(), [None, *["timeout"] * 500]) == 101
    assert fails_after(CircuitBreaker(), [None, "timeout"] * 500) == 0
    assert fails_after(CircuitBreaker(0.5), [None, "timeout"] * 500) == 100
    now = iter(range(0, 100_000, 10))
    assert fails_after(CircuitBreaker(clock=lambda: next(now)), ["rate_limited"] * 500) == 91, (
        "a quarter of an hour of refusals"
    )
