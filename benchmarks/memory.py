"""Peak memory of `collect` and `verify` where prompts are long: `python -m benchmarks.memory [CASE ...]`.

Each command is a process of its own, with the scripted engine, whose answers are a line: what is measured is the way of
the prompts. `above` is what a case takes more than a small workspace, for each byte of its longest prompt line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.collect import ENV


class Case(NamedTuple):
    """Prompts of a length in bytes, and their repeats."""

    prompts: int
    size: int
    repeats: int = 1


CASES = {
    "small": Case(100, 100),
    "one of 60 MB": Case(1, 60_000_000),
    "60 of 10 MB": Case(60, 10_000_000),
    "1,000 of 50 KB, 16 times": Case(1_000, 50_000, 16),
}

RECIPE = """
data = "w"
[datasets.long]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "scripted"
num_repeats = {repeats}
"""


def peak_of(folder: Path, command: str) -> tuple[float, float]:
    """Run a command. Returns its peak memory in MB and its CPU seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rolloutops", command, "recipe.toml"],
        cwd=folder,
        env=ENV,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def measured(case: Case) -> dict[str, tuple[float, float]]:
    """Peak memory in MB and CPU seconds of each command, in a fresh workspace."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "tasks.jsonl").open("w") as file:
            for n in range(case.prompts):
                words = " ".join(f"{n}-{k}" for k in range(1000))
                prompt = f"What is {n} + 1? " + (words * (case.size // len(words) + 1))[: case.size]
                file.write(json.dumps({"prompt": prompt, "answer": str(n + 1)}) + "\n")
        (folder / "recipe.toml").write_text(RECIPE.format(repeats=case.repeats))
        return {command: peak_of(folder, command) for command in ("chunk", "collect", "verify")}


def main() -> None:
    """Print the table."""
    print("| prompts | command | peak MB | above small, per byte of a prompt | CPU s |\n|---|---|---|---|---|")
    small = measured(CASES["small"])
    for name in sys.argv[1:] or list(CASES):
        case = CASES[name]
        for command, (peak, cpu) in (small if name == "small" else measured(case)).items():
            above = (peak - small[command][0]) * 1e6 / case.size
            print(f"| {name} | {command} | {peak:,.0f} | {above:.1f} | {cpu:.1f} |", flush=True)


if __name__ == "__main__":
    main()
