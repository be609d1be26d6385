"""Metrics, pairs and mixes over many rollouts, beside the raw query and beside today's ways.

    python -m benchmarks.steps ROLLOUTS.jsonl [--data=WORKSPACE] [--runs=3] [--mix=100000] [--today] [--python=PATH]

ROLLOUTS.jsonl: NeMo Gym's rollout rows. They are imported once, or lie in WORKSPACE as the data set `all` already; then
each of ours is a whole process (`metrics`, `build`), and so is DuckDB with the raw queries over the same Parquet tables
that give the same numbers and rows: of the seven metrics the very same seven, over a view that joins attempts and
verdicts. Raw queries trust the tables: each rollout is there once, and nothing is linted, hashed or described. --today
adds what people use today over the JSON lines, with the packages that PATH (by default this Python) has. Wall and CPU
seconds, medians; peak memory. Every process finds its bytecode compiled, as an installed one.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import today
from rolloutops.shipped import shipped
from rolloutops.steps.measuring import DEFAULT
from rolloutops.steps.step import find_step, variables

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
min_reward = 0
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
SEVEN = "metrics: the seven of the command"
OURS = {
    "metrics: rewards, their histogram, tokens": (
        "metrics",
        "bench.toml",
        "--step=rewards",
        "--step=reward_histogram",
        "--step=tokens",
    ),
    SEVEN: ("metrics", "bench.toml"),
    "pairs": ("build", "bench.toml", "--only=dpo"),
    "mix": ("build", "bench.toml", "--only=sft"),
}
SHELL = "import sys, duckdb; con = duckdb.connect(); [con.execute(query).fetchall() for query in sys.argv[1:]]"

VIEWS = """
CREATE VIEW attempts AS FROM '{data}/attempts/*/*.parquet';
CREATE VIEW rollouts AS
SELECT a.*, v.reward, v.metrics, v.seconds AS verify_seconds
FROM attempts AS a JOIN '{data}/verdicts/*/*.parquet' AS v USING (attempt_id) WHERE a.error IS NULL;
CREATE VIEW failures AS SELECT *, false AS healed FROM attempts WHERE error IS NOT NULL
"""


def seven(data: Path) -> list[str]:
    """The raw side of the seven metrics: a view over the tables, the macros that the queries name, and the queries."""
    steps = [find_step(name, Path()) for name in DEFAULT]
    queries = [query for step in steps for query in (variables(step, {}), step.query) if query]
    macros = re.finditer(
        r"CREATE OR REPLACE MACRO (\w+\().*?;\n", (shipped("sql") / "macros.sql").read_text(), re.DOTALL
    )
    named = [macro[0] for macro in macros if macro[1] in "".join(queries)]
    return [VIEWS.format(data=data), *named, *queries]


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
    parser.add_argument("--python", default=sys.executable)
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
            queries = seven(data) if what == SEVEN else [RAW[what].format(data=data, mix=given.mix)]
            raw = measured([sys.executable, "-c", SHELL, *queries], folder, given.runs)
            print(f"| {what} | {shown(mine)} | {shown(raw)} | {mine[1] / raw[1]:.2f} |", flush=True)
        if given.today:
            print("\n| from JSON lines: wall / CPU / peak MB | mean reward and histogram | pairs |\n|---|---|---|")
            for way, commands in today.commands(given.python, str(given.rollouts)).items():
                cells = [shown(measured(words, folder, given.runs)) if words else "" for words in commands or ()]
                print(f"| {way} | {' | '.join(cells or ['not installed', ''])} |", flush=True)
    print(f"\nmost memory of any of them: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
