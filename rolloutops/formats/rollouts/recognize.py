"""The one list of formats of rollouts' rows: the first that recognizes a row reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from rolloutops.formats.rollouts import (
    agent_trajectory,
    alpaca,
    anthropic_batch,
    api_log,
    bedrock_batch,
    chat_log,
    gemini_batch,
    gym,
    openai_batch,
    openhands,
    preference,
    prompt_answer,
)
from rolloutops.formats.rollouts.row import RolloutRow, keys_of


class Format(Protocol):
    """A format's module. LABEL: what one row is called. ENGINE: the column `engine` of its attempts."""

    LABEL: str
    ENGINE: str

    def recognizes(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is of this format, by keys that no other format has."""

    def read(self, row: Mapping[str, Any], raw: str) -> RolloutRow:
        """Read a row that is recognized. raw: as it was written. Raises ValueError that says what is wrong with it."""


FORMATS: tuple[Format, ...] = (
    openhands,
    agent_trajectory,
    anthropic_batch,
    openai_batch,
    gym,
    gemini_batch,
    bedrock_batch,
    api_log,
    alpaca,
    prompt_answer,
    preference,
    chat_log,
)
"""In this order, from the most special keys to the most common ones."""


def format_of(row: Mapping[str, Any]) -> Format:
    """The format of a row. Raises ValueError, with the keys that it has, where none is recognized."""
    found = next((each for each in FORMATS if each.recognizes(row)), None)
    if found is None:
        raise ValueError(_unknown(row))
    return found


def read_row(format_: Format, row: Mapping[str, Any], raw: str) -> RolloutRow:
    """Read a row that its format recognizes. Raises ValueError that says what is wrong, and which keys the row has."""
    try:
        return format_.read(row, raw)
    except ValueError as error:
        raise ValueError(f"{error}; the row has the keys {keys_of(row)}") from None


def _unknown(row: Mapping[str, Any]) -> str:
    prompts = any(row.get(key) for key in prompt_answer.PROMPTS)
    if prompts and "answer" in row:
        why = "no answer of a model: answer is the expected one (if a model wrote it, rename it to response)"
    elif prompts:
        why = "no answer: if these are tasks, read them with chunk"
    else:
        why = "not a known format of rollouts"
    return f"{why}; its keys: {keys_of(row)}"
