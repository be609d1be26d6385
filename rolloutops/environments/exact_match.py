"""Exact match: the final answer equals the task's answer, as text or as a number (`1,234` is `1234.0`).

The task's answer is the first of the row's fields `expected_answer`, `answer`, `ground_truth`, `label`, `target` and
`solution`. If it ends with `#### 72`, as the worked solutions of GSM8K do, the answer is `72`.
"""

from __future__ import annotations

import re
from typing import Any

from rolloutops.environments.answers import bare, final_text, same, stated
from rolloutops.errors import UsageError
from rolloutops.types import Rollout, Runs, Task

VERSION = 1
"""Raised by whoever changes a reward: rollouts that an earlier version verified are then verified again."""


class ExactMatch:
    """See `make`."""

    pure = True

    def __init__(self, strip: bool, ignore_case: bool, extract: str) -> None:
        self.strip, self.ignore_case, self.extract = strip, ignore_case, extract
        self.pattern = None
        if extract not in ("final", "last_line", "whole"):
            try:
                self.pattern = re.compile(extract)
            except re.error as error:
                raise UsageError(f"exact_match: extract = '{extract}' is not a regular expression: {error}") from None
        # A pattern that is not ours may take for ever on an odd text: a pool worker can be stopped, this process not.
        self.runs: Runs | None = "process" if self.pattern else None

    def verify(self, task: Task, rollout: Rollout) -> dict[str, Any]:
        """{"reward": 1.0 or 0.0, "extracted": the answer found or None, "answered": whether one was found}."""
        expected = self._expected(task)
        if expected is None:
            raise ValueError("the task has no expected answer: add expected_answer or answer to its row")
        found = self._extracted(rollout.text)
        equal = found is not None and same(self._normal(found), self._normal(expected))
        return {"reward": float(equal), "extracted": found, "answered": found is not None}

    def gold(self, task: Task) -> str | None:
        """The task's own answer, boxed where it would not be found otherwise. None with a pattern that misses it."""
        expected = self._expected(task)
        if expected is None:
            return None
        for text in (expected, f"\\boxed{{{expected}}}"):
            found = self._extracted(text)
            if found is not None and same(self._normal(found), self._normal(expected)):
                return text
        return None

    def _expected(self, task: Task) -> str | None:
        if task.answer is None or "####" not in task.answer:
            return task.answer
        return task.answer.rpartition("####")[2].strip()

    def _extracted(self, text: str) -> str | None:
        if self.extract == "whole":
            return text
        text = final_text(text)
        if self.pattern:
            found = list(self.pattern.finditer(text))
            return found[-1][1 if self.pattern.groups else 0] if found else None
        if not (whole := text.strip()):
            return None
        return bare(whole.splitlines()[-1]) if self.extract == "last_line" else stated(text)

    def _normal(self, text: str) -> str:
        text = text.strip() if self.strip else text
        return text.casefold() if self.ignore_case else text


def make(strip: bool = True, ignore_case: bool = False, extract: str = "final") -> ExactMatch:
    """An environment that compares the final answer with the task's.

    strip: ignore white space around both. ignore_case: ignore upper and lower case.
    extract: `final` (what follows the last `Answer:` or `####`, or is in the last `\\boxed{}`, whichever comes
    last; without any the whole text), `last_line`, `whole`, or a regular expression: its last match, group 1 if any.
    """
    return ExactMatch(strip, ignore_case, extract)
