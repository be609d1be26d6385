"""Whether a run fails as a whole: after a few failures, not after a million, it ends and says why."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rolloutops.errors import EngineError

FEW = 10
"""Failures in a row with which a run may begin."""
LATEST = 100
"""Attempts over which the share of failures is taken."""
FORBIDDEN = 20
"""Answers 403 in a row, with no success between them, from which on it is the key that they refuse."""
PATIENCE = 900.0
"""Seconds without one success after which a run that only fails ends."""
OF_THE_PROMPT = "content_filter"
"""The failure that says nothing of a run: each such prompt was understood, and refused for what it says."""
WAITS = frozenset({"rate_limited", "loading"})
"""Failures that pass by themselves: they end a run only when nothing else has come for PATIENCE."""
MISUNDERSTOOD = frozenset({"bad_request", "environment_error"})
"""Failures that are final for a rollout, unless they are everyone's: then it is the run that is set up wrongly."""


@dataclass(slots=True)
class CircuitBreaker:
    """The latest attempts of one engine. limit: the share of failures that ends the run."""

    limit: float = 1.0
    clock: Callable[[], float] = time.monotonic
    proven: bool = False
    _latest: deque[str] = field(default_factory=lambda: deque(maxlen=LATEST))
    _success_at: float = -1.0
    _message: str = ""
    _forbidden: int = 0

    def is_final(self, kind: str, final: bool) -> bool:
        """Whether a failure is final. Before anything has succeeded, a refused request may be the run's mistake."""
        return final and (self.proven or kind not in MISUNDERSTOOD)

    def attempted(self, kind: str | None, message: str | None) -> None:
        """Count an attempt, `kind` being its failure. Raises EngineError where the run fails as a whole."""
        now = self.clock()
        if self._success_at < 0:
            self._success_at = now
        if kind is None:
            self.proven, self._success_at, self._forbidden = True, now, 0
            self._latest.append("")
            return
        if kind == OF_THE_PROMPT:
            return
        self._message = message or kind
        if kind == "forbidden":
            self._forbidden += 1
            if self._forbidden >= FORBIDDEN:
                raise EngineError(self.why_forbidden())
        if kind not in WAITS:
            self._latest.append(kind)
        elif now - self._success_at < PATIENCE:
            return
        failed = len(self._latest) - self._latest.count("")
        begun = failed - self._latest.count("forbidden")  # of these it takes more to know whose fault they are
        enough = len(self._latest) == LATEST or (not self.proven and begun >= FEW)
        stalled = now - self._success_at >= PATIENCE and failed == len(self._latest)
        if (enough and failed >= self.limit * len(self._latest)) or stalled:
            raise EngineError(self._why(failed))

    def why_forbidden(self) -> str:
        """Why a run ends that only answers 403 came to."""
        answers = (
            "one answer 403 and no success"
            if self._forbidden == 1
            else (f"{self._forbidden} answers 403 and no success between them")
        )
        return (
            f"{answers}, the last one with: {self._message}; no "
            "rollout was given up: check that the key has access to this model, then run the command again"
        )

    def _why(self, failed: int) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(filter(None, self._latest)).most_common())
        return (
            f"{failed} of the last {len(self._latest)} attempts failed ({kinds or 'rate_limited'}), the last one with: "
            f"{self._message}; the rest is still pending: fix the cause and rerun"
        )
