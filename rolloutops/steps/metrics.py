"""Measuring: which metrics steps a command or a recipe asks for, and their tables.

Each step reads the view `rollouts`, which finds the one good attempt and verdict of each rollout anew. So the columns
that several steps name are read once, into a table that is in the view's place while they run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from rolloutops.config.recipe import StepUse
from rolloutops.errors import StepError, UsageError, did_you_mean
from rolloutops.steps.selected import PAYLOAD
from rolloutops.steps.step import Step, available, bound, check_step, find_step
from rolloutops.store import sql
from rolloutops.store.definitions import make_named

Table: TypeAlias = tuple[list[str], list[tuple[Any, ...]]]
"""Columns and rows."""

Result = TypeVar("Result")
Read = Callable[[sql.Connection, str], Result]
"""Runs a query and returns its result in one form."""

DEFAULT = tuple(
    f"metrics/{name}" for name in ("rewards", "solve_rates", "pass_at_k", "tokens", "tools", "errors", "throughput")
)
"""What `metrics` shows where neither the recipe nor the command line names steps."""

COMPARING = ("metrics/compare", "metrics/compare_tasks")


def metrics_steps(
    names: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    folder: Path = Path(),
    group_by: str | None = None,
    compare: Sequence[str] = (),
) -> list[StepUse]:
    """The uses of metrics steps that these words ask for.

    names: steps, `rewards` as well as `metrics/rewards`; none for the default ones. settings: step's short name ->
    its parameters. group_by: for every step that can be grouped; alone it asks for `fields`. compare: two policies.
    """
    if compare and len(compare) != 2:
        raise UsageError(f"--compare takes two policies, e.g. --compare=old,new, not {len(compare)}")
    if not names:
        names = COMPARING if compare else ["fields"] if group_by else DEFAULT
    names = [name if "/" in name or name.endswith(".sql") else f"metrics/{name}" for name in names]
    shipped = [name for name in available(folder) if name.startswith("metrics/")]
    known = {Path(name).stem for name in (*names, *shipped)}
    for name in settings:
        if name not in known:
            raise UsageError(f"[metrics.{name}]: no metrics step {name!r}{did_you_mean(name, known)}")
    given = {**({"group_by": group_by} if group_by else {}), **dict(zip("ab", compare, strict=False))}
    uses, taken = [], set()
    for name in names:
        params = find_step(name, folder, "[metrics]").params
        extra = {key: value for key, value in given.items() if key in params}
        taken |= set(extra)
        uses.append(StepUse("metrics", Path(name).stem, name, {**settings.get(Path(name).stem, {}), **extra}))
    if lost := set(given) - taken:
        flag = "--group_by" if "group_by" in lost else "--compare"
        raise UsageError(f"{flag} has no effect on {', '.join(names)}: leave --step out, or name a step that uses it")
    return uses


def measure_all(con: sql.Connection, uses: Sequence[StepUse], folder: Path = Path()) -> dict[str, Table]:
    """step -> its table. con: has a workspace's views. All steps are checked before the first one runs."""
    return measure_as(sql.table, con, uses, folder)


def measure_as(
    read: Read[Result], con: sql.Connection, uses: Sequence[StepUse], folder: Path = Path()
) -> dict[str, Result]:
    """Measure as `measure_all` does, with each result in the form in which `read` returns it."""
    steps = [(use, check_step(use, folder)) for use in uses]
    for _, step in steps:  # before `rollouts` is the table below: views are made of the view
        make_named(con, step.query)
    large = {*PAYLOAD} - {"metrics"}
    columns = {name: kind for name, kind in sql.columns(con, "FROM rollouts").items() if name not in large}
    shared = [(use, step) for use, step in steps if _shares(con, use, step, columns)]
    found = {use.use: _run(read, con, use, step) for use, step in steps if (use, step) not in shared}
    if shared:
        wanted = [name for name in columns if any(name in step.names.columns for _, step in shared)]
        # Of what an index has no payload is read, and no verdicts are joined.
        source = "rollout_facts" if set(wanted) <= sql.columns(con, "FROM rollout_facts").keys() else "rollouts"
        sql.run(con, f"CREATE TEMP TABLE rollouts AS SELECT {', '.join(wanted)} FROM {source}")
        try:
            found |= {use.use: _run(read, con, use, step) for use, step in shared}
        finally:
            sql.run(con, "DROP TABLE temp.rollouts")
    return {use.use: found[use.use] for use in uses}


def require_policies(con: sql.Connection, names: Sequence[str]) -> None:
    """Raise UsageError where the workspace has no rollouts of a policy."""
    if not names:
        return
    known = [name for (name,) in sql.rows(con, "SELECT DISTINCT policy FROM good_attempts ORDER BY policy")]
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise UsageError(f"no policy {name!r}{did_you_mean(name, known)}; the workspace has rollouts of: {listed}")


def _run(read: Read[Result], con: sql.Connection, use: StepUse, step: Step) -> Result:
    with bound(con, step, use.settings, f"[metrics.{use.name}]"):
        return read(con, step.query)


def _shares(con: sql.Connection, use: StepUse, step: Step, columns: Mapping[str, str]) -> bool:
    """Whether a step reads of `rollouts` only these columns, each by its name: it runs where there are no others."""
    named = [f"{name} {kind}" for name, kind in columns.items() if name in step.names.columns]
    if step.names.star or not named or "rollouts" not in step.names.relations:
        return False
    sql.run(con, f"CREATE TEMP TABLE rollouts ({', '.join(named)})")
    try:
        with bound(con, step, use.settings):
            sql.columns(con, step.query)
        return True
    except StepError:
        return False
    finally:
        sql.run(con, "DROP TABLE temp.rollouts")
