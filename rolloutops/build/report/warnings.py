"""What a person should look at before training on a build: sentences, made of the manifest and the figures' numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rolloutops.build.manifest import by_dataset
from rolloutops.build.manifest_types import Manifest
from rolloutops.build.report.figures import Figure
from rolloutops.build.report.plots import number, percent
from rolloutops.layout import count, verb

FEW = 100
"""Lines below which a page says that there are few."""
DRIFT = 0.02
"""How far a dataset's share of the lines may lie from what the mix was asked for."""


def warnings_of(
    content: Manifest,
    totals: Mapping[str, Any],
    drawn: Sequence[Figure],
    targets: Mapping[str, float],
) -> list[str]:
    """The warnings of a build. content: its manifest. totals: of sql/report. targets: dataset -> the share asked."""
    said = (_faults(content), _of_lines(content, totals), _of_mix(content, targets), _of_pairs(drawn), amiss(totals))
    return [sentence for some in said for sentence in some]


def amiss(totals: Mapping[str, Any]) -> Iterator[str]:
    """What is amiss with the rollouts of a workspace."""
    rollouts = totals["rollouts"]
    if totals["unverified"]:
        many = f"{number(totals['unverified'])} of {count(rollouts, 'rollout')} {verb(totals['unverified'], 'have')}"
        yield f"{many} no reward yet: run verify."
    if totals["verdict_failures"]:
        yield f"Verification failed for {count(totals['verdict_failures'], 'rollout')}, so these have no reward."
    if rollouts and totals["cut_off"] / rollouts > 0.1:
        yield f"{percent(totals['cut_off'] / rollouts)} of all rollouts were truncated."


def _faults(content: Manifest) -> Iterator[str]:
    """What the linter of the build's target found."""
    for row in (row for rows in content["build"]["reports"] for row in rows):
        if "fault" in row and "lines" in row:
            dropped = f" ({number(row['dropped'])} dropped)" if row.get("dropped") else ""
            yield f"{count(row['lines'], 'line')}: {row['fault']}{dropped}."


def _of_lines(content: Manifest, totals: Mapping[str, Any]) -> Iterator[str]:
    counts = by_dataset(content)
    lines = sum(counts.values())
    if lines < FEW:
        yield f"The files hold {count(lines, 'line')} only."
    if totals["used_cut_off"]:
        share = percent(totals["used_cut_off"] / totals["used_rollouts"])
        many = totals["used_cut_off"]
        yield f"{number(many)} of the rollouts used ({share}) {verb(many, 'were')} truncated."
    if others := content["unasked_policies"]:
        names = ", ".join(others)
        yield f"Some lines come from policies that the recipe does not name; add filter/only to exclude {names}."
    copies = sum(step["rows"] - step["kept"] for step in content["steps"] if step["kind"] == "mix")
    if copies > 0:
        yield f"A mix repeats rollouts: {number(copies)} {'row is a copy' if copies == 1 else 'rows are copies'}."


def _of_mix(content: Manifest, targets: Mapping[str, float]) -> Iterator[str]:
    counts = by_dataset(content)
    lines = sum(counts.values()) or 1
    off = {name: counts.get(name, 0) / lines for name, options in targets.items()}
    off = {name: share for name, share in off.items() if abs(share - targets[name]) > DRIFT}
    if off:
        said = [f"{name} is {percent(share)} (requested {percent(targets[name])})" for name, share in off.items()]
        yield f"The mix differs from the requested shares: {', '.join(said[:5])}{', …' if len(off) > 5 else ''}."
    for row in (row for step in content["steps"] if step["kind"] == "mix" for rows in step["reports"] for row in rows):
        if row.get("short_rows") and row.get("dataset") in counts:
            yield f"The mix had {count(row['short_rows'], 'row')} fewer of {row['dataset']} than requested."
    largest = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if len(counts) > 1 and largest[1] / lines > 0.9:
        yield f"{percent(largest[1] / lines)} of the lines are of one dataset, {largest[0]}."


def _of_pairs(drawn: Sequence[Figure]) -> Iterator[str]:
    for row in (row for figure in drawn for row in figure.rows if "share_chosen_longer" in row):
        for what in ("longer", "shorter"):
            if (share := row[f"share_chosen_{what}"]) > 0.6:
                part = f"In {percent(share)} of the pairs"
                yield f"{part} the chosen answer is the {what} one: the model may learn length instead of quality."
