"""Mathematics: the rollout's answer is mathematically equal to the task's, as verified by math-verify.

Rows are those of NeMo Gym's math environments: `expected_answer` is text or LaTeX, with or without `$`. The rollout's
answer is the content of its last box; without a box, it is the last expression that math-verify finds.

Compared with NVIDIA-NeMo/Gym at commit 07d6b0d (resources_servers/math_with_judge/app.py, math_with_code/app.py): what
its library verifier finds equal is equal here, but of several boxes the last counts, as in math_with_code. Some answers
are equal here and left to its judge model there: equal words without a box, `1e3` for 1000, `\\fbox`, and numbers that
are equal to `digits` decimal places.
"""

from __future__ import annotations

import logging
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

from rolloutops.environments.answers import bare, boxes, final_text, number, stated
from rolloutops.errors import MissingExtra
from rolloutops.types import Rollout, Task

VERSION = 1
"""Raised by whoever changes a reward: rollouts that an earlier version verified are then verified again."""

PACKAGES = ("math-verify", "latex2sympy2-extended", "sympy")
"""Their versions are part of the verifier's version."""


class Math:
    """See `make`."""

    pure = True
    runs = "process"  # algebra has no upper bound on time and memory

    def __init__(self, digits: int) -> None:
        self.digits = digits

    def prepare(self) -> None:
        """Import math-verify, without its warning that its time limits are off: the pool's limit holds."""
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        import math_verify  # noqa: F401

    def verify(self, task: Task, rollout: Rollout) -> dict[str, Any]:
        """{"reward": 1.0 or 0.0, "extracted": the answer found or None, "answered": whether one was found}."""
        expected = _expected(task)
        if expected is None:
            raise ValueError("the task has no expected answer: add expected_answer or answer to its row")
        text = final_text(rollout.text)
        boxed = boxes(text)
        found = bare(boxed[-1]) if boxed else stated(text)
        if not found:
            return {"reward": 0.0, "extracted": None, "answered": False}
        one, other = number(found), number(expected)
        if found == expected:
            return {"reward": 1.0, "extracted": found, "answered": True}
        if one is not None and other is not None:  # math-verify would take 1e400 for 1
            return {"reward": float(_equal_to_digits(one, other, self.digits)), "extracted": found, "answered": True}
        return self._compared(expected, f"\\boxed{{{boxed[-1]}}}" if boxed else text, found if boxed else None)

    def gold(self, task: Task) -> str | None:
        """The task's answer in a box."""
        expected = _expected(task)
        return expected and f"\\boxed{{{expected}}}"

    def _compared(self, expected: str, text: str, extracted: str | None) -> dict[str, Any]:
        from math_verify import parse, verify

        # Its own time limits use SIGALRM, which does not interrupt C code.
        answer = parse(text, parsing_timeout=None)
        gold = parse(f"\\boxed{{{expected}}}", parsing_timeout=None)
        equal = bool(answer) and verify(gold, answer, float_rounding=self.digits, timeout_seconds=None)
        if extracted is None and answer:
            extracted = str(answer[-1])
        return {"reward": float(equal), "extracted": extracted, "answered": extracted is not None}


def make(digits: int = 6) -> Math:
    """An environment for mathematics. digits: decimal places to which numbers are compared."""
    if find_spec("math_verify") is None:
        raise MissingExtra("environment 'math'", "math")
    return Math(digits)


def _expected(task: Task) -> str | None:
    if task.answer is None or not task.answer.strip():
        return None
    expected = task.answer.rpartition("####")[2]
    boxed = boxes(expected)
    return bare(boxed[-1] if boxed else expected)


def _equal_to_digits(one: Decimal, other: Decimal, digits: int) -> bool:
    """Equal to `digits` decimal places."""
    try:
        return abs(one - other) <= Decimal(5).scaleb(-digits - 1)
    except ArithmeticError:  # one of them is beyond 1e999999
        return one == other
