"""What of a rollout's row stands inside its messages and has no place in a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from rolloutops.formats.content import unknown_parts
from rolloutops.formats.prompt_shapes import PROMPT_COLUMNS, unread_fields
from rolloutops.formats.rollouts import chat_log, prompt_answer
from rolloutops.formats.rollouts.conversation import listed
from rolloutops.formats.rollouts.row import RolloutRow
from rolloutops.formats.strict_json import read
from rolloutops.types import RolloutAnswer

CONVERSATIONS = frozenset({*PROMPT_COLUMNS, *chat_log.KEYS, *prompt_answer.PROMPTS, *prompt_answer.ANSWERS})
"""Columns that may hold messages."""

REQUESTS = ("body", "params", "request", "kwargs")
"""Columns that hold a request with `messages`."""


def fields_of_messages(row: Mapping[str, Any], found: RolloutRow) -> Iterator[str]:
    """The fields of a row's messages that are not read, as `messages[].weight`, one for each that holds something."""
    for column in row:
        if column in CONVERSATIONS and column not in found.left_out:
            yield from unread_fields(column, _messages(row[column]))
    for column in REQUESTS:
        if isinstance(row.get(column), Mapping):
            yield from unread_fields(f"{column}.messages", _messages(row[column].get("messages")))


def parts_of_messages(prompt: str, found: RolloutRow) -> Iterator[str]:
    """The types of content parts that no reader knows, in a row's prompt, as canonical JSON, and in its answers."""
    if '"content":[' in prompt:
        yield from unknown_parts(read(prompt))
    for answer in found.answers:
        if isinstance(answer, RolloutAnswer):
            yield from unknown_parts(answer.completion)


def _messages(value: Any) -> list[Mapping[str, Any]]:
    """The messages in a column, also in JSON text; none where it holds something else."""
    if isinstance(value, str):
        if value.lstrip()[:2] not in ("[{", "[\n", "[ "):
            return []
        with suppress(ValueError):
            value = listed(value)
    turns = [value] if isinstance(value, Mapping) else value
    return (
        [turn for turn in turns if isinstance(turn, Mapping) and (turn.get("role") or turn.get("from"))]
        if isinstance(turns, list)
        else []
    )
