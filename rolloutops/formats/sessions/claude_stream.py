"""What `claude -p --output-format stream-json` prints, as lines of a session of Claude Code.

Source: the Agent SDK's message types (docs.claude.com, Agent SDK reference of TypeScript: SDKMessage). A line is
`system` with the subtype `init`, `user`, `assistant` or `result`; lines follow each other, and those of a subagent name
the call that started it. The prompt is in it only with `--replay-user-messages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rolloutops.formats.chat import as_text
from rolloutops.formats.sessions.session import ERROR, INTERRUPTED

Line = dict[str, Any]


def is_stream(rows: Sequence[Any]) -> bool:
    """Whether rows are those of a stream: one begins it."""
    return any(isinstance(row, dict) and row.get("subtype") == "init" and "session_id" in row for row in rows)


def linked(lines: Sequence[Line]) -> list[Line]:
    """The lines, each following the one before, as a session's file has them. Raises ValueError where none holds the
    prompt."""
    asked = (line for line in lines if line.get("type") == "user" and not line.get("parent_tool_use_id"))
    if not any(_is_text(line) for line in asked):
        name = next((as_text(line["session_id"]) for line in lines if line.get("session_id")), "SESSION")
        raise ValueError(
            f"the log does not hold the prompt: import the session's own file, ~/.claude/projects/*/{name}.jsonl, or "
            "log with --replay-user-messages"
        )
    found: list[Line] = []
    before: str | None = None
    for number, line in enumerate(lines):
        aside = bool(line.get("parent_tool_use_id"))
        found.append({**line, "uuid": f"line {number}", "parentUuid": before, "isSidechain": aside})
        before = before if aside else f"line {number}"
    return found


def finish_reason(lines: Sequence[Line], last: str | None) -> str | None:
    """How a stream ended, by its `result`: `success` is the end of the last answer, any other word stays, as
    `error_max_turns`. A stream without one was broken off."""
    result = next((line for line in reversed(lines) if line.get("type") == "result"), None)
    if result is None:
        return INTERRUPTED
    subtype = as_text(result.get("subtype"))
    if subtype not in ("", "success"):
        return subtype
    return ERROR if result.get("is_error") else last or "stop"


def _is_text(line: Line) -> bool:
    """Whether a user's line is more than what tools returned."""
    message = line.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    blocks = content if isinstance(content, list) else [content]
    return any(block and not (isinstance(block, dict) and block.get("type") == "tool_result") for block in blocks)
