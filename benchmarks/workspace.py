"""Make a workspace of many small part files: python -m benchmarks.workspace FOLDER TASKS REPEATS [ROWS_PER_FILE].

99 % of the rollouts are done. `FOLDER/r.toml` is its recipe; attempts and verdicts are written as parts, as collections
of weeks leave them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.config.plan import make_plan
from rolloutops.config.recipe_file import load
from rolloutops.store import schema

RUN = "20261101T000000-abcdef"
RECIPE = """
data = "w"
[datasets.sums]
input = "tasks.jsonl"
id = "id"
environment = "exact_match"
[collect]
engine = "scripted"
num_repeats = {repeats}
"""
TEXTS = [f"Let me think about it step by step, number {n}. " * 3 + f"Answer: {n}" for n in range(500)]
MESSAGES = [json.dumps([{"role": "assistant", "content": text}]) for text in TEXTS]


def main() -> None:
    """Write tasks, chunk them, and write attempts and verdicts."""
    folder, tasks, repeats = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rows_per_file = int(sys.argv[4]) if len(sys.argv) > 4 else 2500
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "r.toml").write_text(RECIPE.format(repeats=repeats), encoding="utf-8")
    with (folder / "tasks.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f'{{"id":"t{n}","prompt":"What is {n} + {n}?","answer":"{2 * n}"}}\n' for n in range(tasks))
    subprocess.run([sys.executable, "-m", "rolloutops", "chunk", "r.toml"], cwd=folder, check=True)
    (row,) = [dict(row) for row in make_plan(load(str(folder / "r.toml"))).rows]
    held = duckdb.sql(
        f"SELECT task_id, row_hash, part FROM read_parquet('{folder}/w/tasks/*/*.parquet') ORDER BY part, line"
    ).to_arrow_table()
    done = np.nonzero(np.random.default_rng(7).random(tasks * repeats) < 0.99)[0]
    for number in range(-(-len(done) // rows_per_file)):
        _write(folder / "w", row, held, repeats, number, done[number * rows_per_file : (number + 1) * rows_per_file])


def _write(root: Path, plan: dict[str, Any], tasks: pa.Table, repeats: int, number: int, done: Any) -> None:
    """One part of attempts and one of verdicts."""
    rng, rows, first = np.random.default_rng(number), len(done), number * 1_000_000
    place, said = pa.array(done // repeats), pa.array(done % len(TEXTS))
    ids = pa.array([f"{RUN}-{first + n:010d}" for n in range(rows)])
    keys = {
        **{name: tasks[name].take(place).combine_chunks() for name in ("task_id", "row_hash", "part")},
        **{"dataset": plan["dataset"], "policy": plan["policy"], "rollout_index": pa.array(done % repeats, pa.int32())},
        **{"attempt_id": ids, "run_id": RUN},
    }
    started = pa.array(1_793_000_000_000_000 + done.astype(np.int64) * 1000)
    attempts = {
        **keys,
        **{"attempt": 1, "engine": "scripted", "model": "m", "final": True, "turns": 1, "tool_calls": 0},
        **{"tool_errors": 0, "text": pa.array(TEXTS).take(said), "completion": pa.array(MESSAGES).take(said)},
        **{"finish_reason": "stop", "request": "{}", "response": "[]"},
        **{
            "input_tokens": pa.array(rng.integers(50, 200, rows)),
            "output_tokens": pa.array(rng.integers(50, 900, rows)),
        },
        **{"started_at": started, "seconds": pa.array(rng.random(rows))},
    }
    verdicts = {
        **keys,
        **{"verdict_id": ids, "verifier": plan["verifier"], "verifier_version": plan["verifier_version"]},
        **{"reward": pa.array((rng.random(rows) < 0.5).astype(float)), "seconds": 1e-5, "cached": False},
        "details": '{"reward": 1.0}',
    }
    for table, columns in (("attempts", attempts), ("verdicts", verdicts)):
        path = root / table / str(plan["dataset"]) / f"{RUN}-{number:04d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = [_column(field, columns.get(field.name), rows) for field in schema.TABLES[table]]
        whole = pa.Table.from_arrays(made, schema=schema.TABLES[table])
        pq.write_table(whole, path, compression="zstd", write_page_checksum=True)


def _column(field: pa.Field, value: Any, rows: int) -> pa.Array:
    """A column of a table: an array, or one value in all rows."""
    kind = pa.string() if field.type == schema.JSON else field.type
    found = value if isinstance(value, pa.Array) else pa.repeat(pa.scalar(value, kind), rows)
    found = found.cast(pa.int64()).cast(kind) if pa.types.is_timestamp(kind) else found.cast(kind)
    return pa.ExtensionArray.from_storage(schema.JSON, found) if field.type == schema.JSON else found


if __name__ == "__main__":
    main()
