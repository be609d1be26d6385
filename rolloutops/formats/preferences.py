"""Preference rows: a prompt, and two answers to it of which one was preferred.

Source: TRL (docs/source/dataset_formats.md, with an explicit or an implicit prompt), LLaMA-Factory's ranking data
(data/README.md), the cards of HuggingFaceH4/ultrafeedback_binarized, whose `messages` repeat the chosen
conversation, and of argilla/ultrafeedback-binarized-preferences-cleaned (`chosen-rating`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rolloutops.formats.chat import from_chat
from rolloutops.formats.python_text import PRINTED_MESSAGES, parse_list
from rolloutops.types import Message

ANSWERS = ("chosen", "rejected")
"""Columns of the two answers, the preferred one first: text, a message, or messages with or without the prompt."""


def is_preference(row: Mapping[str, Any]) -> bool:
    """Whether a row holds two answers of which one was preferred."""
    return all(isinstance(row.get(key), str | list | dict) and row[key] for key in ANSWERS)


def without_copy(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A preference row without `messages`, where they are the chosen conversation once more; another row as it is."""
    if not is_preference(row) or row.get("messages") != row["chosen"]:
        return row
    return {key: value for key, value in row.items() if key != "messages"}


def shared_prompt(row: Mapping[str, Any]) -> list[Message]:
    """What both conversations of a row begin with, to the last turn that is not the model's or a tool's; empty where
    the answers stand alone."""
    chosen, rejected = (_conversation(row[key]) for key in ANSWERS) if is_preference(row) else ([], [])
    end = 0
    for number, (one, other) in enumerate(zip(chosen, rejected, strict=False), 1):
        if one != other:
            break
        if one["role"] not in ("assistant", "tool"):
            end = number
    return chosen[:end]


def with_shared(prompt: list[Message], row: Mapping[str, Any]) -> list[Message]:
    """A row's prompt with what its answers begin with, where they do not repeat the prompt."""
    shared = shared_prompt(row)
    if not shared or prompt[-len(shared) :] == shared:
        return prompt
    return shared if shared[-len(prompt) :] == prompt else [*prompt, *shared]


def messages_in(value: Any) -> Any:
    """Messages that a table holds as text, as messages; anything else as it is."""
    if isinstance(value, str) and (PRINTED_MESSAGES.match(value) or value.lstrip().startswith("[{")):
        with suppress(ValueError):
            return parse_list(value)
    return value


def of_answer(row: Mapping[str, Any], answer: str, *names: str) -> Any:
    """What stands beside an answer of a row: `score_chosen`, `chosen_score` or `chosen-score`; None if nothing does."""
    keys = (key for name in names for key in (f"{name}_{answer}", f"{answer}_{name}", f"{answer}-{name}"))
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _conversation(value: Any) -> list[Message]:
    """An answer's messages; none where it is text, or cannot be read."""
    turns = messages_in(value)
    with suppress(ValueError):
        return from_chat(turns) if isinstance(turns, list) else []
    return []
