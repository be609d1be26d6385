"""Policy engines: who answers one model call.

An engine is made by a factory `factory(model, **engine_args)`, looked up by name or `package.module:attr`
(`plugins.py`). Errors of one call are raised as `AttemptFailed`, an engine that cannot start or died as `EngineError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Message = dict[str, Any]
"""One canonical chat message: see messages.py."""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """What a policy is asked: the conversation so far and the effective parameters.

    params: OpenAI Responses names (temperature, top_p, max_output_tokens, seed, ...), as merged for this task.
    key: `dataset/task_id/rollout_index`, for engines that answer by rule. turn: model call of this rollout, from 0.
    """

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] | None
    params: Mapping[str, Any]
    key: str = ""
    turn: int = 0
    attempt: int = 1
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an endpoint's headers say of its rate limits: so many a minute, and what was left of them."""

    requests: float | None = None
    requests_left: float | None = None
    tokens: float | None = None
    tokens_left: float | None = None


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """One assistant message, canonical, and what it cost.

    finish_reason: stop, length, tool_calls or content_filter. raw: the answer as received, as JSON text.
    The three token lists are what the engine sampled from and sampled; None where they were not asked for.
    limits: the endpoint's rate limits, where it tells them.
    """

    message: Message
    finish_reason: str
    model: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    raw: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    generation_token_ids: Sequence[int] | None = None
    generation_log_probs: Sequence[float] | None = None
    limits: Limits | None = None


class Engine(Protocol):
    """A policy engine. `start` is called once before the first call (load the model, open the session), `stop` once
    after the last. `answer` is called concurrently."""

    async def start(self) -> None: ...

    async def answer(self, call: ModelCall) -> ModelAnswer: ...

    async def stop(self) -> None: ...
