"""What an OpenAI-compatible endpoint sent back, as a `ModelAnswer` or as the `AttemptFailed` that it means.

Nothing here touches the network, so the same code reads a live answer and a line of a batch file. An answer that was
truncated or is empty is an answer, unless a content filter left nothing of it; what cannot be read as one keeps its
first 2 KB in the failure's `raw`.
"""

from __future__ import annotations

import json
import math
import re
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import orjson

from rolloutops.errors import AttemptFailed
from rolloutops.formats.anthropic import ERRORS
from rolloutops.formats.chat import message
from rolloutops.formats.event_stream import is_lines, is_stream, read_lines, read_stream
from rolloutops.formats.failed_generations import failed_answer
from rolloutops.formats.finish_reasons import finish_of_response, finish_reason
from rolloutops.formats.loading import LONGEST_ESTIMATE, is_loading
from rolloutops.formats.other_apis import is_generated, is_message, of_generated, of_message
from rolloutops.formats.refusals import KEPT, read_body, read_error, refused
from rolloutops.formats.strict_json import dump
from rolloutops.formats.task_rows import from_chat, from_responses, text_of
from rolloutops.types import Limits, Message, ModelAnswer

CODES = {
    "server_error": 500,
    "vector_store_timeout": 500,
    "rate_limit_exceeded": 429,
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "data_residency_mismatch": 400,
    "bio_policy": 400,
    "misalignment_policy_violation": 400,
    **ERRORS,
}
"""The status that an error's code stands for, where the error came inside an answer with status 200."""

REQUESTS_A_MINUTE = (
    ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"),  # OpenAI, Azure, Groq, proxies of vLLM
    ("x-ratelimit-limit-req-minute", "x-ratelimit-remaining-req-minute"),  # Mistral
    ("x-ratelimit-limit-requests-minute", "x-ratelimit-remaining-requests-minute"),  # Cerebras
    ("anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining"),
)
TOKENS_A_MINUTE = (
    ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens"),
    ("x-ratelimit-limit-tokens-minute", "x-ratelimit-remaining-tokens-minute"),  # Mistral, Cerebras
    ("anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining"),
)
"""The headers of each provider: a limit, and what is left of it."""

BODY = re.compile(r'"body"\s*:\s*')
"""What an answer stands behind in a line of answers."""


def read_responses(
    body: bytes, *, model: str = "", token_ids: bool = False, limits: Limits | None = None
) -> ModelAnswer:
    """The answer in a Responses object. model: the name where the answer has none. limits: kept with the answer."""
    return _read(_responses, _parse, body, model, token_ids, limits)


def read_chat(body: bytes, *, model: str = "", token_ids: bool = False, limits: Limits | None = None) -> ModelAnswer:
    """The answer in a Chat completion: its first choice."""
    return _read(_chat, _parse_tokens if token_ids else _parse, body, model, token_ids, limits)


def failure(status: int, headers: Mapping[str, str], body: bytes) -> AttemptFailed:
    """The failure that a status other than 2xx means. headers: looked up in lower case or case-insensitively."""
    requested = headers.get("x-should-retry")
    final = {"false": True, "true": False}.get(requested.lower()) if requested else None
    raw = body[:KEPT].decode(errors="replace") or None
    said, pause = read_body(body), retry_after(headers)
    if is_loading(status, said.text, " ".join(said.codes)):
        if pause is None and said.pause is not None:
            pause = min(said.pause, LONGEST_ESTIMATE)
        return AttemptFailed("loading", f"{status}: {said.text}", retry_after=pause, raw=raw)
    return refused(status, said, raw=raw, final=final, pause=pause)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asked to wait: `retry-after-ms`, or `retry-after` as seconds or as an HTTP date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def rate_limits(headers: Mapping[str, str]) -> Limits | None:
    """What the headers say of the endpoint's rate limits for a minute: the first pair, of a limit and what is left of
    it, that both are numbers. Limits for an hour or a day are none, nor are those whose name has no unit."""
    requests, tokens = (_limit(headers, pairs) for pairs in (REQUESTS_A_MINUTE, TOKENS_A_MINUTE))
    return Limits(*requests, *tokens) if (*requests, *tokens) != (None,) * 4 else None


def _limit(headers: Mapping[str, str], pairs: Sequence[tuple[str, str]]) -> tuple[float | None, float | None]:
    for pair in pairs:
        try:
            limit, left = (float(headers[name]) for name in pair)
        except (KeyError, ValueError):
            continue
        if math.isfinite(limit) and math.isfinite(left):
            return limit, left
    return None, None


def _read(
    shape: Callable[[dict, str, bool], dict[str, Any]],
    parse: Callable[[bytes], Any],
    body: bytes,
    model: str,
    token_ids: bool,
    limits: Limits | None,
) -> ModelAnswer:
    text: bytes = body
    try:
        if is_stream(body):
            text = orjson.dumps(read_stream(body))
        elif is_lines(body):
            text = orjson.dumps(read_lines(body))
        answer = parse(text)
        if isinstance(answer, list) and len(answer) == 1:  # Gemini puts its errors into one
            answer = answer[0]
        if isinstance(answer, dict) and answer.get("done") is True and not answer.get("choices"):  # Ollama's own API
            text = orjson.dumps(read_lines(orjson.dumps(answer)))
            answer = parse(text)
        if (other := _of_another_api(answer)) is not None:
            text = orjson.dumps(other)
            answer = parse(text)
        if not isinstance(answer, dict):
            raise AttemptFailed("bad_response", "the answer is not a JSON object")
        if answer.get("error"):
            if failed := failed_answer(text, model, limits):
                return failed
            raise failed_with(answer if answer["error"] is True else answer["error"], 200)
        named = answer.get("model")
        found = shape(answer, named if named and isinstance(named, str) else model, token_ids)
        tier = answer.get("service_tier")
        found["service_tier"] = tier if isinstance(tier, str) else None
        return _refuse_filtered(ModelAnswer(raw=text.decode(errors="replace"), limits=limits, **found))
    except AttemptFailed as failed:
        failed.raw = failed.raw or body[:KEPT].decode(errors="replace")
        raise
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        what = f"the reply does not have the structure of an answer: {type(error).__name__}: {error}"
        raise AttemptFailed("bad_response", what, raw=body[:KEPT].decode(errors="replace")) from error


def _of_another_api(answer: Any) -> dict[str, Any] | None:
    """The Chat completion that Anthropic's message, or Gemini's response or the array of its pieces, amounts to."""
    pieces = answer if isinstance(answer, list) else [answer]
    failed = next((each for each in pieces if isinstance(each, dict) and each.get("error")), None)
    if failed is not None:
        return failed if isinstance(answer, list) else None
    if pieces and all(map(is_generated, pieces)):
        return of_generated(pieces)
    return of_message(answer) if isinstance(answer, dict) and is_message(answer) else None


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        why = error
    try:  # some servers write NaN, or half a surrogate pair: dump makes null and U+FFFD of them
        return orjson.loads(dump(json.loads(body)))
    except (ValueError, RecursionError):
        empty = "the answer is empty" if not body.strip() else f"the answer is not JSON: {why}"
        raise AttemptFailed("bad_response", empty) from None


def _parse_tokens(body: bytes) -> Any:
    """As `_parse`, for a Chat completion with log-probs: they are read as numbers, under `log_probs` of their choice.
    An object for each of 8,000 tokens takes three times as long."""
    read = _typed()
    try:
        found = None if read is None else read(body)
        return found if found and found["choices"] else _parse(body)
    except ValueError:  # it has another shape: the general way says what is wrong with it, if anything
        return _parse(body)


@lru_cache(maxsize=1)
def _typed() -> Callable[[bytes], Any] | None:
    """The reader of Chat completions, None where msgspec is not installed."""
    try:
        import msgspec
    except ImportError:
        return None
    entry = msgspec.defstruct("Entry", [("logprob", float)], gc=False)
    entries = msgspec.defstruct("Entries", [("content", list[entry] | None, None)])  # type: ignore[valid-type]
    named = ("message", "finish_reason", "error", "token_ids", "prompt_token_ids")
    choice = msgspec.defstruct("Choice", [*((n, Any, None) for n in named), ("logprobs", entries | None, None)])
    shown = ("model", "error", "usage", "prompt_token_ids", "service_tier", "promptFeedback")
    answer = msgspec.defstruct("Answer", [*((n, Any, None) for n in shown), ("choices", list[choice] | None, None)])  # type: ignore[valid-type]
    decode = msgspec.json.Decoder(answer).decode

    def read(body: bytes) -> dict[str, Any]:
        found: Any = decode(body)
        choices = []
        for each in found.choices or ():
            content = each.logprobs.content if each.logprobs is not None else None
            log_probs = [one.logprob for one in content or ()]
            choices.append({**{n: getattr(each, n) for n in named}, "log_probs": log_probs})
        return {**{n: getattr(found, n) for n in shown}, "choices": choices}

    return read


def _responses(answer: dict[str, Any], model: str, token_ids: bool) -> dict[str, Any]:
    items = answer.get("output")
    if not isinstance(items, list):
        raise _no_answer(answer, "output")
    status = answer.get("status")
    if status in ("failed", "cancelled", "queued", "in_progress"):
        kind = "server_error" if status == "failed" else "bad_response"
        raise AttemptFailed(kind, f"the answer's status is {status}")
    said = _one_message(from_responses(items))
    finish = finish_of_response(answer, bool(said.get("tool_calls")))
    usage = answer.get("usage") or {}
    found = {
        "message": said,
        "returned": items or None,
        "finish_reason": finish,
        "model": model,
        "input_tokens": count_of(usage.get("input_tokens")),
        "output_tokens": count_of(usage.get("output_tokens")),
        "reasoning_tokens": count_of((usage.get("output_tokens_details") or {}).get("reasoning_tokens")),
        "cached_tokens": count_of((usage.get("input_tokens_details") or {}).get("cached_tokens")),
    }
    if token_ids:
        # A NeMo Gym model server puts the three lists on the last item of a model call.
        ends = (item for item in reversed(items) if isinstance(item, dict) and item.get("generation_token_ids"))
        last: dict[str, Any] = next(ends, {})
        found |= _tokens(
            last.get("prompt_token_ids"), last.get("generation_token_ids"), last.get("generation_log_probs")
        )
    return found


def _chat(answer: dict[str, Any], model: str, token_ids: bool) -> dict[str, Any]:
    if not answer.get("choices"):
        feedback = answer.get("promptFeedback") or answer.get("prompt_feedback")
        if feedback and read_error(feedback).codes:
            raise failed_with(feedback, 400)
        raise _no_answer(answer, "choices")
    choice = answer["choices"][0]
    if choice.get("error"):
        raise failed_with(choice["error"], 500)
    received = choice.get("finish_reason")
    said = _one_message(from_chat([{"role": "assistant", **_message_of(choice)}]))
    finish = finish_reason(received, bool(said.get("tool_calls")))
    if not finish:
        raise AttemptFailed("server_error", f"the endpoint ended the answer: finish_reason is {received}")
    usage = answer.get("usage") or {}
    found = {
        "message": said,
        "returned": choice.get("message"),
        "finish_reason": finish,
        "model": model,
        "input_tokens": count_of(usage.get("prompt_tokens")),
        "output_tokens": count_of(usage.get("completion_tokens")),
        "reasoning_tokens": count_of((usage.get("completion_tokens_details") or {}).get("reasoning_tokens")),
        "cached_tokens": count_of((usage.get("prompt_tokens_details") or {}).get("cached_tokens")),
    }
    if token_ids:
        log_probs = choice.get("log_probs")
        if log_probs is None:
            log_probs = [entry["logprob"] for entry in (choice.get("logprobs") or {}).get("content") or []]
        prompt = answer.get("prompt_token_ids") or choice.get("prompt_token_ids")
        found |= _tokens(prompt, choice.get("token_ids"), log_probs)
    return found


def _one_message(messages: list[Message]) -> Message:
    """The answer as one assistant message: Responses may hold several in one answer; no message at all is an empty
    one."""
    said = [each for each in messages if each["role"] == "assistant"]
    if len(said) == 1:
        return said[0]
    reasoning = "\n\n".join(each["reasoning_content"] for each in said if "reasoning_content" in each)
    calls = [call for each in said for call in each.get("tool_calls", ())]
    contents = [each["content"] for each in said if each["content"]]
    content = "\n\n".join(filter(None, (text_of(each) for each in said)))
    if all(isinstance(each, str) for each in contents):
        return message("assistant", content, reasoning=reasoning, tool_calls=calls)
    parts = [[{"type": "text", "text": each}] if isinstance(each, str) else each for each in contents]
    return message("assistant", [part for each in parts for part in each], reasoning=reasoning, tool_calls=calls)


def _tokens(prompt: Any, generated: Any, log_probs: Any) -> dict[str, Any]:
    """The three token lists; an empty one is an absent one, and so are log-probs that are not one a token."""
    # Arrays raise what _read turns into a failure where an id is not a 32-bit integer, and make numbers of true and 1.
    prompt, generated = (array("i", ids or ()).tolist() for ids in (prompt, generated))
    log_probs = array("d", log_probs or ()).tolist()
    return {
        "prompt_token_ids": prompt or None,
        "generation_token_ids": generated or None,
        "generation_log_probs": log_probs if generated and len(log_probs) == len(generated) else None,
    }


def body_in(line: bytes, parsed: Any) -> bytes:
    """The answer inside a line of a batch's answers, byte for byte where it can be found."""
    text = line.decode()
    here = BODY.search(text)
    try:
        found, end = json.JSONDecoder().raw_decode(text, here.end() if here else 0)
    except ValueError:
        found, end = None, 0
    return text[here.end() : end].encode() if here and found == parsed else orjson.dumps(parsed)


def count_of(value: Any) -> int | None:
    """A number that counts something, as of tokens; None for anything else, also for one that no column can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
        return None
    return int(value)


def _message_of(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message of a choice. Gemini sends none where it stopped before the first word, and says why."""
    said: Mapping[str, Any] = choice.get("message") or {}
    if isinstance(choice.get("text"), str) and not (said.get("content") or said.get("tool_calls")):
        return {**said, "content": choice["text"]}  # of a text completion
    if choice.get("message") is None and not choice.get("finish_reason"):
        raise AttemptFailed("bad_response", f"the answer's choice has no message: it has the keys {', '.join(choice)}")
    return said or {"content": ""}


def _refuse_filtered(answer: ModelAnswer) -> ModelAnswer:
    """The answer; one of which a content filter left nothing is a refusal, which may have cost tokens."""
    said = answer.message
    if answer.finish_reason == "content_filter" and not said.get("content") and not said.get("tool_calls"):
        failed = AttemptFailed("content_filter", "a content filter removed the whole answer")
        failed.answer = answer
        raise failed
    return answer


def failed_with(error: Any, status: int = 200) -> AttemptFailed:
    """The failure that an error inside an answer means. status: where its codes name none."""
    said = read_error(error)
    known = (CODES.get(code) or _number(code) for code in said.codes)
    return refused(next(filter(None, known), status), said)


def _no_answer(answer: dict[str, Any], name: str) -> AttemptFailed:
    """The failure of an object that holds no answer: the error that it is, or the keys that it has."""
    if not {"message", "msg", "detail", "errors", "error_message", "error_msg"}.isdisjoint(answer):
        return failed_with(answer, 200)
    return AttemptFailed("bad_response", f"the answer has no {name}: it has the keys {', '.join(answer) or '(none)'}")


def _number(code: str) -> int | None:
    return int(code) if code.isdecimal() and 400 <= int(code) < 600 else None
