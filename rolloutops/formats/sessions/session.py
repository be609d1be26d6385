"""One agent session as a rollout: what the readers of this package return, and what they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rolloutops.formats.chat import Tool, message
from rolloutops.types import Message

INTERRUPTED, ERROR = "interrupted", "error"
"""Finish reasons of a session that ended before the model did: no more follows though more was due, or an error."""


class Tokens(NamedTuple):
    """Tokens over all model calls of a session; None where the file has no count. input includes cached."""

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """One session: the prompt up to the first answer, what followed it, and what the file says of its end.

    agent: the format's name. task: further keys of the task's row, e.g. `instance_id`. started_at: microseconds since
    1970. reward: None where the file has none. details: what the reward was taken from. left_aside: events that are
    neither prompt nor completion, counted by type.
    """

    agent: str
    prompt: Sequence[Message]
    completion: Sequence[Message]
    finish_reason: str | None
    model: str | None = None
    tools: Sequence[Tool] | None = None
    tokens: Tokens = Tokens()
    started_at: int | None = None
    reward: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    left_aside: Mapping[str, int] = field(default_factory=dict)


class Halves(NamedTuple):
    """A conversation as prompt and completion, and the messages after the last answer, which nobody answered."""

    prompt: list[Message]
    completion: list[Message]
    unanswered: list[Message]


def halves(messages: Sequence[Message]) -> Halves:
    """Split a conversation before its first and after its last answer or tool output.

    Raises ValueError where the model said nothing, or was asked nothing.
    """
    spoken = [number for number, item in enumerate(messages) if item["role"] in ("assistant", "tool")]
    first = next((number for number, item in enumerate(messages) if item["role"] == "assistant"), None)
    if first is None:
        raise ValueError("the session holds no answer of a model")
    if not any(item["role"] != "tool" for item in messages[:first]):
        raise ValueError("the session holds no prompt before the first answer")
    return Halves(list(messages[:first]), list(messages[first : spoken[-1] + 1]), list(messages[spoken[-1] + 1 :]))


def thread(parents: Mapping[int, int | None], leaf: int | None) -> set[int]:
    """Return the number of the leaf and of all its ancestors."""
    found: set[int] = set()
    here = leaf
    while here is not None and here not in found:
        found.add(here)
        here = parents.get(here)
    return found


def with_open_calls(completion: Sequence[Message]) -> bool:
    """Whether the session ended while tools were due: with a call that has no output, or an output nobody read."""
    if completion[-1]["role"] == "tool":
        return True
    return bool(completion[-1].get("tool_calls"))


def microseconds(timestamp: Any) -> int | None:
    """An ISO 8601 text or seconds since 1970 as microseconds since 1970; None where it is neither. Text without a time
    zone is UTC."""
    if isinstance(timestamp, int | float) and not isinstance(timestamp, bool):
        return int(timestamp * 1e6) if 0 < timestamp < 1e11 else None
    try:
        when = datetime.fromisoformat(timestamp)
    except (TypeError, ValueError):
        return None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1e6)


def first_time(timestamps: Iterable[Any]) -> int | None:
    """The first of these that is a time, as `microseconds`."""
    return next((when for when in map(microseconds, timestamps) if when is not None), None)


def summed(calls: Iterable[Tokens]) -> Tokens:
    """The tokens of several model calls together."""
    columns = [[count for count in column if count is not None] for column in zip(*calls, strict=True)]
    return Tokens(*(sum(column) if column else None for column in columns)) if columns else Tokens()


def count_of(value: Any) -> int | None:
    """A token count; None where the value is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def usage_tokens(usage: Any) -> Tokens:
    """The tokens of a `usage` object of Chat Completions or Responses, whose input includes what was cached."""
    if not isinstance(usage, Mapping):
        return Tokens()

    def of(*names: str) -> int | None:
        return next((found for name in names if (found := count_of(usage.get(name))) is not None), None)

    def detail(name: str, *places: str) -> int | None:
        inside = (usage[place] for place in places if isinstance(usage.get(place), Mapping))
        return next((found for one in inside if (found := count_of(one.get(name))) is not None), None)

    return Tokens(
        of("prompt_tokens", "input_tokens"),
        of("completion_tokens", "output_tokens"),
        detail("cached_tokens", "prompt_tokens_details", "input_tokens_details"),
        detail("reasoning_tokens", "completion_tokens_details", "output_tokens_details"),
    )


def joined(first: Message, more: Message) -> Message:
    """Two parts of one assistant message as that message: texts in a row, reasoning by paragraphs, all tool calls."""
    texts = [item["content"] for item in (first, more)]
    content: str | list[dict[str, Any]]
    if all(isinstance(text, str) for text in texts):
        content = "".join(texts)
    else:
        content = [part for text in texts for part in _parts(text)]
    reasoning = "\n\n".join(filter(None, (item.get("reasoning_content") for item in (first, more))))
    calls = [*first.get("tool_calls", ()), *more.get("tool_calls", ())]
    return message("assistant", content, reasoning=reasoning or None, tool_calls=calls or None)


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def objects(items: Iterable[Any], aside: Counter[str]) -> list[dict[str, Any]]:
    """The items that are objects; others are counted as left aside."""
    found = []
    for item in items:
        if isinstance(item, dict):
            found.append(item)
        else:
            aside["not an object"] += 1
    return found
