"""Which fields of a rollout's row belong to its task: its names, its media, and what a verifier reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rolloutops.formats.columns import ANSWER_COLUMNS, ENVIRONMENT_COLUMNS, MEDIA_COLUMNS

NAMES = (
    "agent_ref",
    "task_source",
    "skills_ref",
    "task_id",
    "task_input",
    "uuid",
    "id",
    "example_id",
    "metadata",
    "canonical_solution",
    "code",
)
"""Other fields that come from the task. They may differ between rollouts of one task."""

READ_BY_VERIFIERS = (
    *ANSWER_COLUMNS,
    *("question", "problem"),
    *(name for names in ENVIRONMENT_COLUMNS.values() for name in names if name not in NAMES),
    *("prefix", "prompt_prefix", "starter_code", "context", "info", "task"),
)
"""Fields of a task's row that the shipped environments read, and the environments of the package `verifiers`. Rollouts
in which one differs are of two tasks."""

OF_THE_TASK = tuple(dict.fromkeys((*NAMES, *READ_BY_VERIFIERS, *MEDIA_COLUMNS)))


def task_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a rollout's row that are its task's. A label that is true or false says how good the rollout is
    (TRL's KTO format), and not what to answer."""
    return {
        key: row[key]
        for key in OF_THE_TASK
        if row.get(key) is not None and not (key == "label" and isinstance(row[key], bool))
    }


def verified_by(task: Mapping[str, Any]) -> dict[str, Any]:
    """What a verifier reads of a task's row, for its identity. `metadata` counts where it is an entry of reasoning_gym:
    elsewhere it is a note on the rollout."""
    found = {key: task[key] for key in READ_BY_VERIFIERS if task.get(key) is not None}
    about = task.get("metadata")
    if isinstance(about, Mapping) and "source_dataset" in about:
        found["metadata"] = about
    return found
