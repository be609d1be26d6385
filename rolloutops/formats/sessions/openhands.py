"""Sessions of OpenHands: trajectories, and the `output.jsonl` of its evaluations, whose rows are one session each.

Source: All-Hands-AI/OpenHands 156d0686 (openhands/events/serialization/event.py, memory/conversation_memory.py,
evaluation/utils/shared.py: EvalOutput), for events with `action` or `observation`. Those of the newer SDK, with `kind`,
are read by openhands_sdk.py.

A trajectory is one list of events, alone, one a line, or under `trajectory`, `history`, `events` or `items`. The
model's message, with its tool calls and reasoning, is in `tool_call_metadata.model_response`, which several actions
may share; where that was taken out, an action is a tool call of its name with its `args`. An observation names its
action by `tool_call_metadata.tool_call_id` or `cause`. Older evaluations hold pairs of action and observation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rolloutops.formats.chat import Tool, as_text, message, message_of, text_of, tool_call, tools_from, with_ids
from rolloutops.formats.sessions import openhands_sdk
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
    usage_tokens,
    with_open_calls,
)
from rolloutops.formats.strict_json import dump
from rolloutops.types import Message

AGENT = "openhands"
LISTS = ("history", "trajectory", "events", "items")
"""Keys under which a document holds its events."""

NOT_SAID = frozenset(
    {
        *("recall", "change_agent_state", "null", "condensation", "condensation_request"),
        *("pause", "resume", "stop", "start", "loop_recovery"),
    }
)
"""Actions that are no model's and no user's words."""

NOT_SHOWN = frozenset({"agent_state_changed", "recall", "null", "condense", "loop_detection", "success"})
"""Observations that answer no tool call."""

STATES = {
    "finished": "stop",
    "rejected": "stop",
    "awaiting_user_input": "stop",
    "error": ERROR,
    "rate_limited": ERROR,
    "stopped": INTERRUPTED,
    "paused": INTERRUPTED,
}
"""The agent's last state -> how the session ended."""

Event = dict[str, Any]


def recognizes(rows: Sequence[Any]) -> bool:
    """Whether the first rows of a file, or of the list that a document holds, are events of OpenHands."""
    found = [row for row in _flat(rows) if isinstance(row, dict)]
    return openhands_sdk.recognizes(found) or any(_is_event(row) for row in found[:20])


def recognizes_row(row: Mapping[str, Any]) -> bool:
    """Whether a row is one instance of an evaluation."""
    return ("test_result" in row or "instance_id" in row) and events_of(row) is not None


def events_of(document: Any) -> list[Any] | None:
    """The events of a document or a row that holds a trajectory; None where it holds none."""
    if isinstance(document, dict):
        document = next((document[key] for key in LISTS if isinstance(document.get(key), list) and document[key]), None)
    return document if isinstance(document, list) and recognizes(document) else None


def read(rows: Sequence[Any], row: Mapping[str, Any] | None = None) -> Session:
    """The session that these events are. row: the evaluation's row that they are from. Raises ValueError where they
    have no prompt or no answer."""
    row = row or {}
    aside: Counter[str] = Counter()
    events = objects(_flat(rows), aside)
    if openhands_sdk.recognizes(events):
        messages, facts = openhands_sdk.read(events, aside)
    else:
        messages, facts = _messages(events, aside), _facts(events)
    if not any(item["role"] == "user" for item in messages) and row.get("instruction"):
        start = next((n for n, item in enumerate(messages) if item["role"] != "system"), len(messages))
        messages.insert(start, message("user", as_text(row["instruction"])))
    prompt, completion, unanswered = halves(with_ids(messages))
    aside["user without an answer"] += len(unanswered)
    reward, details = _reward(row)
    return Session(
        AGENT,
        prompt,
        completion,
        ERROR if row.get("error") else _finish_reason(facts, completion, unanswered),
        model=_configured(row) or facts.model,
        tools=facts.tools,
        tokens=_accumulated(row.get("metrics")) or facts.tokens,
        started_at=first_time(event.get("timestamp") for event in events),
        reward=reward,
        details=details,
        task={key: row[key] for key in ("instance_id", "instance") if row.get(key) is not None},
        left_aside=+aside,
    )


def read_row(row: Mapping[str, Any]) -> Session:
    """The session of one row of an evaluation."""
    return read(events_of(row) or (), row)


def _flat(rows: Sequence[Any]) -> list[Any]:
    """Events, where older files hold pairs of them."""
    return [event for item in rows for event in (item if isinstance(item, list) else [item])]


def _is_event(row: Mapping[str, Any]) -> bool:
    named = isinstance(row.get("action"), str) or isinstance(row.get("observation"), str)
    known = row.get("source") in ("agent", "user", "environment")
    return named and known and ("args" in row or "extras" in row or "content" in row)


def _messages(events: Sequence[Event], aside: Counter[str]) -> list[Message]:
    found: list[Message] = []
    answers: dict[str, int] = {}
    named: set[str] = set()  # calls that are named after their events
    for event in events:
        kind = as_text(event.get("action"))
        if not kind:
            found += _of_observation(event, named, aside)
        elif kind in NOT_SAID:
            aside[f"action:{kind}"] += 1
        elif kind == "system" or event.get("source") == "user":
            found.append(_of_user(event))
        elif kind == "message":
            found.append(message("assistant", _with_images(_args(event))))
        elif (response := _response(event)) is None:
            found.append(_from_args(event))
            named.add(found[-1]["tool_calls"][0]["id"])
        else:
            _add_answer(found, answers, event, response)
    return found


def _add_answer(messages: list[Message], answers: dict[str, int], event: Event, response: Mapping[str, Any]) -> None:
    """Add the message that an action is from, once for all actions of one response; and the action's thought, where the
    message does not have it."""
    key = as_text(response.get("id")) or f"event {len(messages)}"
    if key not in answers:
        answers[key] = len(messages)
        messages.append(message_of({"role": "assistant", **_message_in(response)}))
    answer = messages[answers[key]]
    thought = as_text(_args(event).get("thought"))
    held = f"{text_of(answer)}\n{answer.get('reasoning_content', '')}\n{dump(answer.get('tool_calls') or [])}"
    if thought.strip() and thought.strip() not in held and dump(thought.strip())[1:-1] not in held:
        content = f"{text_of(answer)}\n\n{thought}".strip()
        messages[answers[key]] = {**answer, "content": content}


def _from_args(event: Event) -> Message:
    """An action without the model's message as a tool call of its name."""
    args = _args(event)
    arguments = {key: value for key, value in args.items() if key != "thought" and value is not None}
    metadata = event.get("tool_call_metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    call_id = as_text(metadata.get("tool_call_id")) or (f"event_{event['id']}" if "id" in event else "")
    name = as_text(metadata.get("function_name")) or as_text(event.get("action"))
    thought = as_text(args.get("thought"))
    return message("assistant", thought, tool_calls=[tool_call(call_id, name, arguments)])


def _of_user(event: Event) -> Message:
    """A system message, or what a user did: wrote, or ran a command."""
    args = _args(event)
    role = "system" if event.get("action") == "system" else "user"
    if "content" in args:
        return message(role, _with_images(args))
    return message(role, as_text(args.get("command")) or dump(args))


def _of_observation(event: Event, event_calls: set[str], aside: Counter[str]) -> Iterator[Message]:
    """The output of a tool call; a user's message where it answers none."""
    kind = as_text(event.get("observation"))
    if not kind or kind in NOT_SHOWN:
        aside[f"observation:{kind}" if kind else "no type"] += 1
        return
    metadata = event.get("tool_call_metadata")
    call_id = as_text(metadata.get("tool_call_id")) if isinstance(metadata, dict) else ""
    if not call_id and f"event_{event.get('cause')}" in event_calls:
        call_id = f"event_{event['cause']}"
    text = _output_text(event)
    if call_id:
        yield message("tool", text, tool_call_id=call_id)
    else:
        yield message("user", text)


def _output_text(event: Event) -> str:
    """An observation's text as the model saw it: a command's with its prefix, folder and exit code."""
    text = as_text(event.get("content"))
    extras = event.get("extras")
    facts = extras.get("metadata") if isinstance(extras, dict) else None
    if event.get("observation") != "run" or not isinstance(facts, dict):
        return text
    text = f"{as_text(facts.get('prefix'))}{text}{as_text(facts.get('suffix'))}"
    if facts.get("working_dir"):
        text += f"\n[Current working directory: {facts['working_dir']}]"
    if facts.get("py_interpreter_path"):
        text += f"\n[Python interpreter: {facts['py_interpreter_path']}]"
    if facts.get("exit_code", -1) != -1:
        text += f"\n[Command finished with exit code {facts['exit_code']}]"
    return text


def _with_images(args: Mapping[str, Any]) -> str | list[dict[str, Any]]:
    text = as_text(args.get("content"))
    urls = args.get("image_urls")
    if not isinstance(urls, list) or not urls:
        return text
    pictures = [{"type": "image_url", "image_url": {"url": as_text(url)}} for url in urls]
    return [*([{"type": "text", "text": text}] if text else []), *pictures]


def _facts(events: Sequence[Event]) -> openhands_sdk.Facts:
    """What the events say of the model, the tools, the tokens and the end."""
    responses = [found for event in events if (found := _response(event)) is not None]
    usages = {as_text(found.get("id")) or str(number): found.get("usage") for number, found in enumerate(responses)}
    metrics = [_accumulated(event.get("llm_metrics")) for event in events]
    ends = [end for event in events if (end := _end(event)) is not None]
    tools = next((_args(event).get("tools") for event in events if event.get("action") == "system"), None)
    return openhands_sdk.Facts(
        model=next((as_text(found["model"]) for found in reversed(responses) if found.get("model")), None),
        tools=_tools(tools),
        tokens=next(filter(None, reversed(metrics)), None) or summed(map(usage_tokens, usages.values())),
        end=(ends[-1] or None) if ends else None,
    )


def _end(event: Event) -> str | None:
    """How the session stands after an event, "" where it goes on; None where the event does not tell."""
    if "action" in event:
        if event["action"] in NOT_SAID:
            return None
        return "stop" if event["action"] in ("finish", "reject") and event.get("source") == "agent" else ""
    extras = event.get("extras")
    if event.get("observation") == "agent_state_changed" and isinstance(extras, dict):
        return STATES.get(as_text(extras.get("agent_state")))
    return ERROR if event.get("observation") == "error" and not event.get("tool_call_metadata") else None


def _tools(tools: Any) -> list[Tool] | None:
    try:
        return tools_from(tools)
    except ValueError:
        return None


def _finish_reason(facts: openhands_sdk.Facts, completion: Sequence[Message], unanswered: Sequence[Message]) -> str:
    """Why the session ended: as its last event says, else by who had the last word."""
    if facts.end is not None:
        return facts.end
    return INTERRUPTED if with_open_calls(completion) or unanswered else "stop"


def _accumulated(metrics: Any) -> Tokens | None:
    """The tokens of a metrics object; what was read from a cache is part of its prompt tokens."""
    usage = metrics.get("accumulated_token_usage") if isinstance(metrics, dict) else None
    if not isinstance(usage, dict) or not usage.get("prompt_tokens"):
        return None
    names = ("prompt_tokens", "completion_tokens", "cache_read_tokens", "reasoning_tokens")
    return Tokens(*(count_of(usage.get(name)) for name in names))


def _reward(row: Mapping[str, Any]) -> tuple[float | None, Mapping[str, Any]]:
    """1.0 or 0.0 as a report says `resolved`, with the report; None where no report is in the row."""
    result = row.get("test_result")
    result = result if isinstance(result, dict) else {}
    for holder in (result.get("report"), row.get("report"), result, {"resolved": row.get("resolved")}):
        if isinstance(holder, dict) and holder.get("resolved") in (0, 1):  # False and True too
            return float(holder["resolved"]), {**holder, "resolved": bool(holder["resolved"])}
    return None, {}


def _configured(row: Mapping[str, Any]) -> str | None:
    metadata = row.get("metadata")
    for key in ("llm_config", "llm"):
        config = metadata.get(key) if isinstance(metadata, dict) else None
        if isinstance(config, dict) and isinstance(config.get("model"), str):
            return str(config["model"])
    return None


def _response(event: Event) -> Mapping[str, Any] | None:
    """The model's response that an action is from, where the event has it and it holds a message."""
    metadata = event.get("tool_call_metadata")
    response = metadata.get("model_response") if isinstance(metadata, dict) and "action" in event else None
    return response if isinstance(response, dict) and _message_in(response) else None


def _message_in(response: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    said = first.get("message") if isinstance(first, dict) else None
    return said if isinstance(said, dict) else {}


def _args(event: Event) -> Mapping[str, Any]:
    args = event.get("args")
    return args if isinstance(args, dict) else {}
