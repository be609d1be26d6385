"""Progress of a collection or verification, for a person who watches: one line that is kept up to date on a terminal,
one plain line each ten seconds elsewhere."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from rolloutops.visible import visible


@dataclass
class Progress:
    """Counts of a stage under way. `noun` is what is counted: rollouts or verdicts. failures: failed attempts by kind;
    unrewarded: rollouts without a reward, by the reason. notes: what else the line says, each empty where it has
    nothing to say."""

    noun: str
    owed: int
    done_before: int = 0
    given_up: int = 0
    done: int = 0
    tokens: int = 0
    reward_sum: float = 0.0
    rewarded: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    unrewarded: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)
    notes: list[Callable[[], str]] = field(default_factory=list)

    def attempted(self, row: dict[str, Any]) -> None:
        """Count an attempt's row."""
        if row.get("error"):
            self.failures[row["error"]] += 1
        else:
            self.done += 1
        self.tokens += row.get("output_tokens") or 0

    def judged(self, reward: float | None, error: str | None) -> None:
        """Count a verdict."""
        if error:
            self.unrewarded[error] += 1
        elif reward is not None:
            self.reward_sum += reward
            self.rewarded += 1

    def start_clock(self) -> None:
        """Count time from now on, where nothing has been counted yet: loading a model is no part of the pace."""
        if not self.done and not self.failures:
            self.began = time.monotonic()

    def line(self) -> str:
        """The state in one line."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        rate = self.done / seconds
        total, done = self.owed + self.done_before + self.given_up, self.done + self.done_before
        parts = [f"{done:,}/{total:,} {self.noun}", f"{rate:,.1f}/s"]
        if self.tokens:
            parts.append(f"{self.tokens / seconds:,.0f} tokens/s")
        if self.rewarded:
            parts.append(f"mean reward {self.reward_sum / self.rewarded:.3f}")
        for what, counted in (("failed attempts", self.failures), ("without a reward", self.unrewarded)):
            if counted:
                parts.append(f"{what}: {', '.join(f'{count} {kind}' for kind, count in counted.most_common())}")
        if self.done and self.done < self.owed:
            parts.append(f"{_duration((self.owed - self.done) / rate)} left")
        return visible(" · ".join([*parts, *filter(None, (note() for note in self.notes))]))


async def report(meter: Progress, out: TextIO | None = None) -> None:
    """Write the meter's line until cancelled, and once more at the end."""
    out = out or sys.stderr
    terminal = out.isatty()
    try:
        while True:
            await asyncio.sleep(0.5 if terminal else 10.0)
            out.write(f"\r\x1b[2K{meter.line()}" if terminal else f"{meter.line()}\n")
            out.flush()
    finally:
        out.write(f"\r\x1b[2K{meter.line()}\n" if terminal else f"{meter.line()}\n")
        out.flush()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
