"""A recipe's steps as one script, and as a trial: each is bound to tables that are empty, and described, not run.

What a step reads and adds is known from its SQL and the tables' columns alone. So a whole recipe is checked before
there is a rollout, and what it will run can be read, pasted and run in any DuckDB shell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rolloutops.build.options import check_use
from rolloutops.config.plan import Plan
from rolloutops.config.recipe import StepUse
from rolloutops.errors import RolloutopsError
from rolloutops.steps.metrics import metrics_steps
from rolloutops.steps.parameters import known_datasets, refuse_bad_parameters, refuse_unknown_datasets
from rolloutops.steps.selected import ALL, KEYS, SMALL, bind_step, binding, preparation, prepare, table_of
from rolloutops.steps.selection import DROPPED, StepStats, start_of, stored
from rolloutops.steps.step import LINE, Step, bound, check_step, require_line, variables
from rolloutops.steps.trial import refuse_changes
from rolloutops.steps.unchanged import compared
from rolloutops.store import schema, sql
from rolloutops.store.base_views import views_script
from rolloutops.store.definitions import define


@dataclass(frozen=True)
class BoundStep:
    """One step of a recipe. start: the selection that it reads. adds: the columns that it adds to it; of a build, the
    columns of its rows. script: its statements for a DuckDB shell that has the views and the steps before it."""

    kind: str
    name: str
    use: str
    path: str
    start: str
    adds: Sequence[str]
    script: str


Binding: TypeAlias = "tuple[StepUse, BoundStep | RolloutopsError | None]"
"""A use of a step, and what it reads and adds, or what is wrong with it; None where the step that it starts from is."""


def explain(plan: Plan) -> list[BoundStep]:
    """The recipe's filter, reward, mix, pair and build steps, in order, each fitted to those before it.

    Raises UsageError or StepError for the first step that does not fit, metrics steps first: a key that it does not
    take, a column that is not there, a step that is none.
    """
    done = []
    for use, outcome in bind_steps(plan, plan.rows):
        if isinstance(outcome, RolloutopsError):
            raise outcome
        if outcome is not None and use.kind != "metrics":
            done.append(outcome)
    return done


def bind_steps(plan: Plan, rows: Sequence[Mapping[str, Any]] = ()) -> Iterator[Binding]:
    """Each step of a recipe, bound to empty tables; metrics steps first. The one place where a recipe's steps are
    checked before they run: what a key may be, what must be there, what a step must leave as it is."""
    with sql.connect(threads=1) as con:
        define(con, views_script(dict.fromkeys(schema.TABLES), rows))
        try:
            measured = metrics_steps(plan.metrics, plan.metrics_settings, plan.folder)
        except RolloutopsError as error:
            yield StepUse("metrics", "", "metrics"), error
            measured = []
        for use in measured:
            try:
                yield use, _measured(con, use, plan)
            except RolloutopsError as error:
                yield use, error
        prepare(con, SMALL)
        known = known_datasets(plan)
        stats: list[StepStats] = []
        wrong: set[str] = set()
        for use in plan.steps:
            outcome: BoundStep | RolloutopsError | None = None
            start = ALL
            try:
                step = check_parameters(use, plan, known)
                start = start_of(use, stats)
                outcome = None if start in wrong else _fitted(con, use, step, start, rows)
            except RolloutopsError as error:
                outcome = error
            yield use, outcome
            if use.kind != "build":
                stats.append(StepStats(use.name, use.kind, use.use, start, "", {}, []))
            if not isinstance(outcome, BoundStep):
                wrong.add(use.name)


def _measured(con: sql.Connection, use: StepUse, plan: Plan) -> BoundStep:
    """A metrics step, bound to empty tables; shipped ones as they are have been bound by their tests."""
    step = check_step(use, plan.folder)
    adds: list[str] = []
    if use.settings or not step.ships:
        with bound(con, step, use.settings, f"[{use.kind}.{use.name}]"):
            adds = list(sql.columns(con, step.query))
    return BoundStep(use.kind, use.name, use.use, str(step.path), ALL, adds, _text(step))


def check_parameters(use: StepUse, plan: Plan, known: Collection[str]) -> Step:
    """A step of a recipe. Raises what its parameters alone show to be wrong: types, sums, and names of datasets that
    are not known."""
    step = check_use(plan, use)
    refuse_unknown_datasets(step, use, known)
    refuse_bad_parameters(step, use)
    return step


def script(steps: Sequence[BoundStep]) -> str:
    """All steps as one script, to be run after the one of `sql --print`."""
    return "\n\n".join([preparation(SMALL), *(step.script for step in steps)])


def _fitted(
    con: sql.Connection, use: StepUse, step: Step, start: str, rows: Sequence[Mapping[str, Any]] = ()
) -> BoundStep:
    where = f"[{use.kind}.{use.name}]"
    bind_step(con, start, step, use.kind, where)
    views = binding(con, start, step, use.kind)
    settings = {name: value for name, value in use.settings.items() if name in step.params}
    with bound(con, step, settings, where):
        if use.kind == "build":
            require_line(con, step)
            adds, made = list(LINE), _text(step)
            _fit_header(con, step, f"SELECT 'train' AS split, '' AS shape, '' AS place, * FROM (\n{step.query}\n)")
        else:
            before = set(sql.columns(con, "FROM selected"))
            kept = stored(con, step, start, where, use.kind)
            if compared(con, step):
                refuse_changes(con, step, settings, where, start, rows)
            made = f"SELECT {kept}\nFROM (\n{_text(step)}\n)"
            columns = sql.columns(con, made)
            if columns.pop(DROPPED, None):
                made = f"SELECT * EXCLUDE ({DROPPED})\nFROM (\n{made}\n)\nWHERE {DROPPED} IS NULL"
            listed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
            sql.run(con, f"CREATE OR REPLACE TABLE {table_of(use.name)} ({listed})")
            _fit_header(con, step, f"FROM {table_of(use.name)}")
            adds = [name for name in columns if name not in before and name not in KEYS]
    reported = f"-- {where} {use.use}, of {'all rollouts' if start == ALL else start}"
    lines = [reported, views, variables(step, settings), f"CREATE OR REPLACE TABLE {table_of(use.name)} AS\n{made};"]
    return BoundStep(use.kind, use.name, use.use, str(step.path), start, adds, "\n".join(filter(None, lines)))


def _fit_header(con: sql.Connection, step: Step, text: str) -> None:
    """Bind the checks and reports of a step's header to what it reads and makes."""
    sql.run(con, f"CREATE OR REPLACE VIEW result AS {text}")
    for query in (*step.checks, *step.reports):
        sql.columns(con, query)


def _text(step: Step) -> str:
    """The step as it was written, comments and all, as one can put it into brackets."""
    return step.source.rstrip().rstrip(";")
