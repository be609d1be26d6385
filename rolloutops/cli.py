"""The command line: each command parses, makes one call and prints. This is the only module that prints.

Heavy packages are imported by the stages when a command runs, so that help and mistakes answer at once.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
import time
import typing
from pathlib import Path
from typing import Any

from rolloutops import __version__, text
from rolloutops.command import Command, Flag, Parsed
from rolloutops.command import main as dispatch
from rolloutops.errors import UsageError
from rolloutops.recipe import STEP_KINDS, Recipe, from_flags, with_flags
from rolloutops.recipe_file import load
from rolloutops.settings import Chunk, Collect, Verify

ABOUT = "Rollouts are rows: collect them at scale with exact resume, and build SFT, DPO and RL files with SQL."


def keys(kind: type) -> tuple[Flag, ...]:
    """The flags that are a recipe table's keys; its open tables are set with --table.key=value."""
    hints = typing.get_type_hints(kind)
    fields = [f for f in dataclasses.fields(kind) if typing.get_origin(hints[f.name]) is not dict]
    return tuple(Flag(f.name, hints[f.name], f.metadata["about"], f.default) for f in fields)


RECIPE = Flag("recipe", str, "a recipe file, or the name of a shipped one (default: the workspace's last)")
DATA = Flag("data", str, "the workspace (default: the recipe's)")
DATASET = Flag("dataset", str, "only these data sets, separated by commas; without a recipe, the data set's name")
JSON = Flag("json", bool, "print JSON")
SOURCE = (
    DATA,
    DATASET,
    Flag("input", list[str], "input files, globs or folders, where no recipe names them"),
    Flag("environment", str, "how rollouts are judged, where no recipe says it"),
    Flag("id", str, "the field that holds each row's id, where no recipe says it"),
)
COLLECTING = (
    *SOURCE,
    *keys(Collect),
    Flag("allow_policy_change", bool, "go on although the policy's parameters changed"),
    Flag("unsafe_code", bool, "without a sandbox, run model-written code all the same, with your own rights"),
)
SAMPLING = ("responses_create_params", "engine_args")
NEMO_GYM = {"input_jsonl_fpath": "input", "agent_name": "environment", "concurrency": "num_samples_in_parallel"}


def recipe_of(parsed: Parsed, table: str = "collect") -> Recipe:
    """The recipe that a command line means: the named one, the one its flags make, or the workspace's last."""
    flags = {**parsed.flags, **parsed.overrides}
    name = parsed.positionals.get("recipe") or parsed.flags.get("recipe")
    if name:
        recipe = load(name)
    elif flags.get("input"):
        recipe = from_flags(flags)
    elif flags.get("data"):
        from rolloutops.tables.runs import last_recipe
        from rolloutops.tables.workspace import open_workspace

        recipe = last_recipe(open_workspace(Path(flags["data"])))
    else:
        alone = " or --input=FILE" if parsed.command in ("chunk", "collect", "run", "check") else ""
        raise UsageError(f"{parsed.command} needs a recipe, or --data=WORKSPACE{alone}")
    return with_flags(recipe, table, flags)


def chunk(parsed: Parsed) -> int:
    """Input files -> tasks."""
    return chunk_recipe(recipe_of(parsed, "chunk"))


def chunk_recipe(recipe: Recipe) -> int:
    """Chunk and say what came of it; 2 where lines were rejected and that was not allowed."""
    from rolloutops.stages import chunk_stage

    done = chunk_stage(recipe)
    say(*text.chunked(done, recipe.chunk.skip_bad_lines))
    return 2 if any(one.rejected for one in done) and not recipe.chunk.skip_bad_lines else 0


def collect(parsed: Parsed) -> int:
    """Owed -> attempts and verdicts; then the mean of each numeric field."""
    from rolloutops.stages import averages, export_stage

    recipe = recipe_of(parsed)
    if parsed.flags.get("input") and (code := chunk_recipe(recipe)):
        return code
    code = collect_recipe(recipe, parsed)
    if "output" in parsed.flags:
        say(f"{text.count(export_stage(recipe, Path(parsed.flags['output'])), 'rollout')} in {parsed.flags['output']}")
    print(text.means(averages(recipe)))
    return code


def collect_recipe(recipe: Recipe, parsed: Parsed) -> int:
    """Collect and say what came of it; 3 where work is still owed."""
    from rolloutops.stages import collect_stage

    done = collect_stage(recipe, parsed.flags.get("allow_policy_change", False))
    say(*text.collected(done))
    return 3 if done.left or done.in_flight else 0


def import_(parsed: Parsed) -> int:
    """Rollouts made elsewhere -> tasks, attempts and verdicts; 2 where lines were rejected and that was not allowed."""
    from rolloutops.importing import import_stage

    flags = parsed.flags
    recipe = load(flags["recipe"]) if "recipe" in flags else None
    data = Path(flags["data"]) if "data" in flags else None
    skip = flags.get("skip_bad_lines", False)
    done = import_stage(parsed.positionals["files"], data, flags.get("dataset"), flags.get("policy"), recipe, skip)
    say(*text.imported(done, skip))
    return 2 if done.rejected and not skip else 0


def export(parsed: Parsed) -> None:
    """Rollouts -> a JSONL file in NeMo Gym's shape."""
    from rolloutops.stages import export_stage

    output = Path(parsed.flags.get("output", "rollouts.jsonl"))
    rows = export_stage(recipe_of(parsed), output, parsed.flags.get("companions", False))
    say(f"{text.count(rows, 'rollout')} in {output}")


def verify(parsed: Parsed) -> None:
    """Unjudged -> verdicts."""
    from rolloutops.stages import agreement_stage, averages, verify_stage

    recipe = recipe_of(parsed, "verify")
    say(text.verified(verify_stage(recipe)))
    print(text.means(averages(recipe)))
    if recipe.verify.against:
        print(text.table(*agreement_stage(recipe)))


def metrics(parsed: Parsed) -> None:
    """The metrics steps, as tables."""
    from rolloutops.stages import as_json, metrics_stage

    found = metrics_stage(recipe_of(parsed), parsed.flags.get("step", ()))
    if parsed.flags.get("json"):
        print("{" + ",\n".join(f"{json.dumps(name)}: {as_json(*result)}" for name, result in found.items()) + "}")
    else:
        print("\n\n".join(f"{name}\n{text.table(*result)}" for name, result in found.items()))


def select(parsed: Parsed) -> None:
    """The steps up to the last filter or mix, and what each kept and dropped."""
    from rolloutops.stages import select_stage

    print(text.funnels(select_stage(recipe_of(parsed), parsed.command)))


def build(parsed: Parsed) -> None:
    """Steps -> training files."""
    from rolloutops.stages import build_stage

    print(text.built(build_stage(recipe_of(parsed), parsed.flags.get("only"))))


def run(parsed: Parsed) -> int:
    """The whole recipe, in order."""
    from rolloutops.stages import build_stage, metrics_stage, refuse_bad_steps, verify_stage

    recipe = recipe_of(parsed)
    refuse_bad_steps(recipe)
    if code := chunk_recipe(recipe) or collect_recipe(recipe, parsed):
        return code
    say(text.verified(verify_stage(recipe)))
    print("\n\n".join(f"{name}\n{text.table(*result)}" for name, result in metrics_stage(recipe).items()))
    if any(step.kind == "build" for step in recipe.steps):
        print("\n" + text.built(build_stage(recipe)))
    return 0


def status(parsed: Parsed) -> int:
    """What is done, owed and failing."""
    from rolloutops.stages import status_stage

    recipe = recipe_of(parsed)
    while True:
        now = status_stage(recipe)
        if parsed.flags.get("json"):
            print(json.dumps(dataclasses.asdict(now), indent=4))
        else:
            print(*text.status(now), sep="\n")
        if not parsed.flags.get("watch") or not any(row["owed"] for row in now.progress):
            return 1 if now.faults else 0
        time.sleep(2.0)


def query(parsed: Parsed) -> None:
    """Any query over the views, or the script that makes them."""
    from rolloutops.stages import as_json, query_stage, views_stage

    recipe, flags = recipe_of(parsed), parsed.flags
    if flags.get("print"):
        print(views_stage(recipe))
        return
    if "query" not in parsed.positionals:
        raise UsageError("sql needs a query, as in: sql 'SELECT avg(reward) FROM rollouts', or --print")
    output = Path(flags["output"]) if "output" in flags else None
    columns, rows = query_stage(recipe, parsed.positionals["query"], output)
    if output:
        say(f"written to {output}")
    elif flags.get("json"):
        print(as_json(columns, rows))
    elif flags.get("csv"):
        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])
    else:
        print(text.table(columns, rows))


def check(parsed: Parsed) -> int:
    """Recipe, files, environments and engines, before anything is spent."""
    from rolloutops.check import check as look

    findings = list(look(recipe_of(parsed)))
    print(*(f"{'ok ' if one.good else 'BAD'}  {one.sentence}" for one in findings), sep="\n")
    return 0 if all(one.good for one in findings) else 2


def list_(parsed: Parsed) -> None:
    """Recipes, steps, engines and environments."""
    from rolloutops.listing import listing

    print(
        "\n\n".join(f"{heading}\n{text.table(('name', 'what it does', 'where'), rows)}" for heading, rows in listing())
    )


def init(parsed: Parsed) -> None:
    """Copies of a recipe, its SQL and its example files, to be edited."""
    from rolloutops.listing import copy_shipped

    print(*copy_shipped(parsed.positionals.get("recipe", "demo"), Path(parsed.flags.get("into", "."))), sep="\n")


def say(*lines: str) -> None:
    """A message for the person at the terminal."""
    print(*lines, sep="\n", file=sys.stderr)


def stage(name: str, body: Any, summary: str, *flags: Flag, **more: Any) -> Command:
    """A command that works on a recipe."""
    return Command(name, body, summary, flags, (RECIPE,), group="stages", **more)


COMMANDS = (
    stage("chunk", chunk, "input files to tasks, in parts", *SOURCE, *keys(Chunk)),
    stage(
        "collect",
        collect,
        "tasks to rollouts: whatever is owed",
        *COLLECTING,
        Flag("output", str, "also write the rollouts to this JSONL file, in NeMo Gym's shape"),
        open_tables=SAMPLING,
        aliases={**NEMO_GYM, "output_jsonl_fpath": "output"},
    ),
    stage("verify", verify, "judge what is unjudged", DATA, DATASET, *keys(Verify)),
    stage("metrics", metrics, "measure the rollouts", DATA, JSON, Flag("step", list[str], "only these metrics steps")),
    stage("filter", select, "what each step up to the last filter keeps and drops", DATA, open_tables=STEP_KINDS),
    stage("mix", select, "what each step up to the last mix keeps and drops", DATA, open_tables=STEP_KINDS),
    stage(
        "build", build, "write the training files", DATA, Flag("only", str, "only this build"), open_tables=STEP_KINDS
    ),
    stage("run", run, "all of the recipe, in order", *COLLECTING, open_tables=SAMPLING, aliases=NEMO_GYM),
    Command(
        "import",
        import_,
        "rollouts made elsewhere: NeMo Gym's files, chat logs, OpenAI Batch output",
        (
            DATA,
            Flag("dataset", str, "the data set's name (default: the recipe's only one, else the first file's name)"),
            Flag("policy", str, "the policy's name (default: the model that each row names)"),
            RECIPE,
            Flag("skip_bad_lines", bool, "lines that cannot be imported are counted and left out; the exit code is 0"),
        ),
        (Flag("files", list[str], "rollout files, globs or folders", required=True),),
        group="stages",
    ),
    stage(
        "export",
        export,
        "rollouts to a JSONL file in NeMo Gym's shape",
        DATA,
        DATASET,
        Flag("output", str, "the file", "rollouts.jsonl"),
        Flag("companions", bool, "also write the materialized inputs and the failed attempts beside it"),
    ),
    Command(
        "status",
        status,
        "what is done, owed and failing",
        (DATA, JSON, Flag("watch", bool, "again each two seconds, until nothing is owed")),
        (RECIPE,),
        group="looking",
    ),
    Command(
        "sql",
        query,
        "any query over the views",
        (
            DATA,
            RECIPE,
            JSON,
            Flag("csv", bool, "print CSV"),
            Flag("output", str, "write a .parquet, .csv, .jsonl or .json file"),
            Flag("print", bool, "print the script that makes the views in any DuckDB shell"),
        ),
        (Flag("query", str, "a query, or a .sql file"),),
        group="looking",
    ),
    Command(
        "check",
        check,
        "look at recipe, files, environments and engines, before anything is spent",
        COLLECTING,
        (RECIPE,),
        SAMPLING,
        group="looking",
        aliases=NEMO_GYM,
    ),
    Command("list", list_, "recipes, steps, engines and environments", group="looking"),
    Command(
        "init",
        init,
        "copy a recipe with its files, to be edited",
        (Flag("into", str, "the folder to copy into", "."),),
        (Flag("recipe", str, "the recipe's name", "demo"),),
        group="looking",
    ),
)


def main(argv: list[str] | None = None) -> int:
    """Run a command line; returns its exit code."""
    return dispatch(sys.argv[1:] if argv is None else argv, COMMANDS, "rolloutops", __version__, ABOUT)
