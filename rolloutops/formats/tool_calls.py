"""Tool calls of any common form, as canonical ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rolloutops.formats.strict_json import dump, parse

ARGUMENTS = ("arguments", "input", "parameters", "args")
"""Where a call has its arguments: the first of these that is not null."""

CALL_IDS = ("id", "call_id", "tool_call_id", "toolCallId", "toolUseId")
"""Where a call has its id, likewise."""

NAMES = ("name", "toolName")
"""Where a call has the name of its tool, likewise."""


def tool_call(call_id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    """One canonical tool call. Arguments stay as received where they are text; absent ones become `{}`."""
    text = "{}" if arguments is None else as_text(arguments)
    return {"id": as_text(call_id), "type": "function", "function": {"name": as_text(name), "arguments": text}}


def call_of(call: Any) -> dict[str, Any]:
    """A tool call, nested (`function`, `custom`) or flat, as an object or as the JSON text of one.

    Flat ones: Chat's old `function_call`, Anthropic's `input`, LangChain's `args`, the AI SDK's `toolName`. JSON texts
    in a list: results.jsonl of verifiers 0.1.9.
    """
    call = object_in(call)
    if not isinstance(call, dict):
        return tool_call(None, None, call)
    custom = object_in(call.get("custom"))
    if isinstance(custom, dict):
        return tool_call(first_of(call, CALL_IDS), first_of(custom, NAMES), free_text(custom.get("input")))
    function = object_in(call.get("function"))
    inner = function if isinstance(function, dict) else call
    return tool_call(first_of(call, CALL_IDS), first_of(inner, NAMES), first_of(inner, ARGUMENTS))


def free_text(text: Any) -> Any:
    """The arguments of a call of OpenAI's custom tools, whose input is free text and not JSON: an object that holds it
    as `input`, which templates, trainers and tools can read."""
    return {"input": text} if isinstance(text, str) else text


def object_in(value: Any) -> Any:
    """What a JSON text of an object or list holds; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return parse(value)
        except ValueError:
            return value
    return value


def first_of(value: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """The value under the first of these keys that is not null; None if there is none."""
    return next((value[key] for key in keys if value.get(key) is not None), None)


def as_text(value: Any) -> str:
    """Text as it is, null as nothing, anything else as JSON."""
    return value if isinstance(value, str) else "" if value is None else dump(value)
