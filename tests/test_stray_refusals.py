"""Refusals that do not depend on the rate slow nothing down; those that do are still learned from. In virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rolloutops.limits.concurrency import ConcurrencyLimit
from rolloutops.limits.learned_rate import LearnedLimit
from rolloutops.limits.rate_limit import RateLimit
from rolloutops.limits.replica_rate_limit import ReplicaRateLimit
from rolloutops.types import ModelCall
from tests.helpers import query, rolloutops, sums, write_jsonl
from tests.loopback import Reply, serving
from tests.virtual_time import run

REQUEST = 1 / 4000
"""Seconds of work that a request is for the server, one after the other: what bounds one without latency."""


@dataclass
class Endpoint:
    """Refuses a share of all requests at random, and what is above `rate` a second with bursts of `burst`."""

    stray: float
    latency: float = 0.0
    retry_after: float | None = None
    rate: Callable[[float], float] | None = None
    burst: float = 20.0
    refused: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(11))
    _left: float = 20.0
    _at: float = 0.0
    _free: float = 0.0

    async def ask(self) -> bool:
        """One request: whether it was let through."""
        now = asyncio.get_running_loop().time()
        self._free = max(self._free, now) + REQUEST
        fine = self.rng.random() >= self.stray
        if self.rate is not None:
            self._left = min(self.burst, self._left + self.rate(now) * (now - self._at))
            self._at = now
            fine = fine and self._left >= 1
            self._left -= fine
        await asyncio.sleep(self._free - now + (self.latency if fine else min(self.latency, 0.001)))
        self.refused += not fine
        return fine


def seconds(endpoints: list[Endpoint], wanted: int, width: int, until: float = 1e9) -> float:
    """Until 95 % of so many requests are answered: the last ones may wait for another try."""

    async def main() -> float:
        loop, done, marks = asyncio.get_running_loop(), 0, list[float]()
        share = max(1, width // len(endpoints))
        paces = [RateLimit(ConcurrencyLimit(share)) for _ in endpoints]
        pace = ReplicaRateLimit(paces, ConcurrencyLimit(width)) if len(paces) > 1 else paces[0]
        queue: asyncio.Queue[int | None] = asyncio.Queue()
        for n in range(wanted):
            queue.put_nowait(n)

        async def work() -> None:
            nonlocal done
            while (n := await queue.get()) is not None and loop.time() < until:
                call = ModelCall([], None, {})
                permit = pace.at_once(call) or await pace.admit(call)
                endpoint = endpoints[permit.server or 0]
                if await endpoint.ask():
                    pace.answered(permit, 10, 10, None)
                    done += 1
                    if done >= 0.95 * wanted and not marks:
                        marks.append(loop.time())
                    if done == wanted:
                        break
                    continue
                pace.failed(permit, "rate_limited", endpoint.retry_after, None)
                wait = (endpoint.retry_after or 0.0) + endpoint.rng.uniform(0, 1)
                loop.call_later(wait, queue.put_nowait, n)
            queue.put_nowait(None)

        await asyncio.gather(*(work() for _ in range(width)))
        return marks[0] if marks else float(done)

    found: float = run(main())
    return found


@pytest.mark.parametrize("retry_after", [None, 1.0, 30.0])
@pytest.mark.parametrize(("latency", "width", "wanted"), [(0.0, 64, 8000), (0.1, 512, 8000), (1.0, 64, 1500)])
@pytest.mark.parametrize("share", [0.005, 0.01])
def test_stray_refusals_cost_next_to_nothing(
    share: float, latency: float, width: int, wanted: int, retry_after: float | None
) -> None:
    calm = seconds([Endpoint(0.0, latency)], wanted, width)
    assert seconds([Endpoint(share, latency, retry_after)], wanted, width) <= 1.3 * calm


def test_three_stray_refusals_in_a_hundred_requests_are_no_limit() -> None:
    calm = seconds([Endpoint(0.0, 0.1)], 8000, 512)
    for seed in range(5, 8):
        endpoint = Endpoint(0.005, 0.1, 1.0, rng=random.Random(seed))
        assert seconds([endpoint], 8000, 512) <= 1.3 * calm, seed


@pytest.mark.parametrize("share", [0.03, 0.05])
def test_more_stray_refusals_cost_little(share: float) -> None:
    for latency, width, wanted in ((0.0, 64, 12_000), (1.0, 64, 1500)):
        calm = seconds([Endpoint(0.0, latency)], wanted, width)
        assert seconds([Endpoint(share, latency, 1.0)], wanted, width) <= 1.6 * calm


def test_a_fleet_with_stray_refusals() -> None:
    calm = seconds([Endpoint(0.0, 0.1) for _ in range(3)], 9000, 192)
    assert seconds([Endpoint(0.01, 0.1, 1.0) for _ in range(3)], 9000, 192) <= 1.3 * calm


def test_a_true_limit_is_learned_beside_stray_refusals() -> None:
    endpoint = Endpoint(0.01, 1.0, 1.0, rate=lambda _: 20.0)
    assert seconds([endpoint], 1000, 64) <= 1.2 * 950 / 20
    assert endpoint.refused <= 10 + 44 + 60, "strays, the first 64, and a little for each look at a higher rate"


def test_a_limit_that_changes_is_followed_beside_stray_refusals() -> None:
    endpoint = Endpoint(0.01, 1.0, 1.0, rate=lambda now: 10.0 if 40 <= now < 80 else 20.0)
    assert seconds([endpoint], 10_000, 64, until=120) >= 0.8 * 2000
    assert endpoint.refused <= 0.1 * 2000


@pytest.mark.parametrize(("shares", "helps"), [((0.5, 0.35, 0.2), True), ((0.3, 0.3, 0.3), False)])
def test_refusals_on_the_way_down_to_a_limit_are_not_refusals_at_any_rate(
    shares: tuple[float, ...], helps: bool
) -> None:
    limit = LearnedLimit()
    found = [limit._does_not_help(rate, share) for rate, share in zip((19.7, 15.2, 12.3), shares, strict=True)]
    assert found == [False, False, not helps]


def test_a_third_that_is_refused_at_any_rate_is_no_limit() -> None:
    calm = seconds([Endpoint(0.0)], 20_000, 64)
    assert seconds([Endpoint(0.3, retry_after=0.1)], 20_000, 64) <= 2.5 * calm, "a third has to be sent again"


def test_a_pause_ends_with_the_next_answer() -> None:
    """The first refusal of a run may be everyone's; an answer to a later request shows that it was not."""

    async def main() -> float:
        pace, loop = RateLimit(ConcurrencyLimit(8)), asyncio.get_running_loop()
        first, second = await pace.admit(), await pace.admit()
        pace.failed(first, "rate_limited", 3600.0, None)
        waiting = asyncio.create_task(pace.admit())
        await asyncio.sleep(1.0)
        assert not waiting.done()
        pace.answered(second, 1, 1, None)
        await waiting
        return loop.time()

    assert run(main()) <= 1.01


def test_no_pause_is_longer_than_a_rollout_may_wait() -> None:
    async def main() -> float:
        pace = RateLimit(ConcurrencyLimit(8), longest_pause=10.0)
        pace.failed(await pace.admit(), "rate_limited", 3600.0, None)
        await pace.admit()
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(10.0, abs=0.1)


def test_of_a_fleet_the_server_that_asks_for_it_is_left_alone() -> None:
    async def main() -> tuple[set[int | None], bool]:
        fleet = ReplicaRateLimit([RateLimit(ConcurrencyLimit(8)), RateLimit(ConcurrencyLimit(8))], ConcurrencyLimit(16))
        permit = await fleet.admit()
        fleet.failed(permit, "rate_limited", 3600.0, None)
        return {(await fleet.admit()).server for _ in range(8)} | {permit.server}, fleet.has_another(permit)

    servers, another = run(main())
    assert servers == {0, 1}
    assert another, "the rollout itself need not wait"


def refusal(retry_after: str, name: str = "Retry-After") -> Reply:
    return 429, {"Content-Type": "application/json", name: retry_after}, b'{"error": {"message": "later"}}'


GIVEN = ("collect", "--data=w", "--engine=openai", "--endpoint=chat", "--model=m", "--input=tasks.jsonl")


def test_against_a_real_server_stray_refusals_are_sent_again_and_nothing_else(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(2000))
    faults = [refusal("0.1") if n % 100 == 7 else None for n in range(3000)]
    with serving(faults=faults, keep_bodies=False) as server:
        rolloutops(*GIVEN, f"--base_url={server.url}", "--retry_seconds=0.1", cwd=tmp_path)
        seen = server.seen
    refused = sum(fault is not None for fault in faults[:seen])
    assert seen == 2000 + refused
    assert query(tmp_path / "w", "SELECT count(*) FROM rollouts") == [(2000,)]
    assert query(tmp_path / "w", "SELECT count(*) FROM failures WHERE error = 'rate_limited'") == [(refused,)]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("-5", "Retry-After"),
        ("nan", "Retry-After"),
        ("1e12", "Retry-After"),
        ("Fri, 31 Dec 2300 23:59:59 GMT", "Retry-After"),
        ("Fri, 31 Dec 1999 23:59:59 GMT", "Retry-After"),
        ("soon", "Retry-After"),
        ("50", "retry-after-ms"),
        ("3600", "Retry-After"),
    ],
)
def test_no_value_holds_a_run(tmp_path: Path, value: str, name: str) -> None:
    """With a deadline of 4 s an hour becomes 2 s; absurd values are left to the usual waits."""
    write_jsonl(tmp_path / "tasks.jsonl", sums(20))
    with serving(faults=[None, refusal(value, name)]) as server:
        given = (f"--base_url={server.url}", "--retry_seconds=0.1", "--deadline=4", "--num_samples_in_parallel=4")
        rolloutops(*GIVEN, *given, cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(*) FROM rollouts") == [(20,)]


def test_requests_of_one_tick_of_the_clock_are_told_apart() -> None:
    """uvloop's clock stands still for a millisecond: a request may go out at the very time at which a period begins."""
    limit, number = LearnedLimit(), 0
    for tick in range(6):
        first = number
        for _ in range(40):
            limit.sent(float(tick))
            number += 1
        for refused in range(first + 1, number + 1):
            limit.refused(refused, float(tick))
            assert limit.let_through >= 0
