"""What chunk, collect and check say of how rows were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rolloutops.layout import count

if TYPE_CHECKING:
    from rolloutops.ingest.row_shapes import RowShapes

SHOWN = 12
"""Names that a sentence lists; the rest are counted."""


def shape_sentences(shapes: RowShapes, dataset: str) -> Iterator[str]:
    """Say as what the rows were read, and which of their columns are not part of the prompt."""
    if shapes.shapes:
        yield f"{dataset}: read as {with_counts(shapes.shapes)}"
    if shapes.columns:
        yield (
            f"{dataset}: columns that are not part of the prompt: {with_counts(shapes.columns)}; "
            "verifiers and steps read them in the column row"
        )
    if shapes.fields:
        yield f"{dataset}: fields that have no place in a conversation: {with_counts(shapes.fields)}"
    if shapes.answers:
        tasks = count(shapes.answers, "task")
        yield f"{dataset}: the last turn of {tasks} was removed from the prompt: it is the expected answer"
    yield from warning_sentences(shapes, dataset)


def warning_sentences(shapes: RowShapes, dataset: str) -> Iterator[str]:
    """Say what of the rows changes what a model is shown."""
    if shapes.parts:
        yield f"{dataset}: content parts of unknown types, sent as they are: {with_counts(shapes.parts)}"
    if shapes.nulls:
        yield (
            f"{dataset}: {count(shapes.nulls, 'null')} left out of the tools and messages of "
            f"{count(shapes.null_rows, 'row')}: the file's format adds them to objects that lack a key"
        )
    if shapes.last_turns:
        yield f"{dataset}: {last_turn_sentence(shapes)}"


def last_turn_sentence(shapes: RowShapes) -> str:
    """Say how many prompts end with an assistant turn, and what to do about it."""
    ends = "prompt ends" if shapes.last_turns == 1 else "prompts end"
    return (
        f"{shapes.last_turns:,} {ends} with an assistant turn, which the model is shown, e.g. {shapes.first}; if it is "
        "the expected answer, remove it with --last_turn=answer"
    )


def with_counts(names: Counter[str]) -> str:
    """Names with their counts, the most frequent first."""
    listed = [f"{name} ({number:,})" for name, number in names.most_common(SHOWN)]
    return ", ".join(listed) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
