"""The import stage: the files of a command line into the datasets of a workspace, which is made where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rolloutops.config.plan import make_plan
from rolloutops.config.recipe import LastRecipe, Recipe, checked_name, from_flags
from rolloutops.config.settings import Dataset
from rolloutops.errors import InputError, UsageError
from rolloutops.ingest.import_datasets import ByField, InputFile, by_file
from rolloutops.ingest.import_rollouts import ImportChoices, ImportReport, count_nothing, find_files, import_groups
from rolloutops.store.runs import last_recipe, recorded
from rolloutops.store.workspace import open_workspace, patterns


ShowProgress = Callable[[Sequence[Path]], AbstractContextManager[Callable[[], None]]]
"""Shows how far the reading of files is: a context whose value counts one row."""


def import_stage(
    paths: Sequence[str],
    data: Path | None = None,
    choices: ImportChoices | None = None,
    recipe: Recipe | None = None,
    skip_bad_lines: bool = False,
    progress: ShowProgress = lambda _: nullcontext(count_nothing),
) -> list[ImportReport]:
    """Import files into a workspace, which is made where there is none, and record the run.

    data: the workspace (default: the recipe's, else data/<dataset>). recipe: (default: the workspace's last; datasets
    are added where no policy collects). progress: shows how far the reading of files is.
    """
    choices = _with_recipe(choices or ImportChoices(), recipe)
    data = workspace_of(paths, data, choices.dataset, recipe)
    found, files, skipped = find_files(paths, Path())  # a mistake in them leaves no workspace behind
    if not files:
        raise InputError(f"there is no rollout in {', '.join(map(str, found))}")
    groups, by_field = _groups(files, choices)
    workspace = open_workspace(data, create=True)
    last = LastRecipe(recipe or Recipe(data, {}), {})
    if recipe is None and patterns(workspace)["runs"]:
        last = last_recipe(workspace)
    # Where a policy collects, a dataset that is added would be asked of it too, and nobody asked for that.
    added = {} if last.recipe.policy_names(last.flags) else {name: Dataset(id=choices.id) for name in groups}
    recipe = replace(last.recipe, data=data, datasets={**added, **last.recipe.datasets})
    plan = make_plan(recipe, earlier=last.flags)
    with recorded(workspace, "import", plan) as run, progress([file.path for file in files]) as count_row:
        done = import_groups(workspace, groups, by_field, run.run_id, choices, plan.chunk.rows_per_part, count_row)
        done[0] = replace(done[0], skipped=[str(path) for path in skipped])
        run.counts = _counts(done)
        run.exit_code = 2 if any(one.rejected for one in done) and not skip_bad_lines else 0
        return done


def workspace_of(paths: Sequence[str], data: Path | None, dataset: str | None, recipe: Recipe | None) -> Path:
    """The workspace that an import fills: the one that is named, else the recipe's, else data/<dataset>, by the name of
    the first file where none is given."""
    if data is None and recipe is None:
        return from_flags({"input": list(paths)} | ({"dataset": dataset} if dataset else {})).data
    return data or (recipe.data if recipe else Path())


def _with_recipe(choices: ImportChoices, recipe: Recipe | None) -> ImportChoices:
    """The choices with what a recipe says: its only dataset, and that one's id field."""
    if choices.dataset is not None:
        checked_name(choices.dataset, "--dataset")
    if recipe is None or choices.dataset_field is not None:
        return choices
    if choices.dataset is None and len(recipe.datasets) == 1:
        choices = choices._replace(dataset=next(iter(recipe.datasets)))
    own = recipe.datasets.get(choices.dataset or "")
    return choices if own is None or choices.id is not None else choices._replace(id=own.id)


def _groups(files: list[InputFile], choices: ImportChoices) -> tuple[dict[str, list[InputFile]], ByField | None]:
    """dataset -> its files; with a dataset field, all files of each dataset, and which row is of which."""
    if choices.dataset is not None and choices.dataset_field is not None:
        raise UsageError("--dataset puts all rows into one dataset, --dataset_field into several: pass only one")
    if choices.dataset is not None:
        return {choices.dataset: files}, None
    if choices.dataset_field is None:
        return by_file(files), None
    found = ByField(choices.dataset_field, files)
    return dict.fromkeys(found.values, files), found


def _counts(done: Sequence[ImportReport]) -> dict[str, Any]:
    """What the log of runs keeps: the counts, by dataset where there are several."""
    by_name = {
        one.dataset: {key: value for key, value in asdict(one).items() if isinstance(value, int)} for one in done
    }
    return by_name if len(done) > 1 else by_name[done[0].dataset]
