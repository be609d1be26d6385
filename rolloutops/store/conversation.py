"""One rollout, or failed attempt, with all its texts: from part files, or from the journal that it is still in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rolloutops.errors import UsageError
from rolloutops.formats.media import MEDIA, is_local, scheme_of
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace

Read = Callable[[str], list[dict[str, Any]]]
"""Runs a query and returns its rows, column -> value."""

RELATIONS = "attempts task_log named_verdicts dataset_verifiers labels"
"""What a conversation is read from."""

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
    error_message, seconds, present OR dataset NOT IN (SELECT dataset FROM dataset_verifiers) AS present
FROM named_verdicts
WHERE attempt_id = {attempt_id} AND dataset = {dataset}
ORDER BY present DESC, verdict_id DESC
"""

LABEL = """
SELECT label, score, note, author, epoch_ms(created_at) AS created_at
FROM labels
WHERE attempt_id = {attempt_id} AND dataset = {dataset}
"""


@dataclass(frozen=True)
class Conversation:
    """A rollout, read from disk. messages: prompt and completion, canonical chat messages. prompt: how many of them are
    the prompt. facts: the row's small values. raw: texts as they were stored, by name. calls: a message's number -> the
    model call that made it, from 0. times: when each call was answered, in seconds since 1970, if that is known.
    label: what a person says of it, if anything."""

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
    label: Mapping[str, Any] | None = None

    @property
    def has_texts(self) -> bool:
        """Whether it has what an attempt of its kind has: not where its journal has become a part file since."""
        return self.facts["error"] is not None or len(self.messages) > self.prompt


def load(read: Read, workspace: Workspace, dataset: str, attempt_id: str) -> Conversation:
    """Read one rollout, or failed attempt. Raises UsageError where there is none.

    read: runs a query over RELATIONS of the workspace's snapshot and returns its rows.
    """
    key = {"dataset": sql.literal(dataset), "attempt_id": sql.literal(attempt_id)}
    found = read(ATTEMPT.format(**key))
    if not found:
        raise UsageError(f"there is no rollout {attempt_id} of {dataset!r}")
    row = {**found[0], **_from_journal(workspace, found[0])}
    task_key = {name: sql.literal(row[name]) for name in ("dataset", "task_id", "row_hash")}
    task = next(iter(read(TASK.format(**task_key))), {})
    verdicts = read(VERDICTS.format(**key))
    prompt = _messages(row.pop("prompt") or task.get("prompt"))
    completion, tools = _messages(row.pop("completion")), from_json(row.pop("tools") or task.get("tools"))
    request, token_turns = row.pop("request"), from_json(row.pop("token_turns")) or []
    raw = {"request": request, "response": row.pop("response"), "task": task.get("row")}
    facts = {**row, "answer": task.get("answer"), "origin": task.get("origin"), "line": task.get("line")}
    made = [len(prompt) + at for at, item in enumerate(completion) if item.get("role") == "assistant"]
    return Conversation(
        facts,
        [*prompt, *completion],
        len(prompt),
        tools,
        [{**one, "metrics": from_json(one["metrics"]), "details": from_json(one["details"])} for one in verdicts],
        from_json(request),
        token_turns,
        {name: text for name, text in raw.items() if text},
        {number: call for call, number in enumerate(made)},
        _times(raw["response"]),
        next(iter(read(LABEL.format(**key))), None),
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


def _times(response: str | None) -> list[float | None]:
    """When each reply was made, as far as the endpoint says so."""
    replies = from_json(response)
    found: list[float | None] = []
    for reply in replies if isinstance(replies, list) else ():
        value = (reply.get("created") or reply.get("created_at")) if isinstance(reply, dict) else None
        found.append(value if isinstance(value, int | float) else None)
    return found


def text_of(item: Mapping[str, Any]) -> str:
    """Return the text of a message; parts that are not text are left out."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    texts = (part.get("text") for part in content or () if isinstance(part, dict) and part.get("type") == "text")
    return "\n".join(text for text in texts if isinstance(text, str))


def media_of(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pictures, sounds and videos of a message, each by its reference."""
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


def arguments_of(call: Mapping[str, Any]) -> str:
    """Return the arguments of a tool call as text."""
    arguments = (call.get("function") or {}).get("arguments", "")
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _messages(source: str | None) -> list[dict[str, Any]]:
    found = from_json(source)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def from_json(source: str | None) -> Any:
    """Return what a JSON text holds; the text itself where it is none."""
    try:
        return json.loads(source) if source else None
    except (ValueError, RecursionError):
        return source
