"""What a row of an imported file says, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rolloutops.errors import AttemptFailed
from rolloutops.types import ModelAnswer, RolloutAnswer

VERIFIER = "imported"
"""The verifier of rewards that came without the name of one."""


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """What a row says: the task that was asked, what became of its rollouts, or both.

    task: the task's row, as `prompt_of_row` reads it; None where another row has it. answers: finished rollouts and
    failed attempts, in their order. request_id: what ties a request to its answers. model: the model of either.
    params: the parameters of a request. left_out: fields that no reader knows; they stay in the verbatim row. shape:
    what to call the row's shape, where its format has several. started_at: microseconds since 1970.
    """

    task: Mapping[str, Any] | None
    answers: Sequence[RolloutAnswer | AttemptFailed] = ()
    request_id: str | None = None
    model: str | None = None
    params: Mapping[str, Any] | None = None
    left_out: Sequence[str] = ()
    shape: str | None = None
    started_at: int | None = None


def keys_of(row: Mapping[str, Any]) -> str:
    """The keys of a row, for the sentence that rejects it."""
    listed = sorted(row)
    more = f" and {len(listed) - 12} more" if len(listed) > 12 else ""
    return (", ".join(listed[:12]) or "none") + more


def one_turn(answer: ModelAnswer, raw: str) -> RolloutAnswer:
    """A model's answer as a rollout of one turn. raw: the row that holds it, as JSON text."""
    turn = {
        "prompt_token_ids": list(answer.prompt_token_ids or ()),
        "generation_token_ids": list(answer.generation_token_ids or ()),
        "generation_log_probs": list(answer.generation_log_probs or ()),
    }
    return RolloutAnswer(
        completion=[answer.message],
        finish_reason=answer.finish_reason,
        model=answer.model or None,
        returned=None,
        verifier=VERIFIER,
        raw=raw,
        tool_names=[call["function"]["name"] for call in answer.message.get("tool_calls", ())],
        input_tokens=answer.input_tokens,
        output_tokens=answer.output_tokens,
        reasoning_tokens=answer.reasoning_tokens,
        cached_tokens=answer.cached_tokens,
        token_turns=[turn] if answer.generation_token_ids else None,
        service_tier=answer.service_tier,
        refusal=answer.refusal,
    )


def share(total: int | None, parts: int) -> list[int | None]:
    """Share tokens that were counted for several answers together out evenly, the rest to the first ones."""
    if total is None:
        return [None] * parts
    return [total // parts + (number < total % parts) for number in range(parts)]
