"""Workspaces in Python: `import rolloutops as ro`, then `ro.open("data/demo")`. Tables come as polars frames.

JSON columns are text here as in the workspace: decoded, they would take the union of all rows' keys, filled with nulls.
`read_build` does decode, because the lines of a training file have one form; what a trainer reads is the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl
import pyarrow as pa

from rolloutops.build import manifest
from rolloutops.build.trace import LINEAGE
from rolloutops.cli.commands.build import build_files, refuse_builds_of_others
from rolloutops.cli.commands.chunk import chunk_inputs
from rolloutops.cli.commands.collect import collect_rollouts, pin_verdicts, take_in_new_tasks
from rolloutops.cli.commands.run import bind_and_check
from rolloutops.cli.commands.verify import verify_rollouts
from rolloutops.cli.connect import connect as connect_for_rewards
from rolloutops.collect.served_policy import with_served_policy
from rolloutops.config.paths import as_path
from rolloutops.config.plan import Plan, make_plan
from rolloutops.config.query_limits import limit_queries
from rolloutops.config.recipe import STEP_KINDS
from rolloutops.config.recipe_file import load
from rolloutops.config.settings import Collect, Verify
from rolloutops.config.validation import Key, Keys, check_table
from rolloutops.errors import InputError, RunStopped, UsageError, did_you_mean
from rolloutops.layout import count, verb
from rolloutops.steps.metrics import measure_as, metrics_steps, require_policies
from rolloutops.store import sql
from rolloutops.store.definitions import make_all
from rolloutops.store.runs import last_recipe
from rolloutops.store.sql import Connection
from rolloutops.store.user_query import is_condition, query_error
from rolloutops.store.workspace import connect, open_workspace

if TYPE_CHECKING:
    from rolloutops.build.build import BuildReport
    from rolloutops.collect.collect import CollectReport
    from rolloutops.collect.verify import VerifyReport

Result = TypeVar("Result")

LARGE = ("HUGEINT", "UHUGEINT")
"""What DuckDB makes of a sum of whole numbers. Arrow has no such type, so it comes as a decimal."""
TEXT = ("JSON", "INTERVAL")
"""Types that come as text. polars has no interval of months and days."""

SELECTING = ("dataset", "environment", "verdict_version", *STEP_KINDS)
TABLES = dict.fromkeys((*STEP_KINDS, "metrics"), Key(dict[str, dict[str, Any]], words="a table of tables"))
SETTINGS: Keys = {
    **{"dataset": Key(str), "environment": Key(str), "verdict_version": Key(str), **TABLES},
    **{"skip_bad_lines": Key(bool), "unsafe_code": Key(bool)},
}
"""Settings that are keys of no table; those of tables are checked where a plan is made."""
COLLECTING = (*SELECTING, *(field.name for field in fields(Collect)), "skip_bad_lines", "unsafe_code", "metrics")
VERIFYING = (*SELECTING, *(field.name for field in fields(Verify)))


@dataclass(frozen=True)
class RunReport:
    """What a run of a whole recipe did. metrics: step -> its table; built: one report for each build, in order."""

    collected: CollectReport
    verified: VerifyReport
    metrics: dict[str, pl.DataFrame]
    built: list[BuildReport]


class Workspace:
    """A workspace. Every call reads it as it stands at that moment; nothing is kept open in between."""

    def __init__(self, data: str | PathLike[str], create: bool = False) -> None:
        self.data = open_workspace(as_path(str(data)), create).root

    def __repr__(self) -> str:
        return f"Workspace({str(self.data)!r})"

    def sql(self, query: str) -> pl.DataFrame:
        """Run one query over the views: `ws.sql("SELECT policy, avg(reward) FROM rollouts GROUP BY policy")`."""
        check_table({"query": Key(str)}, {"query": query}, "sql: ")
        with _query_errors(), self._connect(self._plan()) as con:
            make_all(con)
            query = "\n" + query.strip().rstrip(";")
            if len(con.extract_statements(query)) != 1:
                raise UsageError("sql takes one query, as in: ws.sql('SELECT avg(reward) FROM rollouts')")
            return _frame(con, query)

    def rollouts(self, where: str | None = None) -> pl.LazyFrame:
        """Scan the view `rollouts`, in no set order; `where` is SQL: `ws.rollouts("reward >= 0.8")`.

        Only the columns that the frame's further steps name are read, when it is collected.
        """
        check_table({"where": Key(str | None)}, {"where": where}, "rollouts: ")
        query = "SELECT * FROM rollouts" + (f" WHERE (\n{where}\n)" if where else "")
        with _query_errors(), self._connect(self._plan()) as con:
            if where and not is_condition(where):
                raise UsageError("where is one condition, as in: reward > 0.5 AND policy = 'careful'")
            schema = _frame(con, f"{query} LIMIT 0").schema

        def scan(
            columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, batch_rows: int | None
        ) -> Iterator[pl.DataFrame]:
            names = ", ".join(f'"{name}"' for name in schema if columns is None or name in columns) or "dataset"
            limit = "" if rows is None else f" LIMIT {rows}"
            with _query_errors(), self._connect(self._plan()) as con:
                text = _readable(con, f"SELECT {names} FROM (\n{query}\n){limit}")
                for batch in sql.stream(con, text, batch_rows or 8192):
                    frame = _from_arrow(pa.Table.from_batches([batch]))
                    # A stream may spell the session's zone otherwise: Etc/UTC.
                    frame = frame.cast(
                        {name: schema[name] for name in frame.columns if frame.schema[name] != schema[name]}
                    )
                    yield frame if predicate is None else frame.filter(predicate)

        return pl.io.plugins.register_io_source(scan, schema=schema)

    def metrics(self, step: str, group_by: str | None = None, compare: Sequence[str] = ()) -> pl.DataFrame:
        """Run one metrics step: `ws.metrics("pass_at_k")`. Its settings are those of the last recipe.

        group_by, compare (two policies): as of the command `metrics`.
        """
        keys = {
            "step": Key(str),
            "group_by": Key(str | None),
            "compare": Key(list[str], words="a list of two policies"),
        }
        compared = list(compare) if isinstance(compare, tuple) else compare
        check_table(keys, {"step": step, "group_by": group_by, "compare": compared}, "metrics: ")
        return self._metrics(self._plan(), [step], group_by, compare)[0][1]

    def run(
        self,
        recipe: str | PathLike[str] | None = None,
        *,
        replace: bool = False,
        allow_policy_change: bool = False,
        **settings: Any,
    ) -> RunReport:
        """Run all stages of a recipe: `ws.run("recipe.toml", limit=100)`. Raises RunStopped where nothing was built.

        recipe: a file, or the name of a shipped one; by default the last one of this workspace. Its `data` does not
        count here. settings: keys of [collect], and `dataset`, `filter`, `build`, … as flags of the command `run`.
        replace: also builds that another recipe wrote.
        """
        chosen = self._plan(recipe, "collect", settings, COLLECTING)
        return _outside_loops(lambda: self._run(chosen, replace, allow_policy_change))

    def collect(
        self, recipe: str | PathLike[str] | None = None, *, allow_policy_change: bool = False, **settings: Any
    ) -> CollectReport:
        """Take in new tasks and generate the missing rollouts. `left` and `given_up` of the report are not there."""
        chosen = self._plan(recipe, "collect", settings, COLLECTING)

        def work() -> CollectReport:
            _refuse_rejected(take_in_new_tasks(chosen), chosen)
            return collect_rollouts(pin_verdicts(chosen), allow_policy_change)

        return _outside_loops(work)

    def verify(self, recipe: str | PathLike[str] | None = None, **settings: Any) -> VerifyReport:
        """Run verifiers on the rollouts without a verdict. settings: keys of [verify]."""
        chosen = self._plan(recipe, "verify", settings, VERIFYING)
        return _outside_loops(lambda: verify_rollouts(chosen))

    def build(
        self,
        recipe: str | PathLike[str] | None = None,
        *,
        only: str | None = None,
        replace: bool = False,
        **settings: Any,
    ) -> list[BuildReport]:
        """Write the training files of a recipe. settings: `build={"sft": {"min_reward": 0.9}}`, `filter={…}` and so on.

        only: one build. replace: also builds that another recipe wrote.
        """
        check_table({"only": Key(str | None), "replace": Key(bool)}, {"only": only, "replace": replace}, "build: ")
        return build_files(self._plan(recipe, "collect", settings, SELECTING), only, replace)

    def _plan(
        self,
        name: str | PathLike[str] | None = None,
        table: str = "collect",
        settings: dict[str, Any] | None = None,
        known: Sequence[str] = (),
    ) -> Plan:
        """Plan the recipe named, else the workspace's last, with these settings and for this workspace."""
        for key in settings or ():
            if key not in known:
                raise UsageError(f"no setting {key!r}{did_you_mean(key, known)}; settings are keys of [{table}]")
        flags = {**(settings or {}), "data": str(self.data)}
        check_table(SETTINGS, {key: value for key, value in flags.items() if key in SETTINGS}, "settings: ")
        recipe, earlier = last_recipe(open_workspace(self.data)) if name is None else (load(str(name)), {})
        limit_queries({}, recipe.duckdb)
        recipe = with_served_policy(recipe, {**earlier, **flags}, self.data, ask=known is COLLECTING)
        return make_plan(recipe, table, flags, earlier)

    @contextmanager
    def _connect(self, plan: Plan) -> Iterator[Connection]:
        con = connect(open_workspace(self.data), plan.rows)
        try:
            yield con
        finally:
            con.close()

    def _metrics(
        self, plan: Plan, names: Sequence[str], group_by: str | None = None, compare: Sequence[str] = ()
    ) -> list[tuple[str, pl.DataFrame]]:
        uses = metrics_steps(names, plan.metrics_settings, plan.folder, group_by, compare)
        with closing(connect_for_rewards(plan)) as con:
            require_policies(con, compare)
            return list(measure_as(_frame, con, uses, plan.folder).items())

    def _run(self, plan: Plan, replace: bool, allow_policy_change: bool) -> RunReport:
        bind_and_check(plan)
        plan = pin_verdicts(plan)
        if not replace:
            refuse_builds_of_others(plan)
        _refuse_rejected(chunk_inputs(plan), plan)
        collected = collect_rollouts(plan, allow_policy_change)
        if collected.exit_code:
            pending = collected.left + collected.submitted
            why = _stand(pending, "pending") if pending else _stand(collected.given_up, "given up")
            if collected.spent:
                why = f"{why} and {'; '.join(collected.spent)}"
            raise RunStopped(f"stopped after collect, as {why}: nothing was built", collected.exit_code)
        verified = verify_rollouts(plan, on_command=False)
        tables = dict(self._metrics(plan, plan.metrics))
        builds = any(step.kind == "build" for step in plan.steps)
        return RunReport(collected, verified, tables, build_files(plan, replace=replace) if builds else [])


def _stand(rollouts: int, how: str) -> str:
    return f"{count(rollouts, 'rollout')} {verb(rollouts, 'are')} {how}"


def open(data: str | PathLike[str], create: bool = False) -> Workspace:
    """Open the workspace in a folder: `ws = ro.open("data/demo")`. create: make an empty one if there is none."""
    return Workspace(data, create)


def read_build(folder: str | PathLike[str], split: str = "train") -> pl.LazyFrame:
    """Scan one split of a build's training files, in their order: `ro.read_build("data/demo/exports/sft")`.

    split: train, validation, test, or "lineage", the rollouts behind each row. A key that a line lacks is null, and one
    whose values have several types is text.
    """
    place = as_path(str(folder))
    content = manifest.read(place)
    if not content:
        raise InputError(f"{place} is not the folder of a build: there is no {manifest.NAME} in it")
    named = ((one, "lineage" if one["name"] == LINEAGE else one.get("split")) for one in content["files"])
    files = [one for one, name in named if name == split]
    if not files:
        known = [*dict.fromkeys(one["split"] for one in content["files"] if "split" in one), "lineage"]
        raise UsageError(f"{place} has no split {split!r}{did_you_mean(split, known)}; it has: {', '.join(known)}")
    for one in files:
        if not (place / one["name"]).is_file():
            raise InputError(f"{place / one['name']} is missing: build again")
    frames = [_scan(place / one["name"]) for one in files if one["rows"]]
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.LazyFrame()


def _scan(path: Path) -> pl.LazyFrame:
    if path.suffix == ".parquet":
        return pl.scan_parquet(path)
    return pl.scan_ndjson(path, infer_schema_length=None)  # over all lines: by default one after the 100th may not fit


@contextmanager
def _query_errors() -> Iterator[None]:
    try:
        yield
    except (sql.Error, pl.exceptions.PolarsError) as error:
        raise query_error(error) from error


def _frame(con: Connection, query: str) -> pl.DataFrame:
    """A result as a frame. A sum of whole numbers is Int64, unless it is too large for that."""
    large = [name for name, kind in sql.columns(con, query).items() if kind in LARGE]
    frame = _from_arrow(sql.arrow(con, _readable(con, query)))
    for name in large:
        fitting = frame[name].cast(pl.Int64, strict=False)
        if fitting.null_count() == frame[name].null_count():
            frame = frame.with_columns(fitting)
    return frame


def _readable(con: Connection, query: str) -> str:
    """A query whose columns all have types that polars has."""
    kinds = sql.columns(con, query)
    texts = [f'"{name}"::VARCHAR AS "{name}"' for name, kind in kinds.items() if kind in TEXT]
    return f"SELECT * REPLACE ({', '.join(texts)}) FROM (\n{query}\n)" if texts else query


def _from_arrow(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _refuse_rejected(report: Any, plan: Plan) -> None:
    """Raise InputError where lines of the input were rejected, unless the recipe allows it."""
    bad = [one for one in report if one.rejected]
    if bad and not plan.chunk.skip_bad_lines:
        each = "; ".join(
            f"{one.dataset}: {count(one.rejected, 'line')} rejected, e.g. {one.examples[0]}" for one in bad
        )
        files = ", ".join(str(one.rejected_file) for one in bad)
        raise InputError(f"{each}; all are listed in {files}: correct them, or leave them out with skip_bad_lines=True")


def _outside_loops(work: Callable[[], Result]) -> Result:
    """Run a stage, which has an event loop of its own, in another thread where one runs in this: in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
