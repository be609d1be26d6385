"""Items of the OpenAI Responses API (NeMo Gym's form) to canonical messages and back.

Field names: openai.types.responses. One assistant message stands for one model call: its reasoning, its text and its
tool calls, which are separate items there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rolloutops.formats.chat import Tool, message, messages_of, with_ids
from rolloutops.formats.content import read_content, reasoning_text
from rolloutops.formats.tool_calls import as_text, free_text, tool_call
from rolloutops.types import Message

Item = dict[str, Any]
"""One Responses item."""

CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Items that call a tool of the user: type -> the key of the arguments."""

PARTS = {"text": "user", "input_text": "user", "input_image": "user", "input_file": "user", "output_text": "assistant"}
"""Parts of a message that stand where an item should: type -> whose message it is."""

OUTPUTS = ("function_call_output", "custom_tool_call_output")
"""Items that answer such a call."""


def from_responses(items: Sequence[Any] | str | None) -> list[Message]:
    """Responses items, of an `input` or an `output`, as canonical messages. Never raises.

    - A message item is a message. Function calls join the assistant text right before them; calls in a row are one
      assistant message with several tool calls.
    - Reasoning (`content`, else `summary`) goes to the assistant message that follows; where none follows, to an
      assistant message of its own with empty content.
    - A part that stands where an item should is a message of its own.
    - What is not known (built-in tool items, lists instead of objects) is skipped: the verbatim response has it.
      `unread_items` tells what that is.
    """
    if isinstance(items, str):
        return [message("user", items)]
    found: list[Message] = []
    reasoning: list[str] = []  # of the assistant message to come

    def thought() -> str:
        text = "\n\n".join(reasoning)
        reasoning.clear()
        return text

    def close() -> None:
        if reasoning:
            found.append(message("assistant", reasoning=thought()))

    for item in items if isinstance(items, (list, tuple)) else ():
        if not isinstance(item, dict):
            continue
        kind = _kind(item)
        if kind in PARTS:
            item, kind = {"role": PARTS[kind], "content": [item]}, "message"
        if kind == "reasoning":
            if text := _reasoning(item):
                reasoning.append(text)
        elif kind == "message":
            said = _messages(item)
            if said[-1]["role"] != "assistant":
                close()
            elif reasoning:
                said[-1] = _with_reasoning(said[-1], thought())
            found += said
        elif kind in CALLS:
            if not found or found[-1]["role"] != "assistant" or (reasoning and "tool_calls" not in found[-1]):
                found.append(message("assistant"))
            if reasoning:
                found[-1] = _with_reasoning(found[-1], thought())
            arguments = item.get(CALLS[kind])
            arguments = free_text(arguments) if kind == "custom_tool_call" else arguments
            call = tool_call(item.get("call_id") or item.get("id"), item.get("name"), arguments)
            found[-1].setdefault("tool_calls", []).append(call)
        elif kind in OUTPUTS:
            close()
            content = read_content(item.get("output"), "tool").parts
            found.append(message("tool", content, tool_call_id=as_text(item.get("call_id")) or None))
    close()
    return with_ids(found)


def unread_items(items: Sequence[Any]) -> Iterator[str]:
    """The type of each item that `from_responses` skips."""
    known = ("message", "reasoning", *CALLS, *OUTPUTS, *PARTS)
    for item in items:
        kind = _kind(item) if isinstance(item, dict) else None
        if kind not in known:
            yield as_text(kind) or "(no type)"


def to_responses(messages: Sequence[Message], *, first: int = 0) -> list[Item]:
    """Canonical messages as Responses items, good as `input` and as `output`: `from_responses` gives them back, but for
    `name`, which Responses does not have. Ids are made from positions, the first of which is `first`. Where a message
    without text would run into the assistant message before or after it, an empty message item keeps them apart."""
    items: list[Item] = []
    for number, said in enumerate(messages):
        role, content, calls = said["role"], said.get("content") or "", said.get("tool_calls") or ()
        if role == "tool":
            output = content if isinstance(content, str) else [_item_part(part, "input_text") for part in content]
            items.append({"type": "function_call_output", "call_id": said.get("tool_call_id", ""), "output": output})
            continue
        if role != "assistant":
            parts = content if isinstance(content, str) else [_item_part(part, "input_text") for part in content]
            items.append({"type": "message", "role": role, "content": parts})
            continue
        if reasoning := said.get("reasoning_content"):
            summary = [{"type": "summary_text", "text": reasoning}]
            items.append({"type": "reasoning", "id": f"rs_{first + len(items)}", "summary": summary})
        before = number > 0 and messages[number - 1]["role"] == "assistant"
        after = number + 1 < len(messages) and messages[number + 1]["role"] == "assistant"
        if content or (before if calls else after or not reasoning):
            texts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            items.append(
                {
                    "type": "message",
                    "id": f"msg_{first + len(items)}",
                    "role": "assistant",
                    "status": "completed",
                    "content": [_item_part(part, "output_text") for part in texts],
                }
            )
        for call in calls:
            function = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
            made = {"type": "function_call", "id": f"fc_{first + len(items)}", "call_id": call["id"]}
            items.append({**made, **function, "status": "completed"})
    return items


def to_responses_tools(tools: Sequence[Tool] | None) -> list[Item]:
    """Canonical tools as flat Responses tools. `parameters` and `strict` are always there: the API's types require
    them, and its default for `strict` is not Chat's."""
    flat = []
    for tool in tools or ():
        function = tool.get("function") if tool.get("type") == "function" else None
        if isinstance(function, dict):
            flat.append(
                {"type": "function", "parameters": {"type": "object", "properties": {}}, "strict": False} | function
            )
        else:
            flat.append(_flat_custom(tool))
    return flat


def _flat_custom(tool: Tool) -> Item:
    """A custom tool of Chat as Responses has it: flat, and so is its grammar. Any other tool as it is."""
    custom = tool.get("custom")
    if tool.get("type") != "custom" or not isinstance(custom, dict):
        return dict(tool)
    form = custom.get("format")
    grammar = form.get("grammar") if isinstance(form, dict) else None
    flat = {"format": {"type": "grammar", **grammar}} if isinstance(grammar, dict) else {}
    return {"type": "custom", **custom, **flat}


def _kind(item: Item) -> Any:
    """An item's type; a text, so that it can be looked up."""
    kind = item.get("type") or ("message" if "role" in item else None)
    return kind if isinstance(kind, str) else None


def _messages(item: Item) -> list[Message]:
    given = item if item.get("role") else {**item, "role": "assistant"}
    try:
        return messages_of(given)
    except ValueError:  # Chat's tool_calls in it, as text that is not JSON
        return messages_of({**given, "tool_calls": None})


def _with_reasoning(message: Message, text: str) -> Message:
    """The message with this reasoning before its own, and its keys in their order."""
    texts = [text, message.get("reasoning_content")]
    head = {
        "role": message["role"],
        "content": message["content"],
        "reasoning_content": "\n\n".join(filter(None, texts)),
    }
    return head | {key: value for key, value in message.items() if key not in head}


def _reasoning(item: Item) -> str:
    """The text of a reasoning item; empty where it is encrypted."""
    return next((text for key in ("content", "summary", "text") if (text := reasoning_text(item.get(key)))), "")


def _item_part(part: dict[str, Any], text_type: str) -> Item:
    """A chat part as a Responses part."""
    kind = part.get("type")
    if kind == "text":
        return {"type": text_type, "text": part["text"]} | ({"annotations": []} if text_type == "output_text" else {})
    if kind == "image_url" and isinstance(part.get("image_url"), dict) and "url" in part["image_url"]:
        rest = {key: value for key, value in part["image_url"].items() if key != "url"}
        return {"type": "input_image", "image_url": part["image_url"]["url"], **rest}
    if kind == "file" and isinstance(part.get("file"), dict):
        return {"type": "input_file", **part["file"]}
    return part
