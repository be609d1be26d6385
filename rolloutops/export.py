"""Rollouts as JSON lines in NeMo Gym's shape, for the tools and habits that expect a rollout file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rolloutops import sql
from rolloutops.jsontext import dump
from rolloutops.recipe import Recipe
from rolloutops.responses import to_responses, to_responses_tools
from rolloutops.workspace import Workspace, connect

ROLLOUTS = """
WITH places AS (
    SELECT dataset, task_id, row_number() OVER (ORDER BY dataset, part, line, task_id) - 1 AS place FROM tasks
)
SELECT p.place, r.rollout_index, r.row::VARCHAR AS row, r.prompt::VARCHAR AS prompt, r.tools::VARCHAR AS tools,
    r.completion::VARCHAR AS completion, r.request::VARCHAR AS request, r.model, r.attempt_id, r.finish_reason,
    r.input_tokens, r.output_tokens, r.cached_tokens, r.reasoning_tokens, r.reward, r.details::VARCHAR AS details,
    epoch(r.started_at) AS created_at
FROM rollouts AS r
JOIN places AS p ON p.dataset = r.dataset AND p.task_id = r.task_id
ORDER BY p.place, r.policy, r.rollout_index
"""


def export(workspace: Workspace, recipe: Recipe, output: Path) -> int:
    """Write every rollout of the recipe's workspace to a JSONL file, atomically. Returns the number of lines."""
    con = connect(workspace, recipe.plan())
    output.parent.mkdir(parents=True, exist_ok=True)
    hidden = output.with_name(f".{output.name}.tmp")
    count = 0
    with hidden.open("w", encoding="utf-8") as file:
        for row in _rows(con):
            file.write(dump(row) + "\n")
            count += 1
    os.replace(hidden, output)
    return count


def _rows(con: sql.Connection) -> Iterator[dict[str, Any]]:
    for batch in sql.stream(con, ROLLOUTS):
        for row in batch.to_pylist():
            yield _gym_row(row)


def _gym_row(row: dict[str, Any]) -> dict[str, Any]:
    """The task's row, the parameters that were in force, the response and the verdict."""
    tools = to_responses_tools(json.loads(row["tools"])) if row["tools"] else []
    return {
        **json.loads(row["row"]),
        **(json.loads(row["details"]) if row["details"] else {}),
        "responses_create_params": {
            "input": to_responses(json.loads(row["prompt"])),
            **({"tools": tools} if tools else {}),
            **json.loads(row["request"]),
        },
        "response": _response(row),
        "reward": row["reward"],
        "_ng_task_index": row["place"],
        "_ng_rollout_index": row["rollout_index"],
    }


def _response(row: dict[str, Any]) -> dict[str, Any]:
    cut = row["finish_reason"] == "length"
    return {
        "id": f"resp_{row['attempt_id']}",
        "created_at": row["created_at"],
        "object": "response",
        "model": row["model"],
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": to_responses(json.loads(row["completion"])),
        "usage": {
            "input_tokens": row["input_tokens"] or 0,
            "input_tokens_details": {"cached_tokens": row["cached_tokens"] or 0},
            "output_tokens": row["output_tokens"] or 0,
            "output_tokens_details": {"reasoning_tokens": row["reasoning_tokens"] or 0},
            "total_tokens": (row["input_tokens"] or 0) + (row["output_tokens"] or 0),
        },
    }
