"""Metrics, pairs and mixes over many rollouts, beside raw queries and beside today's ways.

    python -m benchmarks.steps ROLLOUTS.jsonl [--data=WORKSPACE] [--runs=3] [--mix=100000] [--today] [--python=PATH]

ROLLOUTS.jsonl: NeMo Gym's rollout rows. They are imported once, or are in WORKSPACE as the dataset `all` already.
Each of ours is a whole process (`metrics`, `build`), and so is DuckDB with raw queries over the same Parquet tables.
One of these gives the same result: the very queries of the steps over plain views, and of a build the same file, byte
for byte. The simplest is what one would write by hand: it takes any of equal rewards and writes lines in another
order. Both trust the tables: each rollout is there once, and nothing is checked, linted, hashed or described. --today
adds what people use today over the JSON lines, with the packages that PATH (by default this Python) has. Wall and CPU
seconds, medians; peak memory. Every process finds its bytecode compiled, as an installed one.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import today
from rolloutops.config.recipe import StepUse
from rolloutops.config.resources import shipped
from rolloutops.steps.metrics import DEFAULT
from rolloutops.steps.step import find_step, variables
from rolloutops.store.definitions import names_in, statements

CHECKOUT = Path(__file__).resolve().parents[1]
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
ENV["PYTHONPATH"] = str(CHECKOUT)

RECIPE = """
data = "{data}"
[datasets.all]
input = "{input}"

[[steps]]
kind = "pair"
name = "best"
use = "pair/best_worst"
[[steps]]
kind = "build"
name = "dpo"
use = "build/dpo_messages"
output = "dpo"
report = false

[[steps]]
kind = "mix"
name = "some"
use = "mix/counts"
from = "rollouts"
counts = {{ all = {mix} }}
[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
min_reward = 0
output = "sft"
report = false
"""

ROLLOUTS = """
WITH verified AS (
    SELECT a.attempt_id, a.dataset, a.task_id, a.policy, a.rollout_index, a.completion, a.output_tokens, v.reward
    FROM '{data}/attempts/*/*.parquet' AS a JOIN '{data}/verdicts/*/*.parquet' AS v USING (attempt_id)
),
asked AS (SELECT task_id, prompt, tools FROM '{data}/tasks/*/*.parquet')
"""
SIMPLEST = {
    "metrics": f"""{ROLLOUTS}
        SELECT dataset, policy, count(*), avg(reward), max(reward), min(reward), median(reward), stddev_samp(reward),
            avg(output_tokens), histogram(reward) FROM verified GROUP BY ALL""",
    "pairs": f"""COPY ({ROLLOUTS},
        ends AS (
            SELECT task_id, policy, arg_max(attempt_id, (reward, -rollout_index)) AS best,
                arg_min(attempt_id, (reward, rollout_index)) AS worst
            FROM verified GROUP BY ALL HAVING max(reward) > min(reward)
        )
        SELECT asked.prompt, c.completion AS chosen, r.completion AS rejected, asked.tools
        FROM ends JOIN verified AS c ON c.attempt_id = best JOIN verified AS r ON r.attempt_id = worst
        JOIN asked ON asked.task_id = ends.task_id WHERE c.completion <> r.completion ORDER BY md5(best)
        ) TO 'simplest.jsonl' (FORMAT json)""",
    "mix": f"""COPY ({ROLLOUTS},
        taken AS (SELECT attempt_id FROM verified ORDER BY md5(attempt_id) LIMIT {{mix}})
        SELECT asked.prompt, completion, asked.tools
        FROM verified JOIN taken USING (attempt_id) JOIN asked USING (task_id) ORDER BY md5(attempt_id)
        ) TO 'simplest.jsonl' (FORMAT json)""",
}
SHELL = "import sys, duckdb; con = duckdb.connect(); [con.execute(query).fetchall() for query in sys.argv[1:]]"

VIEWS = """
CREATE VIEW attempts AS FROM '{data}/attempts/*/*.parquet';
CREATE VIEW rollouts AS
SELECT a.*, v.reward, v.metrics, v.seconds AS verify_seconds
FROM attempts AS a JOIN '{data}/verdicts/*/*.parquet' AS v USING (attempt_id) WHERE a.error IS NULL;
CREATE VIEW failures AS SELECT *, false AS healed FROM attempts WHERE error IS NOT NULL
"""
SELECTED = """
CREATE VIEW asked AS
SELECT r.* EXCLUDE (prompt, tools), t.prompt, t.tools, t.prompt_hash, t.prompt_hash AS context_hash,
    length(r.text) AS text_length, hash(r.completion::VARCHAR) AS completion_hash
FROM rollouts AS r JOIN '{data}/tasks/*/*.parquet' AS t ON t.dataset = r.dataset AND t.task_id = r.task_id;
CREATE VIEW selected AS SELECT *, 0 AS copy FROM asked
"""
LINES = """
CREATE TABLE kept AS SELECT {columns} FROM ({select});
CREATE OR REPLACE VIEW selected AS FROM kept JOIN asked USING ({key});
COPY ({once} SELECT json FROM ({build}) ORDER BY md5(sort_key || ':42'), sort_key)
TO 'same.jsonl' (FORMAT csv, HEADER false, DELIMITER '\x01', QUOTE '', ESCAPE '')
"""
KEY = "dataset, task_id, policy, rollout_index"


def macros_of(queries: Sequence[str]) -> list[str]:
    """The macros that queries name, and those that these name."""
    macros = statements((shipped("sql") / "macros.sql").read_text(encoding="utf-8"))
    return [macros[name] for name in names_in(queries, macros)]


def same_numbers(data: Path, names: Sequence[str]) -> list[str]:
    """The queries of metrics steps, over plain views."""
    steps = [find_step(name, Path()) for name in names]
    queries = [query for step in steps for query in (variables(step, {}), step.query) if query]
    return [VIEWS.format(data=data), *macros_of(queries), *queries]


def same_lines(data: Path, select: StepUse, build: StepUse) -> list[str]:
    """The queries of a step that selects and of one that builds, over plain views; they write same.jsonl."""
    steps = [find_step(use.use, Path()) for use in (select, build)]
    requested = [variables(step, use.settings) for step, use in zip(steps, (select, build), strict=True)]
    pairs = select.kind == "pair"
    script = LINES.format(
        select=steps[0].query,
        build=steps[1].query,
        key=KEY,
        columns=f"{KEY}, pair, role, margin" if pairs else f"{KEY}, copy",
        once="WITH selected AS MATERIALIZED (FROM main.selected)" if pairs else "",  # both sides in one pass
    )
    return [VIEWS.format(data=data), SELECTED.format(data=data), *macros_of([script]), *requested, script]


def cases(data: Path, mix: int) -> Iterator[tuple[str, list[str], list[str], list[str], str]]:
    """What is measured: its name, our command, the queries with the same result, the simplest, and our file."""
    few = ("rewards", "reward_histogram", "tokens")
    yield (
        "metrics: rewards, their histogram, tokens",
        ["metrics", "bench.toml", *(f"--step={name}" for name in few)],
        same_numbers(data, [f"metrics/{name}" for name in few]),
        [SIMPLEST["metrics"].format(data=data)],
        "",
    )
    yield "metrics: the seven of the command", ["metrics", "bench.toml"], same_numbers(data, DEFAULT), [], ""
    best, dpo = StepUse("pair", "best", "pair/best_worst"), StepUse("build", "dpo", "build/dpo_messages")
    some = StepUse("mix", "some", "mix/counts", {"counts": {"all": mix}})
    sft = StepUse("build", "sft", "build/sft_messages", {"min_reward": 0})
    for name, select, build in (("pairs", best, dpo), ("mix", some, sft)):
        yield (
            f"{name}, to JSON lines",
            ["build", "bench.toml", f"--only={build.name}"],
            same_lines(data, select, build),
            [SIMPLEST[name].format(data=data, mix=mix)],
            f"{build.name}/train.jsonl",
        )


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


def in_turn(commands: Sequence[list[str]], folder: Path, runs: int) -> list[list[tuple[float, float, float]]]:
    """What each command took in each of so many rounds, in which they take turns: a machine may be slow for a while."""
    rounds = [[timed(words, folder) for words in commands] for _ in range(runs)]
    return [list(one) for one in zip(*rounds, strict=True)]


def shown(rows: Sequence[tuple[float, float, float]]) -> str:
    """Medians of the rounds, and the most memory, as the tables have them."""
    wall, cpu, peak = zip(*rows, strict=True)
    return f"{statistics.median(wall):.1f} / {statistics.median(cpu):.1f} / {max(peak):,.0f}"


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
            print(f"import: {shown([took])}\n")
        timed(
            [
                sys.executable,
                "-c",
                "import rolloutops.cli.main, rolloutops.build.build, rolloutops.build.report.report",
            ],
            folder,
        )
        print("| wall s / CPU s / peak MB | rolloutops | raw, same result | CPU ratio | simplest raw | CPU ratio |")
        print("|---|---|---|---|---|---|")
        for what, words, same, simplest, file in cases(data, given.mix):
            theirs = [[sys.executable, "-c", SHELL, *queries] for queries in (same, simplest) if queries]
            mine, *others = in_turn([[*ours, *words], *theirs], folder, given.runs)
            cells = [what, shown(mine)]
            for other in others:
                ratios = [a[1] / b[1] for a, b in zip(mine, other, strict=True)]
                cells += [shown(other), f"{statistics.median(ratios):.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
            if file and (folder / file).read_bytes() != (folder / "same.jsonl").read_bytes():
                raise SystemExit(f"{what}: the raw query does not write the same file")
        if given.today:
            print("\n| from JSON lines: wall / CPU / peak MB | mean reward and histogram | pairs |\n|---|---|---|")
            for way, commands in today.commands(given.python, str(given.rollouts)).items():
                cells = [shown(in_turn([words], folder, given.runs)[0]) if words else "" for words in commands or ()]
                print(f"| {way} | {' | '.join(cells or ['not installed', ''])} |", flush=True)
    print(f"\nmost memory of any of them: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
