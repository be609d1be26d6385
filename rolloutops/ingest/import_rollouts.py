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
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rolloutops.config.plan import make_plan
from rolloutops.config.recipe import LastRecipe, Recipe, from_flags
from rolloutops.config.resources import shipped
from rolloutops.config.settings import Dataset
from rolloutops.errors import InputError
from rolloutops.formats.nemo_gym import rollout_files
from rolloutops.formats.strict_json import dump
from rolloutops.ingest.chunk import changing_tasks, staging_folder
from rolloutops.ingest.inputs import find_inputs, open_rows
from rolloutops.ingest.rollout_rows import ASKED, ENDED, Reader
from rolloutops.layout import count
from rolloutops.store import schema, sql
from rolloutops.store.runs import last_recipe, recorded
from rolloutops.store.workspace import Workspace, connect, open_workspace, patterns, write_part

BATCH_ROWS, BATCH_BYTES = 1000, 32_000_000
PART_ROWS, PART_BYTES = 5000, 256_000_000
SEEN = 200_000
"""Tasks that are remembered as staged; more are staged again, which costs space and nothing else."""

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
WITH params AS (
    SELECT input_key, any_value(params) AS params FROM asked WHERE params IS NOT NULL GROUP BY input_key
)
SELECT {dataset} AS dataset, f.task_id, h.row_hash, f.policy, f.rollout_index, f.attempt, f.attempt_id, h.part,
    {run_id} AS run_id, {run_id} || format('-{{:08d}}', f.ordinal) AS verdict_id,
    e.* EXCLUDE (policy, request, prompt, tools),
    coalesce(e.request::VARCHAR, p.params) AS request,
    CASE WHEN e.prompt_hash <> h.prompt_hash THEN e.prompt::VARCHAR END AS prompt,
    CASE WHEN e.prompt_hash <> h.prompt_hash THEN coalesce(e.tools::VARCHAR, '[]') END AS tools,
    false AS cached
FROM ended AS e
JOIN fresh AS f ON f.ordinal = e.ordinal
JOIN homes AS h ON h.task_id = f.task_id
LEFT JOIN params AS p ON p.input_key = e.input_key
"""
"""The new attempts with their verdicts."""

COUNTS = """
SELECT count(*) FILTER (copy = 1 AND NOT failed) AS rollouts,
    count(*) FILTER (copy = 1 AND failed) AS failures,
    count(*) FILTER (copy > 1) AS duplicates,
    (SELECT count(*) FROM ended) - (SELECT count(*) FROM fresh_rows) AS known,
    count(*) FILTER (e.verifier IS NOT NULL) AS verdicts,
    count(*) FILTER (e.verdict_error = 'masked') AS masked,
    count(*) FILTER (copy = 1 AND NOT failed AND e.turns = 0 AND e.verifier IS NULL) AS empty,
    count(*) FILTER (NOT failed AND f.ng_rollout <> f.rollout_index) AS renumbered
FROM fresh AS f
JOIN ended AS e ON e.ordinal = f.ordinal
"""


@dataclass(frozen=True)
class ImportReport:
    """What became of the rows. read = asked (requests, inputs) + rollouts + failures + duplicates + known + rejected.

    known: in the workspace already. duplicates: equal to another row of these files. tasks: new ones. renumbered:
    rollouts whose index another one has. masked: rollouts whose reward measures nothing. empty: rollouts with neither
    an answer nor a reward. skipped: files that hold none.
    """

    dataset: str
    files: int
    read: int
    asked: int
    rollouts: int
    failures: int
    duplicates: int
    known: int
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


@dataclass
class _Staging:
    """What was read: counts, and where the staged files are."""

    folder: Path
    read: int = 0
    asked: int = 0
    rejected: int = 0
    examples: list[str] | None = None

    def reject(self, origin: str, line: int, reason: str, text: str) -> None:
        """Keep a line that cannot be used, with the reason."""
        with (self.folder / "rejected.jsonl").open("a", encoding="utf-8") as rejects:
            rejects.write(dump({"origin": origin, "line": line, "reason": reason, "text": text[:2000]}) + "\n")
        self.rejected += 1
        self.examples = self.examples or []
        if len(self.examples) < 3:
            self.examples.append(f"{origin}:{line}: {reason}")


def import_stage(
    paths: Sequence[str],
    data: Path | None = None,
    dataset: str | None = None,
    policy: str | None = None,
    recipe: Recipe | None = None,
    skip_bad_lines: bool = False,
) -> ImportReport:
    """Import files into a workspace, which is made where there is none, and record the run.

    data: the workspace (default: the recipe's, else data/<dataset>). dataset: (default: the recipe's only one, else the
    first file's name). recipe: (default: the workspace's last; the dataset is added where no policy collects).
    """
    made = _from_files(paths, dataset, recipe)
    name = next(iter(made.datasets))
    data = workspace_of(paths, data, dataset, recipe)
    find_inputs(list(paths), Path(), empty_too=True)  # a mistake in them leaves no workspace behind
    workspace = open_workspace(data, create=True)
    last = LastRecipe(recipe or Recipe(data, {}), {})
    if recipe is None and patterns(workspace)["runs"]:
        last = last_recipe(workspace)
    # Where a policy collects, a dataset that is added would be asked of it too, and nobody asked for that.
    added = {} if last.recipe.policy_names(last.flags) else {name: Dataset()}
    recipe = replace(last.recipe, data=data, datasets={**added, **last.recipe.datasets})
    plan = make_plan(recipe, earlier=last.flags)
    with recorded(workspace, "import", plan) as run:
        rows = plan.chunk.rows_per_part
        done = import_rollouts(workspace, name, paths, run.run_id, policy=policy, rows_per_part=rows)
        run.counts = {key: value for key, value in asdict(done).items() if isinstance(value, int)}
        run.exit_code = 2 if done.rejected and not skip_bad_lines else 0
        return done


def workspace_of(paths: Sequence[str], data: Path | None, dataset: str | None, recipe: Recipe | None) -> Path:
    """The workspace that an import fills: the one that is named, else the recipe's, else data/<dataset>."""
    return data or (recipe.data if recipe else _from_files(paths, dataset, recipe).data)


def _from_files(paths: Sequence[str], dataset: str | None, recipe: Recipe | None) -> Recipe:
    """The recipe that the files alone would make: one dataset."""
    if dataset is None and recipe is not None and len(recipe.datasets) == 1:
        dataset = next(iter(recipe.datasets))
    return from_flags({"input": list(paths)} | ({"dataset": dataset} if dataset else {}))


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
    found = find_inputs(list(paths), *bases, empty_too=True)  # NeMo Gym leaves a failures file also without a failure
    files, skipped = rollout_files(found)
    with changing_tasks(workspace, dataset), staging_folder(workspace, f"{run_id}-{dataset}") as staging:
        staged = _Staging(staging)
        _stage(staged, Reader(dataset, policy), files)
        if not staged.read:
            raise InputError(f"there is no rollout in {', '.join(map(str, found))}")
        if staged.read == staged.rejected:
            first = (staged.examples or [""])[0]
            raise InputError(f"{dataset}: none of {count(staged.read, 'line')} can be imported; the first: {first}")
        con = _keys(workspace, dataset, staging)
        for origin, line in sql.rows(con, "SELECT origin, line FROM unresolved ORDER BY origin, line"):
            staged.reject(origin, line, "its task is in no file: give the materialized inputs or requests too", "")
        counts = _write(workspace, con, dataset, run_id, rows_per_part)
        rejects = _keep_rejects(workspace, staging, dataset)
        return ImportReport(
            dataset,
            files=len(files),
            read=staged.read,
            asked=staged.asked,
            rejected=staged.rejected,
            skipped=[str(path) for path in skipped],
            rejected_file=rejects,
            examples=staged.examples or [],
            **counts,
        )


def _stage(staged: _Staging, reader: Reader, files: Iterable[tuple[Path, str, str]]) -> None:
    """Read all rows into asked.parquet and ended.parquet."""
    seen: set[str] = set()
    with (
        pq.ParquetWriter(staged.folder / "asked.parquet", ASKED, compression="zstd", compression_level=1) as asked_file,
        pq.ParquetWriter(staged.folder / "ended.parquet", ENDED, compression="zstd", compression_level=1) as ended_file,
    ):
        asked_rows: list[dict[str, Any]] = []
        ended_rows: list[dict[str, Any]] = []
        size = 0
        for path, kind, source in files:
            for row in open_rows(path):
                ordinal, reason = staged.read, row.reason
                staged.read += 1
                requested = ended = None
                raw = row.raw.decode("utf-8", "replace")
                if row.value is not None:
                    try:
                        requested, ended = reader.read(row.value, raw, source, kind == "materialized_inputs")
                    except ValueError as error:
                        reason = str(error)
                if requested is None and ended is None:
                    staged.reject(str(path), row.line, reason or "nothing to import", raw)
                    continue
                place = {"origin": str(path), "line": row.line}
                if requested is not None and (ended is None or requested["ident"] not in seen):
                    if len(seen) >= SEEN:
                        seen.clear()
                    seen.add(requested["ident"])
                    asked_rows.append({**requested, **place, "place": (requested.get("place", 0) << 40) + ordinal})
                if ended is not None:
                    ended_rows.append({**ended, **place, "ordinal": ordinal})
                staged.asked += ended is None
                size += len(raw)
                if len(asked_rows) + len(ended_rows) >= BATCH_ROWS or size >= BATCH_BYTES:
                    asked_file.write_table(schema.table_of(ASKED, asked_rows))
                    ended_file.write_table(schema.table_of(ENDED, ended_rows))
                    asked_rows, ended_rows, size = [], [], 0
        asked_file.write_table(schema.table_of(ASKED, asked_rows))
        ended_file.write_table(schema.table_of(ENDED, ended_rows))


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
    for field in table:
        storage = pa.string() if field.type == schema.JSON else field.type
        if field.name not in rows.column_names:
            column = pa.nulls(len(rows), storage)
        else:
            column = rows[field.name].combine_chunks().cast(storage)
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
        columns.append(pa.ExtensionArray.from_storage(schema.JSON, column) if field.type == schema.JSON else column)
    return pa.Table.from_arrays(columns, schema=table)


def _keep_rejects(workspace: Workspace, staging: Path, dataset: str) -> Path | None:
    """The rejected lines of this import, for the user to mend."""
    path = workspace.root / "rejected" / f"{dataset}.import.jsonl"
    if not (staging / "rejected.jsonl").exists():
        return None
    path.parent.mkdir(exist_ok=True)
    os.replace(staging / "rejected.jsonl", path)
    return path
