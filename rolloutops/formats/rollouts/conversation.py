"""Conversations in rows of rollouts: where the prompt ends and the answer begins, and how the answer ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rolloutops.formats.chat import from_chat, text_of
from rolloutops.formats.columns import MEDIA_COLUMNS, SYSTEM_COLUMNS, TOOL_COLUMNS
from rolloutops.formats.finish_reasons import known
from rolloutops.formats.langchain import with_role
from rolloutops.formats.python_text import parse_list
from rolloutops.formats.rollouts.row import VERIFIER
from rolloutops.formats.strict_json import parse
from rolloutops.formats.task_rows import NoPrompt, prompt_of_row
from rolloutops.types import Message, RolloutAnswer

PROMPT_KEYS = (*TOOL_COLUMNS, *SYSTEM_COLUMNS)
"""Columns beside the turns that are part of the prompt."""


class Conversation(NamedTuple):
    """Canonical messages of a row, and the fields of its turns that no reader knows, as `messages[].weight`."""

    messages: list[Message]
    left_out: list[str]


def conversation_of(row: Mapping[str, Any], key: str) -> Conversation:
    """The messages under a key of a row, after the system prompt that stands beside them. Raises ValueError where it
    holds none."""
    value = row[key] if key == "prompt" else listed(row[key])
    column = key if key in ("messages", "conversations") else "prompt"
    media = {name: row[name] for name in MEDIA_COLUMNS if row.get(name) is not None}
    try:
        found = prompt_of_row({column: with_calls(value), **media})
    except NoPrompt:
        raise ValueError(f"{key} holds no text") from None
    return Conversation(with_system(row, found.messages), _renamed(found.left_aside, column, key))


def unread_fields(turns: Any, key: str) -> list[str]:
    """The fields of an answer's turns that no reader knows."""
    try:
        found = prompt_of_row({"messages": turns}) if isinstance(turns, list) else None
    except ValueError:
        return []
    return _renamed(found.left_aside, "messages", key) if found is not None else []


def _renamed(names: Sequence[str], column: str, key: str) -> list[str]:
    """The fields of turns under the name of the column that they were read from; other columns are not the turns'."""
    return [f"{key}{name.removeprefix(column)}" for name in names if name.startswith(f"{column}[")]


def tools_beside(row: Mapping[str, Any]) -> dict[str, Any]:
    """The tools that stand beside the turns, as a field of the task's row."""
    tools = next((row[key] for key in TOOL_COLUMNS if row.get(key)), None)
    return {} if tools is None else {"tools": tools}


def with_system(row: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    """The messages after the system prompt that stands beside them, unless they begin with the same."""
    beside = next((row[key] for key in SYSTEM_COLUMNS if row.get(key)), None)
    if beside is None:
        return messages
    (said,) = from_chat([{"role": "system", "content": beside}])
    first = messages[0] if messages else {}
    same = first.get("role") in ("system", "developer") and text_of(first) == text_of(said)
    return messages if same or not said["content"] else [said, *messages]


def answer_messages(value: Any) -> list[Message]:
    """The canonical messages of an answer: text, also empty text, one message, or a list of messages. Raises ValueError
    where messages that hold something say nothing."""
    if isinstance(value, str):
        return from_chat([{"role": "assistant", "content": value}])
    turns = [value] if isinstance(value, Mapping) else value
    turns = [with_role(turn) for turn in turns] if isinstance(turns, list) else turns
    if not isinstance(turns, list):
        raise ValueError(f"an answer is text or messages, not {type(value).__name__}")
    found = from_chat([_as_answer(turn) for turn in with_calls(turns)])
    refuse_lost_text(turns, found)
    return found


def refuse_lost_text(turns: Any, messages: Sequence[Message]) -> None:
    """Raise ValueError where the model's turns hold something, and nothing of it was found."""
    said = [turn for turn in turns if not isinstance(turn, Mapping) or turn.get("role") in (None, "assistant")]
    if not says_something(messages) and any(map(_holds, said)):
        raise ValueError("no text can be found in the answer")


def with_calls(turns: Any) -> Any:
    """Messages whose tool calls are objects: tables hold each as JSON text in a list (verifiers' results)."""
    if not isinstance(turns, list):
        return turns
    return [
        {**turn, "tool_calls": [_call(call) for call in turn["tool_calls"]]} if _calls(turn) else turn for turn in turns
    ]


def split(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """The prompt of a conversation, and what came after the last turn that is not the model's or a tool's. Raises
    ValueError where no answer came."""
    end = max((n for n, said in enumerate(messages, 1) if said["role"] not in ("assistant", "tool")), default=0)
    completion = list(messages[end:])
    if not any(said["role"] == "assistant" for said in completion):
        raise ValueError("the conversation does not end with an answer")
    return list(messages[:end]), completion


def says_something(completion: Sequence[Message]) -> bool:
    """Whether anything is in an answer: text, reasoning or a tool call."""
    keys = ("content", "reasoning_content", "tool_calls")
    return any(said.get(key) for said in completion if said["role"] == "assistant" for key in keys)


def rollout_of(
    completion: Sequence[Message],
    raw: str,
    *,
    model: Any = None,
    finish_reason: Any = None,
    returned: Mapping[str, Any] | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
) -> RolloutAnswer:
    """Messages that answer a prompt as a rollout. Raises ValueError where they say nothing and have no reward: one that
    was verified counts, though the model said nothing."""
    if not says_something(completion) and not (completion and returned is not None):
        raise ValueError("the answer is empty")
    said = finish_reason
    return RolloutAnswer(
        completion=completion,
        finish_reason=(known(said) or said) if isinstance(said, str) and said else _end_of(completion[-1]),
        model=model if isinstance(model, str) and model else None,
        returned=returned,
        verifier=VERIFIER,
        raw=raw,
        turns=sum(said["role"] == "assistant" for said in completion),
        tool_names=[call["function"]["name"] for said in completion for call in said.get("tool_calls", ())],
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )


def listed(value: Any) -> Any:
    """The text of a list, as tables hold them, as what it holds; anything else as it is. Raises ValueError where it
    cannot be read."""
    return parse_list(value) if isinstance(value, str) else value


def _holds(turn: Any) -> bool:
    """Whether a message holds anything besides its role."""
    inner = turn.items() if isinstance(turn, Mapping) else [("", turn)]
    return any(value not in (None, "", [], {}) for key, value in inner if key not in ("role", "from"))


def _as_answer(turn: Any) -> Any:
    """A turn of an answer: the model's, where it does not say whose."""
    if isinstance(turn, str):
        return {"role": "assistant", "content": turn}
    if isinstance(turn, Mapping) and not turn.get("role") and not turn.get("from"):
        return {**turn, "role": "assistant"}
    return turn


def _calls(turn: Any) -> bool:
    return isinstance(turn, Mapping) and isinstance(turn.get("tool_calls"), list) and bool(turn["tool_calls"])


def _call(call: Any) -> Any:
    if not isinstance(call, str):
        return call
    try:
        found = parse(call)
    except ValueError:
        return call
    return found if isinstance(found, Mapping) else call


def _end_of(last: Mapping[str, Any]) -> str | None:
    if last["role"] != "assistant":
        return None
    return "tool_calls" if last.get("tool_calls") else "stop"
