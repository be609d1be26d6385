"""Conversations in rows of rollouts: where the prompt ends and the answer begins, and how the answer ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rolloutops.formats.chat import from_chat
from rolloutops.formats.finish_reasons import known
from rolloutops.formats.rollouts.row import VERIFIER
from rolloutops.formats.strict_json import parse
from rolloutops.formats.task_rows import prompt_of_row
from rolloutops.types import Message, RolloutAnswer

SYSTEM_KEYS = ("system", "system_prompt")
"""Columns that hold the system prompt beside the turns (LLaMA-Factory's `columns.system`, SkyRL's `system_prompt`)."""

ASKED_KEYS = ("tools", *SYSTEM_KEYS)
"""Columns beside the turns that are part of what was asked."""


def messages_of(row: Mapping[str, Any], key: str) -> list[Message]:
    """The canonical messages under a key of a row, after the system prompt that stands beside them. Raises ValueError
    where it holds none."""
    value = row[key]
    if isinstance(value, str) and key != "prompt":
        value = listed(value)
    found = prompt_of_row({key if key in ("messages", "conversations") else "prompt": with_calls(value)}).messages
    return with_system(row, found)


def with_system(row: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    """The messages after the system prompt that stands beside them; the one among them wins."""
    beside = next((row[key] for key in SYSTEM_KEYS if isinstance(row.get(key), str) and row[key]), None)
    if beside is None or any(said["role"] in ("system", "developer") for said in messages[:1]):
        return messages
    return [*from_chat([{"role": "system", "content": beside}]), *messages]


def answer_messages(value: Any) -> list[Message]:
    """The canonical messages of an answer: text, one message, or a list of messages."""
    if isinstance(value, str):
        return from_chat([{"role": "assistant", "content": value}]) if value else []
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list):
        raise ValueError(f"an answer is text or messages, not {type(value).__name__}")
    return from_chat([_as_answer(turn) for turn in with_calls(turns)])


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
    """Messages that answer a prompt as a rollout. Raises ValueError where they say nothing."""
    if not says_something(completion):
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


def listed(text: str) -> Any:
    """JSON text as what it holds. Raises ValueError where it is not JSON."""
    return parse(text)


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
