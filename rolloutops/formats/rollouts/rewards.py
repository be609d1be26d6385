"""Rewards in rows of rollouts, and what stands beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rolloutops.formats.rollouts.task_keys import OF_THE_TASK

USAGE = ("model", "finish_reason", "usage", "reward", "rewards", "metrics")
"""Fields that every reader of single rows knows."""


def returned(row: Mapping[str, Any], read: Collection[str]) -> dict[str, Any] | None:
    """What a verifier returned: the row's reward, its `metrics`, and its other fields. None where it has no reward.

    read: fields that are the conversation's.
    """
    if "reward" not in row:
        return None
    metrics = row.get("metrics")
    own = {
        key: value for key, value in row.items() if key not in read and key not in (*OF_THE_TASK, "metrics", "usage")
    }
    return {**(metrics if isinstance(metrics, Mapping) else {}), **own}


def left_out(row: Mapping[str, Any], read: Collection[str]) -> list[str]:
    """The fields that are neither the conversation's, nor the task's, nor numbers beside a reward, nor empty."""
    known = {*read, *OF_THE_TASK, *USAGE}
    numbers = "reward" in row
    return [
        key
        for key, value in row.items()
        if key not in known and value not in (None, "", [], {}) and not (numbers and isinstance(value, int | float))
    ]
