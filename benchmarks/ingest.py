"""`chunk` and `import` of many rows, and of the same ones again, beside a Python loop over the same file.

usage: python -m benchmarks.ingest [--tasks=1000000] [--rollouts=200000] [--runs=3]

The loop parses each line, hashes its canonical JSON and writes the lines with their hashes as Parquet, in one process.
CPU time is that of all processes of a command, memory the peak of the largest of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

LOOP = """
import hashlib, itertools, json, sys
import orjson, pyarrow, pyarrow.parquet
with open(sys.argv[1], "rb") as file, pyarrow.parquet.ParquetWriter(
    "loop.parquet", pyarrow.schema({"id": "string", "row": "string"}), compression="zstd"
) as out:
    while lines := list(itertools.islice(file, 10_000)):
        texts = (json.dumps(orjson.loads(line), sort_keys=True, separators=(",", ":")) for line in lines)
        ids = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]
        out.write_table(pyarrow.table({"id": ids, "row": lines}, schema=out.schema))"""

WORDS = [f"word{number}" for number in range(50)]


class Cost(NamedTuple):
    """What a command took: seconds of CPU and of wall time, and the peak of its memory in MB."""

    cpu: float
    wall: float
    memory: float


def tasks(count: int) -> Iterator[dict[str, Any]]:
    """Rows of about 215 bytes, all different."""
    rng = random.Random(1)
    sentences = [" ".join(rng.choices(WORDS, k=25)) for _ in range(2000)]
    for n in range(count):
        prompt = f"Task {n}: {sentences[n % 2000]}. What is {n} + {n}?"
        yield {"id": f"t{n}", "prompt": prompt, "answer": str(2 * n)}


def rollouts(count: int) -> Iterator[dict[str, Any]]:
    """Rows of about 1.8 KB as NeMo Gym writes them, eight of each task."""
    rng = random.Random(1)
    for n in range(count):
        task, repeat = divmod(n, 8)
        text, thought = (" ".join(rng.choices(WORDS, k=k)) for k in (110, 90))
        output = [
            {"type": "reasoning", "id": f"rs_{n}", "summary": [{"type": "summary_text", "text": thought}]},
            {
                "type": "message",
                "role": "assistant",
                "id": f"m_{n}",
                "content": [{"type": "output_text", "text": text}],
            },
        ]
        asked = [{"role": "user", "content": f"Task {task}: what is {task} + {task}?"}]
        yield {
            "_ng_task_index": task,
            "_ng_rollout_index": repeat,
            "responses_create_params": {"input": asked, "temperature": 0.7, "max_output_tokens": 1024},
            "response": {"id": f"resp_{n}", "model": "policy", "output": output, "status": "completed"},
            "expected_answer": str(2 * task),
            "reward": float(rng.random() < 0.5),
        }


def measure(argv: list[str], folder: Path) -> Cost:
    """Run a command and its processes."""
    program = (
        "import json, resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    cpu, memory = json.loads(done.stdout)
    return Cost(cpu, time.perf_counter() - start, memory)


def compare(command: str, rows: Iterator[dict[str, Any]], flags: list[str], runs: int) -> None:
    """Print medians of a command, of the same again, and of the loop."""
    found: dict[str, list[Cost]] = {"loop": [], command: [], f"{command} again": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        argv = [sys.executable, "-m", "rolloutops", command, *flags, "--data=w", "--dataset=d"]
        for _ in range(runs):
            shutil.rmtree(folder / "w", ignore_errors=True)
            found["loop"].append(measure([sys.executable, "-c", LOOP, "rows.jsonl"], folder))
            found[command].append(measure(argv, folder))
            found[f"{command} again"].append(measure(argv, folder))
    loop = statistics.median(cost.cpu for cost in found["loop"])
    for what, costs in found.items():
        cpu, wall, memory = (statistics.median(values) for values in zip(*costs, strict=True))
        print(f"{what:13} {cpu:7.1f} s of CPU {cpu / loop:6.2f} times the loop {wall:7.1f} s {memory:6.0f} MB")


def main() -> None:
    """Read the flags, and measure both commands."""
    flags = {"tasks": 1_000_000, "rollouts": 200_000, "runs": 3}
    for word in sys.argv[1:]:
        name, _, value = word.removeprefix("--").partition("=")
        if name not in flags:
            sys.exit(__doc__)
        flags[name] = int(value)
    if flags["tasks"]:
        compare("chunk", tasks(flags["tasks"]), ["--input=rows.jsonl"], flags["runs"])
    if flags["rollouts"]:
        compare("import", rollouts(flags["rollouts"]), ["rows.jsonl"], flags["runs"])


if __name__ == "__main__":
    main()
