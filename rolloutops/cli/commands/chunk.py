"""`chunk`: read input files into tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rolloutops.cli.flags import Parsed
from rolloutops.cli.printing import say
from rolloutops.cli.prompt_sentences import changed_prompt_sentences, prompt_sentences
from rolloutops.cli.rejected import rejected_sentences, remedy
from rolloutops.cli.shape_sentences import shape_sentences
from rolloutops.cli.shared_flags import OF_INPUTS, SOURCE, keys, stage
from rolloutops.cli.tables import table
from rolloutops.cli.which_recipe import plan_of
from rolloutops.cli.which_workspace import announce_new
from rolloutops.config.plan import Plan
from rolloutops.config.settings import Chunk
from rolloutops.layout import count

if TYPE_CHECKING:
    from rolloutops.ingest.chunk import ChunkReport


def body(parsed: Parsed) -> int:
    """Input files -> tasks."""
    return chunk_and_say(plan_of(parsed, "chunk"))


COMMAND = stage("chunk", body, "Read input files into tasks", *SOURCE, *keys(Chunk), aliases=OF_INPUTS)


def chunk_and_say(plan: Plan) -> int:
    """Chunk and say what came of it; 2 where lines were rejected and that was not allowed."""
    with announce_new(plan.data):
        done = chunk_inputs(plan)
        say(*sentences(done, plan.chunk.skip_bad_lines))
    return 2 if any(one.rejected for one in done) and not plan.chunk.skip_bad_lines else 0


def chunk_inputs(plan: Plan) -> list[ChunkReport]:
    """Chunk the input of each dataset, and record the run."""
    from rolloutops.ingest.chunk import chunk, find_sources
    from rolloutops.store.runs import recorded
    from rolloutops.store.workspace import open_workspace

    sources = find_sources(plan)  # a mistake in them leaves no workspace behind
    workspace = open_workspace(plan.data, create=True)
    with recorded(workspace, "chunk", plan) as run:
        done = chunk(workspace, plan, sources, run.run_id)
        for one in done:
            counts = {name: value for name, value in asdict(one).items() if isinstance(value, int)}
            run.counts[one.dataset] = {**counts, "read_by": one.read_by}
        run.exit_code = 2 if any(one.rejected for one in done) and not plan.chunk.skip_bad_lines else 0
        return done


def sentences(done: Sequence[ChunkReport], skip_bad_lines: bool) -> Iterator[str]:
    """Say what became of each input."""
    if not done:
        yield "no dataset has an input: tasks that were imported stay as they are"
        return
    columns = ("dataset", "read", "new", "edited", "returned", "removed", "unchanged", "duplicates", "rejected")
    yield table(columns, [[getattr(one, name) for name in columns] for one in done])
    for one in done:
        if one.removed:
            yield f"{one.dataset}: {count(one.removed, 'task')} removed from the input; their rollouts stay on disk"
        yield from shape_sentences(one.shapes, one.dataset)
        yield from changed_prompt_sentences(one.dataset, one.changed_prompts)
        if one.first_prompt is not None:
            yield from prompt_sentences(one.dataset, one.first_prompt)
        yield from rejected_sentences(one, one.dataset)
    if any(one.rejected for one in done) and not skip_bad_lines:
        yield remedy("chunk")
