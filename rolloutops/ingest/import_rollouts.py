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

A session file that has grown since it was imported is another attempt at the same rollout, and the one that counts.
A rollout keeps its `_ng_rollout_index`, or gets the next free one where it has none or another row has it. An attempt
is named after the hash of its row, so the same row is never imported twice; a row that occurs twice in the files is a
further attempt at the same rollout, which the views show once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rolloutops.config.plan import make_plan
from rolloutops.config.recipe import LastRecipe, Recipe, checked_name, from_flags
from rolloutops.errors import InputError
from rolloutops.ingest.append_rollouts import append_rollouts, resolve_keys
from rolloutops.ingest.chunk import changing_tasks, staging_folder
from rolloutops.ingest.import_datasets import ByField, ImportChoices, InputFile, datasets_of, find_files
from rolloutops.ingest.inputs import is_json_lines
from rolloutops.ingest.rollout_batches import Rejected, RolloutSource
from rolloutops.ingest.session_files import folder_name, take_sessions
from rolloutops.ingest.staged_rollouts import Staging, stage_rows, why_unresolved
from rolloutops.ingest.unchanged_input import count_imported
from rolloutops.layout import count
from rolloutops.store import sql
from rolloutops.store.runs import last_recipe, recorded
from rolloutops.store.workspace import Workspace, open_workspace, patterns


@dataclass(frozen=True)
class ImportReport:
    """What became of the rows: each is a prompt (a request, an input), a rollout or several, a failure, or rejected.

    already_present: rollouts that the workspace had. duplicates: equal to another row of these files. tasks: new
    ones. renumbered: rollouts whose index another one has. grown: sessions that replace a shorter state of theirs.
    masked: rollouts whose reward measures nothing. empty: rollouts of NeMo Gym with neither answer nor reward.
    reasons: why rollouts failed or were refused, with counts. skipped: files that hold none. shapes: rows by the
    shape that they were read as. left_out: fields and events that no reader knows, by name. parts: content parts of
    unknown types, which are kept. nulls: nulls of a table's struct columns, which are left out.
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
    grown: int
    policies: list[str]
    reasons: dict[str, int]
    skipped: list[str]
    rejected_file: Path | None
    examples: list[str]
    shapes: Counter[str]
    left_out: Counter[str]
    parts: Counter[str]
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
        settings = plan.chunk
        done = _import_groups(
            workspace, groups, by_field, run.run_id, choices, settings.rows_per_part, count_row, settings.processes
        )
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
    processes: int | None = None,
) -> list[ImportReport]:
    """Import each dataset's files. Raises InputError where no row of any can be used; then nothing was written."""
    together = [list(groups)] if by_field is not None else [[name] for name in groups]
    done: list[ImportReport] = []
    usable = False
    for names in together:
        with ExitStack() as held:
            for name in sorted(names):
                held.enter_context(changing_tasks(workspace, name))
            present = _count_present(workspace, names[0], groups[names[0]]) if by_field is None else 0
            if present:
                done.append(_all_present(names[0], len(groups[names[0]]), present))
                usable = True
                continue
            stagings = {n: Staging(held.enter_context(staging_folder(workspace, f"{run_id}-{n}"))) for n in names}
            files = groups[names[0]]
            stage_rows(files, RolloutSource(choices, by_field, names[0]), stagings, count_row, processes)
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


def _count_present(workspace: Workspace, dataset: str, files: Sequence[InputFile]) -> int:
    """Count the rows of files if all are rollouts that the dataset has; else 0."""
    if not all(file.kind == "rollouts" and is_json_lines(file.path) for file in files):
        return 0
    return count_imported(workspace, dataset, [file.path for file in files])


def _all_present(dataset: str, files: int, rows: int) -> ImportReport:
    """The report on files of which nothing is new."""
    return ImportReport(
        dataset,
        files=files,
        read=rows,
        already_present=rows,
        prompts=0,
        rollouts=0,
        failures=0,
        duplicates=0,
        rejected=0,
        tasks=0,
        verdicts=0,
        masked=0,
        empty=0,
        renumbered=0,
        grown=0,
        nulls=0,
        policies=[],
        skipped=[],
        rejected_file=None,
        examples=[],
        shapes=Counter(),
        left_out=Counter(),
        parts=Counter(),
        reasons=Counter(),
    )


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
    con = resolve_keys(workspace, dataset, staged.folder)
    for origin, line, why, *about in sql.rows(con, "SELECT * FROM unresolved ORDER BY origin, line"):
        staged.reject(Rejected(origin, line, why or why_unresolved(*about), ""))
    counts = append_rollouts(workspace, con, dataset, run_id, rows_per_part, staged.folder)
    return ImportReport(
        dataset,
        files=files,
        read=staged.read,
        prompts=staged.prompts,
        rejected=staged.rejected,
        skipped=[],
        rejected_file=_keep_rejects(workspace, staged.folder, dataset),
        examples=staged.examples,
        shapes=staged.shapes,
        left_out=staged.left_out,
        parts=staged.parts,
        nulls=staged.nulls,
        **counts,
    )


def _counts(done: Sequence[ImportReport]) -> dict[str, Any]:
    """What the log of runs keeps: the counts, by dataset where there are several."""
    by_name = {
        one.dataset: {key: value for key, value in asdict(one).items() if isinstance(value, int)} for one in done
    }
    return by_name if len(done) > 1 else by_name[done[0].dataset]


def _keep_rejects(workspace: Workspace, staging: Path, dataset: str) -> Path | None:
    """The rejected lines of this import, for the user to mend."""
    path = workspace.root / "rejected" / f"{dataset}.import.jsonl"
    if not (staging / "rejected.jsonl").exists():
        return None
    path.parent.mkdir(exist_ok=True)
    os.replace(staging / "rejected.jsonl", path)
    return path
