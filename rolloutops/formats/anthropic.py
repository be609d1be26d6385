"""Anthropic's messages to canonical ones (anthropic 0.75: types/message_param.py, types/content_block.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rolloutops.formats.chat import Tool, from_chat, tools_from
from rolloutops.types import Message

CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
"""Blocks that call a tool. What a server's own tool answers is a block of the same message, and stays one."""

ERRORS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status that an error's type stands for (its guide `Errors`)."""


def from_anthropic(messages: Sequence[Any], system: Any = None) -> list[Message]:
    """Messages of Anthropic's API, after their system prompt, as canonical ones.

    Tool results of a user's turn become tool messages before it; thinking becomes reasoning; images become `image_url`
    parts; other blocks stay as they are. Raises ValueError for what is not a message.
    """
    turns: list[dict[str, Any]] = [{"role": "system", "content": _parts(_blocks(system))}] if system else []
    for number, said in enumerate(messages):
        if not isinstance(said, Mapping) or not said.get("role"):
            raise ValueError(f"message {number} has no role")
        blocks = _blocks(said.get("content"))
        turns += _of_model(blocks) if said["role"] == "assistant" else _of_user(str(said["role"]), blocks)
    return from_chat(turns)


def tools_of(tools: Any) -> list[Tool] | None:
    """Tools of Anthropic's API as canonical ones; None where there are none. `type: custom` is the common kind."""
    if not isinstance(tools, list):
        return None
    return tools_from([_tool(tool) for tool in tools])


def _tool(tool: Any) -> Any:
    if not isinstance(tool, Mapping) or tool.get("type", "custom") != "custom":
        return tool
    return {key: value for key, value in tool.items() if key not in ("type", "cache_control")}


def _blocks(content: Any) -> list[Mapping[str, Any]]:
    if content is None:
        return []
    blocks = content if isinstance(content, list) else [content]
    return [block if isinstance(block, Mapping) else {"type": "text", "text": str(block)} for block in blocks]


def _of_model(blocks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    calls = [
        {"id": block.get("id"), "function": {"name": block.get("name"), "arguments": block.get("input")}}
        for block in blocks
        if block.get("type") in CALLS
    ]
    thoughts = [str(block.get("thinking") or "") for block in blocks if block.get("type") == "thinking"]
    said = [block for block in blocks if block.get("type") not in (*CALLS, "thinking", "redacted_thinking")]
    reasoning = "\n\n".join(filter(None, thoughts))
    return [{"role": "assistant", "content": _parts(said), "reasoning_content": reasoning, "tool_calls": calls}]


def _of_user(role: str, blocks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    results = [block for block in blocks if block.get("type") == "tool_result"]
    turns: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": _parts(_blocks(block.get("content")))}
        for block in results
    ]
    rest = [block for block in blocks if block.get("type") != "tool_result"]
    return [*turns, {"role": role, "content": _parts(rest)}] if rest or not results else turns


def _parts(blocks: Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    if all(block.get("type") == "text" for block in blocks):
        return "".join(str(block.get("text") or "") for block in blocks)
    return [_part(block) for block in blocks]


def _part(block: Mapping[str, Any]) -> dict[str, Any]:
    source = block.get("source")
    if block.get("type") == "text":
        return {"type": "text", "text": str(block.get("text") or "")}
    if block.get("type") == "image" and isinstance(source, Mapping):
        if source.get("type") == "base64":
            url = f"data:{source.get('media_type')};base64,{source.get('data')}"
            return {"type": "image_url", "image_url": {"url": url}}
        if isinstance(source.get("url"), str):
            return {"type": "image_url", "image_url": {"url": source["url"]}}
    return {key: value for key, value in block.items() if key != "cache_control"}
