"""Progress of a collection or verification, for a person who watches: one line that is kept up to date on a terminal,
one plain line each ten seconds elsewhere."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple, TextIO

from rolloutops.formats.finish_reasons import REFUSED
from rolloutops.layout import columns_of, shorten, width, wrap
from rolloutops.store.rows import AttemptRow
from rolloutops.visible import visible

SEPARATOR, NEWLINE = " · ", "\n"


class WorkerName(NamedTuple):
    """One of the processes that a command shows as one. group: names that command. number: from 1. of: how many there
    are."""

    group: str
    number: int
    of: int


@dataclass
class Progress:
    """Counts of a stage under way. `noun` is what is counted: rollouts or verdicts. failures: failed attempts by kind;
    unrewarded: rollouts without a reward, by the reason. refused: rollouts with a finish reason of REFUSED; refusals:
    why. notes: what else the line says, each empty where it has nothing to say. in_flight: how many are at work.
    publish: shows the counts to other processes, each second. worker: of a command that writes the line of all its
    processes, so that this one writes none."""

    noun: str
    pending: int
    done_before: int = 0
    given_up: int = 0
    done: int = 0
    tokens: int = 0
    reward_sum: float = 0.0
    rewarded: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    unrewarded: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    notes: list[Callable[[], str]] = field(default_factory=list)
    in_flight: Callable[[], int] = lambda: 0
    publish: Callable[[Progress], None] = lambda _: None
    worker: WorkerName | None = None

    def attempted(self, row: AttemptRow) -> None:
        """Count an attempt's row."""
        if row.get("error"):
            self.failures[row["error"]] += 1
        else:
            self.done += 1
            reason = row.get("finish_reason")
            if reason in REFUSED:
                self.refused[reason] += 1
                self.refusals.setdefault(reason, row.get("error_message") or "")
        self.tokens += row.get("output_tokens") or 0

    def count_verdict(self, reward: float | None, error: str | None) -> None:
        """Count a verdict."""
        if error:
            self.unrewarded[error] += 1
        elif reward is not None:
            self.reward_sum += reward
            self.rewarded += 1

    def start_clock(self) -> None:
        """Count time from now on, where nothing has been counted yet: loading a model is not part of the pace."""
        if not self.done and not self.failures:
            self.began = time.monotonic()

    def pace(self) -> float:
        """Done per second, so far."""
        return self.done / max(time.monotonic() - self.began, 1e-9)

    def line(self, columns: int | None = None) -> str:
        """The state in one line. columns: its width at most; what matters less is then shorter or left out."""
        parts = list(self._parts())
        shown = [part.text for part in parts]
        steps = [(order, place, text) for place, part in enumerate(parts) for order, text in part.shorter]
        for _, place, text in sorted(steps, reverse=True):
            if columns is None or width(SEPARATOR.join(filter(None, shown))) <= columns:
                break
            shown[place] = text
        line = SEPARATOR.join(filter(None, shown))
        return line if columns is None else shorten(line, columns)

    def lines(self, columns: int) -> list[str]:
        """The state in as many lines of this width as it takes."""
        lines: list[str] = []
        for part in self._parts():
            joined = f"{lines[-1]}{SEPARATOR}{part.text}" if lines else part.text
            if lines and width(joined) <= columns:
                lines[-1] = joined
            else:
                lines += wrap(part.text, columns)
        return lines

    def _parts(self) -> Iterator[_Part]:
        seconds, rate = max(time.monotonic() - self.began, 1e-9), self.pace()
        total, done = self.pending + self.done_before + self.given_up, self.done + self.done_before
        noun = self.noun.removesuffix("s") if total == 1 else self.noun
        yield _Part(f"{done:,}/{total:,} {noun}", [])
        yield _Part(f"{rate:,.1f}/s", [(2, "")])
        if self.tokens:
            yield _Part(f"{self.tokens / seconds:,.0f} tokens/s", [(9, "")])
        if self.rewarded:
            yield _Part(f"mean reward {self.reward_sum / self.rewarded:.3f}", [(8, "")])
        if self.failures:
            yield _kinds("failed attempts", self.failures)
        if self.unrewarded:
            yield _kinds("without a reward", self.unrewarded)
        if self.done and self.done < self.pending:
            yield _Part(f"{duration((self.pending - self.done) / rate)} left", [(1, "")])
        for text in filter(None, (note() for note in self.notes)):
            yield _Part(visible(text), [(4, "")])


class _Part(NamedTuple):
    """One part of the line, and what stands for it where the line is too long: the highest number goes first."""

    text: str
    shorter: list[tuple[int, str]]


def _kinds(what: str, counted: Counter[str]) -> _Part:
    """Failures by kind; where that is too long only the most frequent kind, then only how many there are."""
    kinds, total = counted.most_common(), counted.total()
    (kind, most), others = kinds[0], total - kinds[0][1]
    brief = f"{most:,} {kind}, {others:,} other" if others else f"{most:,} {kind}"
    shorter = [(7, f"{what}: {brief}"), (6, f"{what}: {total:,}"), (3, "")]
    return _Part(f"{what}: {', '.join(f'{count:,} {kind}' for kind, count in kinds)}", shorter)


async def report(meter: Progress, out: TextIO | None = None) -> None:
    """Write the meter's line until cancelled, and at the end all of it, in as many lines as it takes."""
    out = out or sys.stderr
    terminal = out.isatty()
    tick, every = (0.5, 1) if terminal else (1.0, 10)
    clear = "\r\x1b[2K" if terminal else ""
    try:
        for number in count(1):
            meter.publish(meter)
            await asyncio.sleep(tick)
            if number % every == 0 and meter.worker is None:
                # One column stays free: a line that fills the last one makes some terminals begin another.
                out.write(f"{clear}{meter.line(columns_of(out) - 1)}{'' if terminal else NEWLINE}")
                out.flush()
    finally:
        meter.publish(meter)
        if meter.worker is None:
            out.write(f"{clear}{NEWLINE.join(meter.lines(columns_of(out) - 1))}{NEWLINE}")
            out.flush()


@contextmanager
def show_progress(meter: Progress, prepare: Callable[[], None], after: float = 5.0) -> Iterator[None]:
    """Write the line of a stage without an event loop, from a thread, where it takes longer than `after` seconds.

    prepare: works out, in that thread, what the line needs.
    """
    ended = threading.Event()

    async def until_ended() -> None:
        line = asyncio.ensure_future(report(meter))
        while not ended.is_set():
            await asyncio.sleep(0.1)
        line.cancel()
        await asyncio.gather(line, return_exceptions=True)

    def show() -> None:
        if not ended.wait(after):
            with suppress(Exception):  # a file that cannot be read is the stage's to report
                prepare()
            asyncio.run(until_ended())

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
