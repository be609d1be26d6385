"""Recording: what has ended becomes rows and counts, and a part whose rollouts are settled is unlocked.

Rollouts that end in one turn of the event loop are written in a row, which takes less time than one now and then.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from rolloutops.collect.attempt import Attempt, PendingRollout
from rolloutops.collect.forbidden import ForbiddenAnswers
from rolloutops.collect.pending import Part
from rolloutops.collect.verify import RemoteVerifier, Verifier, record_verdict
from rolloutops.environments.verdict import Verdict, verdict_of
from rolloutops.errors import EngineError
from rolloutops.limits.circuit_breaker import CircuitBreaker
from rolloutops.limits.progress import Progress
from rolloutops.limits.spend_limit import SpendLimit
from rolloutops.store.failpoints import failpoint
from rolloutops.store.journal import Journal
from rolloutops.store.rows import AttemptRow
from rolloutops.store.runs import Run
from rolloutops.types import Rollout


class Unverified(NamedTuple):
    """A rollout that is written and waits for its verdict."""

    pending: PendingRollout
    row: AttemptRow
    rollout: Rollout
    verifier: Verifier


class Recorder:
    """Writes a window's attempts and verdicts to the journal and counts them.

    settled: set when a part is done, or may be but for answers 403.
    """

    def __init__(self, run: Run, journal: Journal, meter: Progress, spend_limit: SpendLimit) -> None:
        self.run, self.journal, self.meter, self.spend_limit = run, journal, meter, spend_limit
        self.settled = asyncio.Event()
        self._ended: list[tuple[Attempt, Verifier | None]] = []  # in this turn of the event loop, not written yet
        self._forbidden = ForbiddenAnswers()
        self._remaining: dict[tuple[str, int], int] = {}  # (dataset, part) -> rollouts that are not settled
        self._release: dict[tuple[str, int], list[Callable[[], None]]] = defaultdict(list)

    def open_part(self, part: Part, rollouts: int, release: Callable[[], None]) -> None:
        """Count on so many more rollouts of a part, which `release` gives back when all that were taken of it are
        settled and sealed."""
        key = (part.dataset, part.number)
        self._remaining[key] = self._remaining.get(key, 0) + rollouts
        self._release[key].append(release)

    def close(self) -> None:
        """Write what is left, and give back what was taken of parts that are not done."""
        self.write_ended()
        for key in list(self._release):
            self._give_back(key)

    def _give_back(self, part: tuple[str, int]) -> None:
        for release in self._release.pop(part):
            self.journal.when_sealed(release)

    @property
    def has_parts(self) -> bool:
        """Whether a part is not done."""
        return bool(self._remaining)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left of the parts but answers 403 that wait."""
        return sum(self._remaining.values()) == len(self._forbidden)

    def write(self, pending: PendingRollout, row: AttemptRow) -> None:
        """Put an attempt into the journal, and into the counts. row: gets its names."""
        row["attempt_id"], row["run_id"] = self.run.next_id(), self.run.run_id
        self.journal.append("attempts", row)
        self.meter.attempted(row)
        self.spend_limit.count_attempt(row, pending.params.get("service_tier"), pending.task.prompt)

    def settle(self, pending: PendingRollout) -> None:
        """Count a rollout as done or given up. After the last one of a part they are given back, once all is sealed."""
        part = (pending.task.dataset, pending.part)
        self._remaining[part] -= 1
        if self._remaining[part] == 0:
            del self._remaining[part]
            self._give_back(part)
            self.settled.set()
        elif self._forbidden:  # what is left of the part may be nothing but these
            self.settled.set()

    def add_success(self, attempt: Attempt, verifier: Verifier | None) -> bool:
        """Keep a rollout for `write_ended`. Returns whether it is the first one in this turn of the event loop."""
        self._forbidden.count_success()
        self._ended.append((attempt, verifier))
        return len(self._ended) == 1

    def write_ended(self) -> list[Unverified]:
        """Write the rollouts that ended, with the verdicts that came with them. Returns those to be verified."""
        unverified: list[Unverified] = []
        ended, self._ended = self._ended, []
        for attempt, verifier in ended:
            pending, row, whole = attempt.pending, attempt.row(), attempt.trace.whole
            self.write(pending, row)
            if whole is not None and whole.returned is not None:
                verdict = verdict_of(whole.returned, 0.0)
                remote = RemoteVerifier(whole.verifier)
                record_verdict(self.run, self.journal, remote, row, row["attempt_id"], verdict)
                self.meter.count_verdict(verdict.reward, verdict.error)
            if verifier is None or not verifier.verifies or pending.settings.verify != "now":
                self.settle(pending)
            else:
                unverified.append(Unverified(pending, row, attempt.rollout(), verifier))
        self.spend_limit.flush()
        self.journal.write()  # a verifier may end the process
        failpoint("attempt-before-verdict")
        return unverified

    def write_verdict(self, rollout: Unverified, verdict: Verdict) -> None:
        """Put a verdict into the journal, and into the counts; it settles the rollout."""
        row = rollout.row
        record_verdict(self.run, self.journal, rollout.verifier, row, row["attempt_id"], verdict)
        self.meter.count_verdict(verdict.reward, verdict.error)
        self.spend_limit.count_verdict(verdict.metrics, verdict.details)
        self.settle(rollout.pending)

    def hold_forbidden(self, attempt: Attempt) -> None:
        """Keep an answer 403 until it is known whether the prompt or the key was refused."""
        self._forbidden.hold(attempt)
        self.settled.set()

    def give_up_forbidden(self, started: float) -> None:
        """Give up what was answered 403 before a rollout that succeeded sent its first request, at `started`."""
        for answer in self._forbidden.take_before(started):
            self.write(answer.pending, {**answer.row, "final": True})
            self.settle(answer.pending)

    def settle_forbidden(self, breaker: CircuitBreaker, complete: bool, failed: bool = False) -> None:
        """Write the answers 403 that still wait when nothing else is left; where the window failed none is final.

        complete: nothing was left to do. Raises EngineError where nothing but refusals came.
        """
        answers = self._forbidden.take_all(complete)
        for answer, final in answers:
            final = final and breaker.proven and not failed
            self.write(answer.pending, {**answer.row, "final": final})
            if final:
                self.settle(answer.pending)
        if answers and complete and not breaker.proven:
            raise EngineError(breaker.why_forbidden())
