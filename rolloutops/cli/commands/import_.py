"""`import`: rollouts made elsewhere to tasks, attempts and verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import say
from rolloutops.cli.rejected import rejected_sentences, remedy
from rolloutops.cli.shared_flags import DATA, MEDIA, RECIPE
from rolloutops.cli.tables import table
from rolloutops.cli.which_workspace import announce_new, refuse_twin
from rolloutops.config.paths import as_path
from rolloutops.config.recipe_file import load
from rolloutops.layout import count

if TYPE_CHECKING:
    from rolloutops.ingest.import_rollouts import ImportReport


def body(parsed: Parsed) -> int:
    """Rollouts made elsewhere -> tasks, attempts and verdicts; 2 where lines were rejected and that was not allowed."""
    from rolloutops.ingest.import_rollouts import import_stage, workspace_of

    flags, skip = parsed.flags, parsed.flags.get("skip_bad_lines", False)
    recipe = load(flags["recipe"]) if "recipe" in flags else None
    data = as_path(flags["data"]) if "data" in flags else None
    if recipe is not None and data is None:
        refuse_twin(recipe.data, recipe.folder)
    files, dataset = parsed.positionals["files"], flags.get("dataset")
    with announce_new(workspace_of(files, data, dataset, recipe)):
        media = {flag.name: flags[flag.name] for flag in MEDIA if flag.name in flags}
        done = import_stage(files, data, dataset, flags.get("policy"), recipe, skip, media)
        say(*_sentences(done, skip))
    return 2 if done.rejected and not skip else 0


COMMAND = Command(
    "import",
    body,
    "Import rollouts made elsewhere: NeMo Gym's files, chat logs, OpenAI Batch output",
    (
        DATA,
        Flag("dataset", str, "the dataset's name (default: the recipe's only one, else the first file's name)"),
        Flag("policy", str, "the policy's name (default: the model that each row names)"),
        RECIPE,
        *MEDIA,
        Flag("skip_bad_lines", bool, "skip (and count) lines that cannot be imported; exit with 0"),
    ),
    (Flag("files", list[str], "rollout files, globs or folders", required=True),),
    group="stages",
)


def _sentences(done: ImportReport, skip_bad_lines: bool) -> Iterator[str]:
    """Say what became of imported rows."""
    counted = ("read", "asked", "rollouts", "failures", "duplicates", "known", "rejected", "tasks", "verdicts")
    columns = ("dataset", *counted)
    yield table(columns, [[getattr(done, name) for name in columns]])
    if done.policies:
        yield f"policies: {', '.join(done.policies)}"
    if done.masked:
        yield f"{count(done.masked, 'rollout')} masked: their reward is not valid and is left out"
    if done.empty:
        yield f"{count(done.empty, 'rollout')} with neither answer nor reward: if these are tasks, read them with chunk"
    if done.renumbered:
        yield f"{count(done.renumbered, 'rollout')} renumbered: their rollout_index was taken"
    if done.skipped:
        yield f"no rollouts in: {', '.join(done.skipped)}"
    yield from rejected_sentences(done)
    if done.rejected and not skip_bad_lines:
        yield remedy("import")
