"""What a message holds: text, reasoning, tool calls, results of tools and media, told apart by their names.

Forms and where they are from: Chat Completions and Responses (openai-python 2), Anthropic's blocks (its Python SDK at
e301035, types/), Bedrock's Converse (API_runtime_ContentBlock), Gemini's parts (google-genai 1.50), Mistral's thinking
chunks (client-python at 2b92a76, thinkchunk.py), OpenRouter's `reasoning_details`, LLaMA-Factory v1's typed parts
(converter.py at 0798d9d), LangChain 1's content blocks and the model messages of the AI SDK 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rolloutops.formats.tool_calls import CALL_IDS, NAMES, as_text, call_of, first_of, object_in
from rolloutops.types import Message

Part = dict[str, Any]
"""One content part."""

TEXT_TYPES = ("text", "input_text", "output_text", "summary_text", "refusal")
"""Types of parts that are text."""

TEXT_KEYS = ("text", "value", "content", "parts", "input_text", "output_text", "summary_text", "refusal")
"""Where a part has its text: the first of these that is not null. What is there may hold text in turn."""

REASONING_TYPES = ("thinking", "reasoning", "reasoning_text", "reasoning.text", "reasoning.summary", "thought")
"""Types of parts that are reasoning."""

REASONING_KEYS = ("thinking", "reasoning", "reasoning_content", "reasoningText", "reasoning_text", "summary", "thought")
"""Where a part has its reasoning, before TEXT_KEYS."""

BESIDE_CONTENT = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "reasoning_text",
    "reasoning_details",
    "thinking_blocks",
)
"""Where a message has its reasoning beside its content."""

CALL_TYPES = ("tool_use", "tool_call", "tool-call", "toolCall", "function_call")
"""Types of parts that call a tool."""

RESULT_TYPES = ("tool_result", "tool-result")
"""Types of parts that answer such a call."""

RESULT_KEYS = ("content", "output", "result", "response", "value", "text")
"""Where they have what the tool returned; where none of these is there it is all that ABOUT_RESULT does not name."""

MEDIA_KEYS = ("image_url", "image", "input_image", "video_url", "video", "input_audio", "audio_url", "audio", "file")
"""Keys that hold media; as types of parts as well."""

MEDIA_TYPES = (*MEDIA_KEYS, "input_file")
"""Content parts that are media, as far as they are known."""

ABOUT_TEXT = frozenset(
    {
        *("type", "content_type", "id", "index", "name", "role", "language", "format", "status", "phase", "signature"),
        *("annotations", "citations", "cache_control", "logprobs", "metadata", "meta", "extras", "thoughtSignature"),
    }
)
"""Keys beside a text that say something about it: without them the text is the same."""

ABOUT_RESULT = frozenset({*CALL_IDS, *ABOUT_TEXT, "is_error", "isError", "tool_use_id"})
"""Keys that say something about what a tool returned."""


class Content(NamedTuple):
    """What a message holds. parts: text, or the canonical list where it holds something that is not text."""

    parts: str | list[Part]
    reasoning: str = ""
    tool_calls: Sequence[dict[str, Any]] = ()
    results: Sequence[Message] = ()


def read_content(content: Any, role: str) -> Content:
    """Content of any dialect. Reasoning and tool calls are an assistant's, results of tools anyone else's.

    Text parts are joined without a separator. Where a part is something else, the content stays a list of chat parts
    (`text`, `image_url`, `file`, `input_audio`, or whatever came). What a tool returned is data unless every part of it
    is known: then it becomes JSON text.
    """
    if isinstance(content, str):
        return Content(content)
    items = [content] if isinstance(content, dict) else content
    if not isinstance(items, list) or not all(item is None or isinstance(item, (str, dict)) for item in items):
        return Content(as_text(content))
    if role == "tool" and not all(_is_known(item) for item in items or [None]):
        return Content(as_text(content))
    parts: list[Part] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[Message] = []
    for item in items:
        if not item or (isinstance(item, dict) and all(value is None for value in item.values())):
            continue
        part = {"type": "text", "text": item} if isinstance(item, str) else item
        if role == "assistant" and (thought := _reasoning_part(part)) is not None:
            reasoning.append(thought)
        elif role == "assistant" and (found := _calls(part)):
            calls += found
        elif role != "assistant" and (result := _result(part)):
            results.append(result)
        elif (text := text_of_part(part)) is not None:
            parts.append({"type": "text", "text": text})
        else:
            parts.append(_other_part(part))
    joined = "".join(part["text"] for part in parts) if all(part.get("type") == "text" for part in parts) else parts
    return Content(joined, "\n\n".join(filter(None, reasoning)), calls, results)


def text_of_part(part: Mapping[str, Any]) -> str | None:
    """The text of a part that is nothing but text; None for any other part.

    A part of an unknown type, or of none, is text if it has one under TEXT_KEYS and nothing beside it but what
    ABOUT_TEXT names and what is empty, a number or a truth value.
    """
    kind = part.get("type")
    if kind in TEXT_TYPES:
        rest = {key: value for key, value in part.items() if key != "type" and value not in (None, "")}
        found = first_of(rest, TEXT_KEYS)
        if found is None:
            said = [value for key, value in rest.items() if key not in ABOUT_TEXT]
            found = said[0] if len(said) == 1 else said and rest
        text = _text(found)
        return as_text(found or None) if text is None else text
    if kind in MEDIA_TYPES or (kind is not None and not isinstance(kind, str)):
        return None
    key = next((key for key in TEXT_KEYS if part.get(key) is not None), None)
    if key is None or any(_is_more(name, part[name]) for name in part if name != key):
        return None
    return _text(part[key])


def unread_keys(content: Any) -> Iterator[str]:
    """The keys beside the texts of content parts that hold something more."""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict) and part.get("type") in TEXT_TYPES:
            used = next((key for key in TEXT_KEYS if part.get(key) not in (None, "")), None)
            others = [key for key in part if key != used and _is_more(key, part[key])]
            yield from others if used or len(others) > 1 else ()


def reasoning_of(message: Mapping[str, Any]) -> str:
    """The reasoning beside a message's content, under the first of these keys that has any; empty if there is none."""
    for key in BESIDE_CONTENT:
        if key in message and (text := reasoning_text(message[key])):
            return text
    return ""


def unknown_parts(messages: Sequence[Message]) -> Iterator[str]:
    """The type of each part of canonical messages that no reader knows, or the keys of one that has no type."""
    for said in messages:
        for part in said["content"] if isinstance(said["content"], list) else ():
            if part.get("type") not in MEDIA_TYPES and part.get("type") != "text":
                yield as_text(part["type"]) if part.get("type") else f"{{{', '.join(part)}}}"


def _text(value: Any) -> str | None:
    """Text, also of nested parts; None where there is something else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [_text(item) for item in value if item is not None]
        return None if None in texts else "".join(filter(None, texts))
    if isinstance(value, dict):
        return text_of_part(value)
    return None


def _is_more(name: str, value: Any) -> bool:
    """Whether a key beside a text holds something that the text lacks."""
    return name not in ABOUT_TEXT and isinstance(value, (str, list, dict)) and bool(value)


def reasoning_text(value: Any) -> str:
    """The text of reasoning: text, a list of chunks, an object with `summary`, `content` or `text`. Chunks of text are
    one text; summaries and whole blocks are paragraphs."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        said = [item for item in value if reasoning_text(item)]
        chunks = all(isinstance(item, str) or (isinstance(item, dict) and item.get("type") == "text") for item in said)
        return ("" if chunks else "\n\n").join(map(reasoning_text, said))
    if not isinstance(value, dict):
        return ""
    keys = (*REASONING_KEYS, *TEXT_KEYS)
    return next((text for key in keys if (text := reasoning_text(value.get(key)))), "")


def _reasoning_part(part: Part) -> str | None:
    """The text of a part that is reasoning (empty where an endpoint keeps it to itself); None for any other part."""
    kind = part.get("type")
    if kind in REASONING_TYPES:
        known = {*REASONING_KEYS, *TEXT_KEYS, "encrypted_content", "encrypted", "signature"}
        return reasoning_text({key: part[key] for key in part if key != "type"}) if known & part.keys() else None
    if part.get("thought") is True:  # Gemini
        return _text(part.get("text")) or ""
    if kind is not None:
        return None
    inner = part.get("reasoningContent")  # Bedrock
    if isinstance(inner, dict):
        return reasoning_text(inner)
    named = [key for key in REASONING_KEYS if isinstance(part.get(key), (str, list)) and key != "summary"]
    return reasoning_text(part) if named and not part.keys() & {*TEXT_KEYS, *MEDIA_KEYS} else None


def _calls(part: Part) -> list[dict[str, Any]]:
    """The tool calls of a part that makes some."""
    for key in ("functionCall", "function_call", "toolUse"):  # Gemini, Bedrock
        if part.get("type") is None and isinstance(part.get(key), dict):
            return [call_of(part[key])]
    if part.get("type") not in CALL_TYPES:
        return []
    held = object_in(part["value"]) if part.get("value") is not None else part  # LLaMA-Factory v1
    listed = held if isinstance(held, list) else [held]
    calls = [call_of(call) for call in listed]
    return calls if all(call["function"]["name"] for call in calls) else []


def _result(part: Part) -> Message | None:
    """The tool message that a part stands for: what a tool returned."""
    kind = part.get("type")
    if kind in RESULT_TYPES:
        held = part
    else:
        keys = ("functionResponse", "function_response", "toolResult")
        held = next((part[key] for key in keys if kind is None and isinstance(part.get(key), dict)), {})
    if not held:
        return None
    call_id = held.get("tool_use_id") or first_of(held, CALL_IDS) if kind != "tool_result" else held.get("tool_use_id")
    returned = first_of(held, RESULT_KEYS)
    if returned is None:
        about = {*ABOUT_RESULT, *NAMES}
        returned = {key: value for key, value in held.items() if key not in about and value is not None} or None
    name = first_of(held, NAMES)
    return {
        "role": "tool",
        "content": read_content(_unwrapped(returned), "tool").parts,
        **({"tool_call_id": as_text(call_id)} if call_id else {}),
        **({"name": name} if isinstance(name, str) and name else {}),
    }


def _unwrapped(returned: Any) -> Any:
    """What a tool returned, without what Bedrock and the AI SDK put around it."""
    if isinstance(returned, list):
        return [_unwrapped_part(item) for item in returned]
    if isinstance(returned, dict) and returned.keys() == {"type", "value"}:
        return returned["value"]
    return returned


def _unwrapped_part(item: Any) -> Any:
    if isinstance(item, dict) and item.keys() == {"text"}:
        return {"type": "text", "text": item["text"]}
    if isinstance(item, dict) and item.keys() == {"json"}:
        return {"type": "text", "text": as_text(item["json"])}
    return item


def _is_known(item: Any) -> bool:
    """Whether a part of what a tool returned is a part, and not data."""
    if not isinstance(item, dict):
        return False
    kind = item.get("type")
    return kind in TEXT_TYPES or kind in MEDIA_TYPES or _result(item) is not None


def _other_part(item: Part) -> Part:
    """A part that is not text, as a chat part; what Chat has no name for stays as it is, less its nulls."""
    rest = {key: value for key, value in item.items() if key != "type" and value is not None}
    kind = item.get("type")
    if kind is None:
        kind = next((key for key in MEDIA_KEYS if key in rest), None)
    if kind == "input_image" and isinstance(rest.get("image_url"), str) and rest.keys() <= {"image_url", "detail"}:
        return {"type": "image_url", "image_url": {"url": rest.pop("image_url"), **rest}}
    if kind == "image_url" and isinstance(rest.get("image_url"), str):
        return {"type": kind, "image_url": {"url": rest["image_url"]}}
    if kind == "input_file":
        return {"type": "file", "file": rest}
    return rest if kind is None else {"type": kind, **rest}
