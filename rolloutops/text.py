"""Results as text for a terminal: aligned tables and sentences. Nothing here prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rolloutops.building.build import BuildReport
    from rolloutops.chunk import Chunked
    from rolloutops.collect import Collected
    from rolloutops.importing import Imported
    from rolloutops.status import Status
    from rolloutops.steps.selection import Funnel
    from rolloutops.verify import Verified


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An aligned table: numbers to the right, text to the left, missing values as a dash."""
    cells = [[cell(value) for value in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(columns))]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(columns)]
    lines = [list(columns), ["─" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def cell(value: Any) -> str:
    """One value, short enough for a table."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:79] + "…"


def count(number: int, noun: str) -> str:
    """`1 task`, `2,000 tasks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def chunked(done: Sequence[Chunked], skip_bad_lines: bool) -> Iterator[str]:
    """What became of each input."""
    columns = ("dataset", "read", "new", "edited", "returned", "removed", "unchanged", "duplicates", "rejected")
    yield table(columns, [[getattr(one, name) for name in columns] for one in done])
    for one in done:
        if one.removed:
            yield f"{one.dataset}: {count(one.removed, 'task')} no longer in the input, no longer wanted; rollouts kept"
        if one.rejected:
            yield f"{one.dataset}: {count(one.rejected, 'line')} rejected, listed in {one.rejected_file}; the first:"
            yield from (f"  {example}" for example in one.examples)
    if any(one.rejected for one in done) and not skip_bad_lines:
        yield "mend those lines and chunk again, or leave them out on purpose with --skip_bad_lines"


def imported(done: Imported, skip_bad_lines: bool) -> Iterator[str]:
    """What became of imported rows."""
    counted = ("read", "asked", "rollouts", "failures", "duplicates", "known", "rejected", "tasks", "verdicts")
    columns = ("dataset", *counted)
    yield table(columns, [[getattr(done, name) for name in columns]])
    if done.policies:
        yield f"policies: {', '.join(done.policies)}"
    if done.masked:
        yield f"{count(done.masked, 'rollout')} masked: their reward measures nothing and is left out"
    if done.renumbered:
        yield f"{count(done.renumbered, 'rollout')} got the next free index: another has theirs"
    if done.skipped:
        yield f"no rollouts in: {', '.join(done.skipped)}"
    if done.rejected:
        yield f"{count(done.rejected, 'line')} rejected, listed in {done.rejected_file}; the first:"
        yield from (f"  {example}" for example in done.examples)
        if not skip_bad_lines:
            yield "mend those lines and import again, or leave them out on purpose with --skip_bad_lines"


def collected(done: Collected) -> Iterator[str]:
    """How a collection ended."""
    if done.saved:
        yield f"{count(done.saved, 'row')} of a killed run saved from its journal"
    if done.judged:
        yield f"{count(done.judged, 'rollout')} of earlier runs judged"
    if done.in_flight:
        yield (
            f"{count(done.jobs, 'batch job')} under way for {count(done.in_flight, 'rollout')}: run the same command "
            "again to collect what has ended, or with --engine_args.wait=true to wait for it"
        )
    elif not done.owed and not done.done:
        given_up = f", but {done.given_up:,} that are given up" if done.given_up else ""
        yield f"nothing is owed: all {count(done.wanted, 'rollout')} are there{given_up}"
        return
    yield (
        f"{count(done.done, 'rollout')} collected; of {done.wanted:,} wanted, {done.given_up:,} are given up and "
        f"{done.left:,} owed"
    )
    if done.left:
        yield "run the same command again for what is owed"
    if done.given_up:
        yield "status tells why rollouts are given up; collect --retry=KIND owes them again"


def means(found: Mapping[str, Mapping[str, float]]) -> str:
    """The mean of each numeric field as JSON: of the one data set, or by data set where there are several."""
    return json.dumps(found if len(found) != 1 else next(iter(found.values())), indent=4)


def verified(done: Verified) -> str:
    """How a verification ended."""
    if not done.unjudged:
        return "nothing is unjudged"
    return f"{count(done.judged, 'rollout')} judged; of these, {done.failed:,} could not be judged"


def funnels(found: Sequence[Funnel]) -> str:
    """Rows in, kept and dropped, step by step."""
    rows = [(f.step, one.dataset, one.rows_in, one.kept, one.dropped) for f in found for one in f.datasets]
    return table(("step", "dataset", "rows in", "kept", "dropped"), rows)


def built(done: Sequence[BuildReport]) -> str:
    """Each training file that was written, with its rows."""
    rows = [(one.step, split, rows, str(path)) for one in done for split, (rows, path) in one.files.items()]
    return table(("build", "split", "rows", "file"), rows)


def status(now: Status) -> Iterator[str]:
    """Progress, failures, pace, and whether the tables agree."""
    if not now.progress:
        yield "the recipe asks for no rollouts"
    else:
        yield table(list(now.progress[0]), [list(row.values()) for row in now.progress])
    if now.failures:
        yield "\n" + table(list(now.failures[0]), [list(row.values()) for row in now.failures])
    if now.unsealed:
        yield f"\n{count(now.unsealed, 'row')} safe in a journal, not yet in the tables"
    if now.rollouts_per_second:
        tokens = f", {now.tokens_per_second:,.0f} tokens/s" if now.tokens_per_second else ""
        left = f", {now.seconds_left / 60:,.1f} minutes left at that pace" if now.seconds_left else ""
        yield f"\nlast collection: {now.rollouts_per_second:,.1f} rollouts/s{tokens}{left}"
    if not now.faults:
        yield "\nevery wanted rollout is exactly one of done, owed, in flight and given up"
    else:
        yield f"\nthe tables disagree about {count(len(now.faults), 'rollout')}: please report this"
        yield table(list(now.faults[0]), [list(row.values()) for row in now.faults[:10]])
