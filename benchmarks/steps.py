"""Metrics, pairs and mixes over many rollouts, beside the raw query and beside today's ways.

    python -m benchmarks.steps ROLLOUTS.jsonl [--data=WORKSPACE] [--runs=3] [--mix=100000] [--today]

ROLLOUTS.jsonl: NeMo Gym's rollout rows. They are imported once, or lie in WORKSPACE as the data set `all` already; then
each of ours is a whole process (`metrics`, `build`), and so is the raw DuckDB query over the same Parquet tables that
gives the same rows. Raw queries trust the tables: each rollout is there once, and nothing is linted, hashed or
described. --today adds a Python loop, orjson, jq and polars over the JSONL, which each take the mean reward and its
histogram. Wall and CPU seconds, medians; peak memory. Every process finds its bytecode compiled, as an installed one.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
ENV["PYTHONPATH"] = str(CHECKOUT)

RECIPE = """
data = "{data}"
[datasets.all]
input = "{input}"

[pair.best]
use = "pair/best_worst"
[build.dpo]
use = "build/dpo_messages"
report = false

[mix.some]
use = "mix/counts"
from = "rollouts"
counts = {{ all = {mix} }}
[build.sft]
use = "build/sft_messages"
report = false
"""

ROLLOUTS = """
WITH judged AS (
    SELECT a.attempt_id, a.dataset, a.task_id, a.policy, a.rollout_index, a.completion, a.output_tokens, v.reward
    FROM '{data}/attempts/*/*.parquet' AS a JOIN '{data}/verdicts/*/*.parquet' AS v USING (attempt_id)
),
asked AS (SELECT task_id, prompt, tools FROM '{data}/tasks/*/*.parquet')
"""
RAW = {
    "metrics: rewards, their histogram, tokens": f"""{ROLLOUTS}
        SELECT dataset, policy, count(*), avg(reward), max(reward), min(reward), median(reward), stddev_samp(reward),
            avg(output_tokens), histogram(reward) FROM judged GROUP BY ALL""",
    "pairs": f"""COPY ({ROLLOUTS},
        ends AS (
            SELECT task_id, policy, arg_max(attempt_id, (reward, -rollout_index)) AS best,
                arg_min(attempt_id, (reward, rollout_index)) AS worst
            FROM judged GROUP BY ALL HAVING max(reward) > min(reward)
        )
        SELECT asked.prompt, c.completion AS chosen, r.completion AS rejected, asked.tools
        FROM ends JOIN judged AS c ON c.attempt_id = best JOIN judged AS r ON r.attempt_id = worst
        JOIN asked ON asked.task_id = ends.task_id WHERE c.completion <> r.completion ORDER BY md5(best)
        ) TO 'raw.jsonl' (FORMAT json)""",
    "mix": f"""COPY ({ROLLOUTS},
        taken AS (SELECT attempt_id FROM judged ORDER BY md5(attempt_id) LIMIT {{mix}})
        SELECT asked.prompt, completion, asked.tools
        FROM judged JOIN taken USING (attempt_id) JOIN asked USING (task_id) ORDER BY md5(attempt_id)
        ) TO 'raw.jsonl' (FORMAT json)""",
}
OURS = {
    "metrics: rewards, their histogram, tokens": (
        "metrics",
        "bench.toml",
        "--step=rewards",
        "--step=reward_histogram",
        "--step=tokens",
    ),
    "metrics: the seven of the command": ("metrics", "bench.toml"),
    "pairs": ("build", "bench.toml", "--only=dpo"),
    "mix": ("build", "bench.toml", "--only=sft"),
}
SHELL = "import sys, duckdb; con = duckdb.connect(); con.execute(sys.argv[1]).fetchall()"

TODAY = {
    "Python's json, a loop": """
import collections, json, sys
seen = collections.Counter(json.loads(line)["reward"] for line in open(sys.argv[1]))
print(sum(k * n for k, n in seen.items()) / sum(seen.values()), sorted(seen.items()))""",
    "orjson, a loop": """
import collections, orjson, sys
seen = collections.Counter(orjson.loads(line)["reward"] for line in open(sys.argv[1], "rb"))
print(sum(k * n for k, n in seen.items()) / sum(seen.values()), sorted(seen.items()))""",
    "polars.scan_ndjson": """
import polars, sys
print(polars.scan_ndjson(sys.argv[1]).group_by("reward").len().collect())""",
}


def timed(words: list[str], folder: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MB of a process."""
    clock = time.monotonic()
    process = subprocess.Popen(words, cwd=folder, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{words[:6]} failed: {said.decode()[-2000:]}")
    return time.monotonic() - clock, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def measured(words: list[str], folder: Path, runs: int) -> tuple[float, float, float]:
    """Medians over so many runs."""
    wall, cpu, peak = zip(*(timed(words, folder) for _ in range(runs)), strict=True)
    return statistics.median(wall), statistics.median(cpu), max(peak)


def shown(found: tuple[float, float, float]) -> str:
    """As the tables have it."""
    return f"{found[0]:.1f} / {found[1]:.1f} / {found[2]:,.0f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rollouts", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--mix", type=int, default=100_000)
    parser.add_argument("--today", action="store_true")
    given = parser.parse_args()
    given.rollouts = given.rollouts.resolve()
    ours = [sys.executable, "-m", "rolloutops"]
    with tempfile.TemporaryDirectory(dir=given.rollouts.parent) as name:
        folder = Path(name)
        ENV["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        data = (given.data or folder / "w").resolve()
        (folder / "bench.toml").write_text(RECIPE.format(data=data, input=given.rollouts, mix=given.mix))
        if given.data is None:
            took = timed([*ours, "import", str(given.rollouts), f"--data={data}", "--dataset=all"], folder)
            print(f"import: {shown(took)}\n")
        timed([sys.executable, "-c", "import rolloutops.stages, rolloutops.commands"], folder)
        print("| | rolloutops: wall / CPU / peak MB | raw DuckDB | CPU ratio |\n|---|---|---|---|")
        for what, words in OURS.items():
            mine = measured([*ours, *words], folder, given.runs)
            if what in RAW:
                query = RAW[what].format(data=data, mix=given.mix)
                raw = measured([sys.executable, "-c", SHELL, query], folder, given.runs)
                print(f"| {what} | {shown(mine)} | {shown(raw)} | {mine[1] / raw[1]:.2f} |", flush=True)
            else:
                print(f"| {what} | {shown(mine)} | | |", flush=True)
        if given.today:
            print("\n| mean reward and histogram | wall / CPU / peak MB |\n|---|---|")
            ways = {way: [sys.executable, "-c", code, str(given.rollouts)] for way, code in TODAY.items()}
            if shutil.which("jq"):
                ways["jq -s, the mean alone"] = ["jq", "-s", "map(.reward) | add / length", str(given.rollouts)]
            for way, command in ways.items():
                print(f"| {way} | {shown(measured(command, folder, given.runs))} |", flush=True)
    print(f"\nmost memory of any of them: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
