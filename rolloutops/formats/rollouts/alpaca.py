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
    """The task and its rollouts. Raises ValueError where it has no answer, or a history that is not one of pairs."""
    question = "\n".join(text for key in ("instruction", "input") if isinstance(text := row.get(key), str) and text)
    if not question:
        raise ValueError("instruction and input are empty")
    messages = with_system(row, from_chat([*_history(row), {"role": "user", "content": question}]))
    task = {"messages": messages, **tools_beside(row), **task_fields(row)}
    outputs = _outputs(row["output"])
    answers = [
        rollout_of(
            answer_messages("" if answer is None else answer),
            raw,
            model=row.get("model"),
            finish_reason=row.get("finish_reason"),
            returned=returned(row, READ) if len(outputs) == 1 else None,  # it does not say of which of several
        )
        for answer in outputs
    ]
    return RolloutRow(task, answers, model=answers[0].model, left_out=left_out(row, READ))


def _outputs(output: Any) -> list[Any]:
    """The answers: one, or several texts, as in LLaMA-Factory's first ranking files."""
    several = isinstance(output, list) and output and all(isinstance(each, str) for each in output)
    return output if several else [output]


def _history(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for pair in row.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError("history is not a list of pairs of question and answer")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns
