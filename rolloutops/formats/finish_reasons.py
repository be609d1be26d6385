"""Why a model stopped: the words of all providers as rolloutops' own few.

`stop`, `length`, `tool_calls` and `content_filter` are the words of OpenAI. Any word that is not known is kept as it
was received: a rollout is finished only where its reason is known to say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FINISHED = ("stop", "tool_calls")
"""Reasons of a model that had its say; `finished_reasons` in sql/macros.sql are the same."""

WORDS = {
    "stop": "stop eos eos_token stop_token stop_sequence end_turn complete completed matched_stop finish_reason_stop",
    "length": """length max_tokens max_output_tokens max_new_tokens max_completion_tokens max_length model_length
        token_limit context_length model_context_window_exceeded error_limit repetition""",
    "tool_calls": "tool_calls tool_call tool_use function_call",
    "content_filter": """content_filter content_filtered safety recitation prohibited_content blocklist spii
        image_safety error_toxic refusal sensitive guardrail_intervened""",
    "": "error abort aborted cancelled insufficient_system_resource network_error user_cancel timeout",
}
"""Reason -> how OpenAI, Anthropic, Gemini, Mistral, DeepSeek, Cohere, Zhipu, Bedrock, TGI, SGLang and vLLM say it, in
lower case. Under "": the server broke the answer off."""
REPLAY_REFUSED = "replay_refused"
"""The endpoint refused the model's own message in the conversation's next request. The rollout is kept: without its bad
messages a policy would pass more often than it does."""
GENERATION_REFUSED = "generation_refused"
"""The endpoint refused what the model had written, or could not read it. The rollout is kept for the same reason."""
REFUSED = {
    REPLAY_REFUSED: "ended early: the endpoint refused the model's own message",
    GENERATION_REFUSED: "kept though unfinished: the endpoint refused what the model had written",
}
"""The two, with what they mean."""
MEANING = {word: reason for reason, words in WORDS.items() for word in words.split()}


def finish_reason(received: Any, called: bool = False) -> str:
    """The reason that a provider's word stands for; "" where the server broke the answer off, the word itself where it
    is not known. called: the answer calls tools. Nothing received is `stop`: some servers send none."""
    if isinstance(received, Mapping):  # SGLang's own: {"type": "length", "length": 16}
        received = received.get("type")
    word = str(received).strip() if received is not None else ""
    reason = known(word) if word else "stop"
    return "tool_calls" if reason == "stop" and called else reason


def known(word: str) -> str:
    """As `finish_reason`, of one word."""
    # Gemini's OpenAI endpoint says `content_filter: PROHIBITED_CONTENT`, its Python names `FinishReason.MAX_TOKENS`.
    plain = word.lower().removeprefix("finishreason.").partition(":")[0].strip()
    return MEANING.get(plain, word)


def finish_of_response(response: Mapping[str, Any], called: bool) -> str:
    """The reason of a Responses object: `incomplete_details.reason`, else its status."""
    details = response.get("incomplete_details")
    why = details.get("reason") if isinstance(details, Mapping) else None
    if why:
        return known(str(why)) or str(why)
    if response.get("status") == "incomplete":
        return "length"
    return "tool_calls" if called else "stop"


def is_cut_off(reason: str | None) -> bool:
    """Whether an answer was truncated, or may have been: by any reason but FINISHED's, where one is said."""
    return reason is not None and reason not in FINISHED


def incomplete_details(reason: str | None) -> dict[str, str] | None:
    """A cut-off as Responses objects and NeMo Gym's servers have it, which know two reasons; None where it is none."""
    if not is_cut_off(reason):
        return None
    return {"reason": "content_filter" if reason == "content_filter" else "max_output_tokens"}
