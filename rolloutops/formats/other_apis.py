"""Replies of Anthropic's and Gemini's own APIs, whole or streamed, as the Chat completion that they amount to.

Gateways hand them on as they came, to whoever asked in OpenAI's form. Anthropic's events as of its guide `Streaming
messages` (anthropic 0.75, types/raw_message_stream_event.py); Gemini's `streamGenerateContent` answers with a JSON
array of GenerateContentResponse objects, or with `alt=sse` with one in each event (google-genai 1.50, types.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rolloutops.errors import AttemptFailed
from rolloutops.formats.anthropic import from_anthropic
from rolloutops.formats.gemini import member, model_turn

CUT = "the stream ended before the answer was complete"
PIECES = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
"""Anthropic's deltas -> the key of the block that grows; each has it under the same name."""


def is_message(reply: Mapping[str, Any]) -> bool:
    """Whether a reply is a whole message of Anthropic's API."""
    return reply.get("type") == "message" and reply.get("role") == "assistant" and "content" in reply


def is_generated(reply: Any) -> bool:
    """Whether a reply, or a piece of one, is Gemini's GenerateContentResponse."""
    if not isinstance(reply, Mapping) or "choices" in reply:
        return False
    return isinstance(reply.get("candidates"), list) or bool(member(reply, "promptFeedback"))


def of_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Anthropic's message as a Chat completion. Raises ValueError where its content is none."""
    said = from_anthropic([{"role": "assistant", "content": message.get("content")}])[0]
    usage = message.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    cached = usage.get("cache_read_input_tokens")
    read = [usage.get("input_tokens"), cached, usage.get("cache_creation_input_tokens")]
    spent = {"prompt_tokens": _total(read), "completion_tokens": usage.get("output_tokens")}
    return _completion(message.get("model"), said, message.get("stop_reason"), spent, cached)


def of_message_events(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Anthropic's stream as a Chat completion. Raises AttemptFailed where it did not end."""
    message: dict[str, Any] = {}
    blocks: dict[Any, dict[str, Any]] = {}
    for event in events:
        kind = event.get("type")
        if kind == "message_start":
            message = {**event["message"]}
        elif kind == "content_block_start":
            blocks[event["index"]] = {**event["content_block"]}
        elif kind == "content_block_delta":
            _grow(blocks.setdefault(event["index"], {"type": "text", "text": ""}), event["delta"])
        elif kind == "message_delta":
            message |= {key: value for key, value in event["delta"].items() if value is not None}
            usage = event.get("usage")
            message["usage"] = {**(message.get("usage") or {}), **_known(usage if isinstance(usage, dict) else {})}
    if not message.get("stop_reason"):
        raise AttemptFailed("bad_response", CUT)
    return of_message({**message, "content": [_closed(blocks[place]) for place in sorted(blocks)]})


def of_generated(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gemini's response, in one piece or several, as a Chat completion. Raises AttemptFailed where it did not end."""
    parts: list[dict[str, Any]] = []
    reason = None
    held: dict[str, Any] = {}
    for chunk in chunks:
        held |= _known(chunk)
        for candidate in chunk.get("candidates") or ():
            if candidate.get("index"):
                continue
            content = candidate.get("content")
            for part in (content.get("parts") if isinstance(content, Mapping) else None) or ():
                _add_part(parts, part)
            reason = member(candidate, "finishReason") or reason
    feedback = member(held, "promptFeedback")
    if reason is None and not parts and feedback:
        return {"object": "chat.completion", "choices": [], "promptFeedback": feedback}
    if reason is None:
        raise AttemptFailed("bad_response", CUT)
    usage = member(held, "usageMetadata")
    thought, said = member(usage, "thoughtsTokenCount"), member(usage, "candidatesTokenCount")
    spent = {"prompt_tokens": member(usage, "promptTokenCount"), "completion_tokens": _total([said, thought])}
    if thought is not None:
        spent["completion_tokens_details"] = {"reasoning_tokens": thought}
    turn = model_turn({"parts": parts})
    return _completion(member(held, "modelVersion"), turn, reason, spent, member(usage, "cachedContentTokenCount"))


def _completion(
    model: Any, message: Mapping[str, Any], reason: Any, usage: dict[str, Any], cached: Any
) -> dict[str, Any]:
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"object": "chat.completion", "model": model, "choices": [choice], "usage": {**usage, **details}}


def _grow(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add a piece to a block of Anthropic's."""
    kind = str(delta.get("type"))
    if kind == "input_json_delta":
        block["partial_json"] = block.get("partial_json", "") + str(delta.get("partial_json") or "")
    elif kind in PIECES:
        key = PIECES[kind]
        block[key] = str(block.get(key) or "") + str(delta.get(key) or "")
    elif kind == "citations_delta":
        block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]


def _closed(block: dict[str, Any]) -> dict[str, Any]:
    """A block whose input is whole: an object, or the text that was cut off."""
    text = block.pop("partial_json", "")
    if not text:
        return block
    try:
        return {**block, "input": orjson.loads(text)}
    except orjson.JSONDecodeError:
        return {**block, "input": text}


def _add_part(parts: list[dict[str, Any]], part: Any) -> None:
    """Add a part of Gemini's; text goes on in the last one, where both are thoughts or neither is."""
    if not isinstance(part, Mapping):
        return
    last = parts[-1] if parts else {}
    texts = isinstance(part.get("text"), str) and isinstance(last.get("text"), str)
    if texts and bool(part.get("thought")) == bool(last.get("thought")):
        parts[-1] = {**last, **part, "text": last["text"] + part["text"]}
    else:
        parts.append(dict(part))


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _total(counts: Sequence[Any]) -> int | None:
    """The sum of the counts that were told; None where none was."""
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known else None
