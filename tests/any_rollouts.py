"""Workspaces made by hypothesis: anything that a collection may leave behind, as rows and as Parquet on disk."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from hypothesis import strategies as st

from rolloutops.store import schema
from rolloutops.store.workspace import Workspace, open_workspace, write_part
from tests.given import dump

Tables: TypeAlias = dict[str, list[dict[str, Any]]]
"""Table -> its rows."""

ODD = "\u2028 😀 \x7f\x85 \"\\/ </script> [ ] line\r\n\ttab é ']}"
NEAR = " ".join(f"word{n}" for n in range(40))
PROMPTS = ["What is 2 + 2?", NEAR, f"{NEAR} more", NEAR.upper(), ODD, "", "Name a prime. " * 3, "hello"]
"""What tasks ask: words that are equal, nearly equal, odd, none."""

SAID = ["4", "four", ODD, "no. " * 30, "<think>hm</think>4", "a\n\nb\n\na", ""]
REWARDS = [None, 0.0, 1.0, 1.0, 0.5, 1 / 3, 0.1 + 0.2, -1.0]
KINDS = ["plain", "plain", "reasoning", "tools", "bad tools", "truncated", "masked", "unjudged", "twice", "failed"]
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}},
}
SYSTEM = {"role": "system", "content": "Be brief."}


@dataclass(frozen=True)
class Task:
    """A task as drawn. fate: whether the input still holds it as it was tried. sure: solved once, and once not."""

    dataset: str
    prompt: str
    tools: bool
    answer: str | None
    fate: str
    sure: bool
    rollouts: list[tuple[str, float | None, str, str]]


TASKS = st.lists(
    st.builds(
        Task,
        st.sampled_from("ddef"),
        st.sampled_from(PROMPTS),
        st.booleans(),
        st.sampled_from(["4", "4", None]),
        st.sampled_from(["stays", "stays", "stays", "edited", "removed"]),
        st.sampled_from([True, True, False]),
        st.lists(
            st.tuples(st.sampled_from("ppq"), st.sampled_from(REWARDS), st.sampled_from(KINDS), st.sampled_from(SAID)),
            min_size=2,
            max_size=6,
        ),
    ),
    min_size=3,
    max_size=8,
)

SURE = [("p", 1.0, "plain", "4"), ("p", 0.0, "plain", "four")]


def tables_of(tasks: list[Task]) -> Tables:
    """The rows of a workspace that holds these tasks and their rollouts."""
    tables: Tables = {"tasks": [], "attempts": [], "verdicts": []}
    ids = count()
    for number, task in enumerate(tasks):
        name = {"dataset": task.dataset, "task_id": f"t/{number} é" if number % 3 == 0 else f"t{number}"}
        versions = [_version(task, 0, number)]
        if task.fate != "stays":
            versions.append(_version(task, 1, number))
        tables["tasks"] += [{**name, **version} for version in versions]
        indexes = {policy: count() for policy in "pq"}
        for policy, reward, kind, said in [*(SURE if task.sure else []), *task.rollouts]:
            key = {**name, "policy": policy, "rollout_index": next(indexes[policy])}
            for version in versions:  # what was tried before the edit counts no more
                _try(tables, ids, key, version, reward, kind, said)
    return tables


def _version(task: Task, version: int, number: int) -> dict[str, Any]:
    """One version of a task, of which the second is another prompt, or says that the task is gone."""
    ask = [{"role": "user", "content": task.prompt + "?" * version}]
    tools = [TOOL] if task.tools else None
    row = {"responses_create_params": {"input": ask}, "expected": task.answer, "agent_ref": {"name": "a"}}
    return {
        "row_hash": f"{number}.{version}",
        "version": version,
        "removed": task.fate == "removed" and version == 1,
        "part": 0,
        "origin": "in.jsonl",
        "line": number + 1,
        "agent": ("x", None)[number % 2],
        "row": dump(row),
        "prompt": dump(ask),
        "tools": tools and dump(tools),
        "prompt_hash": hashlib.md5(dump([ask, tools]).encode()).hexdigest(),
        "answer": task.answer,
    }


def _try(
    tables: Tables,
    ids: Any,
    key: Mapping[str, Any],
    task: Mapping[str, Any],
    reward: float | None,
    kind: str,
    said: str,
) -> None:
    """Add the attempts at a rollout, and their verdicts."""
    reported = {"role": "assistant", "content": said}
    messages: list[dict[str, Any]] = [reported]
    if kind == "reasoning":
        messages = [{**reported, "reasoning_content": "hm"}]
    if kind in ("tools", "bad tools") and task["tools"]:
        given = '{"a": 1.0}' if kind == "tools" else "no JSON"
        call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": given}}
        answer = {"role": "tool", "tool_call_id": "c1", "content": ODD}
        messages = [{"role": "assistant", "content": "", "tool_calls": [call]}, answer, reported]
    called = len(messages) > 1
    # The policy q has a system prompt of its own.
    prompt = task["prompt"].replace("[", f"[{dump(SYSTEM)},", 1) if key["policy"] == "q" else None
    attempt = {
        **{**key, "row_hash": task["row_hash"], "attempt": 1, "part": 0, "run_id": "run", "engine": "scripted"},
        **{"model": "m", "request": '{"temperature":0.5}', "completion": dump(messages), "prompt": prompt},
        **{"text": said, "finish_reason": "length" if kind == "truncated" else "stop", "turns": 1 + called},
        **{"tool_calls": int(called), "tool_errors": int(kind == "bad tools" and called), "final": True},
        **{"tool_names": ["add"] * called, "input_tokens": 9, "output_tokens": 1 + len(said)},
        **{"token_turns": _tokens(len(messages)), "started_at": datetime(2026, 1, 1, tzinfo=UTC), "seconds": 0.5},
    }
    if kind == "failed":
        lost = dict.fromkeys(("completion", "text", "finish_reason", "token_turns"))
        failure = {**attempt, **lost, "attempt_id": f"a{next(ids):06d}", "error": "timeout", "final": False}
        tables["attempts"].append(failure)
    for _ in range(2 if kind == "twice" else 1):
        name = f"a{next(ids):06d}"
        tables["attempts"].append({**attempt, "attempt_id": name})
        verified = {**key, "attempt_id": name, "verifier": "exact", "run_id": "run", "cached": False, "seconds": 0.1}
        fields = [("reward", reward), ("length", float(len(said)))]
        verdict = {"reward": reward, "metrics": fields[reward is None :], "details": dump({"extracted": said})}
        if kind == "masked":
            verdict = {"reward": None, "metrics": [("mask_sample", 1.0)], "error": "masked"}
        old = {"reward": 0.25, "metrics": [], "verifier_version": "0", "verdict_id": f"v{next(ids):06d}"}
        tables["verdicts"].append({**verified, **old})
        if kind != "unjudged":
            new = {"verifier_version": "1", "verdict_id": f"v{next(ids):06d}"}
            tables["verdicts"].append({**verified, **verdict, **new})


def _tokens(turns: int) -> list[dict[str, Any]]:
    """Token ids of each model call; the last of several calls does not go on where the first one ended."""
    ids = [{"prompt_token_ids": [1, 2], "generation_token_ids": [3, 4], "generation_log_probs": [-0.5, -1.0]}]
    again = {"prompt_token_ids": [1, 9, 3], "generation_token_ids": [5], "generation_log_probs": [-0.25]}
    return ids + [again] * (turns > 1)


PLAN = [
    {
        **{"dataset": dataset, "policy": policy, "num_repeats": 2, "max_attempts": 3},
        **{"verifier": "exact", "verifier_version": "1"},
    }
    for dataset in "def"
    for policy in "pq"
]


def lay_out(root: Path, tables: Tables, parts: int, shuffle: int) -> Workspace:
    """Write a workspace: each dataset's rows of a table in so many part files, in an order that `shuffle` decides."""
    workspace = open_workspace(root, create=True)
    run = {"run_id": "run", "event": "start", "command": "collect", "happened_at": datetime(2026, 1, 1, tzinfo=UTC)}
    write_part(workspace, "runs", None, "run-start", schema.table_of(schema.RUNS, [{**run, "versions": "{}"}]))
    for name, rows in tables.items():
        for dataset in sorted({row["dataset"] for row in rows}):
            own = [row for row in rows if row["dataset"] == dataset]
            random.Random(shuffle).shuffle(own)
            for number in range(parts):
                piece = schema.table_of(schema.TABLES[name], own[number::parts]) if own[number::parts] else None
                if piece is not None:
                    write_part(workspace, name, dataset, f"part-{number:05d}", piece)
    return workspace
