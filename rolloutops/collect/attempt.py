"""An attempt before and after: the pending rollout, what has happened to it, and the row that it becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rolloutops.config.settings import Collect
from rolloutops.errors import AttemptFailed
from rolloutops.formats.columns import HOW_SENT
from rolloutops.formats.strict_json import dump, parse
from rolloutops.formats.task_rows import text_of
from rolloutops.ingest.media import MediaFolder
from rolloutops.store.rows import AttemptRow
from rolloutops.types import Message, ModelAnswer, Rollout, RolloutAnswer, Task

COUNTS = ("input_tokens", "output_tokens", "reasoning_tokens", "cached_tokens")
"""What answers tell of tokens: columns of `attempts`."""


@dataclass(slots=True)
class PendingRollout:
    """One pending rollout: the task, which repeat, which attempt, and the parameters as merged for it, with their
    JSON. tries: the attempts that counted so far. give_up_at: the time (time.monotonic) after which a failure is final;
    None until it is tried for the first time. failed_with: why the try before failed. media: where the
    local media of the prompt are; None where it has none. characters: of the task's row and prompt, as JSON.
    """

    task: Task
    row_hash: str
    part: int
    policy: str
    rollout_index: int
    attempt: int
    settings: Collect
    params: Mapping[str, Any]
    request: str
    tries: int = 0
    give_up_at: float | None = None
    failed_with: str = ""
    media: MediaFolder | None = None
    characters: int = 0

    @property
    def key(self) -> str:
        return f"{self.task.dataset}/{self.task.task_id}/{self.rollout_index}"


def effective_params(row: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The task's own `responses_create_params` without its conversation and what would change how replies are sent, the
    overrides merged over it, shallowly."""
    own = row.get("responses_create_params")
    kept = {k: v for k, v in own.items() if k not in ("input", "tools", *HOW_SENT)} if isinstance(own, dict) else {}
    return {k: v for k, v in {**kept, **overrides}.items() if v is not None}


def asks_to_stream(row: Mapping[str, Any]) -> bool:
    """Say whether a task's own parameters ask for a reply that is sent otherwise than whole: themselves, or in their
    `extra_body`, which NeMo Gym's rows have as JSON text in `metadata`."""
    own = row.get("responses_create_params")
    if not isinstance(own, dict):
        return False
    metadata = own.get("metadata")
    places = [own, own.get("extra_body"), metadata.get("extra_body") if isinstance(metadata, dict) else None]
    return any(isinstance(place := _parsed(each), dict) and any(map(place.get, HOW_SENT)) for each in places)


def _parsed(value: Any) -> Any:
    """JSON text as what it holds; None where it is not JSON, and anything else as it is."""
    try:
        return parse(value) if isinstance(value, str) else value
    except ValueError:
        return None


def of_repeat(params: Mapping[str, Any], rollout_index: int) -> Mapping[str, Any]:
    """The parameters of one repeat: a `seed` is moved on by its index, or an endpoint that honors it would answer each
    repeat alike. So is one in `extra_body`."""
    moved = {
        name: of_repeat(value, rollout_index) if isinstance(value, Mapping) else value + rollout_index
        for name, value in params.items()
        if (name == "seed" and type(value) is int) or (name == "extra_body" and isinstance(value, Mapping))
    }
    return {**params, **moved} if moved and rollout_index else params


@dataclass(slots=True)
class Trace:
    """What has happened in an attempt so far; complete or not, it is what the row is made of."""

    completion: list[Message] = field(default_factory=list)
    returned: dict[int, Any] = field(default_factory=dict)  # positions in completion -> ModelAnswer.returned
    answers: list[ModelAnswer] = field(default_factory=list)
    tool_names: list[str] = field(default_factory=list)
    tool_errors: int = 0
    finish_reason: str | None = None
    refusal: str | None = None  # what the endpoint said where finish_reason is one of REFUSED
    model_seconds: float = 0.0
    tool_seconds: float = 0.0
    waited: float = 0.0
    server: int | None = None
    whole: RolloutAnswer | None = None
    give_up_at: float | None = None
    failed_with: str = ""


@dataclass(slots=True)
class Attempt:
    """How an attempt ended.

    prompt, tools: as they were offered; new_prompt: it is not the task's own. started: seconds since 1970; seconds:
    how long it took. trace: what happened. failure: None where it succeeded.
    """

    pending: PendingRollout
    prompt: Sequence[Message]
    new_prompt: bool
    tools: Sequence[dict[str, Any]] | None
    started: float
    seconds: float
    trace: Trace
    failure: AttemptFailed | None = None

    @property
    def kind(self) -> str | None:
        """The kind of failure; None where it succeeded."""
        return None if self.failure is None else self.failure.kind

    def rollout(self) -> Rollout:
        """What a verifier verifies, of an attempt that succeeded."""
        return Rollout(self.trace.completion, text_of(self.trace.completion), self.trace.finish_reason)

    def row(self) -> AttemptRow:
        """The columns of `attempts` but for attempt_id and run_id."""
        pending, trace, failure, whole = self.pending, self.trace, self.failure, self.trace.whole
        reported: Sequence[ModelAnswer | RolloutAnswer] = trace.answers if whole is None else [whole]
        last = reported[-1] if reported else None
        row: AttemptRow = {
            "dataset": pending.task.dataset,
            "task_id": pending.task.task_id,
            "row_hash": pending.row_hash,
            "policy": pending.policy,
            "rollout_index": pending.rollout_index,
            "attempt": pending.attempt,
            "part": pending.part,
            "engine": pending.settings.engine,
            "model": (last.model if last else None) or pending.settings.model,
            "final": failure.final if failure else True,
            "request": pending.request,
            "prompt": dump(self.prompt) if self.new_prompt else None,
            "tools": None if pending.task.tools or not self.tools else dump(self.tools),
            "started_at": int(self.started * 1e6),
            "seconds": self.seconds,
            "turns": len(trace.answers) if whole is None else whole.turns,
            "tool_calls": len(trace.tool_names),
            "tool_errors": trace.tool_errors if whole is None else None,
            "tool_names": trace.tool_names,
            "model_seconds": trace.model_seconds,
            "tool_seconds": trace.tool_seconds,
            "service_tier": last.service_tier if last else None,
        }
        row["input_tokens"], row["output_tokens"], row["reasoning_tokens"], row["cached_tokens"] = (
            getattr(last, name) if len(reported) == 1 else _sum(getattr(answer, name) for answer in reported)
            for name in COUNTS
        )
        if failure:
            return {**row, "error": failure.kind, "error_message": failure.message, "response": failure.raw}
        if whole is not None and whole.prompt is not None and list(whole.prompt) != list(self.prompt):
            row["prompt"] = dump(whole.prompt)
        row["completion"], row["text"] = dump(trace.completion), text_of(trace.completion)
        row["finish_reason"], row["error_message"] = trace.finish_reason, trace.refusal
        if pending.settings.keep_response:
            row["response"] = "[" + ",".join(answer.raw or "null" for answer in reported) + "]"
        if pending.settings.token_ids:
            row["token_turns"] = _token_turns(trace.answers) if whole is None else whole.token_turns
        return row


def _sum(counts: Iterable[int | None]) -> int | None:
    """Tokens over several model calls; null where no call told."""
    reported = [count for count in counts if count is not None]
    return sum(reported) if reported else None


def _token_turns(answers: Sequence[ModelAnswer]) -> list[dict[str, Any]] | None:
    turns = [
        {
            "prompt_token_ids": list(answer.prompt_token_ids or ()),
            "generation_token_ids": list(answer.generation_token_ids),
            "generation_log_probs": list(answer.generation_log_probs or ()),
        }
        for answer in answers
        if answer.generation_token_ids
    ]
    return turns or None
