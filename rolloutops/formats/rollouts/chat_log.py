"""Chat logs: `messages`, `conversations` or `turns`, whose last turns are the rollout.

OpenAI's fine-tuning files, LangChain's messages, ShareGPT, LLaMA-Factory's `sharegpt` and typed parts (its
data/README.md of 0.9.4), in each dialect that `formats/chat.py` reads. A system prompt and tools may stand beside the
turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rolloutops.formats.columns import MEDIA_COLUMNS
from rolloutops.formats.rollouts.conversation import (
    PROMPT_KEYS,
    conversation_of,
    listed,
    refuse_lost_text,
    rollout_of,
    split,
    tools_beside,
)
from rolloutops.formats.rollouts.rewards import left_out, returned
from rolloutops.formats.rollouts.row import RolloutRow
from rolloutops.formats.rollouts.task_keys import task_fields

LABEL, ENGINE = "chat log", "import:chat"
KEYS = ("messages", "conversations", "conversation", "turns")


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row holds a conversation and no answer beside it."""
    return any(row.get(key) is not None for key in KEYS[:-1]) or isinstance(row.get("turns"), list | str)


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """The task is what stands before the last answer. Raises ValueError where there is none."""
    key = next(key for key in KEYS if row.get(key) is not None)
    conversation = conversation_of(row, key)
    prompt, completion = split(conversation.messages)
    refuse_lost_text(listed(row[key])[-len(completion) :], completion)
    read_keys = (key, *PROMPT_KEYS)
    answer = rollout_of(
        completion,
        raw,
        model=row.get("model"),
        finish_reason=row.get("finish_reason"),
        returned=returned(row, read_keys),
    )
    fields = {
        name: value for name, value in task_fields(row).items() if name not in MEDIA_COLUMNS
    }  # they stand in the turns
    task = {"messages": prompt, **tools_beside(row), **fields}
    return RolloutRow(task, [answer], model=answer.model, left_out=[*left_out(row, read_keys), *conversation.left_out])
