"""Agents' trajectories as rows of a table: `trajectory` holds the chat messages of a session.

Source: the cards of nebius/SWE-rebench-openhands-trajectories (13fa32b) and nvidia/SWE-Zero-openhands-trajectories
(f2cf8fc), whose messages are Chat's, and of nebius/SWE-agent-trajectories (a8a64e5), whose model is called `ai`, whose
text stands under `text` or `system_prompt`, and whose `target` says whether the tests passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rolloutops.formats.chat import as_text, from_chat, tools_from
from rolloutops.formats.rollouts.row import RolloutRow
from rolloutops.formats.rollouts.session import session_row
from rolloutops.formats.sessions.session import INTERRUPTED, Session, halves, with_open_calls
from rolloutops.formats.strict_json import parse
from rolloutops.types import Message

LABEL, ENGINE = "agent trajectory", "import:trajectory"
READ = ("trajectory", "tools", "instance_id", "exit_status", "resolved", "target", "model", "model_name")


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row holds a trajectory of messages, and no conversation beside it."""
    if "messages" in row or "conversations" in row:
        return False
    try:
        turns = _turns(row)
    except ValueError:
        return False
    return bool(turns) and all(isinstance(turn, dict) and isinstance(turn.get("role"), str) for turn in turns)


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """The session of a row, with its reward. Raises ValueError where it has no prompt or no answer."""
    prompt, completion, unanswered = halves(from_chat([_chat(turn) for turn in _turns(row)]))
    passed = next((row[key] for key in ("resolved", "target") if row.get(key) in (0, 1)), None)
    session = Session(
        "trajectory",
        prompt,
        completion,
        _finish_reason(row, completion),
        model=as_text(row.get("model") or row.get("model_name")) or None,
        tools=tools_from(row.get("tools")),
        reward=None if passed is None else float(passed),
        task={"instance_id": row["instance_id"]} if row.get("instance_id") else {},
        left_aside={"user without an answer": len(unanswered)} if unanswered else {},
    )
    found = session_row(session, raw)
    return replace(found, left_out=[*found.left_out, *(key for key in row if key not in READ)], shape=LABEL)


def _turns(row: Mapping[str, Any]) -> list[Any]:
    """The trajectory's list; empty where it is none."""
    turns = row.get("trajectory")
    turns = parse(turns) if isinstance(turns, str) else turns
    return turns if isinstance(turns, list) else []


def _chat(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn as chat message, where the text stands under another key."""
    role = "assistant" if turn["role"] == "ai" else turn["role"]
    if turn.get("content") is not None or "text" not in turn:
        return {**turn, "role": role}
    return {**turn, "role": role, "content": turn["text"] or turn.get("system_prompt")}


def _finish_reason(row: Mapping[str, Any], completion: list[Message]) -> str:
    """`exit_status`: a submission is the model's own end, any other word stays; without one, by the last call."""
    status = as_text(row.get("exit_status"))
    if status:
        return "stop" if status.lower() in ("submit", "submitted") else status
    last = next(said for said in reversed(completion) if said["role"] == "assistant")
    ended = any(call["function"]["name"] in ("finish", "submit") for call in last.get("tool_calls", ()))
    return INTERRUPTED if with_open_calls(completion) and not ended else "stop"
