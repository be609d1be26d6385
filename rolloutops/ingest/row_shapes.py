"""How the rows of one input were read: their shapes, and what of them is not part of a conversation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rolloutops.formats.content import unknown_parts
from rolloutops.formats.media import has_local_media
from rolloutops.ingest.task_columns import ReadPrompt


@dataclass
class RowShapes:
    """Counts over the rows of an input, each by name.

    columns: those that are not part of the prompt. fields: the same of messages and items. parts: content parts of
    unknown types. nulls, null_rows: nulls of struct columns that were left out, and the rows that had some.
    last_turns: rows whose prompt ends with an assistant turn. first: the place of the first of these. answers: rows
    whose last turn became the answer. media: rows with files of media.
    """

    shapes: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    nulls: int = 0
    null_rows: int = 0
    last_turns: int = 0
    first: str = ""
    answers: int = 0
    media: int = 0

    @property
    def reread(self) -> int:
        """How many rows are to be read again though they are unchanged: their media may not be, or a warning is due."""
        return self.media + self.last_turns

    def add(self, row: ReadPrompt, place: str, read: tuple[str, ...] = ()) -> None:
        """Count one row. place: its file and line. read: columns that its id or its verifier is read from."""
        prompt = row.prompt
        if prompt.shape:
            self.shapes[prompt.shape] += 1
        for name in prompt.left_aside:
            if name not in read:
                (self.fields if "[]." in name else self.columns)[name] += 1
        self.parts.update(unknown_parts(prompt.messages))
        self.nulls += row.nulls
        self.null_rows += bool(row.nulls)
        self.answers += row.with_answer
        self.media += has_local_media(prompt.messages)
        if prompt.messages and prompt.messages[-1]["role"] == "assistant":
            self.last_turns += 1
            self.first = self.first or place

    def update(self, later: RowShapes) -> None:
        """Add the counts of rows that come after these."""
        for counts, more in zip(self._counters(), later._counters(), strict=True):
            counts.update(more)
        self.nulls += later.nulls
        self.null_rows += later.null_rows
        self.last_turns += later.last_turns
        self.first = self.first or later.first
        self.answers += later.answers
        self.media += later.media

    def _counters(self) -> tuple[Counter[str], ...]:
        return self.shapes, self.columns, self.fields, self.parts
