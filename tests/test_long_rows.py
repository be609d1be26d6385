"""Rows of any length: lines of 200 MB and prompts of 10 MB go all the way (20 MB and 2 MB without ROLLOUTOPS_FULL)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.helpers import query, rolloutops, write_jsonl

FULL = bool(os.environ.get("ROLLOUTOPS_FULL"))
LINE, PROMPT = (200_000_000, 10_000_000) if FULL else (20_000_000, 2_000_000)

RECIPE = """
data = "w"
[datasets.d]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "scripted"
[[steps]]
kind = "filter"
name = "clean"
use = "filter/decontaminate"
files = ["benchmark.jsonl"]
[[steps]]
kind = "build"
name = "rl"
use = "build/rl_prompts"
"""


def words(size: int, letter: str) -> str:
    """Different words, so that none of their sequences occurs twice."""
    return " ".join(f"{letter}{number:07d}" for number in range(size // 9))


def test_long_lines_and_prompts_from_the_input_to_the_training_file(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE, encoding="utf-8")
    rows = [
        {"prompt": "What is 1 + 1?", "answer": "2", "meta": "x" * LINE},
        {"prompt": f"What is 1 + 2? {words(PROMPT, 'a')}", "answer": "3"},
        {"prompt": f"What is 1 + 3? {words(PROMPT, 'b')}", "answer": "4"},
    ]
    write_jsonl(tmp_path / "tasks.jsonl", rows)
    known = {"question": " ".join(words(PROMPT, "b").split()[-20:])}
    write_jsonl(tmp_path / "benchmark.jsonl", [known, {"question": "y" * LINE}, {"question": words(PROMPT, "c")}])
    for command in ("chunk", "collect", "verify", "build"):
        rolloutops(command, "r.toml", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT strlen(row::VARCHAR) FROM tasks ORDER BY line") == [
        (len(json.dumps(row)),) for row in rows
    ]
    assert query(tmp_path / "w", "SELECT count(*), count(reward) FROM rollouts") == [(3, 3)]
    lines = (tmp_path / "w/exports/rl/train.jsonl").read_text(encoding="utf-8").splitlines()
    found = [words(PROMPT, letter) in line for letter in "ab" for line in lines]
    assert (len(lines), sum(found[:2]), sum(found[2:])) == (2, 1, 0), "the prompt of the benchmark is left out"


def test_a_long_rollout_is_imported_and_linted(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Repeat."}, {"role": "assistant", "content": "z" * LINE}]
    write_jsonl(tmp_path / "made.jsonl", [{"messages": turns, "reward": 1.0}])
    (tmp_path / "made.json").write_text(json.dumps({"data": [{"messages": turns}]}, indent=1), encoding="utf-8")
    for name in ("made.jsonl", "made.json"):
        said = rolloutops("lint", name, "--target=sft_messages", cwd=tmp_path).stdout
        assert "1 line without an error" in said
    rolloutops("import", "made.jsonl", "--data=w", "--dataset=d", "--policy=p", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT strlen(text), reward FROM rollouts") == [(LINE, 1.0)]
