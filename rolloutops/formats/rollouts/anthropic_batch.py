"""The two files of an Anthropic message batch: requests and results (anthropic 0.75, types/messages/
message_batch_individual_response.py and batch_create_params.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rolloutops.errors import AttemptFailed
from rolloutops.formats.anthropic import ERRORS, from_anthropic, tools_of
from rolloutops.formats.finish_reasons import finish_reason
from rolloutops.formats.openai_replies import count_of, failure
from rolloutops.formats.rollouts.conversation import says_something
from rolloutops.formats.rollouts.row import VERIFIER, RolloutRow
from rolloutops.formats.strict_json import dump
from rolloutops.types import RolloutAnswer

LABEL, ENGINE = "Anthropic batch", "import:anthropic_batch"
ASKED = ("messages", "system", "tools")
FAILED = ("errored", "canceled", "expired")


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row is a request or a result of a message batch."""
    result = row.get("result")
    return "custom_id" in row and ("params" in row or (isinstance(result, Mapping) and "type" in result))


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """A request with its task, or a result with its rollout."""
    request_id = str(row["custom_id"])
    if "result" in row:
        answer = answer_of(row["result"], raw)
        model = answer.model if isinstance(answer, RolloutAnswer) else None
        return RolloutRow(None, [answer], request_id=request_id, model=model, shape="Anthropic batch result")
    params = row["params"]
    if not isinstance(params, Mapping) or not isinstance(params.get("messages"), list):
        raise ValueError("params has no list of messages")
    tools = tools_of(params.get("tools"))
    task = {"messages": from_anthropic(params["messages"], params.get("system")), **({"tools": tools} if tools else {})}
    rest = {key: value for key, value in params.items() if key not in ASKED}
    model = params["model"] if isinstance(params.get("model"), str) else None
    return RolloutRow(task, request_id=request_id, model=model, params=rest, shape="Anthropic batch request")


def answer_of(result: Mapping[str, Any], raw: str) -> RolloutAnswer | AttemptFailed:
    """The rollout of a result, or why there is none. Raises ValueError where it has no message."""
    message = result.get("message")
    if result["type"] in FAILED:
        if result["type"] != "errored":
            return AttemptFailed("server_error", f"the batch's request is {result['type']}", final=False)
        error = result.get("error")
        error = error["error"] if isinstance(error, Mapping) and isinstance(error.get("error"), Mapping) else error
        kind = error.get("type") if isinstance(error, Mapping) else None
        return failure(ERRORS.get(str(kind), 500), {}, dump({"error": error}).encode())
    if not isinstance(message, Mapping):
        raise ValueError(f"result has type {result['type']!r} and no message")
    completion = from_anthropic([{"role": "assistant", "content": message.get("content")}])
    calls = completion[0].get("tool_calls", ())
    usage = message.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    cached, written = (count_of(usage.get(f"cache_{what}_input_tokens")) for what in ("read", "creation"))
    fresh = count_of(usage.get("input_tokens"))
    reason = finish_reason(message.get("stop_reason"), bool(calls))
    if not says_something(completion) and reason == "content_filter":
        return AttemptFailed("content_filter", "the model refused, and said nothing")
    model = message.get("model")
    tier = usage.get("service_tier")
    return RolloutAnswer(
        completion=completion,
        finish_reason=reason,
        model=model if isinstance(model, str) else None,
        returned=None,
        verifier=VERIFIER,
        raw=raw,
        tool_names=[call["function"]["name"] for call in calls],
        input_tokens=None if fresh is None else fresh + (cached or 0) + (written or 0),
        output_tokens=count_of(usage.get("output_tokens")),
        cached_tokens=cached,
        service_tier=tier if isinstance(tier, str) else None,
    )
