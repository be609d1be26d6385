"""What `collect --tune` found, as a table with a plot for the terminal, or as a picture in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rolloutops.build.report.plots import GREEN, Axis, Series, lines, roof
from rolloutops.cli.tables import table
from rolloutops.errors import UsageError
from rolloutops.limits.concurrency_sweep import Point, knee
from rolloutops.store.output import replacing_file

BAR = 30
"""Characters of the longest bar."""


def sweep_table(points: Sequence[Point], why: str) -> Iterator[str]:
    """A table with a bar for each step, and what it means."""
    best, found = max((point.per_second for point in points), default=0.0), knee(points)
    if found is None:
        yield f"nothing was measured: {why}"
        return
    rows = []
    for point in points:
        bar = "█" * max(1, round(BAR * point.per_second / best)) if point.per_second else ""
        row = [point.in_flight, round(point.per_second, 2), round(point.tokens_per_second), round(point.seconds, 3)]
        rows.append([*row, point.failed, bar + (" ← the knee" if point is found else "")])
    yield table(("in flight", "rollouts/s", "tokens/s", "seconds each", "failed", ""), rows)
    best_flag = f"--num_samples_in_parallel={found.in_flight}"
    yield f"{why}; lowest concurrency with at least 90 % of peak throughput: {best_flag}"
    if points[-1].refused:
        yield f"the endpoint allows about {best:,.1f} rollouts/s; num_samples_in_parallel=auto adapts to it"


def write(points: Sequence[Point], output: Path) -> Path:
    """The curve as .svg, or in a page as .html."""
    picture = _picture(points)
    page = f'<!doctype html>\n<meta charset="utf-8">\n<title>Throughput</title>\n{picture}\n'
    alone = picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    with replacing_file(output) as path:
        path.write_text(page if output.suffix == ".html" else alone, encoding="utf-8")
    return output


def refuse_name(output: Path) -> None:
    """Raise UsageError where the name is none of a picture, before anything is spent."""
    if output.suffix not in (".svg", ".html"):
        raise UsageError(f"--tune={output}: write .svg or .html, or nothing for the terminal alone")


def _picture(points: Sequence[Point]) -> str:
    widths, found = [float(point.in_flight) for point in points], knee(points)
    series = [Series("rollouts/s", [(point.in_flight, point.per_second) for point in points])]
    if found is not None:
        series.append(Series(f"the knee: {found.in_flight}", [(found.in_flight, found.per_second)], GREEN))
    x = Axis(min(widths, default=1.0), max(widths, default=2.0), "in flight", log=True, marks=widths)
    y = Axis(0.0, roof(max((point.per_second for point in points), default=1.0)), "rollouts/s")
    return lines(series, "rollouts per second by rollouts in flight", x, y)
