"""What each command does: parse, one call, print. Only here is anything printed for the user.

Heavy packages are imported by the stages when a command runs, so that help and mistakes answer at once.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rolloutops.cli import collect_text, text
from rolloutops.cli.run import Parsed
from rolloutops.cli.shared_flags import TARGETS
from rolloutops.cli.which_workspace import is_workspace, refuse_twin
from rolloutops.config.paths import as_file, as_output, as_path
from rolloutops.config.recipe import Recipe, from_flags, with_agent, with_flags
from rolloutops.config.recipe_file import load
from rolloutops.config.redact import shown, tell
from rolloutops.config.settings import Dataset
from rolloutops.errors import UsageError
from rolloutops.visible import ascii_json, visible, visible_json


def recipe_of(parsed: Parsed, table: str = "collect") -> Recipe:
    """The recipe that a command line means: the named one, the one its flags make, or the workspace's last."""
    flags = {**parsed.flags, **parsed.overrides}
    agent = flags.pop("agent_name", None)
    name = parsed.positionals.get("recipe") or parsed.flags.get("recipe")
    if name:
        recipe = load(name)
        if "data" not in flags:
            refuse_twin(recipe.data, recipe.folder)
    elif flags.get("input"):
        recipe = from_flags(flags)
    elif flags.get("data"):
        from rolloutops.store.runs import last_recipe
        from rolloutops.store.workspace import chunked_datasets, open_workspace

        workspace = open_workspace(as_path(flags["data"]))
        recipe = last_recipe(workspace)
        if "environment" in flags:  # it may be for a dataset that the last recipe did not name
            others = dict.fromkeys(chunked_datasets(workspace), Dataset())
            recipe = dataclasses.replace(recipe, datasets={**others, **recipe.datasets})
    else:
        alone = " or --input=FILE" if parsed.command in ("chunk", "collect", "run", "check") else ""
        raise UsageError(f"{parsed.command} needs a recipe, or --data=WORKSPACE{alone}")
    return with_flags(recipe, table, flags if agent is None else with_agent(recipe, flags, agent))


def chunk(parsed: Parsed) -> int:
    """Input files -> tasks."""
    return chunk_recipe(recipe_of(parsed, "chunk"))


def chunk_recipe(recipe: Recipe) -> int:
    """Chunk and say what came of it; 2 where lines were rejected and that was not allowed."""
    from rolloutops.cli.stages import chunk_stage

    with announced(recipe.data):
        done = chunk_stage(recipe)
        say(*text.chunked(done, recipe.chunk.skip_bad_lines))
    return 2 if any(one.rejected for one in done) and not recipe.chunk.skip_bad_lines else 0


def collect(parsed: Parsed) -> int:
    """Owed -> attempts and verdicts; then the mean of each numeric field."""
    from rolloutops.cli.stages import averages, export_stage
    from rolloutops.cli.tune import refuse_name

    recipe = recipe_of(parsed)
    output = as_file(parsed.flags["output"]) if "output" in parsed.flags else None
    if isinstance(parsed.flags.get("tune"), str):
        refuse_name(as_file(parsed.flags["tune"]))
    if code := take_in(recipe):
        return code
    code = collect_recipe(recipe, parsed)
    try:
        if output is not None:
            say(f"{text.count(export_stage(recipe, output, wanted=True), 'rollout')} in {output}")
    finally:  # what was collected has averages also where the file is refused
        print(text.means(averages(recipe, wanted=True)))
    return code


def take_in(recipe: Recipe) -> int:
    """Take in what is new in the input and say so; 2 where lines were rejected and that was not allowed."""
    from rolloutops.cli.stages import new_tasks_stage

    rejected = 0
    with announced(recipe.data):
        for one in new_tasks_stage(recipe):
            say(*collect_text.new_tasks(one, recipe.chunk.skip_bad_lines))
            rejected += one.rejected
    return 2 if rejected and not recipe.chunk.skip_bad_lines else 0


def collect_recipe(recipe: Recipe, parsed: Parsed) -> int:
    """Collect and say what came of it; 3 where work is pending, 4 where more is given up than the recipe allows."""
    from rolloutops.cli.stages import collect_stage, tune_stage

    allowed = parsed.flags.get("allow_policy_change", False)
    if tune := parsed.flags.get("tune"):
        return say(*tune_stage(recipe, allowed, tune))
    done = collect_stage(recipe, allowed)
    say(*text.collected(done), *collect_text.given_up(done.losses))
    if places := recipe.secret_places():
        say(
            f"{', '.join(places)}: a key, so it is used and never recorded; safer is a variable of the environment, "
            "which api_key_env names"
        )
    return done.exit_code


def import_(parsed: Parsed) -> int:
    """Rollouts made elsewhere -> tasks, attempts and verdicts; 2 where lines were rejected and that was not allowed."""
    from rolloutops.ingest.import_rollouts import import_stage, workspace_of

    flags, skip = parsed.flags, parsed.flags.get("skip_bad_lines", False)
    recipe = load(flags["recipe"]) if "recipe" in flags else None
    data = as_path(flags["data"]) if "data" in flags else None
    if recipe is not None and data is None:
        refuse_twin(recipe.data, recipe.folder)
    files, dataset = parsed.positionals["files"], flags.get("dataset")
    with announced(workspace_of(files, data, dataset, recipe)):
        done = import_stage(files, data, dataset, flags.get("policy"), recipe, skip)
        say(*text.imported(done, skip))
    return 2 if done.rejected and not skip else 0


def export(parsed: Parsed) -> None:
    """Rollouts -> a JSONL file in NeMo Gym's shape."""
    from rolloutops.cli.stages import export_stage

    output = as_file(parsed.flags.get("output", "rollouts.jsonl"))
    rows = export_stage(recipe_of(parsed), output, parsed.flags.get("companions", False))
    say(f"{text.count(rows, 'rollout')} in {output}")


def verify(parsed: Parsed) -> int:
    """Unjudged -> verdicts; 2 where nothing could be verified, as the recipe names no environment."""
    from rolloutops.cli.stages import agreement_stage, averages, verify_stage

    recipe = recipe_of(parsed, "verify")
    done = verify_stage(recipe)
    say(*text.verified(done))
    print(text.means(averages(recipe)))
    if recipe.verify.against:
        show(text.table(*agreement_stage(recipe)))
    return 2 if done.rest.no_environment and not any(one.environment for one in recipe.datasets.values()) else 0


def metrics(parsed: Parsed) -> None:
    """The metrics steps, as tables."""
    from rolloutops.cli.stages import as_json, further_metrics, metrics_stage, report_stage

    recipe, flags = recipe_of(parsed), parsed.flags
    page = as_file(flags["report"]) if "report" in flags else None
    found = metrics_stage(recipe, flags.get("step", ()), flags.get("group_by"), flags.get("compare", ()))
    if page is not None:
        say(f"report in {report_stage(recipe, found, page)}")
    elif flags.get("json"):
        show_json("{" + ",\n".join(f"{json.dumps(name)}: {as_json(*result)}" for name, result in found.items()) + "}")
    elif flags.get("csv"):
        columns, rows = text.only_table(found)
        show_csv(columns, rows)
    else:
        show(text.measured(found))
        if not {"step", "group_by", "compare"} & set(flags):
            say("", *text.further(further_metrics(recipe, found)))


def select(parsed: Parsed) -> None:
    """The steps up to the last filter, mix or pair, and what each kept and dropped."""
    from rolloutops.cli.stages import select_stage

    show(text.funnels(select_stage(recipe_of(parsed), parsed.command)))


def build(parsed: Parsed) -> None:
    """Steps -> training files."""
    from rolloutops.cli.stages import build_stage

    flags = parsed.flags
    show(text.built(build_stage(recipe_of(parsed), flags.get("only"), flags.get("replace", False))))


def lint(parsed: Parsed) -> int:
    """Training files made elsewhere, against what their trainer rejects or damages; 2 where errors were found."""
    from rolloutops.build.lint import lint_files

    if "target" not in parsed.flags:
        raise UsageError(f"lint needs --target, what the file is for: one of {', '.join(TARGETS)}")
    found = lint_files(parsed.positionals["files"], parsed.flags["target"])
    if parsed.flags.get("json"):
        print(json.dumps(dataclasses.asdict(found), indent=4))
    else:
        show(*text.linted(found))
    return 2 if found.faulty else 0


def trace(parsed: Parsed) -> None:
    """A row of a training file -> where it came from."""
    from rolloutops.build.trace import trace as find

    data = as_path(parsed.flags["data"]) if "data" in parsed.flags else None
    found = find(as_path(parsed.positionals["file"]), parsed.flags.get("row", 1), data)
    show(*([json.dumps(found, indent=4)] if parsed.flags.get("json") else text.traced(found)))


def explain(parsed: Parsed) -> None:
    """The recipe's steps with their parameters, as a script for any DuckDB shell."""
    from rolloutops.cli.stages import explain_stage, script_stage

    recipe, only = recipe_of(parsed), parsed.flags.get("only")
    show_exactly(explain_stage(recipe, only)[0].script if only else script_stage(recipe))


def run(parsed: Parsed) -> int:
    """The whole recipe, in order; with --dry_run, only whether its steps fit together."""
    from rolloutops.cli.stages import (
        build_stage,
        dry_run_stage,
        metrics_stage,
        pinned_stage,
        refuse_builds_of_others,
        verify_stage,
    )

    recipe = recipe_of(parsed)
    steps = dry_run_stage(recipe)
    if parsed.flags.get("dry_run"):
        show(text.explained(steps))
        return 0
    recipe = pinned_stage(recipe)
    replace = parsed.flags.get("replace", False)
    if not replace:
        refuse_builds_of_others(recipe)
    if code := chunk_recipe(recipe) or collect_recipe(recipe, parsed):
        why = {3: "rollouts are pending", 4: "too many rollouts are given up"}.get(code, "lines were rejected")
        say(f"stopped here, as {why}: nothing was built")
        return code
    say(*text.verified(verify_stage(recipe, on_command=False)))
    show(text.measured(metrics_stage(recipe)))
    if any(step.kind == "build" for step in recipe.steps):
        show("\n" + text.built(build_stage(recipe, replace=replace)))
    return 0


def status(parsed: Parsed) -> int:
    """What is done, pending and failing; with --watch again and again, in place where that is a terminal."""
    from rolloutops.cli.stages import status_stage
    from rolloutops.cli.status_text import Screen
    from rolloutops.cli.status_text import status as status_lines

    recipe, screen = recipe_of(parsed), Screen(sys.stdout)
    while True:
        now = status_stage(recipe)
        if parsed.flags.get("json"):
            print(json.dumps(dataclasses.asdict(now), indent=4))
        else:
            screen.show(shown("\n".join(status_lines(now))))
        if not parsed.flags.get("watch") or not any(row["owed"] for row in now.progress):
            return 1 if now.faults else 0
        time.sleep(2.0)


def query(parsed: Parsed) -> None:
    """Any query over the views, or the script that makes them."""
    from rolloutops.cli.stages import as_json, query_stage, views_stage

    recipe, flags = recipe_of(parsed), parsed.flags
    if flags.get("print"):
        show_exactly(views_stage(recipe))
        return
    if "query" not in parsed.positionals:
        raise UsageError("sql needs a query, as in: sql 'SELECT avg(reward) FROM rollouts', or --print")
    output = as_file(flags["output"]) if "output" in flags else None
    columns, rows = query_stage(recipe, parsed.positionals["query"], output)
    if output:
        say(f"written to {output}")
    elif flags.get("json"):
        show_json(as_json(columns, rows))
    elif flags.get("csv"):
        show_csv(columns, rows)
    else:
        show(text.table(columns, rows, text.GLANCE))


def test(parsed: Parsed) -> int:
    """Golden cases of steps; 2 where one does not pass."""
    from rolloutops.build.golden import fault, find_cases, read_case

    places = [as_path(case) for case in parsed.positionals.get("cases", ["tests"])]
    faults = {str(path): fault(read_case(path), Path()) for path in find_cases(places)}
    show(*(f"BAD  {path}: {said}" if said else f"ok   {path}" for path, said in faults.items()))
    return 2 if any(faults.values()) else 0


def check(parsed: Parsed) -> int:
    """Recipe, files, environments and engines, before anything is spent."""
    from rolloutops.cli.check import check as look

    findings = list(look(recipe_of(parsed), parsed.flags.get("deep", False)))
    show(*(f"{'ok ' if one.good else 'BAD'}  {one.sentence}" for one in findings))
    return 0 if all(one.good for one in findings) else 2


def list_(parsed: Parsed) -> None:
    """Recipes, steps, engines and environments."""
    from rolloutops.cli.listing import listing

    tables = (f"{heading}\n{text.table(('name', 'what it does', 'where'), rows)}" for heading, rows in listing())
    show("\n\n".join(tables))


def init(parsed: Parsed) -> None:
    """Copies of a recipe, its SQL and its example files, to be edited."""
    from rolloutops.cli.listing import copy_shipped

    show(*map(str, copy_shipped(parsed.positionals.get("recipe", "demo"), as_output(parsed.flags.get("into", ".")))))


@contextmanager
def announced(data: Path) -> Iterator[None]:
    """Say where a workspace lies that was made within the block."""
    there = is_workspace(data)
    yield
    if not there and is_workspace(data):
        say(f"new workspace: {data.resolve()}")


def say(*lines: str) -> int:
    """A message for the person at the terminal. Returns the exit code of a command that ends with it."""
    tell(*lines)
    return 0


def show(*lines: str) -> None:
    """Tables and sentences that were asked for."""
    print(*map(shown, lines), sep="\n")


def show_json(text: str) -> None:
    """JSON: it means the same on every terminal and in every file."""
    utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    print(visible_json(text) if utf8 else ascii_json(text))


def show_exactly(script: str) -> None:
    """A text for another program: as it is, unless a person looks at it."""
    print(visible(script) if sys.stdout.isatty() else script)


def show_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table for another program, likewise."""
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerows([columns, *rows])
    show_exactly(made.getvalue().removesuffix("\n"))
