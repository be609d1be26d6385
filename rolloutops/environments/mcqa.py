"""Multiple choice: the rollout names the right option, by its letter or by its whole text.

Rows are those of NeMo Gym's `mcqa`:

    options          [{"A": "..."}, {"B": "..."}], also {"A": "...", "B": "..."} or ["...", "..."] (then A, B, ...)
    expected_answer  the letter, or the option's text
    template_metadata.output_regex   how this row's prompt asks for the answer; group 1 is the letter

In a text these count, the first kind that is there: the row's own pattern, the last box, the last `Answer: B` or
`the answer is B`, the last line (`B`, `(B)`, `**B**`, `B: its text`). Of one kind the last counts. A letter inside
ordinary words is never an answer.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rolloutops.environments.answers import bare, boxes, final_text
from rolloutops.types import Rollout, Task

VERSION = 2
"""Raised by whoever changes a reward: rollouts that an earlier version judged are then judged again."""

_SAYS = re.compile(
    r"(?i)\b(?:answer|choice|option|selected|selection)\**\s*(?:is\s*:?|:|=)\**\s*"  # Answer: · final choice is
    r"|\b(?:option|choice)\s+selected\s*:?\s*"  # Option Selected: X
)
_LETTER = re.compile(
    r"(?:[*_$({\[`]|\\[(\[]|\\text(?:bf)?\{|\b(?:option|choice)\s+)*"  # **B, (B, $B, \text{B, option B
    r"(?P<letter>[A-Za-z0-9])"
    r"(?:[*_$)}\]`]|\\[)\]])*"
    r"(?:(?P<end>\s*$|[.;!])|\s*(?P<more>[:,)]|[-–—](?!\w)|\(|\b(?:because|since|as|which)\b))",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"(?i)^\W*(?:,|/|&|\bor\b|\band\b)\W*[A-Z]\b")
_MARKED = re.compile(r"\(([A-Za-z0-9])\)|\*\*\(?([A-Za-z0-9])\)?[.:]?\*\*|\\text(?:bf)?\{\(?([A-Za-z0-9])\)?\}")


class MultipleChoice:
    """See `make`."""

    pure = True

    def __init__(self, strict: bool) -> None:
        self.strict = strict

    def cpu_bound(self, task: Task) -> bool:
        """A row's own pattern may take for ever on an odd text: a pool worker can be stopped, this process not."""
        return not self.strict and _row_pattern(task.row) is not None

    def verify(self, task: Task, rollout: Rollout) -> dict[str, Any]:
        """{"reward": 1.0 or 0.0, "extracted": the letter found or None, "answered": whether one was found}."""
        options = _options(task.row)
        expected = _expected(task, options)
        if expected is None:
            raise ValueError(
                "the task names no right option: it needs 'expected_answer', the letter or the text of one"
            )
        found = self._extracted(final_text(rollout.text), task.row, options)
        return {"reward": float(found == expected), "extracted": found, "answered": found is not None}

    def gold(self, task: Task) -> str | None:
        """The right letter in a box, None where the row names none."""
        expected = _expected(task, _options(task.row))
        return expected and f"\\boxed{{{expected}}}"

    def _extracted(self, text: str, row: Mapping[str, Any], options: dict[str, str]) -> str | None:
        boxed = boxes(text)
        if self.strict:
            inner = re.sub(r"[^A-Za-z]", "", boxed[-1]) if boxed else ""
            return inner if inner in options else None
        pattern = _row_pattern(row)
        if pattern is not None:
            for match in reversed(list(_compiled(pattern).finditer(text))):
                letter = _named(match[1] if match.re.groups else match[0], options)
                if letter:
                    return letter
        if boxed:
            return _named(boxed[-1], options)
        # Most statements stand near the end, and looking there first is several times as fast.
        return _said(text[-1000:], options) or _said(text, options) or _last_line(text, options)


def make(strict: bool = False) -> MultipleChoice:
    """An environment for multiple choice. strict: only a single upper-case letter in the last box counts."""
    return MultipleChoice(strict)


def _options(row: Mapping[str, Any]) -> dict[str, str]:
    """{letter: text} of a row; each letter with an empty text where it brings no options."""
    given = row.get("options") or row.get("choices")
    if isinstance(given, Mapping):
        given = [given]
    found: dict[str, str] = {}
    for letter, option in zip(string.ascii_uppercase, given or (), strict=False):
        for key, text in option.items() if isinstance(option, Mapping) else ((letter, option),):
            found[str(key).strip().upper()] = str(text)
    return found or dict.fromkeys(string.ascii_uppercase, "")


def _expected(task: Task, options: dict[str, str]) -> str | None:
    given = task.row.get("expected_answer")
    given = str(given if given is not None else task.answer or "")
    return _named(given, options)


def _row_pattern(row: Mapping[str, Any]) -> str | None:
    about = row.get("template_metadata")
    pattern = about.get("output_regex") if isinstance(about, Mapping) else None
    return pattern if isinstance(pattern, str) and pattern else None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"template_metadata.output_regex of the row is not a regular expression: {error}") from None


@lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    return " ".join(bare(text).casefold().split())


def _named(text: str, options: dict[str, str]) -> str | None:
    """The option that a text is: its letter (`B`, `(B)`, `B. its text`) or its whole text. None for anything else."""
    text = bare(text)
    if text.upper() in options:
        return text.upper()
    plain = _plain(text)
    if plain:
        for letter, option in options.items():
            if plain == _plain(option):
                return letter
    match = re.match(r"[({\[]*([A-Za-z0-9])(?:[)}\]]+[.:]?|[.:])\s*(.*)", text, re.DOTALL)
    if match and match[1].upper() in options:
        rest, option = _plain(match[2]), _plain(options[match[1].upper()])
        if not rest or not option or rest == option:
            return match[1].upper()
    return None


def _said(text: str, options: dict[str, str]) -> str | None:
    """What the last `Answer: ...` or `the answer is ...` names."""
    for says in reversed(list(_SAYS.finditer(text))):
        line = text[says.end() :].lstrip().split("\n", 1)[0]
        if _SEVERAL.match(line[1:]):
            return None  # `A or B` is no answer
        match = _LETTER.match(line)
        if match and match["letter"].upper() in options and not _SEVERAL.match(line[match.end("letter") :]):
            return match["letter"].upper()
        if letter := _named(line, options):
            return letter
    return None


def _last_line(text: str, options: dict[str, str]) -> str | None:
    """What the last line, or the whole text, names; inside a line only a marked letter does: `(B)`, `**B**`."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    if letter := _named(lines[-1], options) or _named(text, options):
        return letter
    marked = {next(filter(None, match.groups())).upper() for match in _MARKED.finditer(lines[-1])} & options.keys()
    return marked.pop() if len(marked) == 1 else None
