"""The stages as the command line calls them: open the workspace, record the run, do the work.

What only one stage needs is imported by it: that measuring and building start at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rolloutops.build.build import BuildReport, build
from rolloutops.build.explain import BoundStep, check_parameters, explain, script
from rolloutops.build.other_recipe import refuse_other_recipes
from rolloutops.build.report import queries, report
from rolloutops.cli.text import collected
from rolloutops.cli.which_workspace import is_workspace
from rolloutops.collect.outdated import pinned, refuse_waiting
from rolloutops.config.paths import as_path
from rolloutops.config.recipe import Recipe
from rolloutops.config.redact import tell
from rolloutops.errors import UsageError, did_you_mean
from rolloutops.formats.strict_json import dump
from rolloutops.steps.metrics import Table, asked, measure_all, require_policies
from rolloutops.steps.needed import needed
from rolloutops.steps.parameters import known_datasets
from rolloutops.steps.selected import prepare
from rolloutops.steps.selection import StepStats, select
from rolloutops.steps.step import available
from rolloutops.store import sql
from rolloutops.store.definitions import make_all
from rolloutops.store.output import replacing_file
from rolloutops.store.runs import recorded, refuse_changed_policies
from rolloutops.store.waiting import wait_for_lock
from rolloutops.store.workspace import connect, open_workspace, patterns, require_tasks

if TYPE_CHECKING:
    from rolloutops.collect.collect import CollectReport
    from rolloutops.collect.status import Status
    from rolloutops.collect.verify import VerifyReport
    from rolloutops.ingest.chunk import ChunkReport
    from rolloutops.ingest.new_tasks import NewTasks

AVERAGES = """
WITH fields AS (
    SELECT dataset, policy, unnest(map_entries(map_concat(
        metrics,
        MAP {{
            'reward': reward, 'turns': turns::DOUBLE, 'tool_calls': tool_calls::DOUBLE,
            'input_tokens': input_tokens::DOUBLE, 'output_tokens': output_tokens::DOUBLE
        }}
    ))) AS field
    FROM rollouts
    {only}
)
SELECT dataset, policy, field.key AS name, avg(field.value) AS mean
FROM fields WHERE field.value IS NOT NULL
GROUP BY dataset, policy, name ORDER BY dataset, policy, name <> 'reward', name
"""


def chunk_stage(recipe: Recipe) -> list[ChunkReport]:
    """Input files -> tasks."""
    from rolloutops.ingest.chunk import chunk, find_sources

    find_sources(recipe)  # a mistake in them leaves no workspace behind
    workspace = open_workspace(recipe.data, create=True)
    with recorded(workspace, "chunk", recipe) as run:
        done = chunk(workspace, recipe, run.run_id)
        run.counts = {one.dataset: {k: v for k, v in asdict(one).items() if isinstance(v, int)} for one in done}
        run.exit_code = 2 if any(one.rejected for one in done) and not recipe.chunk.skip_bad_lines else 0
        return done


def pinned_stage(recipe: Recipe) -> Recipe:
    """The recipe with the verdicts that count by its `verdict_version`, before anything is collected for it."""
    return pinned(open_workspace(recipe.data), recipe) if recipe.verdict_version else recipe


def _connect(recipe: Recipe) -> sql.Connection:
    """Connect to the workspace with its views, for tables of rewards: of one version of each verifier."""
    workspace = open_workspace(recipe.data)
    recipe = pinned(workspace, recipe)
    con = connect(workspace, recipe.plan())
    _refuse_waiting(con, recipe)
    return con


def _refuse_waiting(con: sql.Connection, recipe: Recipe) -> None:
    for note in refuse_waiting(con, recipe):
        tell(note)


def explain_stage(recipe: Recipe, name: str | None = None) -> list[BoundStep]:
    """The recipe's steps, each fitted to those before it on empty tables; or only the one named."""
    steps = explain(recipe)
    if name is not None and name not in (known := [step.name for step in steps]):
        raise UsageError(f"no step {name!r}{did_you_mean(name, known)}; the recipe has: {', '.join(known) or 'none'}")
    return [step for step in steps if name in (None, step.name)]


def dry_run_stage(recipe: Recipe) -> list[BoundStep]:
    """The recipe's steps, each fitted to those before it; raises what else can be known to be wrong before a run."""
    from rolloutops.collect.collect import engines

    steps = explain_stage(recipe)
    engines(recipe)
    return steps


def script_stage(recipe: Recipe) -> str:
    """The recipe's steps as one script, for a DuckDB shell that ran the one of `views_stage`."""
    return script(explain_stage(recipe))


def new_tasks_stage(recipe: Recipe) -> Iterator[NewTasks]:
    """New and edited lines of the input -> tasks, after a look at whether they can be collected at all."""
    from rolloutops.collect.collect import engines
    from rolloutops.ingest.new_tasks import add_new_tasks

    _fingerprints(recipe)
    engines(recipe)
    yield from add_new_tasks(recipe)


def _fingerprints(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Data set -> policy -> what makes it this policy. Raises UsageError where the recipe names none."""
    prints: dict[str, dict[str, Any]] = {}
    for row in recipe.plan():
        dataset, policy = row["dataset"], row["policy"]
        if policy is not None:
            prints.setdefault(dataset, {})[policy] = recipe.fingerprint(dataset, policy)
    if not prints and recipe.datasets:
        raise UsageError("nothing says who answers: add engine = … and model = … to [collect], or give --engine=NAME")
    if not prints:
        raise UsageError("the recipe names no data set: add [datasets.NAME] with input = …, or give --input=FILE")
    return prints


def collect_stage(recipe: Recipe, allow_policy_change: bool = False, tune: bool = False) -> CollectReport:
    """Owed -> attempts, and verdicts. tune: as many as it takes to find the best number in flight."""
    from rolloutops.collect.collect import collect, engines

    workspace = open_workspace(recipe.data)
    require_tasks(workspace, recipe.datasets)
    prints = _fingerprints(recipe)
    engines(recipe)  # a misspelt parameter is one, before it is another policy
    if not allow_policy_change:
        refuse_changed_policies(workspace, prints)
    with recorded(workspace, "collect", recipe, prints) as run:
        done = collect(workspace, recipe, run, tune)
        run.counts = asdict(done)
        run.exit_code = 0 if tune else done.exit_code
        return done


def tune_stage(recipe: Recipe, allow_policy_change: bool, output: str | bool) -> Iterator[str]:
    """Collect only as much as it takes to find the best number in flight. output: a file for the plot, or True.

    Returns what is to be said.
    """
    from rolloutops.cli.tune import told, write

    done = collect_stage(recipe, allow_policy_change, tune=True)
    yield from collected(done)
    yield from told(done.points, done.why)
    if isinstance(output, str) and done.points:
        yield f"plotted in {write(done.points, as_path(output))}"


def verify_stage(recipe: Recipe, on_command: bool = True) -> VerifyReport:
    """Unjudged -> verdicts. on_command: also those of changed verifiers that spend."""
    from rolloutops.collect.verify import verify

    workspace = open_workspace(recipe.data)
    with recorded(workspace, "verify", recipe) as run:
        done = verify(workspace, recipe, run, on_command)
        run.counts = asdict(done)
        return done


def agreement_stage(recipe: Recipe) -> tuple[list[str], list[tuple[Any, ...]]]:
    """How far the present verdicts agree with those of [verify] against: columns and rows."""
    from rolloutops.collect.verify import agreement

    return agreement(open_workspace(recipe.data), recipe)


def averages(recipe: Recipe, wanted: bool = False) -> dict[str, dict[str, dict[str, float]]]:
    """data set -> policy -> the mean of each numeric field over its rollouts; wanted: only over those of the plan."""
    con = connect(open_workspace(recipe.data), recipe.plan())
    out: dict[str, dict[str, dict[str, float]]] = {}
    only = "SEMI JOIN wanted USING (dataset, task_id, policy, rollout_index)" if wanted else ""
    for dataset, policy, name, mean in sql.rows(con, AVERAGES.format(only=only)):
        if dataset in recipe.datasets:
            out.setdefault(dataset, {}).setdefault(policy, {})[name] = mean
    return out


def metrics_stage(
    recipe: Recipe, names: Sequence[str] = (), group_by: str | None = None, compare: Sequence[str] = ()
) -> dict[str, Table]:
    """metrics step -> its columns and rows. See measuring.asked for what can be asked."""
    chosen = names or (() if compare or group_by else recipe.metrics)
    uses = asked(chosen, recipe.metrics_settings, recipe.folder, group_by, compare)
    con = _connect(recipe)
    require_policies(con, compare)
    return measure_all(con, uses, recipe.folder)


def further_metrics(recipe: Recipe, shown: Collection[str]) -> list[str]:
    """The short names of the metrics steps that were not shown."""
    return [
        name.partition("/")[2] for name in available(recipe.folder) if name.startswith("metrics/") and name not in shown
    ]


def report_stage(recipe: Recipe, tables: Mapping[str, Table], output: Path) -> Path:
    """A page with the figures of a workspace, and the tables of its metrics. Returns where it lies."""
    con = _connect(recipe)
    prepare(con)
    queries.prepare(con)
    page = report.workspace_page(con, str(recipe.data), [(name, *table) for name, table in tables.items()])
    with replacing_file(output) as path:
        path.write_text(page, encoding="utf-8")
    return output


def select_stage(recipe: Recipe, until: str) -> list[StepStats]:
    """Run the filter, reward, mix and pair steps, up to and with the last one of the kind `until`."""
    kinds = [step.kind for step in recipe.steps]
    if until not in kinds:
        raise UsageError(f"the recipe has no {until} step: add [{until}.NAME] with use = …")
    last = len(kinds) - kinds[::-1].index(until)
    known = known_datasets(recipe)
    for step in recipe.steps[:last]:
        if step.kind != "build":
            check_parameters(step, recipe, known)
    con = _connect(recipe)
    return select(con, [step for step in recipe.steps[:last] if step.kind != "build"], recipe.folder)


def refuse_builds_of_others(recipe: Recipe) -> None:
    """Raise where a build would replace what another recipe built, before anything is spent on rollouts for it."""
    if is_workspace(recipe.data):
        refuse_other_recipes(open_workspace(recipe.data), recipe)


def build_stage(recipe: Recipe, name: str | None = None, replace: bool = False) -> list[BuildReport]:
    """Steps -> training files: every build of the recipe, or the one named. replace: also builds of another recipe."""
    builds = [step for step in recipe.steps if step.kind == "build"]
    if not builds:
        raise UsageError("the recipe has no build step: add [build.NAME] with use = … and output = …")
    if name is not None and name not in {step.name for step in builds}:
        known = [step.name for step in builds]
        raise UsageError(f"no build {name!r}{did_you_mean(name, known)}; the recipe has: {', '.join(known)}")
    workspace = open_workspace(recipe.data)
    if not replace:
        refuse_other_recipes(workspace, recipe, name)
    with wait_for_lock(workspace, "build", "builds from this workspace"), recorded(workspace, "build", recipe) as run:
        con = _connect(recipe)
        done = []
        steps = recipe.steps if name is None else needed(recipe.steps, [name])
        known = known_datasets(recipe)
        for step in steps:
            check_parameters(step, recipe, known)
        funnels = select(con, [step for step in steps if step.kind != "build"], recipe.folder)
        for place, step in enumerate(steps):
            if step.kind == "build":
                before = sum(earlier.kind != "build" for earlier in steps[:place])
                done.append(build(con, step, recipe.folder, recipe.exports(step), funnels[:before], run.made_by))
        run.outputs = [dict(output) for report in done for output in report.outputs]
        return done


def query_stage(recipe: Recipe, query: str, output: Path | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Any query over the views: its columns and rows, or none where it was written to a file."""
    con = connect(open_workspace(recipe.data), recipe.plan())
    make_all(con)
    file = as_path(query) if query.endswith(".sql") else None
    text = sql.read(file) if file is not None and file.is_file() else query.strip().rstrip(";")
    try:
        if len(con.extract_statements(text)) != 1:
            raise UsageError("sql takes one query, as in: sql 'SELECT avg(reward) FROM rollouts'")
        if output is not None:
            how = _format(output)
            if not output.parent.is_dir():
                raise UsageError(f"the query does not run: there is no folder for {output}")
            with replacing_file(output) as path:
                sql.run(con, f"COPY ({text}) TO {sql.literal(str(path))} ({how})")
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
    from rolloutops.collect.status import status

    return status(open_workspace(recipe.data), recipe)


def export_stage(recipe: Recipe, output: Path, companions: bool = False, wanted: bool = False) -> int:
    """Rollouts -> a JSONL file in NeMo Gym's shape, and what NeMo Gym writes beside it. Returns the number of lines.

    wanted: only the rollouts of the plan, not all of the recipe's datasets.
    """
    from rolloutops.ingest.export import export

    workspace = open_workspace(recipe.data)
    recipe = pinned(workspace, recipe)
    _refuse_waiting(connect(workspace, recipe.plan()), recipe)
    return export(workspace, recipe, output, companions, wanted)


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
