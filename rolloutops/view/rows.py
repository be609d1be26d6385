"""The page of rollouts: its rows by key, its facets with counts, its histogram of rewards, and neighbors of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rolloutops.errors import UsageError
from rolloutops.store import sql
from rolloutops.view.filters import FACETS, Filter, matching
from rolloutops.view.index import COLUMNS, SEPARATOR, Moment, read

PAGE = 100
"""Rows of a page."""

MOST_BARS = 24
"""Bars of a histogram. Up to that many rewards have a bar each."""

MOST_VALUES = 200
"""Values of a facet that are listed."""


def page(moment: Moment, chosen: Filter, after: Sequence[str | None] = (), inclusive: bool = False) -> dict[str, Any]:
    """Return the rows after a key, in order, and whether there are more.

    after: sort value as text, attempt_id, dataset; the first rows where it is empty. inclusive: the key's row first.
    """
    where = ""
    if after:
        own = f" OR (attempt_id = {sql.literal(after[1])} AND dataset = {sql.literal(after[2])})" if inclusive else ""
        where = f"WHERE {_beyond(chosen, after, back=False)}{own}"
    # Which rows they are is found by the sort column; only then are they read whole: a fifth of the time.
    order = _order(chosen, back=False)
    places = f"SELECT place FROM {matching(moment, chosen)} AS s {where} ORDER BY {order} LIMIT {PAGE + 1}"
    columns = f"{_columns()}, s.{chosen.sort}::VARCHAR AS key"
    found = read(moment, f"SELECT {columns} FROM small AS s WHERE rowid IN ({places}) ORDER BY {order}")
    return {"rows": found[:PAGE], "more": len(found) > PAGE}


def totals(moment: Moment, chosen: Filter) -> dict[str, Any]:
    """Count the rollouts that a filter matches, and those of each value of each facet under the other filters."""
    ((total),) = read(
        moment, f"SELECT count(*) AS rollouts, avg(reward) AS mean_reward FROM {matching(moment, chosen)}"
    )
    return {**total, "all": moment.rollouts, "facets": {facet: _counts(moment, chosen, facet) for facet in FACETS}}


def _counts(moment: Moment, chosen: Filter, facet: str) -> list[dict[str, Any]]:
    column, source = FACETS[facet], matching(moment, chosen, facet)
    counted = f"SELECT {column} AS value, count(*) AS rollouts FROM {source} GROUP BY ALL"
    counted = f"SELECT coalesce(value::VARCHAR, '') AS value, rollouts FROM ({counted})"
    if facet == "tool":  # few sets of tools are called, so that the sets are counted and then taken apart
        counted = f"SELECT unnest(string_split(value, '{SEPARATOR}')) AS value, rollouts FROM ({counted})"
    counted = f"SELECT value, sum(rollouts)::BIGINT AS rollouts FROM ({counted}) GROUP BY ALL"
    return read(moment, f"FROM ({counted}) ORDER BY rollouts DESC, value LIMIT {MOST_VALUES}")


def histogram(moment: Moment, chosen: Filter) -> list[dict[str, Any]]:
    """Count rewards: `low` to `high` of each bar and its rollouts; equal ones where there are few rewards."""
    source = f"(SELECT reward FROM {matching(moment, chosen, 'reward')} WHERE isfinite(reward))"
    exact = f"SELECT reward AS low, reward AS high, count(*) AS rollouts FROM {source} GROUP BY reward"
    bars = read(moment, f"FROM ({exact}) ORDER BY low LIMIT {MOST_BARS + 1}")
    if len(bars) <= MOST_BARS:
        return bars
    ((ends),) = read(moment, f"SELECT min(reward) AS low, max(reward) AS high FROM {source}")
    low, step = ends["low"], (ends["high"] - ends["low"]) / MOST_BARS
    place = f"least(floor((reward - {sql.literal(low)}) / {sql.literal(step)}), {MOST_BARS - 1})::INTEGER"
    counted = read(moment, f"SELECT {place} AS place, count(*) AS rollouts FROM {source} GROUP BY ALL")
    held = {row["place"]: row["rollouts"] for row in counted}
    edges = [low + step * number for number in range(MOST_BARS)] + [ends["high"]]
    return [
        {"low": edges[number], "high": edges[number + 1], "rollouts": held.get(number, 0)}
        for number in range(MOST_BARS)
    ]


def neighbors(moment: Moment, chosen: Filter, dataset: str, attempt_id: str) -> dict[str, Any]:
    """Find the rows before and after one in a filter, and the repeats of its task under its policy."""
    row = find(moment, dataset, attempt_id)
    same = " AND ".join(f"{name} = {sql.literal(row[name])}" for name in ("dataset", "task_id", "policy"))
    repeats = read(
        moment,
        f"SELECT dataset, attempt_id, rollout_index, reward FROM small WHERE {same} ORDER BY rollout_index, attempt_id",
    )
    key = key_of(moment, chosen, dataset, attempt_id)
    found = {}
    for name, back in (("previous", True), ("next", False)):
        source = matching(moment, chosen)
        found[name] = read(
            moment,
            f"SELECT dataset, attempt_id FROM {source} AS s WHERE {_beyond(chosen, key, back)} "
            f"ORDER BY {_order(chosen, back)} LIMIT 1",
        )
    return {"repeats": repeats, **{name: next(iter(rows), None) for name, rows in found.items()}}


def find(moment: Moment, dataset: str, attempt_id: str) -> dict[str, Any]:
    """Return the small columns of one rollout. Raises UsageError where there is none."""
    where = f"attempt_id = {sql.literal(attempt_id)} AND dataset = {sql.literal(dataset)}"
    found = read(moment, f"SELECT {_columns()} FROM small AS s WHERE {where}")
    if not found:
        raise UsageError(f"there is no rollout {attempt_id} of {dataset!r}")
    return found[0]


def key_of(moment: Moment, chosen: Filter, dataset: str, attempt_id: str) -> Sequence[str | None]:
    """Return the key of a row in a filter's order, as `page` takes it."""
    where = f"attempt_id = {sql.literal(attempt_id)} AND dataset = {sql.literal(dataset)}"
    found = read(moment, f"SELECT {chosen.sort}::VARCHAR AS key FROM small WHERE {where}")
    if not found:
        raise UsageError(f"there is no rollout {attempt_id} of {dataset!r}")
    return found[0]["key"], attempt_id, dataset


def _columns() -> str:
    """The columns of a row, as JSON can hold them."""
    plain = {"started_at": "epoch_ms(s.started_at) AS started_at"}
    return ", ".join(plain.get(name, f"s.{name}") for name in COLUMNS) + ", s.tools_called"


def _order(chosen: Filter, back: bool) -> str:
    """The order of a filter's rows, whose relation is `s`; the last two columns make it one of single rows."""
    down = chosen.descending != back
    tie = " DESC" if back else ""
    nulls = "FIRST" if back else "LAST"
    return f"s.{chosen.sort} {'DESC' if down else 'ASC'} NULLS {nulls}, s.attempt_id{tie}, s.dataset{tie}"


def _beyond(chosen: Filter, key: Sequence[str | None], back: bool) -> str:
    """The rows that follow a key in a filter's order, or precede it."""
    value, attempt_id, dataset = key
    column, sign = chosen.sort, "<" if back else ">"
    tie = f"(attempt_id, dataset) {sign} ({sql.literal(attempt_id)}, {sql.literal(dataset)})"
    if value is None:  # nulls are the last rows
        return f"({column} IS NULL AND {tie})" if not back else f"({column} IS NOT NULL OR {tie})"
    at = f"{sql.literal(value)}::{COLUMNS[column]}"
    beyond = f"{column} {'<' if chosen.descending != back else '>'} {at} OR ({column} = {at} AND {tie})"
    return f"({beyond})" if back else f"({beyond} OR {column} IS NULL)"


def completions(columns: Mapping[str, str]) -> list[dict[str, str]]:
    """List what a condition may name: the columns of `rollouts`, the small ones first."""
    names = sorted(columns, key=lambda name: (name not in COLUMNS, list(columns).index(name)))
    return [{"name": name, "type": columns[name]} for name in names]
