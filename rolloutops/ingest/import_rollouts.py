"""The import stage: rollouts that were made elsewhere become tasks, attempts and verdicts of a workspace.

What is lost: nothing. `attempts.response` holds each row as it was written, in a JSON array of one, and export gives
it back; the canonical columns beside it are read from it. `verdicts.details` holds what its verifier returned.

Whose rollouts they are is decided by identity, never by position:

- A task that the workspace already has, with the same row, or as the only one with the same prompt and no other
  answer, is the rollouts' task; so import into a dataset that was chunked continues it.
- Else the task's row is the materialized input beside the file, found by `_ng_task_index` and `_ng_rollout_index`, or
  for a batch the request with the `custom_id`.
- Else it is the part of the rollout row that is known to be input. Equal prompt, expected answer, agent and
  `_ng_task_index` make one task.

A rollout keeps its `_ng_rollout_index`, or gets the next free one where it has none or another row has it. An attempt
is named after the hash of its row, so the same row is never imported twice; a row that occurs twice in the files is a
further attempt at the same rollout, which the views show once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rolloutops.config.plan import make_plan
from rolloutops.config.recipe import LastRecipe, Recipe, checked_name, from_flags
from rolloutops.config.resources import shipped
from rolloutops.errors import InputError
from rolloutops.ingest.chunk import changing_tasks, staging_folder
from rolloutops.ingest.import_datasets import ByField, ImportChoices, InputFile, datasets_of, find_files
from rolloutops.ingest.rollout_rows import Reader
from rolloutops.ingest.session_files import folder_name, take_sessions
from rolloutops.ingest.staged_rollouts import Staging, stage_rows, why_unresolved
from rolloutops.layout import count
from rolloutops.store import schema, sql
from rolloutops.store.runs import last_recipe, recorded
from rolloutops.store.workspace import Workspace, connect, open_workspace, patterns, write_part

PART_ROWS, PART_BYTES = 5000, 64_000_000

NEW_TASKS = """
SELECT {dataset} AS dataset, n.task_id, n.version, false AS removed, {part} AS part,
    a.row_hash, a.origin, a.line, a.agent, a.row::VARCHAR AS row, a.prompt::VARCHAR AS prompt,
    a.tools::VARCHAR AS tools, a.prompt_hash, a.answer
FROM new_tasks AS n
JOIN asked AS a ON a.ident = n.ident AND a.place = n.place
WHERE n.number >= {low} AND n.number < {high}
ORDER BY n.number
"""
"""The tasks of one new part."""

NEW_ATTEMPTS = """
SELECT {dataset} AS dataset, f.task_id, h.row_hash, f.policy, f.rollout_index, f.attempt, f.attempt_id, h.part,
    {run_id} AS run_id, {run_id} || format('-{{:08d}}', f.ordinal) AS verdict_id,
    e.* EXCLUDE (policy, request, prompt, tools, twin),
    coalesce(e.request::VARCHAR, p.params::VARCHAR) AS request,
    CASE WHEN e.prompt_hash <> h.prompt_hash THEN e.prompt::VARCHAR END AS prompt,
    CASE WHEN e.prompt_hash <> h.prompt_hash THEN coalesce(e.tools::VARCHAR, '[]') END AS tools,
    false AS cached
FROM ended AS e
JOIN fresh AS f ON f.ordinal = e.ordinal
JOIN homes AS h ON h.task_id = f.task_id
LEFT JOIN requests AS q ON q.ordinal = e.ordinal
LEFT JOIN asked AS p ON p.place = q.place AND p.params IS NOT NULL
"""
"""The new attempts with their verdicts."""

COUNTS = """
SELECT count(*) FILTER (copy = 1 AND NOT failed) AS rollouts,
    count(*) FILTER (copy = 1 AND failed) AS failures,
    count(*) FILTER (copy > 1) AS duplicates,
    (SELECT count(*) FROM ended) - (SELECT count(*) FROM fresh_rows) AS already_present,
    count(*) FILTER (e.verifier IS NOT NULL) AS verdicts,
    count(*) FILTER (e.verdict_error = 'masked') AS masked,
    count(*) FILTER (copy = 1 AND NOT failed AND e.turns = 0 AND e.verifier IS NULL) AS empty,
    count(*) FILTER (NOT failed AND f.ng_rollout <> f.rollout_index) AS renumbered
FROM fresh AS f
JOIN ended AS e ON e.ordinal = f.ordinal
"""


@dataclass(frozen=True)
class ImportReport:
    """What became of the rows: each is a prompt (a request, an input), a rollout or several, a failure, or rejected.

    already_present: rollouts that the workspace had. duplicates: equal to another row of these files. tasks: new ones.
    renumbered: rollouts whose index another one has. masked: rollouts whose reward measures nothing. empty: rollouts
    of NeMo Gym with neither answer nor reward. skipped: files that hold none. shapes: rows by the shape that they were
    read as. left_out: fields and events that no reader knows, by name. parts: content parts of unknown types, which are
    kept. nulls: nulls of a table's struct columns, which are left out.
    """

    dataset: str
    files: int
    read: int
    prompts: int
    rollouts: int
    failures: int
    duplicates: int
    already_present: int
    rejected: int
    tasks: int
    verdicts: int
    masked: int
    empty: int
    renumbered: int
    policies: list[str]
    skipped: list[str]
    rejected_file: Path | None
    examples: list[str]
    shapes: dict[str, int]
    left_out: dict[str, int]
    parts: dict[str, int]
    nulls: int


def import_stage(
    paths: Sequence[str],
    data: Path | None = None,
    choices: ImportChoices | None = None,
    recipe: Recipe | None = None,
    skip_bad_lines: bool = False,
    progress: Callable[[Sequence[Path]], AbstractContextManager[Callable[[], None]]] = lambda _: nullcontext(_nothing),
) -> list[ImportReport]:
    """Import files into a workspace, which is made where there is none, and record the run.

    data: the workspace (default: the recipe's, else data/<dataset>). recipe: (default: the workspace's last; datasets
    are added where no policy collects). progress: shows how far the reading of files is.
    """
    choices = _with_recipe(choices or ImportChoices(), recipe)
    data = workspace_of(paths, data, choices.dataset, recipe)
    files, skipped = find_files(paths, Path())  # a mistake in them leaves no workspace behind
    groups, by_field = datasets_of(paths, files, choices)
    workspace = open_workspace(data, create=True)
    last = LastRecipe(recipe or Recipe(data, {}), {})
    if recipe is None and patterns(workspace)["runs"]:
        last = last_recipe(workspace)
    # Where a policy collects, a dataset that is added would be asked of it too, and nobody asked for that.
    added = {} if last.recipe.policy_names(last.flags) else dict.fromkeys(groups, choices.settings())
    recipe = replace(last.recipe, data=data, datasets={**added, **last.recipe.datasets})
    plan = make_plan(recipe, earlier=last.flags)
    with recorded(workspace, "import", plan) as run, progress([file.path for file in files]) as count_row:
        done = _import_groups(workspace, groups, by_field, run.run_id, choices, plan.chunk.rows_per_part, count_row)
        done[0] = replace(done[0], skipped=[str(path) for path in skipped])
        run.counts = _counts(done)
        run.exit_code = 2 if any(one.rejected for one in done) and not skip_bad_lines else 0
        return done


def workspace_of(paths: Sequence[str], data: Path | None, dataset: str | None, recipe: Recipe | None) -> Path:
    """The workspace that an import fills: the one that is named, else the recipe's, else data/<dataset>, by the name of
    the first file where none is given, of sessions by their folder's."""
    if data is None and recipe is None:
        if dataset is None and take_sessions(paths, Path()).sessions:
            dataset = folder_name(paths)
        return from_flags({"input": list(paths)} | ({"dataset": dataset} if dataset else {})).data
    return data or (recipe.data if recipe else Path())


def import_rollouts(
    workspace: Workspace,
    dataset: str,
    paths: Sequence[str],
    run_id: str,
    *,
    policy: str | None = None,
    rows_per_part: int = 1000,
    bases: Sequence[Path] = (Path(),),
) -> ImportReport:
    """Import rollout files into a dataset.

    paths: files, globs or folders; what NeMo Gym wrote beside a rollout file is found by its name. policy: the policy's
    name (default: the model that each row names, without its folder). Raises InputError for files that cannot be read,
    or of which no row can be used; then nothing was written.
    """
    files, skipped = find_files(paths, *bases)
    (done,) = _import_groups(
        workspace, {dataset: files}, None, run_id, ImportChoices(dataset, policy=policy), rows_per_part
    )
    return replace(done, skipped=[str(path) for path in skipped])


def _nothing() -> None:
    """Count nothing."""


def _with_recipe(choices: ImportChoices, recipe: Recipe | None) -> ImportChoices:
    """The choices with what a recipe says: its only dataset, and that one's id field."""
    if choices.dataset is not None:
        checked_name(choices.dataset, "--dataset")
    if recipe is None or choices.dataset_field is not None:
        return choices
    if choices.dataset is None and len(recipe.datasets) == 1:
        choices = choices._replace(dataset=next(iter(recipe.datasets)))
    own = recipe.datasets.get(choices.dataset or "")
    if own is None:
        return choices
    names = [name for name in ("id", "media_root", "max_media_bytes") if getattr(choices, name) is None]
    return choices._replace(**{name: getattr(own, name) for name in names})


def _import_groups(
    workspace: Workspace,
    groups: Mapping[str, list[InputFile]],
    by_field: ByField | None,
    run_id: str,
    choices: ImportChoices,
    rows_per_part: int,
    count_row: Callable[[], None] = _nothing,
) -> list[ImportReport]:
    """Import each dataset's files. Raises InputError where no row of any can be used; then nothing was written."""
    together = [list(groups)] if by_field is not None else [[name] for name in groups]
    done: list[ImportReport] = []
    usable = False
    for names in together:
        with ExitStack() as held:
            for name in sorted(names):
                held.enter_context(changing_tasks(workspace, name))
            stagings = {n: Staging(held.enter_context(staging_folder(workspace, f"{run_id}-{n}"))) for n in names}
            default, files = stagings[names[0]], groups[names[0]]
            reader = Reader(choices.policy, choices.id, choices.dataset_field, choices.settings())

            def staging_of(
                file: InputFile, row: Mapping[str, Any], stagings: Mapping[str, Staging] = stagings
            ) -> Staging:
                return (
                    stagings[by_field.dataset_of(file, row)] if by_field is not None else next(iter(stagings.values()))
                )

            stage_rows(
                files,
                reader,
                staging_of,
                default,
                count_row,
            )
            for staged in stagings.values():
                staged.close()
                usable = usable or staged.read > staged.rejected
            if len(together) == 1:
                _refuse_useless(names, files, list(stagings.values()))
            done += [
                _import_staged(workspace, name, staged, run_id, rows_per_part, len(files))
                for name, staged in stagings.items()
            ]
    if not usable:
        first = next((example for one in done for example in one.examples), "they are empty")
        raise InputError(f"none of {count(len(done), 'file')} can be imported; the first: {first}")
    return done


def _refuse_useless(names: Sequence[str], files: Sequence[InputFile], stagings: Sequence[Staging]) -> None:
    """Raise InputError where no row can be used."""
    read = sum(staged.read for staged in stagings)
    if not read:
        raise InputError(f"there is no rollout in {', '.join(str(file.path) for file in files)}")
    if read == sum(staged.rejected for staged in stagings):
        first = next(example for staged in stagings for example in staged.examples)
        raise InputError(f"{', '.join(names)}: none of {count(read, 'line')} can be imported; the first: {first}")


def _import_staged(
    workspace: Workspace, dataset: str, staged: Staging, run_id: str, rows_per_part: int, files: int
) -> ImportReport:
    """Append what is staged of a dataset to the workspace's tables."""
    con = _keys(workspace, dataset, staged.folder)
    for origin, line, why, *about in sql.rows(con, "SELECT * FROM unresolved ORDER BY origin, line"):
        staged.reject(origin, line, why or why_unresolved(*about), "")
    counts = _write(workspace, con, dataset, run_id, rows_per_part)
    return ImportReport(
        dataset,
        files=files,
        read=staged.read,
        prompts=staged.prompts,
        rejected=staged.rejected,
        skipped=[],
        rejected_file=_keep_rejects(workspace, staged.folder, dataset),
        examples=staged.examples,
        shapes=dict(staged.shapes.most_common()),
        left_out=dict(staged.left_out.most_common()),
        parts=dict(staged.parts.most_common()),
        nulls=staged.nulls,
        **counts,
    )


def _counts(done: Sequence[ImportReport]) -> dict[str, Any]:
    """What the log of runs keeps: the counts, by dataset where there are several."""
    by_name = {
        one.dataset: {key: value for key, value in asdict(one).items() if isinstance(value, int)} for one in done
    }
    return by_name if len(done) > 1 else by_name[done[0].dataset]


def _keys(workspace: Workspace, dataset: str, staging: Path) -> sql.Connection:
    """Decide which rows are new, whose rollouts they are and which index each gets: keys only, in sql/import.sql."""
    con = connect(workspace)
    sql.run(con, f"SET memory_limit = '1GB'; SET temp_directory = {sql.literal(str(staging / 'spilled'))}")
    for name in ("asked", "ended"):
        path = sql.literal(str(staging / f"{name}.parquet"))
        sql.run(con, f"CREATE VIEW {name} AS SELECT * FROM read_parquet({path})")
    sql.set_variable(con, "dataset", dataset, "VARCHAR")
    sql.run(con, sql.read(shipped("sql") / "import.sql"))
    return con


def _write(workspace: Workspace, con: sql.Connection, dataset: str, run_id: str, rows_per_part: int) -> dict[str, Any]:
    """Append tasks, verdicts and attempts, in this order: an attempt that is there has its task and its verdict."""
    first, new = sql.rows(
        con,
        "SELECT (SELECT coalesce(max(part) + 1, 0) FROM task_log WHERE dataset = getvariable('dataset')), "
        "(SELECT count(*) FROM new_tasks)",
    )[0]
    homes = (
        f"SELECT task_id, row_hash, {first} + (number // {rows_per_part})::INTEGER AS part, prompt_hash FROM new_tasks"
    )
    sql.run(
        con, f"CREATE TABLE homes AS SELECT task_id, row_hash, part, prompt_hash FROM known_tasks UNION ALL {homes}"
    )
    for number in range(-(-new // rows_per_part)):
        low, high = number * rows_per_part, (number + 1) * rows_per_part
        query = NEW_TASKS.format(dataset=sql.literal(dataset), part=first + number, low=low, high=high)
        write_part(
            workspace, "tasks", dataset, f"part-{first + number:05d}", _conformed(sql.arrow(con, query), schema.TASKS)
        )
    held: list[pa.RecordBatch] = []
    files = 0
    query = NEW_ATTEMPTS.format(dataset=sql.literal(dataset), run_id=sql.literal(run_id))
    for batch in sql.stream(con, query, sql.PAYLOAD_ROWS):
        held.append(batch)
        if sum(map(len, held)) >= PART_ROWS or sum(b.nbytes for b in held) >= PART_BYTES:
            _append(workspace, dataset, f"{run_id}-import-{files:04d}", held)
            held, files = [], files + 1
    if held:
        _append(workspace, dataset, f"{run_id}-import-{files:04d}", held)
    counts = sql.records(con, COUNTS)[0]
    policies = sql.rows(con, "SELECT DISTINCT policy FROM fresh ORDER BY policy")
    return {**counts, "tasks": new, "policies": [policy for (policy,) in policies]}


def _append(workspace: Workspace, dataset: str, name: str, batches: Sequence[pa.RecordBatch]) -> None:
    rows = pa.Table.from_batches(batches)
    verified = rows.filter(pc.is_valid(rows["verifier"]))
    if len(verified):
        names = {"verdict_error": "error", "verdict_error_message": "error_message"}
        verified = verified.drop_columns(list(names.values())).rename_columns(
            [names.get(column, column) for column in verified.column_names if column not in names.values()]
        )
        write_part(workspace, "verdicts", dataset, name, _conformed(verified, schema.VERDICTS))
    write_part(workspace, "attempts", dataset, name, _conformed(rows, schema.ATTEMPTS))


def _conformed(rows: pa.Table, table: pa.Schema) -> pa.Table:
    """Rows as a table of the workspace: its columns, in its types; what is not there is null."""
    columns = []
    for column_of in table:
        storage = pa.string() if column_of.type == schema.JSON else column_of.type
        if column_of.name not in rows.column_names:
            column = pa.nulls(len(rows), storage)
        else:
            column = rows[column_of.name].cast(storage)
        columns.append(_as_json(column) if column_of.type == schema.JSON else column)
    return pa.Table.from_arrays(columns, schema=table)


def _as_json(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts as a column of JSON, without a copy."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.chunked_array([pa.ExtensionArray.from_storage(schema.JSON, chunk) for chunk in chunks], schema.JSON)


def _keep_rejects(workspace: Workspace, staging: Path, dataset: str) -> Path | None:
    """The rejected lines of this import, for the user to mend."""
    path = workspace.root / "rejected" / f"{dataset}.import.jsonl"
    if not (staging / "rejected.jsonl").exists():
        return None
    path.parent.mkdir(exist_ok=True)
    os.replace(staging / "rejected.jsonl", path)
    return path
