"""Answers 403: of the prompt, or of the key?

A firewall refuses the one prompt that holds SQL; a key that may not use the model is refused for every prompt. Only
what comes after tells them apart. So a rollout that was answered 403 waits, unwritten: once a rollout has come whose
first request was sent later, the key was good, and the refusal is final. Where twenty come in a row with no success
between them (`limits/circuit_breaker.py`) the run ends, and all that wait stay pending.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from rolloutops.collect.attempt import Attempt, PendingRollout
from rolloutops.store.rows import AttemptRow


class ForbiddenAnswer(NamedTuple):
    """A rollout that was answered 403, and the row that is not written yet."""

    pending: PendingRollout
    row: AttemptRow
    at: float  # when the answer came (time.time)


class ForbiddenAnswers:
    """The answers 403 of which it is not known yet whether the prompt or the key was refused."""

    def __init__(self) -> None:
        self._waiting: list[ForbiddenAnswer] = []
        self._last_success = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, attempt: Attempt) -> None:
        """Keep a refusal until it is known."""
        self._waiting.append(ForbiddenAnswer(attempt.pending, attempt.row(), time.time()))

    def count_success(self) -> None:
        """Note that a rollout has come now."""
        self._last_success = time.time()

    def take_before(self, started: float) -> list[ForbiddenAnswer]:
        """Take the refusals that came before a rollout that succeeded sent its first request, at `started`: the key was
        good, so they are final."""
        known = [answer for answer in self._waiting if answer.at <= started]
        if known:
            self._waiting = [answer for answer in self._waiting if answer.at > started]
        return known

    def take_all(self, complete: bool) -> list[tuple[ForbiddenAnswer, bool]]:
        """Take what waits when something has succeeded and nothing else is left, and whether each is final.

        complete: nothing was left to do, so the refusals were some among successes. A window that ends early leaves
        pending what came after the last success.
        """
        waiting, self._waiting = self._waiting, []
        return [(answer, complete or answer.at < self._last_success) for answer in waiting]
