"""What became of a build's rollouts: how many it read and used, why it left others out, and the mix that came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rolloutops.build.staging import KEY
from rolloutops.steps.selected import ALL, table_of
from rolloutops.steps.selection import StepStats
from rolloutops.store import sql

WRITTEN = """
SELECT dataset, count(*)::DOUBLE AS rows, sum(output_tokens)::DOUBLE AS tokens
FROM (SELECT DISTINCT ON (split, row) split, row, dataset, output_tokens FROM staging.used ORDER BY ALL)
GROUP BY dataset ORDER BY dataset
"""


@dataclass(frozen=True)
class MixShare:
    """Shares of a dataset: in the mix that its step was asked for, and in the lines that were written."""

    dataset: str
    target: float
    written: float


@dataclass(frozen=True)
class Outcome:
    """A build's rollouts. path: the steps before it. rollouts: those that it read; used: those that are in its files.

    reasons: why the build left rollouts out -> how many. mix: by tokens where its step was asked for tokens, else by
    lines; none where no step mixed.
    """

    path: Sequence[StepStats] = ()
    rollouts: int = 0
    used: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    mix: Sequence[MixShare] = ()


def outcome_of(
    con: sql.Connection, start: str, path: Sequence[StepStats], counts: tuple[int, int], values: Mapping[str, Any],
    invalid: int,
) -> Outcome:  # fmt: skip
    """Say what became of the rollouts of a build whose tables are staged.

    start: the selection that it read. counts: rollouts read and used. values: its step's parameters. invalid: lines
    that the linter dropped.
    """
    read, used = counts
    reasons = {"reward below min_reward": _below(con, start, values), "failed the linter": invalid}
    fit = "no place in the format" if values.get("drop_unfit") else "not in any line"
    other = "unfinished" if values.get("drop_unfinished") else fit
    reasons[other] = read - used - sum(reasons.values())
    return Outcome(path, read, used, {why: many for why, many in reasons.items() if many > 0}, _mix(con, path))


def _below(con: sql.Connection, start: str, values: Mapping[str, Any]) -> int:
    """Rollouts of a selection whose reward is too low for the build, or absent."""
    least = values.get("min_reward")
    if least is None or "max_undesirable" in values:
        return 0
    table = "selection.rollouts" if start == ALL else table_of(start)
    own = "reward" in sql.columns(con, f"FROM {table}")
    source = f"FROM {table}" if own else f"FROM {table} JOIN selection.rollouts USING ({KEY})"
    low = f"coalesce(reward, '-inf'::DOUBLE) < '{float(least)}'::DOUBLE"
    return int(sql.rows(con, f"SELECT count(*) FROM (SELECT DISTINCT {KEY} {source} WHERE {low})")[0][0])


def _mix(con: sql.Connection, path: Sequence[StepStats]) -> list[MixShare]:
    """The last mix before a build, as it was asked for and as it was written."""
    reports = [report for stats in path if stats.kind == "mix" for report in stats.reports]
    targets = [row for report in reports[-1:] for row in report if row.get("dataset") not in (None, "all")]
    key = next((key for key in ("target_rows", "target_tokens") if any(row.get(key) for row in targets)), None)
    if key is None:
        return []
    place = 1 if key == "target_rows" else 2
    made = {row[0]: row[place] or 0.0 for row in sql.rows(con, WRITTEN)}
    wanted = {row["dataset"]: row.get(key) or 0 for row in targets}
    names = sorted(wanted.keys() | made.keys())
    whole, total = sum(wanted.values()), sum(made.values()) or 1.0
    return [MixShare(name, wanted.get(name, 0) / whole, made.get(name, 0.0) / total) for name in names]
