"""Preference rows as two rollouts of one task (`formats/preferences.py` names the sources).

The chosen answer has the reward 1 and the rejected one 0, of the verifier `preference`; scores beside them are metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rolloutops.formats.columns import MEDIA_COLUMNS
from rolloutops.formats.preferences import ANSWERS, is_preference, messages_in, of_answer, shared_prompt
from rolloutops.formats.rollouts.conversation import answer_messages, rollout_of
from rolloutops.formats.rollouts.rewards import USAGE
from rolloutops.formats.rollouts.row import RolloutRow
from rolloutops.formats.rollouts.task_keys import OF_THE_TASK, task_fields
from rolloutops.formats.task_rows import NoPrompt, prompt_of_row
from rolloutops.types import RolloutAnswer

LABEL, ENGINE = "preference", "import:preference"
VERIFIER = "preference"

SCORES, MODEL = ("score", "rating"), "model"
"""What may stand beside each answer."""

BESIDE = tuple(
    column
    for answer in ANSWERS
    for name in (*SCORES, MODEL)
    for column in (f"{name}_{answer}", f"{answer}_{name}", f"{answer}-{name}")
)
"""Its columns."""


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row holds a chosen and a rejected answer, and a prompt before them or in both."""
    if not is_preference(row):
        return False
    try:
        prompt_of_row(row)
    except NoPrompt:
        return False
    except ValueError:
        return True  # its prompt cannot be read: rejected with the reason
    return True


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """The prompt, and its two rollouts. Raises ValueError where an answer is empty or in no known shape."""
    prompt = prompt_of_row(row)
    answers = [_answer(row, number, raw) for number in range(len(ANSWERS))]
    # Media stand in the prompt.
    fields = {name: value for name, value in task_fields(row).items() if name not in MEDIA_COLUMNS}
    tools = {"tools": prompt.tools} if prompt.tools else {}
    unread = [name for name in prompt.left_aside if name not in (*ANSWERS, *BESIDE, *OF_THE_TASK, *USAGE)]
    return RolloutRow({"messages": prompt.messages, **tools, **fields}, answers, left_out=unread)


def _answer(row: Mapping[str, Any], number: int, raw: str) -> RolloutAnswer:
    """One answer, without the prompt that it may begin with, as a rollout that was preferred or not."""
    name = ANSWERS[number]
    score = of_answer(row, name, *SCORES)
    verdict = {"reward": 1.0 - number, **({"score": score} if isinstance(score, int | float) else {})}
    try:
        completion = answer_messages(messages_in(row[name]))[len(shared_prompt(row)) :]
        model = of_answer(row, name, MODEL) or row.get("model")
        found = rollout_of(completion, raw, model=model)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return replace(found, returned=verdict, verifier=VERIFIER)
