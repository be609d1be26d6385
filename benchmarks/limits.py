"""A rate-limited endpoint and `num_samples_in_parallel=auto`, in real time: `python -m benchmarks.limits [--runs 3]`.

`fixed`: 20 requests a second at 1 s latency, 600 tasks; 29 s of work and 1 s for the last answer are ideal.
`changing`: 20 a second, halved after 40 s, doubled after 80 s, 2,000 tasks: which share of what could be had was had.
`shared`: two collectors, 600 tasks, requests_per_minute = 1200 and no limit of the server's: how fast they sent.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.helpers import query
from tests.limited import Limited
from tests.loopback import serving

Rate = float | Callable[[float], float]

RECIPE = """
data = "w"
[chunk]
rows_per_part = 50
[datasets.sums]
input = "tasks.jsonl"
[collect]
engine = "openai"
endpoint = "chat"
model = "m"
num_samples_in_parallel = "auto"
"""


def collect(
    tasks: int, rate: Rate, tell: bool = False, collectors: int = 1, *more: str
) -> tuple[list[float], int, int]:
    """One collection. Returns when requests were let through, answers 429, and rollouts that lack."""
    lines = [json.dumps({"prompt": f"What is {n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(tasks)]
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Limited, rate=rate, burst=20.0, latency=1.0, tell=tell, keep_bodies=False) as server,
    ):
        folder = Path(name)
        (folder / "tasks.jsonl").write_text("".join(lines))
        (folder / "recipe.toml").write_text(RECIPE)
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

        def start(command: str, *flags: str) -> subprocess.Popen[bytes]:
            words = [sys.executable, "-m", "rolloutops", command, "recipe.toml", *flags]
            return subprocess.Popen(words, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        started = [start("chunk")]
        started[0].wait()
        started += [start("collect", f"--base_url={server.url}", *more) for _ in range(collectors)]
        if any(process.wait() for process in started):
            raise SystemExit("a command failed")
        done = query(folder / "w", "SELECT count(*) FROM rollouts")[0][0]
        first = min(server.admitted + server.refused)
        return [at - first for at in sorted(server.admitted)], len(server.refused), tasks - done


def fixed(runs: int) -> None:
    """A limit that stays, told in headers or not."""
    print("| limit told in headers | seconds, median (all) | answers 429 | rollouts lost |\n|---|---|---|---|")
    for tell in (False, True):
        found = [collect(600, 20.0, tell) for _ in range(runs)]
        seconds = [times[-1] + 1.0 for times, *_ in found]
        usage = ", ".join(f"{one:.1f}" for one in seconds)
        refused = ", ".join(str(number) for _, number, _ in found)
        lost = sum(lacking for *_, lacking in found)
        print(f"| {'yes' if tell else 'no'} | {statistics.median(seconds):.1f} ({usage}) | {refused} | {lost} |")


def changing(runs: int) -> None:
    """A limit that is halved and doubled again, and told nowhere."""
    print("| requests let through, of those that could be | answers 429 | rollouts lost |\n|---|---|---|")
    for _ in range(runs):
        times, refused, lost = collect(2000, lambda at: 10.0 if 40 <= at < 80 else 20.0)
        end = times[-1]
        could = 20 + 20 * end - 10 * max(0.0, min(end, 80.0) - 40)
        print(f"| {len(times):,} of {could:,.0f} ({len(times) / could:.0%}) | {refused} | {lost} |")


def shared(runs: int) -> None:
    """Two collectors of one workspace under one budget."""
    print("| requests, in seconds | most in 10 s | rollouts lost |\n|---|---|---|")
    for _ in range(runs):
        times, _, lost = collect(600, 1e6, False, 2, "--requests_per_minute=1200")
        most = max(sum(start <= at < start + 10 for at in times) for start in times)
        print(f"| {len(times)} in {times[-1]:.1f} | {most} | {lost} |")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fixed", "changing", "shared"), nargs="?", default="fixed")
    parser.add_argument("--runs", type=int, default=3)
    usage = parser.parse_args()
    {"fixed": fixed, "changing": changing, "shared": shared}[usage.what](usage.runs)


if __name__ == "__main__":
    main()
