"""Sentences about prompts: the first one that a prompt file made, and those that changed though their rows did not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rolloutops.formats.chat import text_of
from rolloutops.layout import shorten

if TYPE_CHECKING:
    from rolloutops.ingest.task_changes import Reread

BEFORE, SHOWN = 20, 90
"""Characters shown of what two prompts share before they differ, and of each prompt in all."""


def prompt_sentences(dataset: str, prompt: str) -> Iterator[str]:
    """Show a prompt, given as the JSON text of its messages, one message after the other."""
    yield f"{dataset}: the first prompt is"
    for message in json.loads(prompt):
        yield f"  {message['role']}: " + text_of(message).replace("\n", "\n    ")


def reread_sentences(dataset: str, reread: Reread | None) -> Iterator[str]:
    """Say how many tasks are edited although their rows are not, and show where the first one differs."""
    if reread is None:
        return
    rows = "1 has an unchanged row that is" if reread.tasks == 1 else f"{reread.tasks:,} have unchanged rows that are"
    yield (
        f"{dataset}: of the edited tasks {rows} read differently now: by this version of rolloutops, or with another "
        "prompt file, picture or setting. Rollouts of another prompt stay on disk and do not count"
    )
    pairs = enumerate(zip(reread.before, reread.after, strict=False))
    same = next((at for at, (before, after) in pairs if before != after), 0)
    for name, prompt in (("before", reread.before), ("now", reread.after)):
        start = max(0, same - BEFORE)
        yield f"  task {reread.task_id}, {name}: {'…' if start else ''}{shorten(prompt[start:], SHOWN)}"
