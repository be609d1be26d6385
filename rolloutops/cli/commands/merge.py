"""`merge`: put workspaces together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import say
from rolloutops.cli.tables import table
from rolloutops.config.paths import as_path
from rolloutops.config.plan import Plan, make_plan
from rolloutops.errors import UsageError, WorkspaceError
from rolloutops.layout import count

if TYPE_CHECKING:
    from rolloutops.ingest.merge_workspaces import MergedDataset, MergedWorkspace
    from rolloutops.store.workspace import Workspace


def body(parsed: Parsed) -> int:
    """Other workspaces' tasks, attempts, verdicts and runs -> this one's."""
    from rolloutops.ingest.merge_workspaces import merge
    from rolloutops.store.workspace import open_workspace

    into_path = as_path(parsed.positionals["into"])
    paths = [as_path(text) for text in parsed.positionals["sources"]]
    resolved = [path.resolve() for path in (into_path, *paths)]
    if len({*resolved}) < len(resolved):
        raise UsageError("merge: a workspace is named twice: name the one to merge into, then each of the others once")
    sources = [open_workspace(path) for path in paths]
    plan = _plan_of(open_workspace(into_path, create=True), sources)
    flags = parsed.flags
    merged = merge(
        open_workspace(into_path), sources, plan, flags.get("link", False), flags.get("allow_policy_change", False)
    )
    say(*_sentences(merged, plan))
    return 0


COMMAND = Command(
    "merge",
    body,
    "Merge workspaces: copy tasks, rollouts, verdicts and labels of others into one",
    (
        Flag("link", bool, "hard-link the part files instead of copying them, which takes no space"),
        Flag("allow_policy_change", bool, "continue although the settings of a policy differ between workspaces"),
    ),
    (
        Flag("into", str, "the workspace to merge into; created if it does not exist", required=True),
        Flag("sources", list[str], "the workspaces to copy from; they are not changed", required=True),
    ),
    group="Stages",
)


def _plan_of(into: Workspace, sources: Sequence[Workspace]) -> Plan:
    """The plan of the recipe that a workspace last saw; of one that saw none, that of the first that is merged."""
    from rolloutops.store.runs import last_recipe

    for workspace in (into, *sources):
        try:
            recipe, flags = last_recipe(workspace)
        except WorkspaceError:
            if workspace is sources[-1]:
                raise
            continue
        return make_plan(recipe, "collect", {"data": str(into.root)}, flags)
    raise UsageError("merge: name at least one workspace to copy from")


def _sentences(merged: Sequence[MergedWorkspace], plan: Plan) -> Iterator[str]:
    """Say what came from each workspace, what was there already, and what does not agree."""
    columns = ("from", "dataset", "tasks added", "tasks known", "attempts added", "attempts known", "verdicts added")
    yield table(
        columns,
        [
            (
                *(str(one.path), name, found.tasks.added + found.tasks.returned, found.tasks.present),
                *(found.attempts.added, found.attempts.present, found.verdicts.added),
            )
            for one in merged
            for name, found in one.datasets.items()
        ],
    )
    for one in merged:
        for name, found in one.datasets.items():
            if found.labels.added:
                yield f"{one.path}, {name}: {count(found.labels.added, 'label')} added"
            yield from (f"{one.path}, {name}: {sentence}" for sentence in _differences(found))
        if one.in_journals:
            rows = count(one.in_journals, "row")
            yield f"{one.path}: without {rows} of a command that is still running: merge it again when that has ended"
    unnamed = {name for one in merged for name in one.datasets} - set(plan.known_datasets)
    for name in sorted(unnamed):
        yield f"{name}: the recipe does not name this dataset: add [datasets.{name}] to collect more of it"


def _differences(dataset: MergedDataset) -> Iterator[str]:
    tasks = dataset.tasks
    if tasks.returned:
        tasks_removed = count(tasks.returned, "task")
        yield f"{tasks_removed} removed here but not there are back: run chunk to remove those that the input lacks"
    if tasks.edited:
        yield f"{count(tasks.edited, 'task')} edited there since: the edited row counts"
    if tasks.different:
        yield (
            f"{count(tasks.different, 'task')} with another row under the same id, e.g. {tasks.example}: the row here "
            "counts, and rollouts of the other one do not"
        )
    if dataset.repeated:
        yield f"{count(dataset.repeated, 'rollout')} collected in both: the attempt that began first counts"
