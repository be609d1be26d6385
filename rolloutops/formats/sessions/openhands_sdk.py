"""Events of OpenHands' Software Agent SDK (OpenHands V1), which have a `kind`.

Source: OpenHands/software-agent-sdk 611629e6 (openhands-sdk/openhands/sdk/event/, llm/message.py, tool/tool.py).

Actions with one `llm_response_id` are one message of the model. `parent_id` makes the events a tree; an event without
one follows the event before it, and the rollout is the thread of the last event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rolloutops.formats.chat import Tool, as_text, content_of, message, tool_call, tools_from
from rolloutops.formats.sessions.session import (
    ERROR,
    INTERRUPTED,
    Tokens,
    count_of,
    joined,
    summed,
    thread,
)
from rolloutops.types import Message

KINDS = (
    *("SystemPromptEvent", "MessageEvent", "ActionEvent", "ObservationEvent", "AgentErrorEvent"),
    *("UserRejectObservation", "Condensation", "CondensationRequest", "CondensationSummaryEvent"),
    *("ConversationStateUpdateEvent", "ConversationErrorEvent", "PauseEvent", "InterruptEvent"),
    *("LLMCompletionLogEvent", "TokenEvent", "HookExecutionEvent", "ACPToolCallEvent"),
)

STATES = {"finished": "stop", "error": ERROR, "stuck": ERROR, "paused": INTERRUPTED, "running": None, "idle": None}
"""`execution_status` -> how the session ended; None where it does not tell."""

Event = dict[str, Any]


class Facts(NamedTuple):
    """What events say beside the conversation. end: the finish reason, None where no event tells it."""

    model: str | None
    tools: list[Tool] | None
    tokens: Tokens
    end: str | None


def recognizes(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these are events of the SDK."""
    return any(row.get("kind") in KINDS and "source" in row for row in rows[:20])


def read(events: Sequence[Event], aside: Counter[str]) -> tuple[list[Message], Facts]:
    """The conversation of the last event's thread, and what the events say beside it."""
    numbers = _thread(events)
    main = [events[number] for number in numbers]
    aside["other branch"] += len(events) - len(main)
    found: list[Message] = []
    answers: dict[str, int] = {}
    for event in main:
        said = _message(event)
        if said is None:
            aside[as_text(event.get("kind")) or "no kind"] += 1
            continue
        response = as_text(event.get("llm_response_id"))
        if said["role"] == "assistant" and response in answers:
            found[answers[response]] = _together(found[answers[response]], said)
            continue
        if said["role"] == "assistant" and response:
            answers[response] = len(found)
        found.append(said)
    return found, _facts(main, aside)


def state_event(state: Any) -> Event:
    """The state of a conversation (`base_state.json`) as the event that would tell it."""
    return {"kind": "ConversationStateUpdateEvent", "source": "environment", "key": "full_state", "value": state}


def _thread(events: Sequence[Event]) -> list[int]:
    places = {event["id"]: number for number, event in enumerate(events) if isinstance(event.get("id"), str)}
    parents: dict[int, int | None] = {}
    for number, event in enumerate(events):
        parent = event.get("parent_id")
        before = number - 1 if number else None
        above = places.get(parent, before) if isinstance(parent, str) else before
        parents[number] = above if above is None or above < number else before
    return sorted(thread(parents, len(events) - 1)) if events else []


def _message(event: Event) -> Message | None:
    """What an event says; None where it says nothing to or from the model."""
    kind = event.get("kind")
    if kind == "SystemPromptEvent":
        return message("system", _content(event.get("system_prompt"), event.get("dynamic_context")))
    if kind == "MessageEvent":
        return _of_message(event)
    if kind == "ActionEvent":
        return _of_action(event)
    call_id = as_text(event.get("tool_call_id")) or None
    if kind == "ObservationEvent":
        seen = event.get("observation")
        seen = seen if isinstance(seen, dict) else {"content": seen}
        shown = next((seen[key] for key in ("content", "output") if seen.get(key)), None)
        if shown is None:  # a tool's own fields
            shown = {key: value for key, value in seen.items() if key not in ("kind", "content", "is_error")} or ""
        return message("tool", _content(shown, event.get("extended_content")), tool_call_id=call_id)
    if kind == "AgentErrorEvent":
        return message("tool" if call_id else "user", as_text(event.get("error")), tool_call_id=call_id)
    if kind == "UserRejectObservation":
        return message("tool", f"Action rejected: {as_text(event.get('rejection_reason'))}", tool_call_id=call_id)
    if kind == "CondensationSummaryEvent":
        return message("user", as_text(event.get("summary")))
    return None


def _of_message(event: Event) -> Message | None:
    said = event.get("llm_message")
    if not isinstance(said, dict):
        return None
    content = _content(said.get("content"), event.get("extended_content"))
    if said.get("role") != "assistant":
        return message(as_text(said.get("role")) or "user", content)
    calls = said.get("tool_calls")
    return message(
        "assistant",
        content,
        reasoning=_reasoning(said),
        tool_calls=[_call(call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else None,
    )


def _of_action(event: Event) -> Message:
    call = event.get("tool_call")
    if not isinstance(call, dict):
        action = event.get("action")
        arguments = {k: v for k, v in action.items() if k != "kind"} if isinstance(action, dict) else None
        call = {"arguments": arguments}
    named = {"id": event.get("tool_call_id"), "name": event.get("tool_name")}
    return message(
        "assistant",
        _content(event.get("thought"), None),
        reasoning=_reasoning(event),
        tool_calls=[_call(call, named)],
    )


def _call(call: Mapping[str, Any], event_fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A tool call, flat or as Chat nests it. event_fields: what the event itself says of it."""
    inner = call["function"] if isinstance(call.get("function"), dict) else call
    event_fields = event_fields or {}
    return tool_call(
        event_fields.get("id") or call.get("id"), inner.get("name") or event_fields.get("name"), inner.get("arguments")
    )


def _reasoning(source: Mapping[str, Any]) -> str | None:
    """What was thought, which is held in up to three ways."""
    if isinstance(source.get("reasoning_content"), str) and source["reasoning_content"]:
        return str(source["reasoning_content"])
    blocks = source.get("thinking_blocks")
    texts = [as_text(block.get("thinking")) for block in blocks if isinstance(block, dict)] if blocks else []
    item = source.get("responses_reasoning_item")
    if not any(texts) and isinstance(item, dict):
        listed = item.get("content") or item.get("summary") or []
        texts = [as_text(part.get("text")) if isinstance(part, dict) else as_text(part) for part in listed]
    return "\n\n".join(filter(None, texts)) or None


def _together(first: Message, more: Message) -> Message:
    """Two actions of one response; what was thought is at the first of them, or at each."""
    if more.get("reasoning_content") == first.get("reasoning_content"):
        more = {key: value for key, value in more.items() if key != "reasoning_content"}
    if more["content"] == first["content"]:
        more = {**more, "content": ""}
    return joined(first, more)


def _content(content: Any, extension: Any) -> str | list[dict[str, Any]]:
    """Text and image contents as chat content; an extension is a further text."""
    listed = content if isinstance(content, list) else [content] if content else []
    more = extension if isinstance(extension, list) else [extension] if extension else []
    parts: list[Any] = []
    for part in [*listed, *more]:
        if isinstance(part, dict) and part.get("type") == "image" and isinstance(part.get("image_urls"), list):
            parts += [{"type": "image_url", "image_url": {"url": as_text(url)}} for url in part["image_urls"]]
        elif isinstance(part, dict) and part.get("type") == "text":
            parts.append({"type": "text", "text": as_text(part.get("text"))})
        else:
            parts.append({"type": "text", "text": as_text(part)})
    return content_of(parts)[0] if parts else ""


def _facts(events: Sequence[Event], aside: Counter[str]) -> Facts:
    tools: list[Any] = next((event["tools"] for event in events if isinstance(event.get("tools"), list)), [])
    found: list[Tool] = []
    for tool in tools:
        try:
            found += tools_from(_described(tool)) or []
        except ValueError:
            aside["tool without a name"] += 1
    states = [state for event in events if (state := _state(event))]
    return Facts(
        model=_model(states),
        tools=found or None,
        tokens=_tokens(states),
        end=next((end for event in reversed(events) if (end := _end(event)) is not None), None) or None,
    )


def _described(tool: Any) -> Any:
    """A tool as chat tool. The SDK writes no parameters but those of MCP."""
    if not isinstance(tool, dict) or tool.get("type") == "function":
        return tool
    mcp = tool.get("mcp_tool")
    if isinstance(mcp, dict):
        return {"name": mcp.get("name"), "description": mcp.get("description"), "parameters": mcp.get("inputSchema")}
    return {"name": tool.get("name") or tool.get("title"), "description": tool.get("description")}


def _state(event: Event) -> Mapping[str, Any]:
    """What a state update says, as {field: value}."""
    if event.get("kind") != "ConversationStateUpdateEvent":
        return {}
    value = event.get("value")
    if event.get("key") == "full_state":
        return value if isinstance(value, dict) else {}
    return {as_text(event.get("key")): value}


def _model(states: Sequence[Mapping[str, Any]]) -> str | None:
    for state in states:
        agent = state.get("agent")
        llm = agent.get("llm") if isinstance(agent, dict) else None
        if isinstance(llm, dict) and isinstance(llm.get("model"), str):
            return str(llm["model"])
    return None


def _tokens(states: Sequence[Mapping[str, Any]]) -> Tokens:
    """The last accumulated usage of each of the session's models."""
    for state in reversed(states):
        stats = state.get("stats")
        metrics = stats.get("usage_to_metrics") if isinstance(stats, dict) else None
        if not isinstance(metrics, dict) or not metrics:
            continue
        usages = [one.get("accumulated_token_usage") for one in metrics.values() if isinstance(one, dict)]
        names = ("prompt_tokens", "completion_tokens", "cache_read_tokens", "reasoning_tokens")
        return summed(
            Tokens(*(count_of(usage.get(name)) for name in names)) for usage in usages if isinstance(usage, dict)
        )
    return Tokens()


def _end(event: Event) -> str | None:
    """How the session stands after an event, "" where it goes on; None where the event does not tell."""
    kind = event.get("kind")
    if kind == "ConversationErrorEvent":
        return ERROR
    if kind in ("PauseEvent", "InterruptEvent"):
        return INTERRUPTED
    if kind == "ActionEvent":
        return "stop" if event.get("tool_name") == "finish" else ""
    if kind == "MessageEvent":
        return "stop" if event.get("source") == "agent" else ""
    status = _state(event).get("execution_status")
    return STATES.get(status) if isinstance(status, str) else None
