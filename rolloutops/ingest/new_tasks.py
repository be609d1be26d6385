"""What is new in a recipe's input becomes tasks when `collect` starts: new and edited lines, and no others are parsed.

Each line's hash is compared with those of the tasks at hand, as a task holds its line byte for byte. Nothing is retired
here: what `collect` finds may be half of an input on another machine. That is left to `chunk`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rolloutops.config.plan import Plan
from rolloutops.errors import InputError, UsageError
from rolloutops.formats.prompt_template import PromptTemplate
from rolloutops.ingest.chunk import changing_tasks, keep_rejects, read_by, stage_rows, staging_folder
from rolloutops.ingest.inputs import RawRow, file_state, find_inputs, is_missing, refuse_change, unparsed_rows
from rolloutops.ingest.line_hashes import hash_lines
from rolloutops.ingest.prompt_files import read_template
from rolloutops.ingest.row_shapes import RowShapes
from rolloutops.ingest.task_changes import ChangedPrompts, append_tasks, compare, find_changed_prompts
from rolloutops.layout import count
from rolloutops.store import sql
from rolloutops.store.runs import Run, recorded
from rolloutops.store.workspace import Workspace, chunked_datasets, connect, open_workspace, writing

UNKNOWN = """
SELECT file, line
FROM lines
ANTI JOIN known ON known.hash = lines.hash
ORDER BY file, line
"""
"""The lines that no task holds as they are."""

GONE = """
SELECT count(*)
FROM known AS k
ANTI JOIN lines AS l ON l.hash = k.hash
"""
"""Tasks whose line is not in the input."""

REWRITTEN = """
SELECT count(*)
FROM known AS k
ANTI JOIN lines AS l ON l.hash = k.hash
SEMI JOIN staged AS s ON s.task_id = k.task_id
"""
"""Of these, the tasks of which another line of the input is the present form."""

CONFLICTS = """
SELECT s.task_id, s.origin, s.line, min_by((l.file, l.line), (l.file, l.line)) AS place
FROM staged AS s
JOIN known AS k ON k.task_id = s.task_id AND split_part(k.row_hash, '/', 1) <> s.row_hash
JOIN lines AS l ON l.hash = k.hash
GROUP BY ALL
ORDER BY min(s.ordinal)
"""
"""New lines whose id another line of the input has, which a task holds as it is."""


ALL = "SELECT file, line FROM lines ORDER BY file, line"


@dataclass(frozen=True)
class NewTasks:
    """What `collect` added from one dataset's input.

    changed_prompts: of the edited tasks, those with the same row. gone: tasks that the input no longer holds; they
    stay. unchanged: the other tasks that were there before. missing: names of the input that no file here has. shapes:
    how the new rows were read."""

    dataset: str
    new: int = 0
    edited: int = 0
    returned: int = 0
    gone: int = 0
    unchanged: int = 0
    rejected: int = 0
    rejected_file: Path | None = None
    examples: Sequence[str] = field(default_factory=list)
    missing: Sequence[str] = field(default_factory=list)
    shapes: RowShapes | None = None
    changed_prompts: ChangedPrompts | None = None


def add_new_tasks(plan: Plan) -> Iterator[NewTasks]:
    """Take in what is new in the input of each dataset; those with nothing to say are left out.

    Raises UsageError or InputError for a dataset with neither tasks nor an input, and for a file that changes while it
    is read, before anything of it is written.
    """
    chunked = chunked_datasets(Workspace(plan.data))
    inputs = {name: _find(plan, name, name in chunked) for name in plan.datasets}
    if not any(paths for paths, _ in inputs.values()):
        yield from (NewTasks(name, missing=missing) for name, (_, missing) in inputs.items() if missing)
        return
    templates = {
        name: read_template(name, plan.datasets[name], plan.places) if inputs[name][0] else None for name in inputs
    }
    workspace = open_workspace(plan.data, create=True)
    with writing(workspace), ExitStack() as stack:
        run: Run | None = None
        for name, (paths, missing) in inputs.items():
            template = templates[name]
            present = read_by(plan.datasets[name], template)
            with changing_tasks(workspace, name):
                there = name in chunked_datasets(workspace)
                lines = _new_lines(workspace, name, paths, present) if there else None
                if lines is None or lines.unknown:
                    run = run or stack.enter_context(recorded(workspace, "chunk", plan))
                found = _take_in(workspace, plan, name, paths, missing, lines, template, run.run_id if run else "")
            if run is not None:
                run.counts[name] = {k: v for k, v in asdict(found).items() if isinstance(v, int)} | {
                    "read_by": present,
                    "reread": found.shapes.reread if found.shapes else 0,
                }
                run.exit_code = 2 if found.rejected and not plan.chunk.skip_bad_lines else run.exit_code
            if found != NewTasks(name, unchanged=found.unchanged):
                yield found


@dataclass(frozen=True)
class _Lines:
    """The lines of an input beside the tasks at hand. con: has the tables lines and known. unknown: file -> its lines
    that no task holds, or that were read otherwise before. states: of the files when they were read."""

    con: sql.Connection
    unknown: Mapping[Path, array[int]]
    states: Mapping[Path, tuple[int, ...]]


def _find(plan: Plan, name: str, chunked: bool) -> tuple[list[Path], list[str]]:
    """Find a dataset's input files, and the names under which nothing lies; a mistake where it has no tasks either."""
    patterns = plan.datasets[name].input
    if not patterns and not chunked:
        raise UsageError(f"dataset {name!r} has no input: add input = … to [datasets.{name}], or give --input=FILE")
    missing = [pattern for pattern in patterns if chunked and is_missing(pattern, *plan.places)]
    there = [pattern for pattern in patterns if pattern not in missing]
    return find_inputs(there, *plan.places) if there else [], missing


def _new_lines(workspace: Workspace, name: str, paths: Sequence[Path], present: str) -> _Lines:
    """Compare the lines of the input with those of the tasks. present: what reads them now (`read_by`)."""
    con = connect(workspace)
    sql.run(
        con,
        f"""
        CREATE TABLE lines (file INTEGER, line BIGINT, hash UBIGINT);
        -- From the log, not the view: through a join DuckDB gathers rows, whatever their length.
        CREATE TABLE hashed AS
            SELECT task_id, row_hash, version, hash(row::VARCHAR) AS hash FROM task_log
            WHERE dataset = {sql.literal(name)};
        CREATE TABLE known AS
            SELECT h.task_id, h.row_hash, h.hash FROM hashed AS h
            SEMI JOIN (FROM tasks WHERE dataset = {sql.literal(name)}) AS t
                ON t.task_id = h.task_id AND t.row_hash = h.row_hash AND t.version IS NOT DISTINCT FROM h.version;
        DROP TABLE hashed;
        """,
    )
    states = {path: file_state(path) for path in paths}
    for number, path in enumerate(paths):
        hash_lines(con, number, path)
    unknown: dict[Path, array[int]] = {}
    for batch in sql.stream(con, UNKNOWN if _last_read_by(con, name) == present else ALL):
        for number, line in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            unknown.setdefault(paths[number], array("q")).append(line)
    return _Lines(con, unknown, states)


def _last_read_by(con: sql.Connection, name: str) -> str | None:
    """What read the input of a dataset when its tasks were last compared with it, as the log of runs has it."""
    place = sql.literal(f'$."{name}".read_by')
    read_by = f"json_extract_string(counts, {place})"
    found = sql.rows(con, f"SELECT {read_by} FROM runs WHERE {read_by} IS NOT NULL ORDER BY run_id DESC LIMIT 1")
    return found[0][0] if found else None


def _take_in(
    workspace: Workspace,
    plan: Plan,
    name: str,
    paths: Sequence[Path],
    missing: Sequence[str],
    lines: _Lines | None,
    template: PromptTemplate | None,
    run_id: str,
) -> NewTasks:
    """Append the tasks of the unknown lines; of all lines where there are no tasks yet."""
    before = sql.rows(lines.con, "SELECT count(*) FROM known")[0][0] if lines is not None else 0
    if lines is not None and not lines.unknown:
        gone = 0 if missing or not paths else sql.rows(lines.con, GONE)[0][0]
        return NewTasks(name, gone=gone, unchanged=before - gone, missing=missing)
    with staging_folder(workspace, f"{run_id}-{name}") as staging:
        read, rejected, examples, shapes = stage_rows(staging, name, plan, _rows(paths, lines), template)
        if lines is None and read == rejected:
            first = (
                f"none of {count(read, 'line')} is a task; the first: {examples[0]}"
                if read
                else "there are only blank lines; regenerate the file, or remove it from the input"
            )
            raise InputError(f"{name}: {first}")
        con = compare(workspace, name, staging)
        changed_prompts = find_changed_prompts(con, name)
        gone = _check(lines, name, paths, staging) if lines is not None else 0
        counts = append_tasks(workspace, con, name, plan.chunk, staging)
        return NewTasks(
            name,
            new=counts.new,
            edited=counts.edited,
            returned=counts.returned,
            gone=0 if missing else gone,
            unchanged=before - gone - counts.edited,
            rejected=rejected,
            rejected_file=keep_rejects(workspace, staging, name, rejected),
            examples=examples,
            missing=missing,
            shapes=shapes,
            changed_prompts=changed_prompts,
        )


def _rows(paths: Sequence[Path], lines: _Lines | None) -> Iterator[tuple[Path, Iterator[RawRow]]]:
    """Each file with its unknown lines, or all of them."""
    for path in paths:
        if lines is None:
            yield path, unparsed_rows(path)
        elif path in lines.unknown:
            yield path, unparsed_rows(path, lines.unknown[path])
            refuse_change(path, lines.states[path])


def _check(lines: _Lines, name: str, paths: Sequence[Path], staging: Path) -> int:
    """Refuse a new line whose id another line of the input has. Returns how many tasks the input no longer holds."""
    file = sql.literal(str(staging / "staged.parquet"))
    sql.run(
        lines.con,
        f"CREATE VIEW staged AS SELECT task_id, row_hash, ordinal, origin, line FROM read_parquet({file})",
    )
    for task_id, origin, line, (number, other) in sql.rows(lines.con, CONFLICTS):
        raise InputError(
            f"{name}: two different rows have the id {task_id!r}: {paths[number]}:{other} and {origin}:{line}; "
            "make the ids unique, or leave the id field out of the recipe. Nothing was written"
        )
    return int(sql.rows(lines.con, GONE)[0][0] - sql.rows(lines.con, REWRITTEN)[0][0])
