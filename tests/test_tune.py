"""collect --tune: the knee of throughput over concurrency is found with pending tasks, in virtual time and for real."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from rolloutops.cli.tune import sweep_table
from rolloutops.limits.concurrency_sweep import ConcurrencySweep, Point, knee
from rolloutops.limits.progress import Progress
from tests.helpers import query, rolloutops, sums, write_jsonl
from tests.virtual_time import run


def measured(
    latency: Callable[[int], float], most: int = 1024, refuses: int = 10**9, tasks: int = 10**6
) -> ConcurrencySweep:
    """What is found of a server that takes so long with so many at work, and refuses beyond a number."""

    async def main() -> ConcurrencySweep:
        meter, stop, refusals = Progress("rollouts", tasks), asyncio.Event(), [0]
        tuning = ConcurrencySweep(meter, most, stop=stop.set, refusals=lambda: refusals[0])
        left, working, workers = tasks, 0, set[asyncio.Task[None]]()

        async def work() -> None:
            nonlocal left, working
            while not stop.is_set() and left:
                left, working = left - 1, working + 1
                await asyncio.sleep(latency(working))
                working -= 1
                if working >= refuses:
                    refusals[0] += 1
                tuning.ended(working + 1)
                meter.attempted({"output_tokens": 10})
                staff()

        def staff() -> None:
            while len(workers) < tuning.now:
                workers.add(asyncio.create_task(work()))

        staff()
        while not all(worker.done() for worker in workers):
            await asyncio.gather(*workers)
        return tuning

    found: ConcurrencySweep = run(main())
    return found


def test_the_knee_of_a_server_that_works_on_so_many_at_once() -> None:
    tuning = measured(lambda working: 0.5 * max(1.0, working / 40))
    best = knee(tuning.points)
    assert best is not None
    assert best.in_flight == 64
    assert [point.in_flight for point in tuning.points] == [4, 8, 16, 32, 64, 128, 256]
    assert best.per_second == pytest.approx(80, rel=0.05)
    assert best.tokens_per_second == pytest.approx(800, rel=0.05)
    assert best.seconds == pytest.approx(0.8, rel=0.1)
    assert tuning.why == "throughput stopped increasing"


def test_it_ends_at_a_limit_at_the_most_and_where_tasks_end() -> None:
    limited = measured(lambda _: 0.5, refuses=20)
    assert limited.points[-1].in_flight == 32
    assert limited.points[-1].refused
    assert "429" in limited.why
    best = knee(limited.points)
    assert best is not None
    assert best.in_flight == 16, "a number at which nothing was refused"
    assert measured(lambda _: 0.5, most=24).points[-1].in_flight == 24
    short = measured(lambda _: 0.5, tasks=60)
    assert len(short.points) == 2
    assert "no more rollouts were pending" in short.why


def test_nothing_measured_is_said() -> None:
    assert list(sweep_table([], "no more rollouts were pending")) == [
        "nothing was measured: no more rollouts were pending"
    ]
    failing = [Point(4, 0, 16, 0, 0.0, 0.0, 0.1)]
    assert "nothing was measured" in next(sweep_table(failing, "with 4 in flight most attempts failed"))


def test_rollouts_made_while_tuning_are_kept(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(400))
    given = ("collect", "--data=w", "--input=tasks.jsonl", "--engine=scripted", "--engine_args.delay=0.02")
    assert "write .svg or .html" in rolloutops(*given, "--tune=x.png", cwd=tmp_path, code=2).stderr
    done = rolloutops(*given, "--tune=plots/x.html", "--num_samples_in_parallel=8", cwd=tmp_path)
    assert "← the knee" in done.stderr
    assert "was the highest concurrency to try" in done.stderr
    assert "<svg" in (tmp_path / "plots" / "x.html").read_text()
    kept = query(tmp_path / "w", "SELECT count(*), count(DISTINCT task_id) FROM rollouts")[0]
    assert 0 < kept[0] == kept[1] < 400
    found = "SELECT counts ->> '$.points[1].in_flight' FROM runs WHERE event = 'end' AND command = 'collect'"
    assert query(tmp_path / "w", found) == [("8",)]
    rolloutops("collect", "--data=w", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(*) FROM rollouts") == [(400,)]
