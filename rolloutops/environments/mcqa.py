"""Multiple choice: the rollout names the right option, in the form that the task's row requires.

Rows and rules are those of NeMo Gym's `mcqa` (resources_servers/mcqa/app.py of NVIDIA-NeMo/Gym, commit 07d6b0d):

    options          [{"A": "..."}, {"B": "..."}], also {"A": "...", "B": "..."} or ["...", "..."] (then A, B, ...)
    expected_answer  the letter; here also the option's text
    grading_mode     where the answer must be (default: `strict_single_letter_boxed`):
        strict_single_letter_boxed   in the last \\boxed{}: one capital letter (`B`, `(B)`, `\\text{B}`), also
                                     followed by a mark and more text (`B: its text`, `B) ...`)
        lenient_boxed                the same, or the text of exactly one option is in that box
        lenient_answer_colon         after the first `Answer:`, up to the end of the line: only the letter, in any case,
                                     or only an option's whole text; boxes are ignored
        lenient_answer_colon_md      after the last `Answer:` that is followed by a letter, also with Markdown around
                                     them (`**Answer:** B because ...`); several letters (`A or B`) do not count
    template_metadata.output_regex   a regular expression, or several, of which the first that matches counts; it takes
                     precedence over the mode. Group 1 of its last match (else the whole match) is the letter or the
                     option's whole text

Unlike there, inline reasoning (`<think>`) is not searched, and a row without options may have any letter as its answer.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from rolloutops.environments.answers import without_reasoning
from rolloutops.errors import UsageError, did_you_mean
from rolloutops.types import Rollout, Runs, Task

VERSION = 2
"""Raised by whoever changes a reward: rollouts that an earlier version verified are then verified again."""

STRICT = "strict_single_letter_boxed"
MODES = (STRICT, "lenient_boxed", "lenient_answer_colon", "lenient_answer_colon_md")

_ONE_CAPITAL = re.compile(r"[^A-Za-z]*([A-Z])[^A-Za-z]*")
_LABEL = re.compile(r"\s*([A-Z])\s*[:).-]")
_WRAPPED = re.compile(r"\\text\{\s*(.*?)\s*\}", re.DOTALL)
_COLON = re.compile(r"answer\s*:\s*(.+)", re.IGNORECASE)
_COLON_MARKDOWN = re.compile(r"[*_]{0,2}answer[*_]{0,2}\s*:[*_\s]{0,2}(.+)", re.IGNORECASE)
_FIRST_LETTER = re.compile(r"[A-Za-z](?![A-Za-z0-9])")
_LONE_CAPITAL = re.compile(r"\b[A-Z]\b")
_LONE_LETTER = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
_BETWEEN_LISTED = re.compile(r"\s*[/|&,;]\s*|\s+(?:or|and)\s+|\s+", re.IGNORECASE)
_LETTERS = str.maketrans(
    {letter: f" {'ABCD'[n]}" for alphabet in ("أبجد", "অবডঢ", "ＡＢＣＤ") for n, letter in enumerate(alphabet)}
)
"""Arabic, Bengali and full-width letters that stand for A to D."""


class MultipleChoice:
    """See `make`."""

    pure = True

    def __init__(self, strict: bool, grading_mode: str) -> None:
        self.mode, self.patterns = STRICT if strict else grading_mode, not strict

    def runs(self, task: Task) -> Runs:
        """A row's own pattern may take for ever on an odd text: a pool worker can be stopped, this process not."""
        return "process" if self.patterns and _patterns(task.row) else "inline"

    def verify(self, task: Task, rollout: Rollout) -> dict[str, Any]:
        """{"reward": 1.0 or 0.0, "extracted": the letter found or None, "answered": whether one was found}."""
        options = _options(task.row)
        expected = _expected(task, options)
        if expected is None:
            raise ValueError(
                "the task does not say which option is right: it needs 'expected_answer', the letter or the text of one"
            )
        mode = self.mode or task.row.get("grading_mode") or STRICT
        if mode not in MODES:
            raise ValueError(f"the row's grading_mode {mode!r} is not known; there are: {', '.join(MODES)}")
        found = self._extracted(without_reasoning(rollout.text).strip(), mode, task.row, options)
        return {"reward": float(found == expected), "extracted": found, "answered": found is not None}

    def gold(self, task: Task) -> str | None:
        """The right letter, as the row asks for it; None where it names none, or asks in a way that only it knows."""
        expected = _expected(task, _options(task.row))
        for text in (f"\\boxed{{{expected}}}", f"Answer: {expected}") if expected else ():
            if self.verify(task, Rollout((), text))["reward"]:
                return text
        return None

    def _extracted(self, text: str, mode: str, row: Mapping[str, Any], options: Mapping[str, str]) -> str | None:
        for pattern in _patterns(row) if self.patterns else ():
            if letter := _matched(pattern, text, options):
                return letter
        if mode == "lenient_answer_colon":
            first = _COLON.search(text)
            return _letter_or_text(_unwrapped(first[1]).strip(), options) if first else None
        if mode == "lenient_answer_colon_md":
            stated = reversed(_COLON_MARKDOWN.findall(text))
            return next((letter for each in stated if (letter := _letter_in(each, options))), None)
        inner = _last_box(text)
        if inner is None:
            return None
        letter = _boxed_letter(_unwrapped(inner.strip()), options)
        return _one_option_in(inner, options) if letter is None and mode == "lenient_boxed" else letter


def make(strict: bool = False, grading_mode: str = "") -> MultipleChoice:
    """An environment for multiple choice.

    grading_mode: one mode for all rows instead of their own, like the setting of NeMo Gym's server.
    strict: use `strict_single_letter_boxed` for all rows, and ignore the rows' own patterns.
    """
    if grading_mode and grading_mode not in MODES:
        raise UsageError(
            f"environment 'mcqa': no grading_mode {grading_mode!r}{did_you_mean(grading_mode, MODES)}; "
            f"there are: {', '.join(MODES)}"
        )
    return MultipleChoice(strict, grading_mode)


def _options(row: Mapping[str, Any]) -> dict[str, str]:
    """{capital letter: text} of a row's options that have a text; each letter, with an empty one, where it has none."""
    given = row.get("options") or row.get("choices")
    if isinstance(given, Mapping):
        given = [given]
    found: dict[str, str] = {}
    for letter, option in zip(string.ascii_uppercase, given or (), strict=False):
        for key, text in option.items() if isinstance(option, Mapping) else ((letter, option),):
            name = str(key).strip()
            if text is not None and len(name) == 1 and name.isalpha():
                found[name.upper()] = str(text)
    return found or dict.fromkeys(string.ascii_uppercase, "")


def _expected(task: Task, options: Mapping[str, str]) -> str | None:
    given = task.row.get("expected_answer")
    text = str(given if given is not None else task.answer or "").strip()
    if len(text) == 1 and text.isalpha():
        return text.upper()
    return _option_by_text(text, options)


def _patterns(row: Mapping[str, Any]) -> Sequence[str]:
    about = row.get("template_metadata")
    given = about.get("output_regex") if isinstance(about, Mapping) else None
    listed = given if isinstance(given, list) else [given]
    return [pattern for pattern in listed if isinstance(pattern, str) and pattern]


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """A row's pattern; None where it is not one, which then finds nothing."""
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error:
        return None


def _matched(pattern: str, text: str, options: Mapping[str, str]) -> str | None:
    """What a row's pattern finds last. Its letter is trusted, whether the row has such an option or not."""
    compiled = _compiled(pattern)
    matches = list(compiled.finditer(text)) if compiled else []
    if not matches:
        return None
    last = matches[-1]
    found = ((last[1] or "") if last.re.groups else last[0]).strip().translate(_LETTERS).strip().upper()
    return found if len(found) == 1 and found.isalpha() else _option_by_text(found, options)


def _letter_or_text(text: str, options: Mapping[str, str]) -> str | None:
    """The option whose letter, in any case, or whole text this is."""
    if len(text) == 1 and text.upper() in options:
        return text.upper()
    return _option_by_text(text, options)


def _letter_in(stated: str, options: Mapping[str, str]) -> str | None:
    """The one letter that a statement names: the one it begins with, else its last lone capital."""
    text = stated.translate(_LETTERS).strip().strip("*_` \t\n\r.,;:")
    if _lists_several(text, options):
        return None
    first = _FIRST_LETTER.match(text)
    lone = _LONE_CAPITAL.findall(text)
    letter = first[0] if first else lone[-1] if lone else ""
    return letter.upper() if letter.upper() in options else None


def _lists_several(text: str, options: Mapping[str, str]) -> bool:
    """Whether two different options stand side by side, as in `A or B`, `A/B`, `A B`."""
    named = [match for match in _LONE_LETTER.finditer(text) if match[0].upper() in options]
    return any(
        left[0].upper() != right[0].upper() and _BETWEEN_LISTED.fullmatch(text[left.end() : right.start()])
        for left, right in pairwise(named)
    )


def _last_box(text: str) -> str | None:
    """What the last `\\boxed{` holds, up to the brace that closes it; None where none does."""
    _, box, inner = text.rpartition("\\boxed{")
    depth = 1
    for brace in re.finditer("[{}]", inner) if box else ():
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return inner[: brace.start()]
    return None


def _boxed_letter(inner: str, options: Mapping[str, str]) -> str | None:
    match = _ONE_CAPITAL.fullmatch(inner) or _LABEL.match(inner)
    return match[1] if match and match[1] in options else None


def _one_option_in(inner: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text is in a box."""
    text = _plain(inner)
    found = [letter for letter, option in options.items() if (plain := _plain(option)) and plain in text]
    return found[0] if len(found) == 1 else None


def _option_by_text(text: str, options: Mapping[str, str]) -> str | None:
    """The first option whose whole text this is."""
    plain = _plain(text)
    return next((letter for letter, option in options.items() if plain and _plain(option) == plain), None)


def _unwrapped(text: str) -> str:
    """A text without `\\text{...}` around it, however often."""
    while match := _WRAPPED.fullmatch(text):
        text = match[1]
    return text


@lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    return " ".join(text.lower().split())
