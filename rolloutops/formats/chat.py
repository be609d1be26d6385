"""Chat messages and tools: every dialect in, the canonical form (messages.py) in the middle, chat again out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rolloutops.formats.strict_json import dump, parse
from rolloutops.types import Message

Tool = dict[str, Any]
"""One canonical tool."""

TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "summary_text": "text", "refusal": "refusal"}
"""Content parts that are text: type -> the key that holds it."""

REASONING_PARTS = {"thinking": "thinking", "reasoning": "text", "reasoning_text": "text"}
"""Content parts that are reasoning: type -> the key that holds it."""

MEDIA_PARTS = frozenset({"image_url", "input_image", "image", "input_audio", "audio", "file", "input_file", "video"})
"""Content parts that are neither, as far as they are known. Others are kept as well, but not as a tool's output: there
a list of objects with a `type` is more likely data."""

SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "function_call": "call",
    "tool_call": "call",
}
"""ShareGPT's names for who speaks; names that are roles themselves stand for themselves."""


def from_chat(messages: Sequence[Any]) -> list[Message]:
    """Chat messages of any common dialect, as canonical messages.

    Understands null content, lists of content parts, `reasoning_content`, `reasoning` and `thinking`, tool calls with
    arguments as text or object, with or without ids, the old `function_call` and role `function`, and ShareGPT's
    `from` and `value`. Keys without a place in the canonical form are left out.
    Raises ValueError, with the message's number from 0, for what is not a message.
    """
    found = []
    for number, item in enumerate(messages):
        try:
            found.append(_from_chat(item))
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


def tool_call(call_id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    """One canonical tool call. Arguments stay as received where they are text; absent ones become `{}`."""
    text = "{}" if arguments is None else as_text(arguments)
    return {"id": as_text(call_id), "type": "function", "function": {"name": as_text(name), "arguments": text}}


def as_text(value: Any) -> str:
    """Text as it is, null as nothing, anything else as JSON."""
    return value if isinstance(value, str) else "" if value is None else dump(value)


def content_of(content: Any, *, of_tool: bool = False) -> tuple[str | list[dict[str, Any]], str]:
    """Content of any dialect, as (canonical content, reasoning found among its parts).

    Text parts are joined without a separator. Where a part is something else, the content stays a list of chat parts
    (`text`, `image_url`, `file`, `input_audio`, or whatever came).
    """
    items = [content] if isinstance(content, dict) else content
    fits = _is_known_part if of_tool else _is_part
    if not isinstance(items, list) or not all(map(fits, items)) or (of_tool and not items):
        return as_text(content), ""
    parts, reasoning = [], []
    for item in filter(None, items):
        part = {"type": "text", "text": item} if isinstance(item, str) else item
        kind = part["type"]
        if kind in REASONING_PARTS:
            reasoning.append(as_text(part.get(REASONING_PARTS[kind])))
        elif kind in TEXT_PARTS:
            parts.append({"type": "text", "text": as_text(part.get(TEXT_PARTS[kind]))})
        else:
            parts.append(_part(part))
    found = "\n\n".join(filter(None, reasoning))
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts), found
    return parts, found


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


def message_of(item: Mapping[str, Any]) -> Message:
    """One message with `role` and `content`, chat or Responses; tool calls still may lack ids."""
    role = as_text(item.get("role"))
    if role == "function":
        role = "tool"
    content, thought = content_of(item.get("content"), of_tool=role == "tool")
    name = item["name"] if isinstance(item.get("name"), str) else None
    if role == "tool":
        return message(role, content, tool_call_id=as_text(item.get("tool_call_id")) or None, name=name)
    if role != "assistant":
        return message(role, content, name=name)
    reasoning = next(
        (item[key] for key in ("reasoning_content", "reasoning", "thinking") if isinstance(item.get(key), str)), ""
    )
    if not content and item.get("refusal"):
        content = as_text(item["refusal"])
    calls = _parsed(item.get("tool_calls"), "has tool_calls that")
    if not calls and item.get("function_call"):
        calls = [item["function_call"]]
    listed = calls if isinstance(calls, list) else [calls] if calls else []
    return message(
        role, content, reasoning=reasoning or thought, tool_calls=[_call(call) for call in listed if call], name=name
    )


def _from_chat(item: Any) -> Message:
    if not isinstance(item, dict):
        raise ValueError("is not an object")
    if item.get("role"):
        return message_of(item)
    if not isinstance(item.get("from"), str):
        raise ValueError("has no role")
    role = SHAREGPT_ROLES.get(item["from"], item["from"])
    if role != "call":
        return message_of({**item, "role": role, "content": item.get("value")})
    try:
        calls = _parsed(item.get("value"), "value")
    except ValueError:
        calls = None
    listed = calls if isinstance(calls, list) else [calls]
    if all(isinstance(call, dict) for call in listed):
        return message_of({"role": "assistant", "tool_calls": listed})
    return message("assistant", as_text(item.get("value")))


def _call(call: Any) -> dict[str, Any]:
    """A tool call, nested (`function`, `custom`) or flat."""
    if not isinstance(call, dict):
        return tool_call(None, None, call)
    inner = next((call[key] for key in ("function", "custom") if isinstance(call.get(key), dict)), call)
    arguments = next((inner[key] for key in ("arguments", "input", "parameters") if inner.get(key) is not None), None)
    return tool_call(call.get("id"), inner.get("name"), arguments)


def _function(function: dict[str, Any], arguments: str) -> dict[str, Any]:
    if arguments == "object":
        try:
            value = parse(function["arguments"])
        except ValueError:
            value = None
        if isinstance(value, dict):
            return {**function, "arguments": value}
    return dict(function)


def _is_part(item: Any) -> bool:
    return item is None or isinstance(item, str) or (isinstance(item, dict) and isinstance(item.get("type"), str))


def _is_known_part(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") in (*TEXT_PARTS, *REASONING_PARTS, *MEDIA_PARTS)


def _part(item: dict[str, Any]) -> dict[str, Any]:
    """A part that is not text, as a chat part; what Chat has no name for stays as it is, less its nulls."""
    kind = item["type"]
    rest = {key: value for key, value in item.items() if key != "type" and value is not None}
    if kind == "input_image" and isinstance(rest.get("image_url"), str) and rest.keys() <= {"image_url", "detail"}:
        return {"type": "image_url", "image_url": {"url": rest.pop("image_url"), **rest}}
    if kind == "image_url" and isinstance(rest.get("image_url"), str):
        return {"type": kind, "image_url": {"url": rest["image_url"]}}
    if kind == "input_file":
        return {"type": "file", "file": rest}
    return {"type": kind, **rest}


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
