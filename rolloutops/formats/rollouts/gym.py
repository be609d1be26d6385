"""NeMo Gym's rollout files: rollouts and failures (nemo_gym 0.3, rollout_collection.py; see `formats/nemo_gym.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rolloutops.formats.nemo_gym import (
    ATTEMPT_INDEX,
    FAILURE_CLASS,
    ROLLOUT_INDEX,
    TASK_FIELDS,
    TASK_INDEX,
    read_rollout,
    refused,
)
from rolloutops.formats.responses import unread_items
from rolloutops.formats.rollouts.conversation import says_something
from rolloutops.formats.rollouts.prompt_answer import ANSWERS
from rolloutops.formats.rollouts.row import RolloutRow
from rolloutops.formats.rollouts.task_keys import task_fields
from rolloutops.types import RolloutAnswer

LABEL, ENGINE = "NeMo Gym rollout", "import:gym"
ASKED_PARAMS = ("input", "tools", "instructions", "tool_choice", "parallel_tool_calls")
"""What of `responses_create_params` is the task's; the rest is how one run asked it."""
PER_ROLLOUT = (ROLLOUT_INDEX, ATTEMPT_INDEX, "_ng_rollout_id")
"""Keys of a materialized input that are not the task's."""
OWN = ("responses_create_params", TASK_INDEX, ROLLOUT_INDEX, FAILURE_CLASS, "rollout_kind")
"""Keys that only NeMo Gym's rows have; `rollout_kind` is that of rows that were written by hand, without a prompt."""


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row has a key that only NeMo Gym writes."""
    return any(key in row for key in OWN)


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """A rollout, or a failed attempt, whose task another row may have. A rollout may be empty: what was said in it is
    lost then, and export still gives the row back."""
    if FAILURE_CLASS in row and (failed := refused(row)) is not None:
        known = isinstance(row.get("responses_create_params"), Mapping)
        return RolloutRow(own_task(row) if known else None, [failed])
    answer = read_rollout(row, raw)
    return RolloutRow(own_task(row), [answer], model=answer.model, left_out=list(_unread(row, answer)))


def _unread(row: Mapping[str, Any], answer: RolloutAnswer) -> Iterator[str]:
    """What of a rollout was not read: unknown items of its output; where no answer was found, the fields that may hold
    one."""
    response = row.get("response")
    output = response.get("output") if isinstance(response, Mapping) else None
    if isinstance(output, list):
        yield from (f"response.output[].{kind}" for kind in unread_items(output))
    if not says_something(answer.completion):
        held = [key for key in ANSWERS if row.get(key) not in (None, "", [], {})]
        yield from (key for key in held if key != "response" or not isinstance(output, list))


def own_task(row: Mapping[str, Any]) -> dict[str, Any]:
    """The task's row, as far as a rollout row tells it. Where it has neither prompt nor index, all that is not the
    rollout's own is the task: rather two tasks too many than two that are taken for one."""
    params, named = row.get("responses_create_params"), row.get(TASK_FIELDS)
    if isinstance(named, list):  # a row that `export` put together
        own = {str(key): row[key] for key in named if key in row}
        return own | ({"responses_create_params": _requested(params)} if "responses_create_params" in own else {})
    task = {key: row[key] for key in (TASK_INDEX,) if row.get(key) is not None} | task_fields(row)
    if isinstance(params, Mapping):
        requested = _requested(params)
        if requested.get("input") or TASK_INDEX in row:
            return {"responses_create_params": requested, **task}
    return {key: value for key, value in row.items() if key not in ("response", "reward", *PER_ROLLOUT)}


def _requested(params: Any) -> dict[str, Any]:
    """The task's part of `responses_create_params`: the input, and what else is not a parameter of one run."""
    params = params if isinstance(params, Mapping) else {}
    given = {key: params[key] for key in ASKED_PARAMS if params.get(key) is not None and params[key] != []}
    return {"input": params.get("input"), **given}
