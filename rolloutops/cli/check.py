"""Checks before a GPU second or a dollar is spent: recipe, files, steps, environments, engines."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolloutops.build.explain import bind_steps
from rolloutops.cli.shape_sentences import last_turn_sentence
from rolloutops.collect.verify import Verifier, make_verifiers
from rolloutops.config.plan import EngineJob, Plan
from rolloutops.config.settings import Dataset
from rolloutops.errors import RolloutopsError
from rolloutops.formats.prompt_template import PromptTemplate
from rolloutops.ingest.inputs import find_inputs, open_rows
from rolloutops.ingest.prompt_files import read_template
from rolloutops.ingest.row_shapes import RowShapes
from rolloutops.ingest.task_columns import read_prompt
from rolloutops.layout import count
from rolloutops.store import sql
from rolloutops.store.damage import damaged, find_all, parts_of
from rolloutops.store.workspace import connect, open_workspace
from rolloutops.types import Rollout, Task

SHOWN = 3

LOOKED_AT = 1000
"""Rows of an input that are looked at."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    good: bool
    sentence: str
    warns: bool = False

    @property
    def label(self) -> str:
        """What stands before the sentence."""
        return "BAD " if not self.good else "WARN" if self.warns else "ok  "


def check(plan: Plan, deep: bool = False) -> Iterator[Finding]:
    """Look at everything that a run of the recipe will need. Engines are asked whether they could start.

    deep: also read every part file of the workspace; if one is damaged, that is all.
    """
    yield Finding(True, f"recipe {plan.path or '(from flags)'} read: {', '.join(plan.datasets) or 'no dataset'}")
    yield _workspace(plan.data)
    if deep:
        broken = [str(damaged(path, why)) for path, why in find_all(plan.data)]
        yield from (Finding(False, sentence) for sentence in broken)
        yield Finding(not broken, f"{count(len(parts_of(plan.data)), 'part file')} read, {len(broken)} damaged")
        if broken:
            return
    for name, dataset in plan.datasets.items():
        try:
            paths = find_inputs(dataset.input, *plan.places)
            yield Finding(True, f"{name}: {count(len(paths), 'input file')}")
            template = read_template(name, dataset, plan.places)
            if template is not None:
                yield Finding(True, f"{name}: prompt file {template.name}")
            yield from _first_rows(name, dataset, paths, template)
        except RolloutopsError as error:
            yield Finding(False, f"{name}: {error}")
    yield from _steps(plan)
    try:
        verifiers = make_verifiers(plan)
    except RolloutopsError as error:
        yield Finding(False, str(error))
    else:
        for name, verifier in verifiers.items():
            yield from _gold(plan, name, verifier)
            for what, settings in (
                ("the judge's engine", getattr(verifier.environment, "engine", None)),
                (f"environment {verifier.name}", verifier.environment),
            ):
                if hasattr(settings, "ready"):
                    yield _ready(f"{name}: {what}", settings)
    try:
        for job in plan.jobs:
            yield _engine(job)
    except RolloutopsError as error:
        yield Finding(False, str(error))


def _first_rows(
    name: str, dataset: Dataset, paths: Sequence[Path], template: PromptTemplate | None
) -> Iterator[Finding]:
    """Whether the first rows of the input are tasks, and whether their prompts end with an assistant turn."""
    shapes, read, bad, example = RowShapes(), 0, 0, ""
    rows = ((path, row) for path in paths for row in open_rows(path))
    for path, row in itertools.islice(rows, LOOKED_AT):
        reason, read = row.reason, read + 1
        if row.value is not None:
            try:
                filled = row.value if template is None else template.fill(row.value)
                shapes.add(read_prompt(dataset, filled), f"{path}:{row.line}")
            except ValueError as error:
                reason = str(error)
        if reason is not None:
            bad, example = bad + 1, example or f"{path}:{row.line}: {reason}"
    if bad:
        yield Finding(
            bad < read, f"{name}: of the first {count(read, 'row')} {bad:,} cannot be read: {example}", warns=True
        )
    if shapes.last_turns:
        yield Finding(True, f"{name}: of the first {count(LOOKED_AT, 'row')}, {last_turn_sentence(shapes)}", warns=True)


def _steps(plan: Plan) -> Iterator[Finding]:
    """Each step as `run --dry_run` binds it. The shipped metrics steps that a recipe does not name say nothing."""
    try:
        rows = plan.rows
    except RolloutopsError:  # an environment that is not there is found below; steps are bound anyway
        rows = []
    for use, outcome in bind_steps(plan, rows):
        if isinstance(outcome, RolloutopsError):
            yield Finding(False, str(outcome))
        elif use.kind != "metrics" or plan.metrics:
            note = "" if outcome else "; not checked, because the step that it starts from is wrong"
            yield Finding(True, f"[{use.kind}.{use.name}] {use.use}{note}")


def _workspace(data: Path) -> Finding:
    place = next(folder for folder in (data, *data.absolute().parents) if folder.exists())
    if not os.access(place, os.W_OK):
        return Finding(False, f"{data} cannot be written: permission denied at {place}; choose another with --data")
    return Finding(True, f"workspace {data}")


def _gold(plan: Plan, name: str, verifier: Verifier) -> Iterator[Finding]:
    """Every task's own answer must score 1.0; those that do not are broken tasks, or a broken verifier."""
    try:
        getattr(verifier.environment, "preflight", lambda: None)()
    except RolloutopsError as error:
        yield Finding(False, f"{name}: {error}")
        return
    gold = getattr(verifier.environment, "gold", None)
    if gold is None or not (plan.data / "tasks" / name).is_dir():
        what = "it has no gold answers" if gold is None else "run chunk first, then check also scores its gold answers"
        yield Finding(True, f"{name}: environment {verifier.name}; {what}")
        return
    con = connect(open_workspace(plan.data))
    query = "SELECT task_id, row::VARCHAR, prompt::VARCHAR, tools::VARCHAR, answer FROM tasks "
    tasks = [
        Task(name, task_id, json.loads(row), json.loads(prompt), json.loads(tools) if tools else None, answer)
        for task_id, row, prompt, tools, answer in sql.rows(con, f"{query} WHERE dataset = {sql.literal(name)}")
    ]
    scored, broken = asyncio.run(_score_gold(verifier, tasks))
    yield Finding(not broken, f"{name}: {scored - len(broken):,} of {count(scored, 'gold answer')} score 1.0")
    for sentence in broken[:SHOWN]:
        yield Finding(False, sentence)


async def _score_gold(verifier: Verifier, tasks: list[Task]) -> tuple[int, list[str]]:
    scored, broken = 0, []
    for task in tasks:
        text = verifier.environment.gold(task)
        if text is None:
            continue
        scored += 1
        verdict = await verifier.verify(task, Rollout([{"role": "assistant", "content": text}], text, "stop"))
        if verdict.reward != 1.0:
            why = verdict.error_message or f"scores {verdict.reward}"
            broken.append(f"{task.dataset}: the gold answer of task {task.task_id} {why}")
    await verifier.close()
    return scored, broken


def _engine(job: EngineJob) -> Finding:
    """Whether the engine of a policy could start."""
    name = f"engine {job.settings.engine} {job.settings.model}".strip()
    try:
        return _ready(name, job.make_batch_client() if job.in_batches else job.make_engine())
    except RolloutopsError as error:
        return Finding(False, f"{name}: {error}")


def _ready(name: str, engine: Any) -> Finding:
    """Whether an engine could start: a method `ready` of its own says so where it has one."""
    ready = getattr(engine, "ready", None)
    try:
        return Finding(True, f"{name}: {asyncio.run(ready()) if ready else 'found'}")
    except RolloutopsError as error:
        return Finding(False, f"{name}: {error}")
