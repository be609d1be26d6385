"""Ids of tool calls that stand twice in one conversation, told apart in the request that is sent.

Models and servers use an id again in a later turn (`call_0`, the tool's name), and what is stored has it so. Anthropic
answers 400 ("`tool_use` ids must be unique", anthropics/claude-code issue 20631), Bedrock ("contain duplicate Ids",
bvcyber/Cyber-AutoAgent-ng issue 72), MiniMax ("duplicate tool_call id (2013)"), and Responses ("Duplicate
function_call_output for call_id", NousResearch/hermes-agent pull request 111443). The first of them keeps its id.
"""

from __future__ import annotations

import zlib
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

Body = dict[str, Any]

SHORT = 9
"""Length of ids that Mistral takes, which are letters and digits alone."""
LONGEST = 32
"""Characters of an id that are kept before its number: OpenAI takes 40."""


def with_unique_ids(body: Body) -> Body:
    """The request, in which each tool call has an id of its own, and its answer the same. The input is changed, the
    messages in it are not."""
    key = "messages" if "messages" in body else "input"
    rows = body.get(key)
    if not isinstance(rows, list):
        return body
    ids = [call_id for row in rows for call_id in _ids_of(row)]
    if len(ids) == len(set(ids)):
        return body
    taken, seen = set(ids), set[str]()
    open_calls: defaultdict[str, deque[str]] = defaultdict(deque)

    def renamed(call_id: str) -> str:
        new = call_id
        if call_id in seen:
            number = 2
            while (new := _numbered(call_id, number)) in taken:
                number += 1
        seen.add(call_id)
        taken.add(new)
        open_calls[call_id].append(new)
        return new

    def answered(call_id: Any) -> Any:
        waiting = open_calls.get(call_id)
        return waiting.popleft() if waiting else call_id

    body[key] = [_row(row, renamed, answered) for row in rows]
    return body


def _ids_of(row: Any) -> list[str]:
    """The ids of the calls in a message, or of the call that an item is."""
    if not isinstance(row, dict):
        return []
    if row.get("type") in ("function_call", "custom_tool_call"):
        return [str(row.get("call_id"))]
    return [str(call.get("id")) for call in row.get("tool_calls") or ()]


def _row(row: Any, renamed: Callable[[str], str], answered: Callable[[Any], Any]) -> Any:
    if not isinstance(row, dict):
        return row
    kind = str(row.get("type"))
    if kind in ("function_call", "custom_tool_call"):
        return {**row, "call_id": renamed(str(row.get("call_id")))}
    if kind in ("function_call_output", "custom_tool_call_output"):
        return {**row, "call_id": answered(row.get("call_id"))}
    if row.get("tool_calls"):
        return {**row, "tool_calls": [{**call, "id": renamed(str(call.get("id")))} for call in row["tool_calls"]]}
    return {**row, "tool_call_id": answered(row.get("tool_call_id"))} if row.get("role") == "tool" else row


def _numbered(call_id: str, number: int) -> str:
    """An id of the same form for a later call: letters and digits of the same length where it has Mistral's form."""
    if len(call_id) == SHORT and call_id.isalnum() and call_id.isascii():
        return f"{zlib.crc32(f'{call_id} {number}'.encode()):0{SHORT}x}"
    return f"{call_id[:LONGEST]}_{number}"
