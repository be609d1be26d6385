"""`import`: rollouts made elsewhere to tasks, attempts and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import say
from rolloutops.cli.rejected import rejected_sentences, remedy
from rolloutops.cli.shape_sentences import with_counts
from rolloutops.cli.shared_flags import DATA, MEDIA, QUERIES, RECIPE
from rolloutops.cli.tables import table
from rolloutops.cli.which_workspace import announce_new, refuse_twin
from rolloutops.config.paths import as_path
from rolloutops.config.query_limits import limit_queries
from rolloutops.config.recipe_file import load
from rolloutops.layout import count

if TYPE_CHECKING:
    from rolloutops.ingest.import_rollouts import ImportReport


def body(parsed: Parsed) -> int:
    """Rollouts made elsewhere -> tasks, attempts and verdicts; 2 where lines were rejected and that was not allowed."""
    from rolloutops.ingest.import_datasets import ImportChoices
    from rolloutops.ingest.import_rollouts import import_stage, workspace_of

    flags, skip = parsed.flags, parsed.flags.get("skip_bad_lines", False)
    recipe = load(flags["recipe"]) if "recipe" in flags else None
    limit_queries(flags, recipe.duckdb if recipe is not None else None)
    data = as_path(flags["data"]) if "data" in flags else None
    if recipe is not None and data is None:
        refuse_twin(recipe.data, recipe.folder)
    files = parsed.positionals["files"]
    choices = ImportChoices(**{name: flags.get(name) for name in ImportChoices._fields})
    with announce_new(workspace_of(files, data, choices.dataset, recipe)):
        done = import_stage(files, data, choices, recipe, skip, _progress)
        say(*_sentences(done, skip))
    return 2 if any(one.rejected for one in done) and not skip else 0


COMMAND = Command(
    "import",
    body,
    "Import rollouts from other tools: NeMo Gym's files, chat logs, prompts with answers, batches, agent sessions",
    (
        DATA,
        Flag("dataset", str, "one dataset for all files (default: the recipe's only one, else one for each file)"),
        Flag("dataset_field", str, "the field of each row that names its dataset, e.g. task_name"),
        Flag("policy", str, "the policy's name (default: the model that each row names)"),
        Flag("id", str, "the field that holds the id of each row's task (default: the task's content)"),
        RECIPE,
        *MEDIA,
        Flag("skip_bad_lines", bool, "skip (and count) lines that cannot be imported; exit with 0"),
        *QUERIES,
    ),
    (Flag("files", list[str], "rollout files, globs or folders", required=True),),
    group="Stages",
)


@contextmanager
def _progress(paths: Sequence[Path]) -> Iterator[Callable[[], None]]:
    """Show how many lines of the files are read, where that takes long."""
    from rolloutops.ingest.staged_rollouts import count_lines
    from rolloutops.limits.progress import Progress, show_progress

    meter = Progress("lines", 0)

    def count_row() -> None:
        meter.done += 1
        meter.pending = max(meter.pending, meter.done)

    def count_pending() -> None:
        meter.pending = max(sum(map(count_lines, paths)), meter.done)

    with show_progress(meter, count_pending):
        yield count_row


def _sentences(done: Sequence[ImportReport], skip_bad_lines: bool) -> Iterator[str]:
    """Say what became of imported rows."""
    counted = (
        "read",
        "prompts",
        "rollouts",
        "failures",
        "duplicates",
        "already_present",
        "rejected",
        "tasks",
        "verdicts",
    )
    columns = ("dataset", *counted)
    yield table(columns, [[getattr(one, name) for name in columns] for one in done])
    for one in done:
        of = f"{one.dataset}: " if len(done) > 1 else ""
        yield from (of + sentence for sentence in _about(one))
        yield from rejected_sentences(one, one.dataset if len(done) > 1 else "")
    if any(one.rejected for one in done) and not skip_bad_lines:
        yield remedy("import")


def _about(done: ImportReport) -> Iterator[str]:
    """Say how the rows of one dataset were read."""
    if done.shapes:
        yield f"recognized: {with_counts(done.shapes)}"
    if done.left_out:
        yield f"fields not used, kept in the column response only: {with_counts(done.left_out)}"
    if done.parts:
        yield f"content parts of unknown types, kept as they are: {with_counts(done.parts)}"
    if done.nulls:
        yield f"{count(done.nulls, 'null')} left out: the file's format adds them to objects that lack a key"
    if done.policies:
        yield f"policies: {', '.join(done.policies)}"
    if done.reasons:
        kinds = ", ".join(f"{number:,} {reason}" for reason, number in done.reasons.items())
        yield f"failed or refused: {kinds}"
    if done.masked:
        yield f"{count(done.masked, 'rollout')} masked: their reward is not valid and is left out"
    if done.empty:
        yield f"{count(done.empty, 'rollout')} with neither answer nor reward: if these are tasks, read them with chunk"
    if done.grown:
        yield f"{count(done.grown, 'session')} longer than when imported before: the longer one counts"
    if done.renumbered:
        yield f"{count(done.renumbered, 'rollout')} renumbered: their rollout_index was taken"
    if done.skipped:
        yield f"no rollouts in: {', '.join(done.skipped)}"
