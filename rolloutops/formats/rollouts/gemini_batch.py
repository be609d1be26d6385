"""Files of Gemini batches: `key` + `request` and `key` + `response` of the Gemini API (ai.google.dev/gemini-api/docs/
batch-api, July 2026), and rows with both of Vertex AI (batch-prediction-from-cloud-storage).

Each candidate is a rollout; output tokens, which are counted for all, are shared out evenly, and input tokens are those
of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rolloutops.errors import AttemptFailed
from rolloutops.formats.finish_reasons import finish_reason
from rolloutops.formats.gemini import from_contents, member, model_turn, tools_of
from rolloutops.formats.openai_replies import count_of, failure
from rolloutops.formats.rollouts.conversation import says_something
from rolloutops.formats.rollouts.row import VERIFIER, RolloutRow, share
from rolloutops.formats.strict_json import dump
from rolloutops.types import RolloutAnswer

LABEL, ENGINE = "Gemini batch", "import:gemini_batch"
NOT_PARAMS = ("contents", "systemInstruction", "system_instruction", "tools", "model")


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row holds a request of Gemini's, its response, or the error beside its key."""
    request, response = row.get("request"), row.get("response")
    if isinstance(request, Mapping) and "contents" in request:
        return True
    if isinstance(response, Mapping) and any(member(response, name) for name in ("candidates", "promptFeedback")):
        return True
    return _key(row) is not None and isinstance(row.get("error") or row.get("status"), Mapping)


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """A request with its task, a response with its rollouts, or both. Raises ValueError where neither can be read."""
    request, response, key = row.get("request"), row.get("response"), _key(row)
    task, params = (None, None) if not isinstance(request, Mapping) else (_task(request), _params(request))
    error = row.get("error") or row.get("status")
    answers: list[RolloutAnswer | AttemptFailed] = []
    if isinstance(response, Mapping) and response:
        answers = _answers(response, row, raw)
    elif error:
        answers = [_failure(error)]
    if task is None and key is None:
        raise ValueError("the response has no key that names its request, and no request")
    model = member(response, "modelVersion") or member(request, "model")
    what = "request" if not answers else "response" if task is None else "request and response"
    return RolloutRow(
        task,
        answers,
        # A row that has both says itself what was asked.
        request_id=None if task is not None and answers else key,
        model=model if isinstance(model, str) else None,
        params=params,
        shape=f"Gemini batch {what}",
    )


def _key(row: Mapping[str, Any]) -> str | None:
    """The request's key, beside it or in `metadata`."""
    key = row.get("key") if row.get("key") is not None else member(row.get("metadata"), "key")
    return None if key is None else str(key)


def _task(request: Mapping[str, Any]) -> dict[str, Any]:
    messages = from_contents(request.get("contents"), member(request, "systemInstruction"))
    tools = tools_of(request.get("tools"))
    return {"messages": messages, **({"tools": tools} if tools else {})}


def _params(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in NOT_PARAMS}


def _answers(response: Mapping[str, Any], row: Mapping[str, Any], raw: str) -> list[RolloutAnswer | AttemptFailed]:
    candidates = response.get("candidates")
    listed = [each for each in candidates if isinstance(each, Mapping)] if isinstance(candidates, list) else []
    if not listed:
        return [failure(400, {}, dump({"error": member(response, "promptFeedback") or "no candidates"}).encode())]
    usage = member(response, "usageMetadata")
    thought = count_of(member(usage, "thoughtsTokenCount"))
    said = count_of(member(usage, "candidatesTokenCount"))
    spent = None if said is None and thought is None else (said or 0) + (thought or 0)
    model = member(response, "modelVersion")
    found: list[RolloutAnswer | AttemptFailed] = []
    counts = zip(share(spent, len(listed)), share(thought, len(listed)), strict=True)
    for number, (each, (output, reasoning)) in enumerate(zip(listed, counts, strict=True)):
        message = model_turn(each.get("content") or {})
        calls = message.get("tool_calls", ())
        reason = finish_reason(member(each, "finishReason"), bool(calls))
        if not reason or (reason == "content_filter" and not says_something([message])):
            kind, why = "content_filter" if reason else "server_error", member(each, "finishMessage")
            found.append(AttemptFailed(kind, f"the model said nothing: {member(each, 'finishReason')}{_more(why)}"))
            continue
        own = raw if len(listed) == 1 else dump({**row, "response": {**response, "candidates": [each]}})
        found.append(
            RolloutAnswer(
                completion=[message],
                finish_reason=reason,
                model=model if isinstance(model, str) else None,
                returned=None,
                verifier=VERIFIER,
                raw=own,
                tool_names=[call["function"]["name"] for call in calls],
                input_tokens=count_of(member(usage, "promptTokenCount")) if number == 0 else None,
                output_tokens=output,
                reasoning_tokens=reasoning,
                cached_tokens=count_of(member(usage, "cachedContentTokenCount")) if number == 0 else None,
                refusal=refusal if isinstance(refusal := member(each, "finishMessage"), str) else None,
            )
        )
    return found


def _more(text: Any) -> str:
    return f": {text}" if text and isinstance(text, str) else ""


def _failure(error: Any) -> AttemptFailed:
    """Google's status object: `code` is an HTTP status, or one of gRPC's."""
    code = error.get("code") if isinstance(error, Mapping) else None
    status = code if isinstance(code, int) and code >= 400 else GRPC.get(code or -1, 500)
    return failure(status, {}, dump({"error": error}).encode())


GRPC = {3: 400, 5: 404, 7: 403, 8: 429, 9: 400, 11: 400, 16: 401}
"""gRPC code -> HTTP status (google/rpc/code.proto)."""
