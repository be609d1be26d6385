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
        folder, tasks = Path(name), workers * each // 4
        lines = (json.dumps({"prompt": f"What is {n} + {n}?", "answer": str(2 * n)}) for n in range(tasks))
        (folder / "tasks.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "r.toml").write_text(RECIPE)
        _run(folder, "chunk", "r.toml")
        before, began = _cpu(), time.perf_counter()
        _run(folder, "collect", "r.toml", *([f"--workers={workers}"] if workers > 1 else []))
        return Cost(_cpu() - before, time.perf_counter() - began)


def _run(folder: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "rolloutops", *words], cwd=folder, env=ENV, capture_output=True, check=True)


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
    for workers in chosen.workers:
        cost, rollouts = measure(workers, chosen.each), workers * chosen.each
        print(
            f"| {workers} | {rollouts:,} | {1e6 * cost.cpu / rollouts:.0f} | {rollouts / cost.wall:,.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
