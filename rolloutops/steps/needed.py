"""Which steps of a recipe some of its builds need: those that lead to them, and no others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from rolloutops.config.recipe import StepUse
from rolloutops.steps.selected import ALL


def needed(steps: Sequence[StepUse], builds: Collection[str]) -> list[StepUse]:
    """The builds so named and the steps that they start from, in order, each with its start written out."""
    written: list[StepUse] = []
    last = ALL
    for use in steps:
        written.append(use if use.start is not None else replace(use, start=last))
        last = last if use.kind == "build" else use.name
    read: set[str | None] = set()
    found: list[StepUse] = []
    for use in reversed(written):
        if use.name in (builds if use.kind == "build" else read):
            read.add(use.start)
            found.insert(0, use)
    return found
