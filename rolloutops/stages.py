"""The stages as the command line calls them: open the workspace, record the run, do the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rolloutops import sql
from rolloutops.building.build import BuildReport, build
from rolloutops.chunk import Chunked, chunk, find_sources
from rolloutops.collect import Collected, collect
from rolloutops.errors import UsageError, near
from rolloutops.export import export
from rolloutops.jsontext import dump
from rolloutops.recipe import Recipe
from rolloutops.status import Status, status
from rolloutops.steps.selection import Funnel, select
from rolloutops.steps.step import check_step, find_step, measure
from rolloutops.tables.runs import recorded, refuse_changed_policies
from rolloutops.tables.workspace import connect, open_workspace, patterns, require_tasks
from rolloutops.verify import Verified, agreement, verify

AVERAGES = """
WITH fields AS (
    SELECT dataset, unnest(map_entries(map_concat(
        metrics,
        MAP {
            'reward': reward, 'turns': turns::DOUBLE, 'tool_calls': tool_calls::DOUBLE,
            'input_tokens': input_tokens::DOUBLE, 'output_tokens': output_tokens::DOUBLE
        }
    ))) AS field
    FROM rollouts
)
SELECT dataset, field.key AS name, avg(field.value) AS mean
FROM fields WHERE field.value IS NOT NULL
GROUP BY dataset, name ORDER BY dataset, name <> 'reward', name
"""


def chunk_stage(recipe: Recipe) -> list[Chunked]:
    """Input files -> tasks."""
    find_sources(recipe)  # a mistake in them leaves no workspace behind
    workspace = open_workspace(recipe.data, create=True)
    with recorded(workspace, "chunk", recipe) as run:
        done = chunk(workspace, recipe, run.run_id)
        run.counts = {one.dataset: {k: v for k, v in asdict(one).items() if isinstance(v, int)} for one in done}
        run.exit_code = 2 if any(one.rejected for one in done) and not recipe.chunk.skip_bad_lines else 0
        return done


def refuse_bad_steps(recipe: Recipe) -> None:
    """Raise a mistake in the recipe's steps before anything is spent on rollouts for them."""
    for name in recipe.metrics:
        find_step(name, recipe.folder, "[metrics]")
    for step in recipe.steps:
        check_step(step, recipe.folder)


def collect_stage(recipe: Recipe, allow_policy_change: bool = False) -> Collected:
    """Owed -> attempts, and verdicts."""
    workspace = open_workspace(recipe.data)
    require_tasks(workspace, recipe.datasets)
    prints: dict[str, dict[str, Any]] = {}
    for row in recipe.plan():
        dataset, policy = row["dataset"], row["policy"]
        prints.setdefault(dataset, {})[policy] = recipe.fingerprint(dataset, policy)
    if not prints:
        raise UsageError("nothing says who answers: add engine = … and model = … to [collect], or give --engine=NAME")
    if not allow_policy_change:
        refuse_changed_policies(workspace, prints)
    with recorded(workspace, "collect", recipe, prints) as run:
        done = collect(workspace, recipe, run)
        run.counts = {**asdict(done), "failures": dict(done.failures)}
        run.exit_code = 3 if done.left or done.in_flight else 0
        return done


def verify_stage(recipe: Recipe) -> Verified:
    """Unjudged -> verdicts."""
    workspace = open_workspace(recipe.data)
    with recorded(workspace, "verify", recipe) as run:
        done = verify(workspace, recipe, run)
        run.counts = asdict(done)
        return done


def agreement_stage(recipe: Recipe) -> tuple[list[str], list[tuple[Any, ...]]]:
    """How far the present verdicts agree with those of [verify] against: columns and rows."""
    return agreement(open_workspace(recipe.data), recipe)


def averages(recipe: Recipe) -> dict[str, dict[str, float]]:
    """data set -> the mean of each numeric field over its rollouts."""
    con = connect(open_workspace(recipe.data), recipe.plan())
    out: dict[str, dict[str, float]] = {}
    for dataset, name, mean in sql.rows(con, AVERAGES):
        if dataset in recipe.datasets:
            out.setdefault(dataset, {})[name] = mean
    return out


def metrics_stage(recipe: Recipe, names: Sequence[str] = ()) -> dict[str, tuple[list[str], list[tuple[Any, ...]]]]:
    """metrics step -> its columns and rows."""
    con = connect(open_workspace(recipe.data), recipe.plan())
    return {name: measure(con, name, recipe.folder) for name in names or recipe.metrics or DEFAULT_METRICS}


DEFAULT_METRICS = (
    "metrics/rewards",
    "metrics/pass_at_k",
    "metrics/tokens",
    "metrics/tools",
    "metrics/errors",
    "metrics/throughput",
)


def select_stage(recipe: Recipe, until: str) -> list[Funnel]:
    """Run the filter, reward and mix steps, up to and with the last one of the kind `until`."""
    kinds = [step.kind for step in recipe.steps]
    if until not in kinds:
        raise UsageError(f"the recipe has no {until} step: add [{until}.NAME] with use = …")
    last = len(kinds) - kinds[::-1].index(until)
    con = connect(open_workspace(recipe.data), recipe.plan())
    return select(con, [step for step in recipe.steps[:last] if step.kind != "build"], recipe.folder)


def build_stage(recipe: Recipe, name: str | None = None) -> list[BuildReport]:
    """Steps -> training files: every build of the recipe, or the one named."""
    builds = [step for step in recipe.steps if step.kind == "build"]
    if not builds:
        raise UsageError("the recipe has no build step: add [build.NAME] with use = … and output = …")
    if name is not None and name not in {step.name for step in builds}:
        known = [step.name for step in builds]
        raise UsageError(f"no build {name!r}{near(name, known)}; the recipe has: {', '.join(known)}")
    workspace = open_workspace(recipe.data)
    with recorded(workspace, "build", recipe) as run:
        con = connect(workspace, recipe.plan())
        done = []
        funnels = select(con, [step for step in recipe.steps if step.kind != "build"], recipe.folder)
        for place, step in enumerate(recipe.steps):
            if step.kind == "build" and name in (None, step.name):
                output = Path(step.settings.get("output") or recipe.data / "exports" / step.name)
                before = sum(earlier.kind != "build" for earlier in recipe.steps[:place])
                done.append(build(con, step, recipe.folder, output, funnels[:before]))
        run.outputs = [dict(output) for report in done for output in report.outputs]
        return done


def query_stage(recipe: Recipe, query: str, output: Path | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Any query over the views: its columns and rows, or none where it was written to a file."""
    con = connect(open_workspace(recipe.data), recipe.plan())
    text = sql.read(Path(query)) if query.endswith(".sql") and Path(query).is_file() else query.strip().rstrip(";")
    try:
        if len(con.extract_statements(text)) != 1:
            raise UsageError("sql takes one query, as in: sql 'SELECT avg(reward) FROM rollouts'")
        if output is not None:
            sql.run(con, f"COPY ({text}) TO {sql.literal(str(output))} ({_format(output)})")
            return [], []
        kinds = sql.columns(con, text)
        zoned = [f'"{name}"::TIMESTAMP AS "{name}"' for name, kind in kinds.items() if kind.endswith("TIME ZONE")]
        if zoned:  # which DuckDB hands to Python only where pytz is installed; the session's zone is UTC
            text = f"SELECT * REPLACE ({', '.join(zoned)}) FROM ({text})"
        return list(kinds), sql.rows(con, text)
    except sql.Error as error:
        raise UsageError(f"the query does not run: {str(error).strip()}") from error


def status_stage(recipe: Recipe) -> Status:
    """Where the workspace stands."""
    return status(open_workspace(recipe.data), recipe)


def export_stage(recipe: Recipe, output: Path, companions: bool = False) -> int:
    """Rollouts -> a JSONL file in NeMo Gym's shape, and what NeMo Gym writes beside it. Returns the number of lines."""
    return export(open_workspace(recipe.data), recipe, output, companions)


def views_stage(recipe: Recipe) -> str:
    """The script that makes the workspace's views in any DuckDB shell."""
    return sql.views_script(patterns(open_workspace(recipe.data)), recipe.plan())


def _format(output: Path) -> str:
    formats = {
        ".parquet": "FORMAT parquet",
        ".csv": "FORMAT csv, HEADER",
        ".jsonl": "FORMAT json",
        ".json": "FORMAT json, ARRAY",
    }
    if output.suffix not in formats:
        raise UsageError(f"--output={output}: write .parquet, .csv, .jsonl or .json")
    return formats[output.suffix]


def as_json(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as a JSON array of objects; times and other rich types as text."""
    return dump([{name: _plain(value) for name, value in zip(columns, row, strict=True)} for row in rows])


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
