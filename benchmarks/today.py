"""Today's ways, over JSON lines of rollouts: the mean reward with its histogram; best and worst pairs as JSON lines.

None checks anything; pairs are written as the rows have them (Responses items, not chat messages), which polars and
pandas read into one type for all rows.
"""

from __future__ import annotations

import shutil
import subprocess

LOOP = """
import collections, {json} as json, sys
seen = collections.Counter(json.loads(line)["reward"] for line in open(sys.argv[1], "rb"))
print(sum(k * n for k, n in seen.items()) / sum(seen.values()), sorted(seen.items()))"""

LOOP_PAIRS = """
import collections, {json} as json, sys
tasks = collections.defaultdict(list)
for line in open(sys.argv[1], "rb"):
    row = json.loads(line)
    tasks[row["task_id"]].append((row["reward"], row["responses_create_params"]["input"], row["response"]["output"]))
with open("today.jsonl", "wb") as out:
    for rows in tasks.values():
        best, worst = max(rows, key=lambda row: row[0]), min(rows, key=lambda row: row[0])
        if best[0] > worst[0]:
            line = json.dumps(dict(prompt=best[1], chosen=best[2], rejected=worst[2]))
            out.write((line if isinstance(line, bytes) else line.encode()) + b"\\n")"""

POLARS = """
import polars, sys
rewards = polars.scan_ndjson(sys.argv[1]).select("reward").collect()["reward"]
print(rewards.mean(), rewards.value_counts(sort=True))"""

POLARS_PAIRS = """
import polars, sys
from polars import col
answer, prompt = col("response").struct.field("output"), col("responses_create_params").struct.field("input")
tasks = polars.scan_ndjson(sys.argv[1]).select("task_id", "reward", prompt.alias("prompt"), answer.alias("answer"))
best, worst = col("answer").get(col("reward").arg_max()), col("answer").get(col("reward").arg_min())
span = col("reward").max() - col("reward").min()
pairs = tasks.group_by("task_id").agg(col("prompt").first(), chosen=best, rejected=worst, span=span)
pairs.filter(col("span") > 0).select("prompt", "chosen", "rejected").collect().write_ndjson("today.jsonl")"""

PANDAS = """
import pandas, sys
rewards = pandas.read_json(sys.argv[1], lines=True)["reward"]
print(rewards.mean(), rewards.value_counts())"""

PANDAS_PAIRS = """
import pandas, sys
rows = pandas.read_json(sys.argv[1], lines=True)
tasks = rows.groupby("task_id")["reward"]
best, worst = rows.loc[tasks.idxmax()].reset_index(), rows.loc[tasks.idxmin()].reset_index()
pairs = pandas.DataFrame({
    "prompt": best["responses_create_params"].str["input"], "chosen": best["response"].str["output"],
    "rejected": worst["response"].str["output"],
})
pairs[best["reward"] > worst["reward"]].to_json("today.jsonl", orient="records", lines=True)"""

DATASETS = """
import datasets, sys, tempfile
datasets.disable_progress_bars()
with tempfile.TemporaryDirectory(dir=".") as cache:
    rows = datasets.load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=cache)
    rewards = rows.with_format("numpy")["reward"][:]
print(rewards.mean(), sorted(__import__("collections").Counter(rewards.tolist()).items()))"""

JQ_PAIRS = """
group_by(.task_id)[] | {best: max_by(.reward), worst: min_by(.reward)} | select(.best.reward > .worst.reward)
| {prompt: .best.responses_create_params.input, chosen: .best.response.output, rejected: .worst.response.output}"""

WAYS: dict[str, tuple[str, tuple[str, str | None]]] = {
    "Python's `json`, a loop": ("json", (LOOP.replace("{json}", "json"), LOOP_PAIRS.replace("{json}", "json"))),
    "orjson, a loop": ("orjson", (LOOP.replace("{json}", "orjson"), LOOP_PAIRS.replace("{json}", "orjson"))),
    "polars": ("polars", (POLARS, POLARS_PAIRS)),
    "pandas": ("pandas", (PANDAS, PANDAS_PAIRS)),
    "Hugging Face `datasets`": ("datasets", (DATASETS, None)),
}
"""Way -> the package that it needs, and its programs for either task; None where it has no words for it."""


def commands(python: str, rollouts: str) -> dict[str, list[list[str] | None] | None]:
    """Way -> a command for either task, None where it has none; no list at all where the way is not installed.

    python: the one that has the packages. rollouts: the file.
    """
    found: dict[str, list[list[str] | None] | None] = {}
    for way, (package, programs) in WAYS.items():
        there = subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False).returncode == 0
        found[way] = [[python, "-c", code, rollouts] if code else None for code in programs] if there else None
    mean = ["jq", "-s", "map(.reward) | [add / length, (group_by(.) | map([.[0], length]))]", rollouts]
    found["jq"] = [mean, ["jq", "-c", "-s", JQ_PAIRS, rollouts]] if shutil.which("jq") else None
    return found
