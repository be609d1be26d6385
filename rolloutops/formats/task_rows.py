"""Conversations: the one place that knows their forms, and the door through which all of them come.

The canonical form, in which prompts and completions are stored:

    [{"role": "system" | "developer" | "user" | "assistant" | "tool",
      "content": text, or a list of chat parts where it holds something that is not text,
      "reasoning_content": text,                                  # assistant
      "tool_calls": [{"id": text, "type": "function",
                      "function": {"name": text, "arguments": text as received}}],    # assistant
      "tool_call_id": text,                                       # tool
      "name": text}]

A key that holds nothing is absent, never null; content is always there. A tool is
`{"type": "function", "function": {"name", "description"?, "parameters"?, "strict"?}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rolloutops.formats.chat import Tool, from_chat, text_of, to_chat, tools_from
from rolloutops.formats.media import with_media
from rolloutops.formats.responses import from_responses, to_responses, to_responses_tools
from rolloutops.formats.strict_json import dump, parse
from rolloutops.types import Message

__all__ = [
    "HOW_SENT",
    "Message",
    "Prompt",
    "Tool",
    "answer_of_row",
    "from_chat",
    "from_responses",
    "prompt_of_row",
    "text_of",
    "to_chat",
    "to_responses",
    "to_responses_tools",
    "tools_from",
]

PROMPT_KEYS = ("messages", "conversations", "prompt", "question", "problem")
"""Where a row without a Responses input has its prompt: the first of these that it has."""

ANSWER_KEYS = ("expected_answer", "answer", "ground_truth", "label", "target", "solution")
"""Where a row has its expected answer: the first of these that it has."""


HOW_SENT = ("stream", "stream_options", "background")
"""Parameters that change how a reply is sent, and not what is in it. Replies are read whole: none of them goes out."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a task asks. messages, tools: canonical. params: the row's own parameters, under Responses names."""

    messages: list[Message]
    tools: list[Tool] | None
    params: dict[str, Any]


def prompt_of_row(row: Mapping[str, Any]) -> Prompt:
    """The prompt of a task row.

    - NeMo Gym: `responses_create_params` (also inside `task_input`) with `input` as items, text, [] or null;
      `instructions` become a system message; its other parameters that are not null become `params`.
    - Otherwise the first of PROMPT_KEYS: a list of messages (or JSON text of one), or text, which is a user message.
      Tools come from the row's `tools`, media from `images`, `videos` and `audios` (`media.py`).

    Raises ValueError that says what is missing or wrong.
    """
    gym = _create_params(row)
    params = dict(gym or {})
    given, tools, instructions = (params.pop(key, None) for key in ("input", "tools", "instructions"))
    key = next((key for key in PROMPT_KEYS if row.get(key) is not None), None)
    if given is not None:
        messages = _from_input(given)
    elif key is not None:
        messages = _from_value(row[key], key)
        tools = tools or row.get("tools")
    elif gym is not None and "input" in gym:
        messages = []
    else:
        missing = "no responses_create_params" if gym is None else "responses_create_params without input"
        raise ValueError(f"no prompt: the row has {missing}, and none of {', '.join(PROMPT_KEYS)}")
    if instructions:
        messages = [*from_chat([{"role": "system", "content": instructions}]), *messages]
    messages = with_media(messages, row, marks_only=given is not None)
    return Prompt(messages, tools_from(tools), {key: value for key, value in params.items() if value is not None})


def answer_of_row(row: Mapping[str, Any]) -> str | None:
    """The expected answer of a task row: the first of ANSWER_KEYS that is not null, text as it is, anything else as
    compact JSON; None where the row has none."""
    answer = next((row[key] for key in ANSWER_KEYS if row.get(key) is not None), None)
    return answer if answer is None or isinstance(answer, str) else dump(answer)


def _create_params(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """responses_create_params of the row, or of its task_input."""
    value = row.get("responses_create_params")
    if value is None and isinstance(row.get("task_input"), Mapping):
        value = row["task_input"].get("responses_create_params")
    if isinstance(value, str):
        value = _parsed(value, "responses_create_params")
    if value is not None and not isinstance(value, Mapping):
        raise ValueError("responses_create_params is not an object")
    return value


def _from_input(value: Any) -> list[Message]:
    if not isinstance(value, (str, list)):
        raise ValueError("responses_create_params.input is neither a list nor text")
    for number, item in enumerate(value if isinstance(value, list) else ()):
        if not isinstance(item, dict):
            raise ValueError(f"responses_create_params.input[{number}] is not an object")
    messages = from_responses(value)
    if value and not messages:
        raise ValueError("responses_create_params.input has no message")
    return messages


def _from_value(value: Any, key: str) -> list[Message]:
    """The prompt under one of PROMPT_KEYS. A table's cell may hold a list of messages as JSON text."""
    if not value and isinstance(value, (str, list)):
        raise ValueError(f"{key} is empty")
    if isinstance(value, str):
        if key not in ("messages", "conversations"):
            return from_chat([{"role": "user", "content": value}])
        value = _parsed(value, key)
    if not isinstance(value, list):
        raise ValueError(f"{key} is not a list of messages")
    try:
        return from_chat(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _parsed(text: str, key: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{key} cannot be read: {error}") from None
