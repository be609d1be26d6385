"""LangChain's messages, which say who speaks in `type`, as chat messages with a `role`.

Source: langchain-core 1 (libs/core/langchain_core/messages/utils.py and ai.py): a message as `model_dump` writes it,
`{type, content, tool_calls: [{name, args, id}], ...}`; in the object that `messages_to_dict` writes, `{type, data}`;
and in that of `load/dump.py`, `{lc, type: "constructor", id: [..., "AIMessage"], kwargs}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROLES = {
    **{"human": "user", "user": "user", "ai": "assistant", "assistant": "assistant", "system": "system"},
    **{"developer": "developer", "tool": "tool", "function": "tool", "HumanMessageChunk": "user"},
    **{"AIMessageChunk": "assistant", "SystemMessageChunk": "system", "ToolMessageChunk": "tool"},
}
"""`type` of a message -> its role."""

CLASSES = {"HumanMessage": "human", "AIMessage": "ai", "SystemMessage": "system", "ToolMessage": "tool"}
"""Class of a message -> its `type`."""

OWN = ("tool_calls", "function_call", "reasoning_content", "refusal")
"""What a provider's message holds that older versions write into `additional_kwargs` only."""

SAME = ("type", "example", "tool_call_chunks", "chunk_position")
"""Fields that say nothing about what was said."""


def with_role(item: Any) -> Any:
    """A message of LangChain's as a chat message; anything else as it is. Calls whose arguments could not be read are
    calls of the message, with their arguments as text."""
    message = _flat(item)
    if message is None:
        return item
    beside = message.get("additional_kwargs")
    beside = dict(beside) if isinstance(beside, Mapping) else {}
    own = {name: beside.pop(name) for name in OWN if name in beside}
    found = {key: value for key, value in message.items() if key not in (*SAME, "additional_kwargs")}
    found = {"role": ROLES[message["type"]], **found, **{k: v for k, v in own.items() if not message.get(k)}}
    unread = message.get("invalid_tool_calls")
    if isinstance(unread, list) and unread and not own.get("tool_calls"):
        calls = message.get("tool_calls")
        found["tool_calls"] = [*(calls if isinstance(calls, list) else []), *unread]
    found.pop("invalid_tool_calls", None)
    return {**found, "additional_kwargs": beside} if beside else found


def _flat(item: Any) -> Mapping[str, Any] | None:
    """The fields of a message, with its `type`; None where it is none of LangChain's."""
    if not isinstance(item, Mapping) or item.get("role") or item.get("from"):
        return None
    kind, data, names = item.get("type"), item.get("data"), item.get("id")
    if kind == "constructor" and isinstance(item.get("kwargs"), Mapping) and isinstance(names, list) and names:
        kind, data = CLASSES.get(str(names[-1]).removesuffix("Chunk")), item["kwargs"]
    if not isinstance(kind, str) or kind not in ROLES:
        return None
    inner = data if isinstance(data, Mapping) else item
    return {**inner, "type": kind} if "content" in inner else None
