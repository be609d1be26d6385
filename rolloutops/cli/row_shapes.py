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
        yield f"{dataset}: read as {_listed(shapes.shapes)}"
    if shapes.columns:
        yield (
            f"{dataset}: columns that are not part of the prompt: {_listed(shapes.columns)}; "
            "verifiers and steps read them in the column row"
        )
    if shapes.fields:
        yield f"{dataset}: fields that have no place in a conversation: {_listed(shapes.fields)}"
    if shapes.answers:
        yield f"{dataset}: the last turn of {count(shapes.answers, 'task')} was taken out as the answer"
    yield from warning_sentences(shapes, dataset)


def warning_sentences(shapes: RowShapes, dataset: str) -> Iterator[str]:
    """Say what of the rows changes what a model is shown."""
    if shapes.parts:
        yield f"{dataset}: content parts of unknown types, sent as they are: {_listed(shapes.parts)}"
    if shapes.nulls:
        yield f"{dataset}: {nulls_sentence(shapes.nulls, shapes.null_rows)}"
    if shapes.last_turns:
        yield f"{dataset}: {last_turn_sentence(shapes)}"


def nulls_sentence(nulls: int, rows: int) -> str:
    """Say how many nulls of struct columns were left out, of how many rows."""
    return (
        f"{count(nulls, 'null')} left out of the tools and messages of {count(rows, 'row')}: "
        "the file's format adds them to objects that lack a key"
    )


def last_turn_sentence(shapes: RowShapes) -> str:
    """Say how many prompts end with an assistant turn, and what to do about it."""
    ends = "prompt ends" if shapes.last_turns == 1 else "prompts end"
    return (
        f"{shapes.last_turns:,} {ends} with an assistant turn, which the model is shown, e.g. {shapes.first}; if it is "
        "the expected answer, take it out with --last_turn=answer"
    )


def _listed(names: Counter[str]) -> str:
    """Names with their counts, the most frequent first."""
    listed = [f"{name} ({number:,})" for name, number in names.most_common(SHOWN)]
    return ", ".join(listed) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
