"""Chat messages and tools: every dialect in, the canonical form (messages.py) in the middle, chat again out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rolloutops.formats.content import read_content, reasoning_of
from rolloutops.formats.langchain import with_role
from rolloutops.formats.strict_json import parse
from rolloutops.formats.tool_calls import as_text, call_of, first_of, object_in, tool_call
from rolloutops.types import Message

__all__ = [
    "CONTENT_KEYS",
    "Tool",
    "as_text",
    "content_key",
    "content_of",
    "from_chat",
    "message",
    "message_of",
    "messages_of",
    "text_of",
    "to_chat",
    "tool_call",
    "tools_from",
    "with_ids",
]

Tool = dict[str, Any]
"""One canonical tool."""

CONTENT_KEYS = ("content", "parts", "value", "text", "message", "output_text", "input_text")
"""Where a message has its content: the first of these that is not null. Gemini's messages have `parts`."""

SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "function_call": "call",
    "tool_call": "call",
}
"""ShareGPT's names for who speaks, Gemini's and LangChain's; names that are roles themselves stand for themselves."""


def from_chat(messages: Sequence[Any]) -> list[Message]:
    """Chat messages of any common dialect, as canonical messages.

    Understands null content, lists of content parts of the dialects that content.py names, `reasoning_content`,
    `reasoning`, `thinking` and `reasoning_details`, tool calls with arguments as text or object, with or without ids,
    the old `function_call` and role `function`, Gemini's `parts`, LangChain's `type`, ShareGPT's `from` and `value`.
    Keys without a place in the canonical form are left out.
    Raises ValueError, with the message's number from 0, for what is not a message.
    """
    found = []
    for number, item in enumerate(messages):
        try:
            found += _from_chat(item)
        except ValueError as error:
            raise ValueError(f"message {number} {error}") from None
    return with_ids(found)


def to_chat(messages: Sequence[Message], arguments: Literal["text", "object"] = "text") -> list[Message]:
    """Canonical messages as a Chat Completions endpoint takes them (arguments="text") or as most chat templates want
    them (arguments="object": argument strings that hold a JSON object become that object, others stay). The input is
    not changed."""
    chat = []
    for item in messages:
        copy = dict(item)
        if calls := copy.get("tool_calls"):
            copy["tool_calls"] = [{**call, "function": _function(call["function"], arguments)} for call in calls]
        chat.append(copy)
    return chat


def text_of(messages: Message | Sequence[Message]) -> str:
    """The text of a message, or of the last assistant message of several; empty where there is none."""
    if isinstance(messages, Mapping):
        content = messages.get("content") or ""
        if isinstance(content, str):
            return content
        return "".join(part.get("text", "") for part in content if part.get("type") == "text")
    return next((text_of(item) for item in reversed(messages) if item.get("role") == "assistant"), "")


def tools_from(tools: Any) -> list[Tool] | None:
    """Tools of any common form as canonical chat tools; None where there are none.

    Takes flat Responses tools, nested chat tools, bare `{name, description, parameters | input_schema}`, each as
    object or JSON text, one or a list. A built-in tool of another type stays as it is. `strict` is kept where it is
    true: false and null are Chat's default. Raises ValueError for what is not a tool.
    """
    tools = _parsed(tools, "tools")
    if not tools:
        return None
    listed = tools if isinstance(tools, list) else [tools]
    return [_tool(_parsed(tool, f"tools[{number}]"), f"tools[{number}]") for number, tool in enumerate(listed)]


def message(
    role: str,
    content: str | list[dict[str, Any]] = "",
    *,
    reasoning: str | None = None,
    tool_calls: list[dict[str, Any]] | None = None,
    tool_call_id: str | None = None,
    name: str | None = None,
) -> Message:
    """One canonical message: its keys in their order, and only those that hold something."""
    extra = {"reasoning_content": reasoning, "tool_calls": tool_calls, "tool_call_id": tool_call_id, "name": name}
    return {"role": role, "content": content, **{key: value for key, value in extra.items() if value}}


def with_ids(messages: list[Message]) -> list[Message]:
    """Tool calls without an id get one (`call_0`, `call_1`, ...: positions, so the same each time), and a tool message
    that does not say which call it answers gets the id of the first open call (of its name, where it has one)."""
    taken = {call["id"] for item in messages for call in item.get("tool_calls", ())}
    fresh = (name for number in itertools.count() if (name := f"call_{number}") not in taken)
    waiting: list[tuple[str, str]] = []
    for item in messages:
        for call in item.get("tool_calls", ()):
            if not call["id"]:
                call["id"] = next(fresh)
            waiting.append((call["id"], call["function"]["name"]))
        if item["role"] != "tool":
            continue
        if "tool_call_id" not in item:
            named = [call_id for call_id, name in waiting if item.get("name") in (None, name)]
            item["tool_call_id"] = named[0] if named else next(fresh)
            if "name" in item:
                item["name"] = item.pop("name")  # keys in their order
        waiting = [call for call in waiting if call[0] != item["tool_call_id"]]
    return messages


def content_key(item: Mapping[str, Any]) -> str | None:
    """The key under which a message has its content; None if there is none."""
    for key in CONTENT_KEYS:
        if item.get(key) is not None:
            return key
    return None


def messages_of(item: Mapping[str, Any]) -> list[Message]:
    """One message with `role` and content, chat or Responses, and before it what tools returned, where that stands
    among its parts (Anthropic, Gemini). Tool calls still may lack ids."""
    role = as_text(item.get("role"))
    if role == "function":
        role = "tool"
    key = content_key(item)
    found = read_content(item[key] if key is not None else None, role)
    if found.results and not found.parts:
        return list(found.results)
    name = item["name"] if isinstance(item.get("name"), str) else None
    if role == "tool":
        call_id = first_of(item, ("tool_call_id", "toolCallId", "tool_use_id", "call_id"))
        return [*found.results, message(role, found.parts, tool_call_id=as_text(call_id) or None, name=name)]
    if role != "assistant":
        return [*found.results, message(role, found.parts, name=name)]
    content = found.parts
    if not content and item.get("refusal"):
        content = as_text(item["refusal"])
    calls = _parsed(item.get("tool_calls"), "has tool_calls that")
    if not calls and item.get("function_call"):
        calls = [item["function_call"]]
    listed = calls if isinstance(calls, list) else [calls] if calls else []
    made = [call_of(call) for call in listed if call]
    known = {call["id"] for call in made if call["id"]}
    made += [call for call in found.tool_calls if call["id"] not in known and (call["id"] or not made)]
    return [message(role, content, reasoning=reasoning_of(item) or found.reasoning, tool_calls=made, name=name)]


def message_of(item: Mapping[str, Any]) -> Message:
    """One message of which it is known that it is one: `messages_of` without what tools returned."""
    return messages_of(item)[-1]


def content_of(content: Any, *, of_tool: bool = False) -> tuple[str | list[dict[str, Any]], str]:
    """Content as (canonical content, reasoning found among its parts), of an answer or of what a tool returned."""
    found = read_content(content, "tool" if of_tool else "assistant")
    return found.parts, found.reasoning


def _from_chat(item: Any) -> list[Message]:
    item = with_role(object_in(item))
    if not isinstance(item, dict):
        raise ValueError("is not an object")
    speaker = item.get("role") or item.get("from")
    if not isinstance(speaker, str) and not item.get("role"):
        raise ValueError(f"has no role: it has the keys {', '.join(item)}")
    role = SHAREGPT_ROLES.get(speaker, speaker) if isinstance(speaker, str) else speaker
    if role != "call":
        return messages_of(item if item.get("role") == role else {**item, "role": role})
    value = first_of(item, CONTENT_KEYS)
    held = object_in(value)
    listed = held if isinstance(held, list) else [held]
    if all(isinstance(call, dict) for call in listed):
        return messages_of({"role": "assistant", "tool_calls": listed})
    return [message("assistant", as_text(value))]


def _function(function: dict[str, Any], arguments: str) -> dict[str, Any]:
    if arguments == "object":
        try:
            value = parse(function["arguments"])
        except ValueError:
            value = None
        if isinstance(value, dict):
            return {**function, "arguments": value}
    return dict(function)


def _tool(tool: Any, where: str) -> Tool:
    if not isinstance(tool, dict):
        raise ValueError(f"{where} is not an object")
    inner = tool.get("function") if isinstance(tool.get("function"), dict) else None
    if inner is None and tool.get("type", "function") != "function":
        return {key: value for key, value in tool.items() if value is not None}
    given = {key: value for key, value in (inner or tool).items() if value is not None}
    if not isinstance(given.get("name"), str) or not given["name"]:
        raise ValueError(f"{where} has no name")
    if inner is None:
        given.pop("type", None)
    if "input_schema" in given:
        given.setdefault("parameters", given.pop("input_schema"))
    if not given.get("strict"):
        given.pop("strict", None)
    order = [key for key in ("name", "description", "parameters", "strict") if key in given]
    return {"type": "function", "function": {key: given[key] for key in [*order, *given]}}


def _parsed(value: Any, what: str) -> Any:
    """JSON text as what it holds; anything else as it is."""
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{what} cannot be read: {error}") from None
