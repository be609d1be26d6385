"""How fast rollouts are verified again, and what a slow verifier costs a collection.

    python benchmarks/verify.py again [--rollouts=100000] [--milliseconds=0.1] [--runs=3]
    python benchmarks/verify.py slow [--rollouts=16000] [--seconds=2] [--share=0.05] [--runs=3]

`again`: a verifier that computes for 0.1 ms, through the command `verify`. One line for each run and kind: `plain`, or
`process` from the start. The rollouts are written in bulk, as a collection would have left them.

`slow`: a scripted collection, 64 in flight at 0.2 s each, whose verifier waits two seconds on 5 % of the rollouts, as a
`coroutine` or `plain` (a blocking call), beside one that waits on none. The rate is that of the attempts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rolloutops.formats.strict_json import digest, dump
from rolloutops.store import schema, sql
from rolloutops.store.workspace import Workspace, connect, open_workspace, write_part

ROOT = Path(__file__).resolve().parents[1]
VERIFIER = """
import time

class Busy:
    def __init__(self, milliseconds, in_process):
        self.seconds, self.runs = milliseconds / 1000, "process" if in_process else None

    def verify(self, task, rollout):
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return {"reward": float(rollout.text.endswith(task.answer)), "length": len(rollout.text)}

def make(milliseconds: float, in_process: bool, version: int):
    return Busy(milliseconds, in_process)
"""
SLOW = """
import asyncio, time, zlib

def is_slow(task, share):
    return zlib.crc32(task.task_id.encode()) / 2**32 < share

class Coroutine:
    def __init__(self, seconds, share): self.seconds, self.share = seconds, share
    async def verify(self, task, rollout):
        if is_slow(task, self.share): await asyncio.sleep(self.seconds)
        return 1.0

class Plain(Coroutine):
    def verify(self, task, rollout):
        if is_slow(task, self.share): time.sleep(self.seconds)
        return 1.0

def coroutine(seconds: float, share: float): return Coroutine(seconds, share)
def plain(seconds: float, share: float): return Plain(seconds, share)
"""
THOUGHT = "I add the two numbers digit by digit and check the sum in a second way. " * 14
"""About 1 KB, as a short answer has."""


def fill(workspace: Workspace, tasks: int, repeats: int, rows_per_part: int = 5000) -> None:
    """Write tasks and finished rollouts as parts."""
    for part, start in enumerate(range(0, tasks, rows_per_part)):
        task_rows, attempts = [], []
        for n in range(start, min(tasks, start + rows_per_part)):
            row = {"n": n, "prompt": f"What is {n} + {n}?", "answer": str(2 * n)}
            key = {"dataset": "sums", "task_id": digest(row), "row_hash": digest(row), "part": part}
            prompt = dump([{"role": "user", "content": row["prompt"]}])
            task_rows.append(
                {
                    **key,
                    **{"version": 0, "removed": False, "origin": "sums.jsonl", "line": n + 1, "row": dump(row)},
                    **{"prompt": prompt, "prompt_hash": digest(prompt), "answer": row["answer"]},
                }
            )
            for index in range(repeats):
                text = f"{THOUGHT}Answer: {2 * n + (n + index) % 2}"
                attempts.append(
                    {
                        **key,
                        **{
                            "policy": "bulk",
                            "rollout_index": index,
                            "attempt": 1,
                            "attempt_id": f"bulk-{n:08d}-{index}",
                        },
                        **{"run_id": "bulk", "engine": "scripted", "model": "bulk", "final": True, "text": text},
                        **{"completion": dump([{"role": "assistant", "content": text}]), "finish_reason": "stop"},
                        **{"turns": 1, "tool_calls": 0, "tool_errors": 0, "seconds": 1.0, "model_seconds": 1.0},
                        **{"tool_seconds": 0.0, "started_at": 0, "response": dump([{"output": text}])},
                    }
                )
        write_part(workspace, "tasks", "sums", f"part-{part:05d}", schema.table_of(schema.TASKS, task_rows))
        write_part(workspace, "attempts", "sums", f"bulk-{part:04d}", schema.table_of(schema.ATTEMPTS, attempts))


def write_recipe(folder: Path, environment: str, args: str, collect: str) -> None:
    """A recipe file."""
    (folder / "bench.toml").write_text(
        f"""
        data = "w"
        [datasets.sums]
        input = "sums.jsonl"
        environment = "{environment}"
        environment_args = {{ {args} }}
        [collect]
        engine = "scripted"
        policy = "bulk"
        {collect}
        """
    )


def again(requested: argparse.Namespace, folder: Path) -> None:
    """Fill a workspace, verify it again and again, print how long that took."""
    (folder / "busy.py").write_text(VERIFIER)
    fill(open_workspace(folder / "w", create=True), requested.rollouts // 4, 4)
    for version in range(2 * requested.runs):
        pooled = version >= requested.runs
        args = f"milliseconds = {requested.milliseconds}, in_process = {str(pooled).lower()}, version = {version}"
        write_recipe(folder, "busy.py", args, "")
        seconds, cpu = timed("verify", folder)
        kind = "process" if pooled else "plain"
        tell(verifier=kind, rollouts=requested.rollouts, seconds=seconds, cpu_seconds=cpu)


def slow(requested: argparse.Namespace, folder: Path) -> None:
    """Collect with and without a slow verifier, print the rates."""
    (folder / "slow.py").write_text(SLOW)
    rows = ({"prompt": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(requested.rollouts))
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(requested.runs):
        rates = {}
        for kind, share in (("none", 0.0), ("coroutine", requested.share), ("plain", requested.share)):
            factory = "coroutine" if kind == "none" else kind
            args = f"seconds = {requested.seconds}, share = {share}"
            write_recipe(
                folder, f"slow.py:{factory}", args, "num_samples_in_parallel = 64\nengine_args = { delay = 0.2 }"
            )
            timed("chunk", folder)
            timed("collect", folder)
            con = connect(open_workspace(folder / "w"))
            span = "max(epoch(started_at) + seconds) - min(epoch(started_at))"
            ((count, seconds),) = sql.rows(con, f"SELECT count(*), {span} FROM attempts")
            con.close()
            rates[kind] = count / seconds
            shutil.rmtree(folder / "w")
            tell(
                verifier=kind,
                rollouts_per_second=round(rates[kind], 1),
                lowered_by=round(1 - rates[kind] / rates["none"], 4),
            )


def main() -> None:
    """Run the one asked for, in a folder of its own."""
    words = argparse.ArgumentParser()
    words.add_argument("what", choices=("again", "slow"))
    words.add_argument("--rollouts", type=int)
    words.add_argument("--milliseconds", type=float, default=0.1)
    words.add_argument("--seconds", type=float, default=2.0)
    words.add_argument("--share", type=float, default=0.05)
    words.add_argument("--runs", type=int, default=3)
    requested = words.parse_args()
    requested.rollouts = requested.rollouts or {"again": 100_000, "slow": 16_000}[requested.what]
    with tempfile.TemporaryDirectory() as name:
        {"again": again, "slow": slow}[requested.what](requested, Path(name))


def tell(**result: object) -> None:
    print(json.dumps(result), flush=True)


def timed(command: str, folder: Path) -> tuple[float, float]:
    """Run a command on the recipe: wall seconds, and CPU seconds of it and its workers."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "rolloutops", command, "bench.toml"]
    done = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - clock
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(seconds, 2), round(cpu, 2)


if __name__ == "__main__":
    main()
