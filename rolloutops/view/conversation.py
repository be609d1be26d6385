"""One rollout as a page shows it: turns by role, tool calls beside results, long texts cut."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rolloutops.errors import UsageError
from rolloutops.formats.media import MEDIA, is_local, scheme_of
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace
from rolloutops.view.index import Moment, make_views, read

FOLD = 3_000
"""Characters of a text that are sent at first; the rest is sent when a reader unfolds it."""

TURNS = 100
"""Turns that are sent at a time."""

LONGEST_RAW = 20_000_000
"""Characters of a raw text that a page takes."""

ATTEMPT = """
SELECT dataset, task_id, row_hash, policy, rollout_index, attempt, attempt_id, run_id, engine, model,
    request::VARCHAR AS request, response, prompt::VARCHAR AS prompt, tools::VARCHAR AS tools,
    completion::VARCHAR AS completion, finish_reason, turns, tool_calls, tool_errors,
    input_tokens, output_tokens, reasoning_tokens, cached_tokens, to_json(token_turns)::VARCHAR AS token_turns,
    epoch_ms(started_at) AS started_at, seconds, model_seconds, tool_seconds, error, error_message
FROM attempts
WHERE attempt_id = {attempt_id} AND dataset = {dataset}
LIMIT 1
"""

TASK = """
SELECT prompt::VARCHAR AS prompt, tools::VARCHAR AS tools, answer, "row"::VARCHAR AS "row", origin, line
FROM task_log
WHERE dataset = {dataset} AND task_id = {task_id} AND row_hash = {row_hash} AND NOT removed
ORDER BY version DESC
LIMIT 1
"""

VERDICTS = """
SELECT verifier, verifier_version, reward, to_json(metrics)::VARCHAR AS metrics, details::VARCHAR AS details, error,
    error_message, seconds, present
FROM named_verdicts
WHERE attempt_id = {attempt_id} AND dataset = {dataset}
ORDER BY present DESC, verdict_id DESC
"""


@dataclass(frozen=True)
class Conversation:
    """A rollout, read from disk. messages: prompt and completion, canonical chat messages. prompt: how many of them are
    the prompt. facts: the row's small values. raw: texts as they were stored, by name. calls: a message's number -> the
    model call that made it, from 0. times: when each call was answered, in seconds since 1970, if that is known."""

    facts: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    prompt: int
    tools: Any
    verdicts: Sequence[Mapping[str, Any]]
    request: Any
    token_turns: Sequence[Mapping[str, Any]]
    raw: Mapping[str, str]
    calls: Mapping[int, int]
    times: Sequence[float | None]

    @property
    def has_texts(self) -> bool:
        """Whether it has what an attempt of its kind has: not where its journal has become a part file since."""
        return self.facts["error"] is not None or len(self.messages) > self.prompt


def load(moment: Moment, workspace: Workspace, dataset: str, attempt_id: str) -> Conversation:
    """Read one rollout, or failed attempt. Raises UsageError where there is none."""
    make_views(moment, "attempts task_log named_verdicts")
    key = {"dataset": sql.literal(dataset), "attempt_id": sql.literal(attempt_id)}
    found = read(moment, ATTEMPT.format(**key))
    if not found:
        raise UsageError(f"there is no rollout {attempt_id} of {dataset!r}")
    row = {**found[0], **_from_journal(workspace, found[0])}
    task_key = {name: sql.literal(row[name]) for name in ("dataset", "task_id", "row_hash")}
    task = next(iter(read(moment, TASK.format(**task_key))), {})
    verdicts = read(moment, VERDICTS.format(**key))
    prompt = _messages(row.pop("prompt") or task.get("prompt"))
    completion, tools = _messages(row.pop("completion")), _json(row.pop("tools") or task.get("tools"))
    request, token_turns = row.pop("request"), _json(row.pop("token_turns")) or []
    raw = {"request": request, "response": row.pop("response"), "task": task.get("row")}
    facts = {**row, "answer": task.get("answer"), "origin": task.get("origin"), "line": task.get("line")}
    made = [len(prompt) + at for at, item in enumerate(completion) if item.get("role") == "assistant"]
    return Conversation(
        facts,
        [*prompt, *completion],
        len(prompt),
        tools,
        [{**one, "metrics": _json(one["metrics"]), "details": _json(one["details"])} for one in verdicts],
        _json(request),
        token_turns,
        {name: text for name, text in raw.items() if text},
        {number: call for call, number in enumerate(made)},
        _times(raw["response"]),
    )


def _from_journal(workspace: Workspace, row: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of an attempt that no part file holds yet."""
    if row["completion"] is not None or row["response"] is not None:
        return {}
    mark = row["attempt_id"].encode()
    for path in sorted((workspace.root / "journals").glob(f"{row['run_id']}-*.jsonl")):
        try:
            lines = [line for line in path.read_bytes().split(b"\n") if mark in line]
        except FileNotFoundError:  # it became a part file since the index was made
            continue
        for line in lines:
            try:
                attempt = orjson.loads(line).get("attempts")
            except orjson.JSONDecodeError:  # it is being written
                continue
            if attempt and attempt["attempt_id"] == row["attempt_id"]:
                texts = ("request", "response", "prompt", "tools", "completion")
                found = {name: attempt.get(name) for name in texts if attempt.get(name) is not None}
                return found | {"token_turns": json.dumps(attempt.get("token_turns"))}
    return {}


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
            "arguments": _cut(number, f"arguments:{place}", _arguments(call)),
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
        "media": _media(item),
        **_model_call(one, number),
    }


def _result(one: Conversation, number: int | None) -> dict[str, Any] | None:
    if number is None:
        return None
    return {
        "number": number,
        "text": _cut(number, "text", text_of(one.messages[number])),
        "media": _media(one.messages[number]),
    }


def _model_call(one: Conversation, number: int) -> dict[str, Any]:
    """What is known of the model call behind a turn: how many token ids there are, and when it was answered."""
    call = one.calls.get(number)
    if call is None:
        return {"call": None, "tokens": 0, "time": None}
    held = one.token_turns[call] if call < len(one.token_turns) else {}
    time = one.times[call] if call < len(one.times) else None
    return {"call": call, "tokens": len(held.get("generation_token_ids") or ()), "time": time}


def _times(response: str | None) -> list[float | None]:
    """When each reply was made, as far as the endpoint says so."""
    replies = _json(response)
    found: list[float | None] = []
    for reply in replies if isinstance(replies, list) else ():
        value = (reply.get("created") or reply.get("created_at")) if isinstance(reply, dict) else None
        found.append(value if isinstance(value, int | float) else None)
    return found


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
        return _arguments(calls[int(place)])
    raise UsageError(f"turn {number} has no {part!r}")


def image_of(one: Conversation, number: int, place: int) -> str:
    """Return the path of a local picture of a turn, as its row has it. Raises UsageError where there is none."""
    media = _media(one.messages[number]) if 0 <= number < len(one.messages) else []
    if not 0 <= place < len(media) or not media[place]["local"] or media[place]["medium"] != "image":
        raise UsageError(f"turn {number} has no local picture {place}")
    return str(media[place]["reference"])


def text_of(item: Mapping[str, Any]) -> str:
    """Return the text of a message; parts that are not text are left out."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    texts = (part.get("text") for part in content or () if isinstance(part, dict) and part.get("type") == "text")
    return "\n".join(text for text in texts if isinstance(text, str))


def _media(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pictures, sounds and videos of a message, each by its reference."""
    content = item.get("content")
    found = []
    for part in content if isinstance(content, list) else ():
        kind = str(part.get("type"))
        inner = part.get(kind)
        reference = inner.get("url") if isinstance(inner, dict) else None
        if kind != "text":
            local = isinstance(reference, str) and is_local(reference)
            medium = next((name for name in MEDIA if name in kind), "file")
            scheme = scheme_of(reference) if isinstance(reference, str) else None
            found.append({"medium": medium, "reference": reference or "", "local": local, "scheme": scheme})
    return found


def _cut(number: int, part: str, whole: str) -> dict[str, Any]:
    """A text as it is sent at first."""
    return {"turn": number, "part": part, "text": whole[:FOLD], "length": len(whole)}


def _arguments(call: Mapping[str, Any]) -> str:
    arguments = (call.get("function") or {}).get("arguments", "")
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _messages(source: str | None) -> list[dict[str, Any]]:
    found = _json(source)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _json(source: str | None) -> Any:
    """What a JSON text holds; the text itself where it is none."""
    try:
        return json.loads(source) if source else None
    except (ValueError, RecursionError):
        return source
