"""What `codex exec --json` prints, as lines of a session of Codex.

Source: openai/codex, codex-rs/exec/src: event_processor_with_json_output.rs until September 2025, which printed a map
of the configuration, `{"prompt": …}` and then each event as `{"id": …, "msg": {"type": …}}`; from 015ba68 on
exec_events.rs (also of 08a1f30), whose lines are `session.created` or `thread.started`, `turn.…` and `item.…`. The
first versions of both hold no prompt. A log may begin with any line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rolloutops.formats.chat import as_text

Item = dict[str, Any]
Line = tuple[str, Item, Any]

WITH_ITEM = ("item.started", "item.updated", "item.completed")
"""Types of lines with an item."""

OF_A_TOOL = ("_begin", "_end", "_tool_call", "plan_update")
"""How the types of events end that tell of a tool at work."""


def is_stream(rows: Sequence[Any]) -> bool:
    """Whether the first rows are those that are printed."""
    found = [row for row in rows if isinstance(row, dict)]
    if not found or _is_item(found[0]) or _is_event(found[0]):
        return bool(found)
    more = found[1:]
    return (_is_config(found[0]) and any(map(_is_prompt, more))) or (_is_prompt(found[0]) and any(map(_is_event, more)))


def lines(rows: Sequence[Item]) -> list[Line]:
    """The objects of a log as the lines of a session's file. Raises ValueError where they do not hold all that was
    asked and said."""
    events = [row["msg"] for row in rows if _is_event(row)]
    prompts = [row["prompt"] for row in rows if _is_prompt(row)]
    named = (as_text(row.get("thread_id") or row.get("session_id")) for row in [*rows, *events])
    own_file = f"import the session's own file, ~/.codex/sessions/**/rollout-*-{next(filter(None, named), 'ID')}.jsonl"
    if any(map(_is_item, rows)) or not prompts:
        raise ValueError(f"what codex exec --json prints does not hold the prompt: {own_file}")
    if len(prompts) > 1:
        raise ValueError(f"the log holds {len(prompts)} runs of codex exec --json: give each a file of its own")
    if any(as_text(event["type"]).endswith(OF_A_TOOL) for event in events):
        raise ValueError(f"what codex exec --json prints does not hold the calls as the model made them: {own_file}")
    return [line for row in rows if (line := _line(row, prompts[0]))]


def _line(row: Item, prompt: str) -> Line | None:
    """A row as a line; None for an event that repeats the prompt."""
    if _is_prompt(row):
        return "event_msg", {"type": "user_message", "message": prompt}, None
    if _is_event(row):
        return None if row["msg"].get("message") == prompt else ("event_msg", row["msg"], None)
    return ("configuration" if _is_config(row) else as_text(row.get("type")) or "no type"), row, None


def _is_item(row: Item) -> bool:
    kind = row.get("type")
    if kind in ("thread.started", "session.created"):
        return "thread_id" in row or "session_id" in row
    return kind == "turn.started" or (kind in WITH_ITEM and isinstance(row.get("item"), dict))


def _is_event(row: Item) -> bool:
    return row.keys() == {"id", "msg"} and isinstance(row["msg"], dict) and isinstance(row["msg"].get("type"), str)


def _is_config(row: Item) -> bool:
    return {"workdir", "provider"} <= row.keys() and all(isinstance(value, str) for value in row.values())


def _is_prompt(row: Item) -> bool:
    return row.keys() == {"prompt"} and isinstance(row["prompt"], str)
