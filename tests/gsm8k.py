"""GSM8K as rollouts: 1,319 problems and the answers of four models (openai/grade-school-math, MIT license).

`gsm8k` of conftest.py is a connection with the four answers as four rollouts of each task, of one policy; `workspace`
makes others. The real data is next to the checkout: tests that read it are skipped where it is absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from rolloutops.store import sql
from tests import given

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def rollouts(policies: bool = False) -> Iterator[dict[str, Any]]:
    """Rows for `given.workspace`. policies: each model is a policy with one rollout of each task.

    The extracted answer is what follows the last `A:` of a solution, without commas; 11 solutions have none.
    """
    path = given.SHARED / "gsm8k" / "example_model_solutions.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        problem = json.loads(line)
        for place, model in enumerate(MODELS):
            text = problem[model]["solution"]
            answer = text.rpartition("A:")[2].strip().replace(",", "") if "A:" in text else None
            yield {
                "dataset": "gsm8k",
                "task_id": f"task-{number:06d}",
                "prompt_hash": problem["question"],
                "model": model,
                "policy": model if policies else "p",
                "rollout_index": 0 if policies else place,
                "text": text,
                "reward": float(problem[model]["is_correct"]),
                "details": given.dump({"extracted": answer}),
            }


def workspace(policies: bool = False, threads: int = 2, shuffle: int = 0) -> sql.Connection:
    """A connection with the views over them."""
    return given.workspace(rollouts(policies), threads=threads, shuffle=shuffle)
