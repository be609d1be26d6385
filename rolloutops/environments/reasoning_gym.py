"""Reasoning Gym: each task is scored by the scorer of the dataset it comes from.

Rows are those of reasoning_gym, also with NeMo Gym's `responses_create_params` added, and the rules are those of
NeMo Gym's `reasoning_gym` (resources_servers/reasoning_gym/app.py of NVIDIA-NeMo/Gym, commit 07d6b0d):

    question   the puzzle (default: the task's prompt)
    answer     one right answer; many datasets accept others
    metadata   {"source_dataset": "knights_knaves", ...}, which the scorer reads

The answer is the content of the last `<answer>` tag, else of the first `\\boxed{}` up to its first closing brace, else
the whole text. Unlike there, inline reasoning (`<think>`) is not searched, grids of `arc_agi` and `rearc` can be
compared although JSON turned them into lists, and an exception of the scorer is an error, not a reward of 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from rolloutops.environments.answers import without_reasoning
from rolloutops.errors import MissingExtra, did_you_mean
from rolloutops.types import Rollout, Task

VERSION = 2
"""Raised by whoever changes a reward: rollouts that an earlier version verified are then verified again."""

PACKAGES = ("reasoning-gym",)
"""Its version is part of the verifier's version."""

_BOX = re.compile(r"\\boxed\{([^}]+)\}")


class ReasoningGym:
    """See `make`."""

    pure = True
    runs = "process"  # some scorers search

    def prepare(self) -> None:
        """Import reasoning_gym, which takes seconds."""
        import reasoning_gym  # noqa: F401

    def verify(self, task: Task, rollout: Rollout) -> dict[str, Any]:
        """{"reward": the dataset's score, "extracted": the answer found, "answered": bool, "task_name": dataset}."""
        metadata = _metadata(task.row)
        name = metadata.get("source_dataset")
        if not isinstance(name, str):
            raise ValueError("the row's metadata has no 'source_dataset', so there is no scorer for it")
        found = _extracted(rollout.text)
        question = task.row.get("question") or "\n".join(str(m.get("content", "")) for m in task.prompt)
        entry = {"question": question, "answer": task.row.get("answer", task.answer), "metadata": metadata}
        reward = _score(_scorer(name), found, entry)
        return {"reward": reward, "extracted": found or None, "answered": bool(found), "task_name": name}

    def gold(self, task: Task) -> str | None:
        """The row's answer in its tag; None where the dataset has no single one."""
        answer = task.row.get("answer", task.answer)
        return None if answer is None else f"<answer>{answer}</answer>"


def make() -> ReasoningGym:
    """An environment for the datasets of reasoning_gym. It takes no settings: each row names its own scorer."""
    if find_spec("reasoning_gym") is None:
        raise MissingExtra("environment 'reasoning_gym'", "tasks")
    return ReasoningGym()


def _metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    given = row.get("metadata")
    given = json.loads(given) if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        raise ValueError("the row has no 'metadata', which the scorers of reasoning_gym read")
    metadata = dict(given)
    if metadata.get("source_dataset") in ("arc_agi", "rearc") and isinstance(metadata.get("output"), list):
        metadata["output"] = tuple(tuple(line) for line in metadata["output"])  # compared with tuples; JSON has lists
    return metadata


def _extracted(text: str) -> str:
    text = without_reasoning(text)
    found = _last_tag(text)
    if found is None:
        box = _BOX.search(text)
        found = box[1] if box else text
    return found.strip()


def _last_tag(text: str) -> str | None:
    """What stands between the last `<answer>` and its end; None without one. Plain search: a pattern would look for the
    end anew from each of a million begun tags."""
    found, at = None, text.find("<answer>")
    while at >= 0:
        begin = at + len("<answer>")
        end = text.find("</answer>", begin)
        if end < 0:
            break
        found, at = text[begin:end], text.find("<answer>", end)
    return found


def _score(scorer: Callable[..., Any], answer: str, entry: Mapping[str, Any]) -> float:
    """The dataset's score. No answer at all may be what a scorer cannot read: then it is wrong."""
    try:
        return float(scorer(answer=answer, entry=entry))
    except Exception:
        if answer:
            raise
        return 0.0


@lru_cache(maxsize=256)
def _scorer(name: str) -> Callable[..., Any]:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise ValueError(f"reasoning_gym has no dataset '{name}'{did_you_mean(name, DATASETS)}")
    scorer: Callable[..., Any] = reasoning_gym.get_score_answer_fn(name)
    return scorer
