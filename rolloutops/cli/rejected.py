"""What chunk, collect and import say of input lines that they could not use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rolloutops.layout import count


class Rejecting(Protocol):
    """A report that counts rejected lines."""

    @property
    def rejected(self) -> int:
        """How many lines were rejected."""

    @property
    def rejected_file(self) -> Path | None:
        """Where they are listed."""

    @property
    def examples(self) -> Sequence[str]:
        """The first of them, each with its file, line and reason."""


def rejected_sentences(report: Rejecting, dataset: str = "") -> Iterator[str]:
    """Name a report's rejected lines and its first ones; nothing where there are none."""
    if report.rejected:
        of = f"{dataset}: " if dataset else ""
        yield f"{of}{count(report.rejected, 'line')} rejected, listed in {report.rejected_file}; the first:"
        yield from (f"  {example}" for example in report.examples)


def remedy(command: str = "run the same command") -> str:
    """Say what to do about rejected lines."""
    return f"correct those lines and {command} again, or leave them out with --skip_bad_lines"
