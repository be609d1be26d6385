"""A rate-limited endpoint and `num_samples_in_parallel=auto`: `python -m benchmarks.limits [--runs 3]`.

Limit 20 requests a second at 1 s latency, 600 tasks; 29 s of work and 1 s for the last answer are ideal.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers import query
from tests.limited import Limited
from tests.loopback import serving


def collect(folder: Path, tell: bool, tasks: int) -> tuple[float, int, int]:
    """One collection. Returns the seconds between the first and last request and answer, answers 429, rollouts."""
    lines = [json.dumps({"prompt": f"What is {n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(tasks)]
    (folder / "tasks.jsonl").write_text("".join(lines))
    with serving(Limited, rate=20.0, burst=20.0, latency=1.0, tell=tell, keep_bodies=False) as server:
        given = [f"--base_url={server.url}", "--engine=openai", "--endpoint=chat", "--model=m", "--data=w"]
        words = ["collect", "--input=tasks.jsonl", "--num_samples_in_parallel=auto", *given]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run(
            [sys.executable, "-m", "rolloutops", *words], cwd=folder, env=env, capture_output=True, check=True
        )
        first, last = min(server.admitted + server.refused), max(server.admitted)
        done = query(folder / "w", "SELECT count(*) FROM rollouts")[0][0]
        return last + server.latency - first, len(server.refused), done


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=600)
    told = parser.parse_args()
    print("| limit told in headers | seconds, median (all) | answers 429 | rollouts lost |\n|---|---|---|---|")
    for tell in (False, True):
        runs = []
        for _ in range(told.runs):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(collect(Path(folder), tell, told.tasks))
        seconds = [f"{run[0]:.1f}" for run in runs]
        lost = told.tasks * told.runs - sum(run[2] for run in runs)
        median = statistics.median(run[0] for run in runs)
        refused = ", ".join(str(run[1]) for run in runs)
        print(f"| {'yes' if tell else 'no'} | {median:.1f} ({', '.join(seconds)}) | {refused} | {lost} |", flush=True)


if __name__ == "__main__":
    main()
