"""What chunk and collect print about prompts: the first one of a prompt file, and one that changed without its row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rolloutops.layout import shorten

if TYPE_CHECKING:
    from rolloutops.ingest.task_changes import ChangedPrompts

BEFORE, SHOWN = 20, 90
"""Characters shown of what two prompts share before they differ, and of each prompt in all."""


def prompt_sentences(dataset: str, prompt: str) -> Iterator[str]:
    """Show a prompt, the JSON text of messages, one message after the other."""
    from rolloutops.formats.chat import text_of

    yield f"{dataset}: the first prompt is"
    for message in json.loads(prompt):
        yield f"  {message['role']}: " + text_of(message).replace("\n", "\n    ")


def changed_prompt_sentences(dataset: str, changed: ChangedPrompts | None) -> Iterator[str]:
    """Say how many tasks have another prompt though their row is the same, and show where the first one differs."""
    if changed is None:
        return
    have = "has" if changed.tasks == 1 else "have"
    yield (
        f"{dataset}: {changed.tasks:,} of the edited tasks {have} the same row and another prompt, because "
        "rolloutops, the prompt file, a setting or a media file has changed. Rollouts of the earlier prompt "
        "stay on disk and do not count"
    )
    pairs = enumerate(zip(changed.before, changed.after, strict=False))
    same = next((at for at, (before, after) in pairs if before != after), 0)
    for name, prompt in (("before", changed.before), ("now", changed.after)):
        start = max(0, same - BEFORE)
        yield f"  task {changed.task_id}, {name}: {'…' if start else ''}{shorten(prompt[start:], SHOWN)}"
