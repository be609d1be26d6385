"""The export stage: rollouts as JSON lines in NeMo Gym's shape, for the tools and habits that expect a rollout file.

A row that was imported from NeMo Gym goes out as it came in, character for character, as often as it came in. One that
the `gym` engine brought is its server's reply with the ids. Any other is put together: the task's row, what the
verifier returned, the parameters that were in force, and the rollout as a Responses object.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rolloutops.config.plan import Plan
from rolloutops.config.query_limits import query_limits
from rolloutops.formats.finish_reasons import incomplete_details
from rolloutops.formats.nemo_gym import (
    ATTEMPT_INDEX,
    FAILURE_CLASS,
    ROLLOUT_INDEX,
    TASK_FIELDS,
    TASK_INDEX,
    class_of,
    create_params,
    index_of,
)
from rolloutops.formats.responses import to_responses
from rolloutops.formats.strict_json import dump
from rolloutops.store import sql
from rolloutops.store.output import replacing_file
from rolloutops.store.workspace import Workspace, connect

KEYS = """
CREATE TABLE exported AS
WITH places AS (
    SELECT dataset, task_id, row_number() OVER (ORDER BY dataset, part, line, task_id) - 1 AS place FROM tasks
)
SELECT a.dataset, a.attempt_id, p.place,
    row_number() OVER (ORDER BY p.place, a.policy, a.rollout_index, a.attempt_id) AS line_number,
    -- Two policies may both have a rollout 0 of a task: then the rollouts are counted on.
    min(a.policy) OVER (PARTITION BY p.place) <> max(a.policy) OVER (PARTITION BY p.place) AS mixed,
    dense_rank() OVER (PARTITION BY p.place ORDER BY a.policy, a.rollout_index) - 1 AS number
FROM attempts AS a
JOIN places AS p ON p.dataset = a.dataset AND p.task_id = a.task_id
SEMI JOIN tasks AS t ON t.dataset = a.dataset AND t.task_id = a.task_id AND t.row_hash = a.row_hash
LEFT JOIN good_attempts AS g ON g.dataset = a.dataset AND g.attempt_id = a.attempt_id
WHERE {wanted}
    AND CASE WHEN a.error IS NULL THEN g.attempt_id IS NOT NULL OR a.engine = 'import:gym' ELSE {failures} END
"""
"""What is exported, as keys. line_number: where the line of each is."""

ROWS = """
WITH verdict AS (
    SELECT v.dataset, v.attempt_id, v.reward, v.details, v.verifier
    FROM verdicts AS v
    SEMI JOIN good_verdicts AS g ON g.dataset = v.dataset AND g.verdict_id = v.verdict_id
)
SELECT e.listed[1] AS line_number, e.place, e.number, e.mixed, a.engine, a.rollout_index, a.attempt,
    a.error, a.error_message, a.final, {response} AS response, t.row::VARCHAR AS row,
    coalesce(a.prompt, t.prompt)::VARCHAR AS prompt, coalesce(a.tools, t.tools)::VARCHAR AS tools,
    a.completion::VARCHAR AS completion, a.request::VARCHAR AS request, a.model, a.attempt_id, a.finish_reason,
    a.input_tokens, a.output_tokens, a.cached_tokens, a.reasoning_tokens, v.reward,
    v.details::VARCHAR AS details, v.verifier, epoch(a.started_at) AS created_at
FROM attempts AS a
-- With a list DuckDB leaves the chunks of a few long rows as they are.
JOIN (SELECT *, [line_number] AS listed FROM exported) AS e ON e.dataset = a.dataset AND e.attempt_id = a.attempt_id
JOIN tasks AS t ON t.dataset = a.dataset AND t.task_id = a.task_id
LEFT JOIN verdict AS v ON v.dataset = a.dataset AND v.attempt_id = a.attempt_id
WHERE (a.error IS NOT NULL) = {failures}
"""
"""The rows, in any order: to sort them would take all payload into memory."""

AS_RECEIVED = """
SELECT count(*) > 0
FROM attempts AS a
SEMI JOIN exported AS e ON e.dataset = a.dataset AND e.attempt_id = a.attempt_id
WHERE a.engine IN ('import:gym', 'gym')
"""
"""Whether a rollout goes out as it came in; of others the column `response`, as large as all the rest, is not read."""

MATERIALIZED, FAILURES = "_materialized_inputs", "_failures"
"""What NeMo Gym adds to a rollout file's name for the files beside it."""


def export(workspace: Workspace, plan: Plan, output: Path, sidecars: bool = False, only_wanted: bool = False) -> int:
    """Write every rollout of the recipe's datasets to a JSONL file, atomically. Returns the number of lines.

    only_wanted: write only those that the recipe asks for: of its policies, within limit and num_repeats.
    sidecars: also write the materialized inputs and the failed attempts, to the files beside it that NeMo Gym names
    so.
    """
    con = connect(workspace, plan.rows)
    wanted = f"list_contains({sql.literal(list(plan.datasets))}, a.dataset)" if plan.datasets else "true"
    if only_wanted:
        keys = " AND ".join(f"w.{key} = a.{key}" for key in ("dataset", "task_id", "policy", "rollout_index"))
        wanted = f"EXISTS (SELECT 1 FROM wanted AS w WHERE {keys})"
    sql.run(con, KEYS.format(wanted=wanted, failures="true" if sidecars else "false"))
    if sidecars:
        _write(con, output.with_stem(output.stem + MATERIALIZED), "false", _materialized)
        _write(con, output.with_stem(output.stem + FAILURES), "true", _failure)
    return _write(con, output, "false", _rollout)


def _write(con: sql.Connection, output: Path, failures: str, line_of: Callable[[dict[str, Any]], str]) -> int:
    """Write the lines as they come, then copy each to its place."""
    places, starts, sizes = array("q"), array("q"), array("q")
    beside = output.parent if not output.exists() or output.is_file() else None  # else it is a device or a pipe
    with replacing_file(output) as path, TemporaryFile(dir=query_limits().spill or beside) as unordered:
        for row in _rows(con, failures):
            places.append(row["line_number"])
            starts.append(sum(sizes[-1:]) + sum(starts[-1:]))
            sizes.append(unordered.write(line_of(row).encode()) + unordered.write(b"\n"))
        unordered.flush()
        with path.open("wb") as file:
            for index in pc.sort_indices(pa.array(places)).to_pylist():
                file.write(os.pread(unordered.fileno(), sizes[index], starts[index]))
    return len(places)


def _rows(con: sql.Connection, failures: str) -> Iterator[dict[str, Any]]:
    with sql.streaming(con, as_written=True):
        read = failures == "true" or sql.rows(con, AS_RECEIVED)[0][0]
        query = ROWS.format(failures=failures, response="a.response" if read else "NULL")
        for batch in sql.stream(con, query, sql.PAYLOAD_ROWS):
            rows = batch.to_pylist()[::-1]
            del batch
            while rows:
                yield rows.pop()


def _rollout(row: dict[str, Any]) -> str:
    """One line of the rollout file."""
    if row["engine"] == "import:gym" and row["response"]:
        return str(row["response"])[1:-1]
    task = json.loads(row["row"])
    if row["engine"] == "gym" and row["response"]:
        return dump({**json.loads(row["response"])[0], **_ids(row, task)})
    details = json.loads(row["details"]) if row["details"] else {}
    said = {"responses_create_params": _params(row, task), "response": _response(row)}
    # The task's own fields win: what its verifier reads must be what it was.
    own = {key: value for key, value in task.items() if key not in ("reward", "response")}
    return dump({"reward": row["reward"], **details, **own, **said, **_ids(row, task), TASK_FIELDS: list(own)})


def _materialized(row: Mapping[str, Any]) -> str:
    """The task's row as it was asked."""
    task = json.loads(row["row"])
    return dump({**task, "responses_create_params": _params(row, task), **_ids(row, task)})


def _failure(row: Mapping[str, Any]) -> str:
    """One line of the failures file."""
    if row["engine"] == "import:gym" and row["response"]:
        return str(row["response"])[1:-1]
    task = json.loads(row["row"])
    return dump(
        {
            FAILURE_CLASS: class_of(row["error"]),
            "_ng_failure_type": row["error"],
            "_ng_failure_message": row["error_message"],
            "_ng_failure_http_status": None,
            "_ng_failure_response_body": row["response"],
            **({"_ng_failure_terminal": True} if row["final"] else {}),
            **_ids(row, task),
            ATTEMPT_INDEX: row["attempt"] - 1,
        }
    )


def _ids(row: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """NeMo Gym's two indexes, the task's own or its place among the tasks, and which of its rollouts it is; and its
    agent, for which the verifier stands where it has none."""
    own = index_of(task, TASK_INDEX)
    agent = task.get("agent_ref") or ({"name": row["verifier"]} if row["verifier"] else None)
    return {
        **({"agent_ref": agent} if agent else {}),
        TASK_INDEX: row["place"] if own is None else own,
        ROLLOUT_INDEX: row["number"] if row["mixed"] else row["rollout_index"],
    }


def _params(row: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    tools: Sequence[dict[str, Any]] | None = json.loads(row["tools"]) if row["tools"] else None
    return create_params(task, json.loads(row["prompt"]), tools, json.loads(row["request"] or "{}"))


def _response(row: dict[str, Any]) -> dict[str, Any]:
    """The rollout as a Responses object."""
    cut = incomplete_details(row["finish_reason"])
    return {
        "id": f"resp_{row['attempt_id']}",
        "created_at": row["created_at"],
        "object": "response",
        "model": row["model"],
        "status": "incomplete" if cut else "completed",
        "incomplete_details": cut,
        "output": to_responses(json.loads(row.pop("completion"))),  # it may be as large as all the rest
        "usage": {
            "input_tokens": row["input_tokens"] or 0,
            "input_tokens_details": {"cached_tokens": row["cached_tokens"] or 0},
            "output_tokens": row["output_tokens"] or 0,
            "output_tokens_details": {"reasoning_tokens": row["reasoning_tokens"] or 0},
            "total_tokens": (row["input_tokens"] or 0) + (row["output_tokens"] or 0),
        },
    }
