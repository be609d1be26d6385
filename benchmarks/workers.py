"""What several workers cost beside one, each with as many rollouts: `python -m benchmarks.workers`.

The scripted engine answers after 100 ms, 64 rollouts in flight in each worker, exact-match verification on. CPU is
that of the whole command with all its processes, their start included, after `chunk`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.collect import ENV

RECIPE = """
data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "scripted"
num_repeats = 4
num_samples_in_parallel = 64
engine_args = { delay = 0.1 }
"""


class Cost(NamedTuple):
    """Of one command: CPU seconds of all its processes, and seconds from its start to its end."""

    cpu: float
    wall: float


def measure(workers: int, each: int) -> Cost:
    """Collect `each` rollouts a worker, with a plain command where there is one worker."""
    with tempfile.TemporaryDirectory() as name:
        _chunk(Path(name), workers * each)
        return _collect([Path(name)], f"--workers={workers}")


def measure_separate(commands: int, each: int) -> Cost:
    """Collect `each` rollouts in each of several workspaces at once: what the machine gives where nothing is shared."""
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / str(number) for number in range(commands)]
        for folder in folders:
            folder.mkdir()
            _chunk(folder, each)
        return _collect(folders)


def _chunk(folder: Path, rollouts: int) -> None:
    lines = (json.dumps({"prompt": f"What is {n} + {n}?", "answer": str(2 * n)}) for n in range(rollouts // 4))
    (folder / "tasks.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "r.toml").write_text(RECIPE)
    if _start(folder, "chunk", "r.toml").wait():
        raise SystemExit("chunk failed")


def _collect(folders: Sequence[Path], *words: str) -> Cost:
    before, began = _cpu(), time.perf_counter()
    running = [_start(folder, "collect", "r.toml", *words) for folder in folders]
    ended = [process.wait() for process in running]
    if any(ended):
        raise SystemExit("collect failed")
    return Cost(_cpu() - before, time.perf_counter() - began)


def _start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", "rolloutops", *words], cwd=folder, env=ENV, stdout=quiet, stderr=quiet
    )


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=20_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8])
    chosen = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
    print("| workers | rollouts | CPU us a rollout | rollouts a second |\n|---|---|---|---|")
    most = max(chosen.workers)
    runs = [(str(workers), workers, measure) for workers in chosen.workers]
    for name, workers, measured in (*runs, (f"{most} separate commands", most, measure_separate)):
        cost, rollouts = measured(workers, chosen.each), workers * chosen.each
        print(f"| {name} | {rollouts:,} | {1e6 * cost.cpu / rollouts:.0f} | {rollouts / cost.wall:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
