"""One rollout as a page shows it: turns by role, tool calls beside results, long texts cut."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rolloutops.errors import UsageError
from rolloutops.store import conversation as stored
from rolloutops.store.conversation import RELATIONS, Conversation, arguments_of, media_of, text_of
from rolloutops.store.workspace import Workspace
from rolloutops.view.index import Moment, make_views, read

FOLD = 3_000
"""Characters of a text that are sent at first; the rest is sent when a reader unfolds it."""

TURNS = 100
"""Turns that are sent at a time."""

LONGEST_RAW = 20_000_000
"""Characters of a raw text that a page takes."""


def load(moment: Moment, workspace: Workspace, dataset: str, attempt_id: str) -> Conversation:
    """Read one rollout, or failed attempt, as a reader of pages may. Raises UsageError where there is none."""
    make_views(moment, RELATIONS)
    return stored.load(partial(read, moment), workspace, dataset, attempt_id)


def overview(one: Conversation) -> dict[str, Any]:
    """What a page shows of a rollout at once: all but its turns after the first TURNS."""
    return {
        "facts": one.facts,
        "verdicts": one.verdicts,
        "request": one.request,
        "tools": one.tools,
        "raw": {name: len(text) for name, text in one.raw.items()},
        **turns(one, 0),
    }


def turns(one: Conversation, start: int) -> dict[str, Any]:
    """Return TURNS turns from a number on. A tool's result is in the turn that called it."""
    results = {
        m["tool_call_id"]: n for n, m in enumerate(one.messages) if m.get("role") == "tool" and "tool_call_id" in m
    }
    calls = {call.get("id") for m in one.messages for call in m.get("tool_calls") or ()}
    end = min(start + TURNS, len(one.messages))
    shown = [
        _turn(one, number, results)
        for number in range(start, end)
        if not (one.messages[number].get("role") == "tool" and one.messages[number].get("tool_call_id") in calls)
    ]
    return {"turns": shown, "next": end if end < len(one.messages) else None, "total": len(one.messages)}


def _turn(one: Conversation, number: int, results: Mapping[str, int]) -> dict[str, Any]:
    item = one.messages[number]
    calls = [
        {
            "name": (call.get("function") or {}).get("name"),
            "arguments": _cut(number, f"arguments:{place}", arguments_of(call)),
            "result": _result(one, results.get(call.get("id", ""))),
        }
        for place, call in enumerate(item.get("tool_calls") or ())
    ]
    reasoning = item.get("reasoning_content")
    return {
        "number": number,
        "role": item.get("role"),
        "name": item.get("name"),
        "prompt": number < one.prompt,
        "text": _cut(number, "text", text_of(item)),
        "reasoning": _cut(number, "reasoning", reasoning) if reasoning else None,
        "calls": calls,
        "media": media_of(item),
        **_model_call(one, number),
    }


def _result(one: Conversation, number: int | None) -> dict[str, Any] | None:
    if number is None:
        return None
    return {
        "number": number,
        "text": _cut(number, "text", text_of(one.messages[number])),
        "media": media_of(one.messages[number]),
    }


def _model_call(one: Conversation, number: int) -> dict[str, Any]:
    """What is known of the model call behind a turn: how many token ids there are, and when it was answered."""
    call = one.calls.get(number)
    if call is None:
        return {"call": None, "tokens": 0, "time": None}
    held = one.token_turns[call] if call < len(one.token_turns) else {}
    time = one.times[call] if call < len(one.times) else None
    return {"call": call, "tokens": len(held.get("generation_token_ids") or ()), "time": time}


def tokens(one: Conversation, call: int) -> dict[str, Any]:
    """Return the token ids of a model call with their log-probs."""
    if not 0 <= call < len(one.token_turns):
        raise UsageError(f"model call {call} has no token ids")
    held = one.token_turns[call]
    return {
        "prompt_tokens": len(held.get("prompt_token_ids") or ()),
        "ids": held.get("generation_token_ids") or [],
        "log_probs": held.get("generation_log_probs") or [],
    }


def text(one: Conversation, number: int, part: str) -> str:
    """Return a whole text: `text`, `reasoning` or `arguments:0` of a turn. Raises UsageError where there is none."""
    item = one.messages[number] if 0 <= number < len(one.messages) else {}
    kind, _, place = part.partition(":")
    calls = item.get("tool_calls") or ()
    if kind == "text":
        return text_of(item)
    if kind == "reasoning" and item.get("reasoning_content"):
        return str(item["reasoning_content"])
    if kind == "arguments" and place.isdigit() and int(place) < len(calls):
        return arguments_of(calls[int(place)])
    raise UsageError(f"turn {number} has no {part!r}")


def image_of(one: Conversation, number: int, place: int) -> str:
    """Return the path of a local picture of a turn, as its row has it. Raises UsageError where there is none."""
    media = media_of(one.messages[number]) if 0 <= number < len(one.messages) else []
    if not 0 <= place < len(media) or not media[place]["local"] or media[place]["medium"] != "image":
        raise UsageError(f"turn {number} has no local image {place}")
    return str(media[place]["reference"])


def _cut(number: int, part: str, whole: str) -> dict[str, Any]:
    """A text as it is sent at first."""
    return {"turn": number, "part": part, "text": whole[:FOLD], "length": len(whole)}
