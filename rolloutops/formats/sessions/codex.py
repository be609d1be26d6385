"""Sessions of the Codex CLI: `~/.codex/sessions/YYYY/MM/DD/rollout-TIME-ID.jsonl`.

Source: openai/codex, `RolloutLine` and `ResponseItem` (codex-rs/protocol/src/protocol.rs and models.rs) of
rust-v0.128.0 and of 001cb8e; which events are written, codex-rs/rollout/src/policy.rs.

A line is `{timestamp, type, payload}`: `session_meta` (instructions, version), `turn_context` (model), `response_item`
(what the model was sent and what it said, items of the Responses API), `event_msg` (what the screen shows: mostly the
same texts, and token counts), `compacted`. Files of before September 2025 hold the items themselves, one a line, after
a first line with `id`, `timestamp` and `instructions`; the CLI in TypeScript wrote one document with `session` and
`items`. The tools are not in the file, but for `dynamic_tools`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rolloutops.formats.chat import as_text, message, text_of, tools_from
from rolloutops.formats.responses import from_responses
from rolloutops.formats.sessions import codex_stream
from rolloutops.formats.sessions.session import (
    ERROR,
    INTERRUPTED,
    Session,
    Tokens,
    count_of,
    first_time,
    halves,
    objects,
    summed,
    with_open_calls,
)
from rolloutops.formats.strict_json import dump
from rolloutops.types import Message

AGENT = "codex"
ENVELOPES = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")
ENDS = {
    "task_started": INTERRUPTED,
    "turn_started": INTERRUPTED,
    "turn_aborted": INTERRUPTED,
    "task_complete": "stop",
    "turn_complete": "stop",
    "error": ERROR,
    "stream_error": ERROR,
}
"""Events that say how a turn stands -> how the session ended, if none of them follows."""

PRINTED_ENDS = {**ENDS, "agent_message": "stop"}
"""As ENDS among what `codex exec --json` prints, which leaves `task_complete` out."""

ITEMS = ("message", "reasoning", "function_call", "function_call_output", "local_shell_call")
"""Types of items that files without envelopes hold."""

SPOKEN = {
    "agent_message": ("assistant", "message"),
    "agent_reasoning": ("reasoning", "text"),
    "agent_reasoning_raw_content": ("reasoning", "text"),
}
"""Events that repeat what the model said -> what that is, and the key of the text."""

CONTEXT = ("<user_instructions>", "<environment_context>", "# AGENTS.md", "<skill>", "<turn_aborted>", "<user_shell_")
"""How user messages begin that Codex itself writes: no turn starts with them."""

Item = dict[str, Any]


def recognizes(rows: Sequence[Any]) -> bool:
    """Whether the first rows of a file are those of a Codex session, or its document is one."""
    first = next((row for row in rows if isinstance(row, dict)), {})
    if isinstance(first.get("session"), dict) and isinstance(first.get("items"), list):
        return "id" in first["session"]
    if codex_stream.is_stream(rows):
        return True
    if first.get("type") in ENVELOPES and isinstance(first.get("payload"), dict):
        return True
    alone = {"id", "timestamp", "instructions"} <= first.keys() and "type" not in first
    return alone and any(isinstance(row, dict) and (row.get("type") in ITEMS or "record_type" in row) for row in rows)


def read(rows: Sequence[Any]) -> Session:
    """The session that a file's lines are. Raises ValueError where it has no prompt or no answer."""
    aside: Counter[str] = Counter()
    printed = codex_stream.is_stream(rows)
    found = objects(rows, aside)
    lines = codex_stream.lines(found) if printed else [_line(row) for row in _flat(found)]
    items, system = _items(lines, aside), _system(lines)
    messages = from_responses(items)
    if system and not any(system in text_of(item) for item in messages if item["role"] != "assistant"):
        messages = [message("system", system), *messages]
    prompt, completion, unanswered = halves(messages)
    aside["user without an answer"] += len(unanswered)
    metas = [payload for kind, payload, _ in lines if kind == "session_meta"]
    models = [payload["model"] for _, payload, _ in lines if isinstance(payload.get("model"), str)]
    tools = next((meta["dynamic_tools"] for meta in metas if meta.get("dynamic_tools")), None)
    return Session(
        AGENT,
        prompt,
        completion,
        _finish_reason(lines, completion, unanswered, PRINTED_ENDS if printed else ENDS),
        model=models[-1] if models else None,
        tools=tools_from(tools),
        tokens=_tokens(lines),
        started_at=first_time([*(meta.get("timestamp") for meta in metas), *(when for _, _, when in lines)]),
        left_aside=+aside,
    )


def _flat(rows: Sequence[Item]) -> list[Item]:
    """The lines of a file; those of a document are its session and its items."""
    if len(rows) == 1 and isinstance(rows[0].get("items"), list) and isinstance(rows[0].get("session"), dict):
        return [rows[0]["session"], *(item for item in rows[0]["items"] if isinstance(item, dict))]
    return list(rows)


def _line(row: Item) -> tuple[str, Item, Any]:
    """A line as (type, payload, timestamp): an item without envelope gets one."""
    payload = row.get("payload")
    if isinstance(payload, dict) and isinstance(row.get("type"), str):
        return row["type"], payload, row.get("timestamp")
    if "type" not in row and "role" not in row:
        kind = "session_meta" if "instructions" in row or "id" in row else as_text(row.get("record_type")) or "no type"
        return kind, row, row.get("timestamp")
    return "response_item", row, row.get("timestamp")


def _system(lines: Sequence[tuple[str, Item, Any]]) -> str:
    """The instructions of the session: the base instructions, or the user's, which older versions wrote instead."""
    for kind, payload, _ in lines:
        if kind != "session_meta":
            continue
        base = payload.get("base_instructions")
        text = as_text(base.get("text") if isinstance(base, dict) else base) or as_text(payload.get("instructions"))
        if text:
            return text
    return ""


def _items(lines: Sequence[tuple[str, Item, Any]], aside: Counter[str]) -> list[Item]:
    """What was said, in order: the response items, and texts of events that are in no item. Turns that the user took
    back are counted."""
    said = {text for kind, payload, _ in lines if kind == "response_item" for text in _texts(payload)}
    has_request = any(kind == "response_item" and _starts_turn(payload) for kind, payload, _ in lines)
    items: list[Item] = []
    metas = 0
    for kind, payload, _ in lines:
        name = as_text(payload.get("type"))
        if kind == "response_item":
            item = _item(payload)
            if item is None:
                aside[name or "no type"] += 1
            else:
                items.append(item)
        elif kind == "event_msg":
            who, text = _speech(payload, has_request)
            if text and text not in said and text not in _texts(items[-1] if items else {}):  # two events may tell one
                items.append(_spoken(who, text))
                continue
            aside[f"event_msg:{name}"] += 1
            if name == "thread_rolled_back":
                aside["item of a turn taken back"] += _roll_back(items, count_of(payload.get("num_turns")) or 0)
        elif kind == "session_meta":
            metas += 1
        else:
            aside[kind] += 1
    aside["session_meta of another session"] += max(metas - 1, 0)
    return items


def _item(payload: Item) -> Item | None:
    """A response item as `from_responses` reads it: calls of built-in tools are function calls. None for what is
    neither said nor sent."""
    kind = as_text(payload.get("type"))
    if kind == "reasoning":
        return payload if any(_texts(payload)) else None
    if kind in ("", "message", "function_call", "custom_tool_call", "function_call_output", "custom_tool_call_output"):
        return payload
    if kind.endswith("_call"):
        rest = {key: value for key, value in payload.items() if key not in ("type", "id", "call_id", "status")}
        arguments = rest["action"] if rest.keys() == {"action"} else rest
        call_id = payload.get("call_id") or payload.get("id")
        return {
            "type": "function_call",
            "call_id": call_id,
            "name": kind.removesuffix("_call"),
            "arguments": dump(arguments),
        }
    if kind.endswith("_output"):
        rest = {key: value for key, value in payload.items() if key not in ("type", "id", "call_id", "status")}
        output = rest["output"] if "output" in rest else dump(rest)
        return {"type": "function_call_output", "call_id": payload.get("call_id"), "output": output}
    return None


def _texts(item: Item) -> list[str]:
    """The texts of a message or of reasoning."""
    parts: list[Any] = []
    for key in ("content", "summary"):
        listed = item.get(key)
        parts += listed if isinstance(listed, list) else [listed] if listed else []
    texts = [as_text(part.get("text")) if isinstance(part, dict) else as_text(part) for part in parts]
    return [text for text in texts if text]


def _speech(event: Item, has_request: bool) -> tuple[str, str]:
    """What an event says (who or what speaks, the text), where it may be the only place that says it; else nothing.
    has_request: the items hold what the user wrote."""
    name = as_text(event.get("type"))
    if name in SPOKEN:
        return SPOKEN[name][0], as_text(event.get(SPOKEN[name][1]))
    if name == "user_message" and not has_request:
        return "user", as_text(event.get("message"))
    item = event.get("item")
    if name == "item_completed" and isinstance(item, dict) and item.get("type") in ("AgentMessage", "Plan"):
        return "assistant", "".join(_texts(item)) or as_text(item.get("text"))
    return "", ""


def _spoken(who: str, text: str) -> Item:
    if who == "reasoning":
        return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}
    kind = "output_text" if who == "assistant" else "input_text"
    return {"type": "message", "role": who, "content": [{"type": kind, "text": text}]}


def _roll_back(items: list[Item], turns: int) -> int:
    """Take the last turns out of the items; returns how many items that were."""
    starts = [number for number, item in enumerate(items) if _starts_turn(item)]
    if not turns or not starts:
        return 0
    cut = starts[max(len(starts) - turns, 0)]
    taken = len(items) - cut
    del items[cut:]
    return taken


def _starts_turn(item: Item) -> bool:
    return item.get("role") == "user" and not any(text.startswith(CONTEXT) for text in _texts(item)[:1])


def _finish_reason(
    lines: Sequence[tuple[str, Item, Any]],
    completion: Sequence[Message],
    unanswered: Sequence[Message],
    ends: Mapping[str, str],
) -> str:
    """Why the session ended: by the last event that says so; where there is none, by who had the last word."""
    events = [as_text(payload.get("type")) for kind, payload, _ in lines if kind == "event_msg"]
    said = next((ends[name] for name in reversed(events) if name in ends), None)
    if said is not None and said != "stop":
        return said
    open_request = any(not as_text(item["content"]).startswith(CONTEXT) for item in unanswered)
    return INTERRUPTED if with_open_calls(completion) or open_request else "stop"


def _tokens(lines: Sequence[tuple[str, Item, Any]]) -> Tokens:
    """The last total of each count: totals grow, are written more than once, and begin again where a session is forked
    or resumed."""
    totals: list[Mapping[str, Any]] = []
    for kind, payload, _ in lines:
        if kind != "event_msg" or payload.get("type") != "token_count":
            continue
        info = payload.get("info")
        total = info.get("total_token_usage") if isinstance(info, dict) else payload
        if not isinstance(total, dict) or count_of(total.get("input_tokens")) is None:
            continue
        if totals and _size(total) >= _size(totals[-1]):
            totals[-1] = total
        else:
            totals.append(total)
    names = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_output_tokens")
    return summed(Tokens(*(count_of(total.get(name)) for name in names)) for total in totals)


def _size(total: Mapping[str, Any]) -> int:
    return (count_of(total.get("input_tokens")) or 0) + (count_of(total.get("output_tokens")) or 0)
