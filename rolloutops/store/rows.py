"""The rows that go into the tables, as types: the columns of `schema.py`, as those who write them have them.

Absent columns are null. JSON travels as text; a time is in microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class RolloutKey(TypedDict):
    """What names a rollout."""

    dataset: str
    task_id: str
    policy: str
    rollout_index: int


class AttemptRow(RolloutKey, total=False):
    """A row of `attempts`: an attempt at a rollout, whether it succeeded or failed."""

    row_hash: str
    attempt: int
    attempt_id: str
    part: int
    run_id: str
    engine: str
    model: str
    error: str
    error_message: str | None
    final: bool
    request: str
    response: str | None
    prompt: str | None
    tools: str | None
    completion: str
    text: str
    finish_reason: str | None
    turns: int
    tool_calls: int
    tool_errors: int | None
    tool_names: Sequence[str]
    input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cached_tokens: int | None
    service_tier: str | None
    token_turns: Sequence[Mapping[str, Any]] | None
    started_at: int
    seconds: float
    model_seconds: float
    tool_seconds: float


class VerdictRow(RolloutKey):
    """A row of `verdicts`: what a verifier made of an attempt."""

    verdict_id: str
    attempt_id: str
    verifier: str
    verifier_version: str | None
    reward: float | None
    metrics: Sequence[tuple[str, float]]
    details: str
    error: str | None
    error_message: str | None
    seconds: float
    cached: bool
    run_id: str
    cpu_seconds: float | None
