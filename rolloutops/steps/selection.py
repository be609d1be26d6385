"""Selections: which rollouts a recipe's filter, reward, mix and pair steps keep.

A step reads the view `selected`: the rollouts that the step before it kept, one row each, and `copy` (0, or more where
a mix repeats a rollout). What it returns is stored as keys, with the columns that it adds (and `reward`, which a reward
step may change), never with payload; `selected` is then bound to those keys. So a selection of a million rollouts is
small, and what was kept and dropped is counted by one query for all steps.

A step says why it drops rows by returning them anyway, with the reason in a column `dropped`: rows where it is
not NULL go no further, and are counted by reason.

A pair step returns two rows a pair, with the columns `pair` (its name), `role` (chosen or rejected) and `margin`. A
rollout in several pairs occurs once for each; the copies are numbered here. That each pair is one is checked here too,
after the pair step and after each step that follows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rolloutops.config.recipe import StepUse
from rolloutops.errors import StepError, did_you_mean
from rolloutops.steps import trial
from rolloutops.steps.selected import ALL, KEYS, MEASURED, bind, bind_step, payload_of, prepare, quoted, table_of
from rolloutops.steps.step import Step, bound, check_step, findings, parameters
from rolloutops.steps.unchanged import SEEN, compared, hash_of, refuse_changes, refuse_names, stored_columns
from rolloutops.store import sql

DROPPED = "dropped"
"""The column in which a step gives its reason to drop a row; NULL in the rows that it keeps."""

PAIR = ("pair", "role", "margin")
"""The columns that a pair step adds."""

WRITTEN = ("reward", "margin", "advantage")
"""The numbers of a selection that builds write into their lines."""


@dataclass(frozen=True)
class DatasetStats:
    """What a step kept of one dataset. rows: rows that went on, more than kept where a mix repeats rollouts.

    reasons: why rows were dropped and how many, the most frequent first; only of steps that say it.
    """

    dataset: str
    rows_in: int
    kept: int
    rows: int
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Rows that the step left out."""
        return self.rows_in - self.kept


@dataclass(frozen=True)
class StepStats:
    """What one step did: to each dataset, and with which SQL and parameters. reports: the rows of its reports."""

    step: str
    kind: str
    use: str
    start: str
    source: str
    parameters: Mapping[str, Any]
    datasets: Sequence[DatasetStats]
    reports: Sequence[Sequence[Mapping[str, Any]]] = field(default_factory=list)

    @property
    def rows_in(self) -> int:
        """Rows that the step read."""
        return sum(kept.rows_in for kept in self.datasets)

    @property
    def kept(self) -> int:
        """Rows of them that it kept."""
        return sum(kept.kept for kept in self.datasets)

    @property
    def dropped(self) -> int:
        """Rows of them that it left out."""
        return self.rows_in - self.kept

    @property
    def rows(self) -> int:
        """Rows that went on to the next step."""
        return sum(kept.rows for kept in self.datasets)


def select(con: sql.Connection, steps: Sequence[StepUse], folder: Path) -> list[StepStats]:
    """Run the filter, reward, mix and pair steps in order; `selected` is bound to the last one's rollouts.

    con: has a workspace's views. folder: the recipe's. Every step is checked before the first one runs.
    """
    checked = [check_step(use, folder) for use in steps]
    comparing = any("answers" in step.names.functions for step in checked)
    measured = comparing or any(use.kind == "pair" for use in steps)
    named = any("metrics" in step.names.columns for step in checked)
    prepare(con, [*(MEASURED if measured else ()), *(["metrics"] if named else [])])
    stats: list[StepStats] = []
    for use, step in zip(steps, checked, strict=True):
        start = start_of(use, stats)
        stats.append(_apply(con, use, step, start))
    bind(con, stats[-1].step if stats else ALL)
    return stats


def start_of(use: StepUse, step_stats: Sequence[StepStats]) -> str:
    """The selection that a step starts from: the one it names, else that of the step before it."""
    if use.start is None:
        return step_stats[-1].step if step_stats else ALL
    known = [ALL, *(stats.step for stats in step_stats)]
    if use.start not in known:
        raise StepError(
            f"[{use.kind}.{use.name}] from = {use.start!r}: no earlier step has that name"
            + did_you_mean(use.start, known)
        )
    return use.start


def chain(step_stats: Sequence[StepStats], start: str) -> list[StepStats]:
    """The steps that led to a selection, first to last."""
    by_name = {stats.step: stats for stats in step_stats}
    path: list[StepStats] = []
    while start != ALL:
        path.insert(0, by_name[start])
        start = by_name[start].start
    return path


def _apply(con: sql.Connection, use: StepUse, step: Step, start: str) -> StepStats:
    where, table, payload = f"[{use.kind}.{use.name}]", table_of(use.name), payload_of(step, use.kind)
    bind_step(con, start, step, use.kind, where)
    if use.kind == "pair" and "pair" in sql.columns(con, "FROM selected"):
        raise StepError(
            f"{where} cannot start from pairs (those of {start!r}): set from to an earlier step, or 'rollouts'"
        )
    with bound(con, step, use.settings, where):
        columns = stored(con, step, start, where, use.kind)
        handed = compared(con, step)
        if handed:
            trial.refuse_changes(con, step, use.settings, where, start)
        seen = f", {hash_of(handed)} AS {SEEN}" if handed else ""
        sql.run(con, f"CREATE OR REPLACE TABLE {table} AS\nSELECT {columns}{seen}\nFROM (\n{step.query}\n)")
        _check_keys(con, table, where, step)
        if handed:
            refuse_changes(con, step, use.name, handed, [*payload, *handed], where)
            sql.run(con, f"ALTER TABLE {table} DROP COLUMN {SEEN}")
        reasons = _take_out(con, table)
        _check_numbers(con, table, where, step)
        if "pair" in sql.columns(con, f"FROM {table}"):
            _check_pairs(con, table, where, step)
        sql.run(con, f"CREATE OR REPLACE VIEW result AS FROM {table}")
        reports = findings(con, step, where)
        values = parameters(con, step)
    return StepStats(
        use.name, use.kind, use.use, start, step.source, values, _counts(con, table, use.kind, reasons), reports
    )


def stored(con: sql.Connection, step: Step, start: str, where: str, kind: str) -> str:
    """The columns of a step's result that are stored: keys, copy, reward, and what the step or an earlier one added."""
    made = sql.names(con, step.query)
    lower = [name.lower() for name in made]  # SQL's names are the same in any case
    missing = [key for key in KEYS if key not in lower]
    if kind == "pair" and not missing and (lacking := [column for column in PAIR if column not in lower]):
        raise StepError(
            f"{where} {step.path} must return the columns pair, role and margin; missing: {', '.join(lacking)}"
        )
    if missing:
        raise StepError(
            f"{where} {step.path} does not return {', '.join(missing)}: begin it with SELECT s.* FROM selected AS s"
        )
    known = stored_columns(con)
    refuse_names(made, known, step, where)
    earlier = (
        [] if start == ALL else [c for c in sql.columns(con, f"FROM {table_of(start)}") if c not in (*KEYS, "copy")]
    )
    lost = [column for column in earlier if column.lower() not in lower]
    if lost:
        raise StepError(f"{where} {step.path} leaves out {', '.join(lost)}, which an earlier step made: SELECT s.*")
    added = [_added(name) for name in made if name.lower() not in known | {"copy"}]
    reward = ["reward"] if "reward" in lower else []
    copy = "copy::INTEGER AS copy" if "copy" in lower else "0 AS copy"
    if kind == "pair":
        copy = f"(row_number() OVER (PARTITION BY {', '.join(KEYS)} ORDER BY pair, role) - 1)::INTEGER AS copy"
    return ", ".join([*KEYS, copy, *reward, *added])


def _added(name: str) -> str:
    """An added column. The names that mean something to later steps and to builds are written in small letters."""
    special = name.lower() in (DROPPED, *PAIR, *WRITTEN) and not name.islower()
    return f"{quoted(name)} AS {name.lower()}" if special else quoted(name)


def _check_keys(con: sql.Connection, table: str, where: str, step: Step) -> None:
    """A step returns rows that it was given, each once; a repeated one under another copy number."""
    foreign = f"SELECT DISTINCT {', '.join(KEYS)} FROM {table} ANTI JOIN selected USING ({', '.join(KEYS)})"
    twice = f"SELECT {', '.join(KEYS)}, copy, count(*) AS times FROM {table} GROUP BY ALL HAVING times > 1"
    for query, fault in (
        (foreign, "returns rollouts that are not in its input"),
        (twice, "returns a rollout more than once; give each repeat its own number in a column `copy`"),
    ):
        rows = sql.records(con, f"{query} LIMIT 1")
        if rows:
            raise StepError(f"{where} {step.path} {fault}, as {_row_text(rows[0])}")


def _check_numbers(con: sql.Connection, table: str, where: str, step: Step) -> None:
    """No number that a build may write is NaN or infinite: JSON has none, and training ends with them."""
    for name, kind in sql.columns(con, f"FROM {table}").items():
        if name not in WRITTEN or kind not in ("DOUBLE", "FLOAT"):
            continue
        rows = sql.records(con, f"SELECT {name}, {', '.join(KEYS)} FROM {table} WHERE NOT isfinite({name}) LIMIT 1")
        if rows:
            hint = "divide by nullif(…, 0), or leave these rollouts out"
            raise StepError(f"{where} {step.path} returns NaN or infinity, e.g. {_row_text(rows[0])}; {hint}")


def _row_text(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{column} {value}" for column, value in row.items())


def _check_pairs(con: sql.Connection, table: str, where: str, step: Step) -> None:
    """Each pair is two rollouts of one task that were asked the same and did not say the same."""
    rows = sql.records(
        con,
        f"""
        SELECT pair, CASE
            WHEN count(*) <> 2 OR count(*) FILTER (role = 'chosen') <> 1 OR count(*) FILTER (role = 'rejected') <> 1
                THEN 'not one rollout as chosen and one as rejected'
            WHEN min(dataset) <> max(dataset) OR min(task_id) <> max(task_id) THEN 'rollouts of two tasks'
            WHEN min(context_hash) <> max(context_hash) THEN 'rollouts that were asked differently'
            WHEN min(completion_hash) = max(completion_hash) THEN 'rollouts that said the same'
        END AS fault
        FROM {table} JOIN selection.rollouts USING ({", ".join(KEYS)})
        GROUP BY pair
        HAVING fault IS NOT NULL
        ORDER BY pair
        LIMIT 1
        """,
    )
    if rows:
        raise StepError(f"{where} {step.path} returns an invalid pair: {rows[0]['pair']} has {rows[0]['fault']}")


def _take_out(con: sql.Connection, table: str) -> dict[str, dict[str, int]]:
    """Leave out of a step's result the rows that it gives a reason to drop. Returns dataset -> reason -> rows."""
    if DROPPED not in sql.columns(con, f"FROM {table}"):
        return {}
    found: dict[str, dict[str, int]] = {}
    counted = f"SELECT dataset, {DROPPED}, count(*) AS n FROM {table} WHERE {DROPPED} IS NOT NULL GROUP BY ALL"
    for dataset, reason, number in sql.rows(con, f"{counted} ORDER BY dataset, n DESC, {DROPPED}"):
        found.setdefault(dataset, {})[str(reason)] = number
    kept = f"SELECT * EXCLUDE ({DROPPED}) FROM {table} WHERE {DROPPED} IS NULL"
    sql.run(con, f"CREATE OR REPLACE TABLE {table} AS {kept}")
    return found


def _counts(con: sql.Connection, table: str, kind: str, reasons: Mapping[str, Mapping[str, int]]) -> list[DatasetStats]:
    """Rows in, kept and out, for each dataset, of the step between `selected` and its result."""
    key = KEYS if kind == "pair" else (*KEYS, "copy")
    rows = sql.rows(
        con,
        f"""
        WITH asked AS (SELECT dataset, count(*) AS rows_in FROM selected GROUP BY dataset),
        kept AS (
            SELECT dataset, count(*) AS kept
            FROM selected SEMI JOIN {table} USING ({", ".join(key)})
            GROUP BY dataset
        ),
        made AS (SELECT dataset, count(*) AS rows_out FROM {table} GROUP BY dataset)
        SELECT dataset, rows_in, coalesce(kept, 0), coalesce(rows_out, 0)
        FROM asked LEFT JOIN kept USING (dataset) LEFT JOIN made USING (dataset)
        ORDER BY dataset
        """,
    )
    return [DatasetStats(name, requested, kept, made, reasons.get(name, {})) for name, requested, kept, made in rows]
