"""Trajectories of mini-swe-agent: `NAME.traj.json`, one document a run.

Source: SWE-agent/mini-swe-agent a83fcae8 (docs/usage/output_files.md, agents/default.py, models/), formats
`mini-swe-agent-1` (v1: every message has `role` and text) and `mini-swe-agent-1.1` (v2: messages as the model's API has
them, with `extra`; those of the Responses API are whole response objects and `function_call_output` items).

An answer that could not be parsed is not among the messages: it is in `extra.response` (v2) or `extra.model_response`
of the error that the model was shown instead, and becomes the assistant message before it. The tools are not in the
file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rolloutops.formats.chat import as_text, message, message_of, with_ids
from rolloutops.formats.finish_reasons import known
from rolloutops.formats.responses import from_responses
from rolloutops.formats.sessions.session import (
    INTERRUPTED,
    Session,
    Tokens,
    first_time,
    halves,
    objects,
    summed,
    usage_tokens,
)
from rolloutops.types import Message

AGENT = "mini_swe_agent"
FORMAT = "mini-swe-agent"

Entry = dict[str, Any]


def recognizes(document: Any) -> bool:
    """Whether a document is a trajectory of mini-swe-agent."""
    if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
        return False
    if as_text(document.get("trajectory_format")).startswith(FORMAT):
        return True
    info = document.get("info")
    return isinstance(info, dict) and "exit_status" in info and ("mini_version" in info or "submission" in info)


def read(document: Mapping[str, Any]) -> Session:
    """The run that a document is. Raises ValueError where it has no prompt or no answer."""
    aside: Counter[str] = Counter()
    info = document["info"] if isinstance(document.get("info"), dict) else {}
    entries = objects(document["messages"], aside)
    messages = [said for entry in entries for said in _messages(entry, aside)]
    prompt, completion, unanswered = halves(with_ids(messages))
    aside["user without an answer"] += len(unanswered)
    aside["info"] += bool(info)
    responses = [found for entry in entries if (found := _response(entry)) is not None]
    named = [as_text(response.get("model")) for response in responses if response.get("model")]
    return Session(
        AGENT,
        prompt,
        completion,
        _finish_reason(info),
        model=_configured(info) or (named[-1] if named else None),
        tokens=_tokens(responses),
        started_at=first_time(_extra(entry).get("timestamp") for entry in entries),
        task={"instance_id": document["instance_id"]} if isinstance(document.get("instance_id"), str) else {},
        left_aside=+aside,
    )


def _messages(entry: Entry, aside: Counter[str]) -> Iterator[Message]:
    """What one entry says: mostly one message; none for the note at a run's end."""
    if entry.get("role") == "exit":
        aside["exit"] += 1
        return
    if entry.get("object") == "response" or "role" not in entry:
        yield from from_responses(entry["output"] if entry.get("object") == "response" else [entry])
        return
    yield from _unparsed(entry)
    content = entry.get("content")
    if entry["role"] == "user" and not content and "exit_status" in _extra(entry):
        aside["exit"] += 1
        return
    yield message_of(entry)


def _unparsed(entry: Entry) -> list[Message]:
    """The answer that an error message stands for."""
    extra = _extra(entry)
    if extra.get("interrupt_type") != "FormatError":
        return []
    response = extra.get("response")
    if isinstance(response, dict) and response.get("object") == "response":
        return from_responses(response.get("output"))
    if isinstance(response, dict):
        choices = response.get("choices")
        said = [choice.get("message") for choice in objects(choices if isinstance(choices, list) else (), Counter())]
        return [message_of({"role": "assistant", **item}) for item in said[:1] if isinstance(item, dict)]
    text = as_text(extra.get("model_response") or response)
    return [message("assistant", text)] if text else []


def _finish_reason(info: Mapping[str, Any]) -> str:
    """`info.exit_status`: `Submitted` is the model's own end, any other word stays. A run without one was killed."""
    status = as_text(info.get("exit_status"))
    if status:
        return "stop" if status.lower() == "submitted" else known(status) or status
    return INTERRUPTED


def _configured(info: Mapping[str, Any]) -> str | None:
    config = info.get("config")
    model = config.get("model") if isinstance(config, dict) else None
    return as_text(model.get("model_name")) or None if isinstance(model, dict) else None


def _response(entry: Entry) -> Mapping[str, Any] | None:
    """The reply that an entry was made of."""
    if entry.get("object") == "response":
        return entry
    response = _extra(entry).get("response")
    return response if isinstance(response, dict) else None


def _tokens(responses: Sequence[Mapping[str, Any]]) -> Tokens:
    calls = {as_text(found.get("id")) or str(number): found.get("usage") for number, found in enumerate(responses)}
    return summed(usage_tokens(usage) for usage in calls.values())


def _extra(entry: Entry) -> Mapping[str, Any]:
    extra = entry.get("extra")
    return extra if isinstance(extra, dict) else {}
