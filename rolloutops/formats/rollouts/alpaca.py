"""Alpaca rows: `instruction`, `input`, `output`, and LLaMA-Factory's `system` and `history`.

The question is instruction, newline, input, as LLaMA-Factory 0.9.4 joins them (src/llamafactory/data/converter.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rolloutops.formats.chat import from_chat
from rolloutops.formats.rollouts.conversation import PROMPT_KEYS, answer_messages, rollout_of, tools_beside, with_system
from rolloutops.formats.rollouts.rewards import left_out, returned
from rolloutops.formats.rollouts.row import RolloutRow
from rolloutops.formats.rollouts.task_keys import task_fields

LABEL, ENGINE = "Alpaca row", "import:alpaca"
READ = ("instruction", "input", "output", "history", *PROMPT_KEYS)


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row has the two fields that every Alpaca file has."""
    return isinstance(row.get("instruction"), str) and "output" in row


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """The task and its one rollout. Raises ValueError where it has no answer, or a history that is not one of pairs."""
    question = "\n".join(text for key in ("instruction", "input") if isinstance(text := row.get(key), str) and text)
    if not question:
        raise ValueError("instruction and input are empty")
    messages = with_system(row, from_chat([*_history(row), {"role": "user", "content": question}]))
    answer = rollout_of(
        answer_messages(row["output"] if row["output"] is not None else ""),
        raw,
        model=row.get("model"),
        finish_reason=row.get("finish_reason"),
        returned=returned(row, READ),
    )
    task = {"messages": messages, **tools_beside(row), **task_fields(row)}
    return RolloutRow(task, [answer], model=answer.model, left_out=left_out(row, READ))


def _history(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for pair in row.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError("history is not a list of pairs of question and answer")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns
