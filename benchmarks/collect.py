"""What a collection costs beside bare aiohttp + orjson, in the same run: `python -m benchmarks.collect`.

Client CPU per rollout (the figure that noise moves least), rollouts per second, and peak memory. Journal on,
exact-match verification on, one turn, answers of about 1 KB. The server is a process of its own; with two cores it has
one of them. Every process finds its bytecode compiled, as an installed one; ours has the command line's environment.
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

CHECKOUT = Path(__file__).resolve().parents[1]
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
ENV |= {"PYTHONPATH": str(CHECKOUT), "OPENBLAS_NUM_THREADS": "1"}

COLLECT = """
import gc, json, resource, sys, time
gc.set_threshold(20_000)  # as the command line does
# As bare aiohttp is imported before its clock runs:
import rolloutops.collect.collect, rolloutops.collect.window, rolloutops.engines.openai
from rolloutops.config.plan import make_plan
from rolloutops.config.recipe_file import load
from rolloutops.cli.commands.collect import collect_rollouts
plan = make_plan(load(sys.argv[1]))
cpu, wall = time.process_time(), time.perf_counter()
done = collect_rollouts(plan)
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"cpu": cpu, "wall": wall, "peak": peak, "done": done.done}))
"""

RECIPE = """
data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "openai"
model = "bench"
endpoint = "chat"
base_url = "{url}"
num_samples_in_parallel = {width}
num_repeats = {repeats}
responses_create_params = {{ max_output_tokens = 256 }}
"""


def on_core(core: int, *words: str, cwd: Path = CHECKOUT) -> subprocess.Popen[str]:
    """A Python process that is bound to a core."""

    def bind() -> None:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})

    given = [sys.executable, *words]
    return subprocess.Popen(
        given, cwd=cwd, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=bind
    )


def told(process: subprocess.Popen[str]) -> dict[str, float]:
    """The figures that a process prints last."""
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args} failed")
    found: dict[str, float] = json.loads(out.strip().rpartition("\n")[2])
    return found


def collected(url: str, tasks: int, width: int, more: int = 0, repeats: int = 1) -> dict[str, float]:
    """One collection in a fresh workspace. more: bytes by which the prompts are longer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "tasks.jsonl").open("w") as file:
            for n in range(tasks):
                prompt = f"What is {n} + {n}? Think step by step, and end with Answer: and the number."
                prompt += "lorem " * (more // 6)
                file.write(json.dumps({"prompt": prompt, "answer": str(2 * n)}) + "\n")
        (folder / "recipe.toml").write_text(RECIPE.format(url=url, width=width, repeats=repeats))
        subprocess.run(
            [sys.executable, "-m", "rolloutops", "chunk", "recipe.toml"],
            cwd=folder,
            env=ENV,
            capture_output=True,
            check=True,
        )
        found = told(on_core(0, "-c", COLLECT, "recipe.toml", cwd=folder))
        if found["done"] != tasks * repeats:
            raise SystemExit(f"{found['done']} of {tasks * repeats} collected")
        return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", type=int, default=200_000, help="tasks of the large run for memory; 0 for none")
    given = parser.parse_args()
    print(
        "| latency | in flight | bare: CPU us, per s | rolloutops: CPU us, per s | CPU ratio |\n|---|---|---|---|---|"
    )
    for latency in (0.0, 0.1):
        server = on_core(1, "-m", "benchmarks.server", f"--latency={latency}")
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            for width in (64, 512):
                bare, ours = [], []
                for _ in range(given.runs):
                    bare.append(told(on_core(0, "-m", "benchmarks.bare", url, str(given.tasks), str(width))))
                    ours.append(collected(url, given.tasks, width))
                cpu = [statistics.median(run["cpu"] for run in runs) / given.tasks * 1e6 for runs in (bare, ours)]
                rate = [given.tasks / statistics.median(run["wall"] for run in runs) for runs in (bare, ours)]
                print(
                    f"| {latency * 1000:.0f} ms | {width} | {cpu[0]:.0f}, {rate[0]:,.0f} "
                    f"| {cpu[1]:.0f}, {rate[1]:,.0f} "
                    f"| {cpu[1] / cpu[0]:.2f} |",
                    flush=True,
                )
            if latency == 0 and given.memory:
                peaks = {tasks: collected(url, tasks, 64)["peak"] for tasks in (10_000, given.memory)}
        finally:
            server.kill()
            server.wait()
    if given.memory:
        print("\n| tasks | peak memory |\n|---|---|")
        for tasks, peak in peaks.items():
            print(f"| {tasks:,} | {peak:,.0f} MB |")


if __name__ == "__main__":
    main()
