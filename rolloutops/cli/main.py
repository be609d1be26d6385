"""The command line: every command with its flags."""

from __future__ import annotations

import os
import sys
from typing import Any

from rolloutops import __version__
from rolloutops.cli import commands
from rolloutops.cli.run import Command, Flag
from rolloutops.cli.run import main as dispatch
from rolloutops.cli.shared_flags import (
    COLLECTING,
    DATA,
    DATASET,
    DRY_RUN,
    ENVIRONMENT,
    EXPORTING,
    IMPORTING,
    LINTED,
    LINTING,
    METRICS,
    NEMO_GYM,
    ONLY,
    QUERY,
    QUERYING,
    RECIPE,
    REPLACE,
    SAMPLING,
    SOURCE,
    TRACED,
    TRACING,
    VERDICT_VERSION,
    WATCHING,
    keys,
    stage,
)
from rolloutops.config.recipe import STEP_KINDS
from rolloutops.config.settings import Chunk, Verify

ABOUT = "Rollouts are rows: collect them at scale with exact resume, and build SFT, DPO and RL files with SQL."

SELECTING = (DATA, VERDICT_VERSION)
STEPS: dict[str, Any] = {"open_tables": STEP_KINDS, "key": "NAME.KEY"}
"""Commands that take the settings of a recipe's steps."""

COMMANDS = (
    stage("chunk", commands.chunk, "input files to tasks, in parts", *SOURCE, *keys(Chunk)),
    stage(
        "collect",
        commands.collect,
        "tasks to rollouts: whatever is owed",
        *COLLECTING,
        Flag("output", str, "also write the rollouts to this JSONL file, in NeMo Gym's shape"),
        Flag(
            "tune", bool | str, "find the best number in flight with owed tasks, then stop; FILE.svg or .html: plot it"
        ),
        open_tables=SAMPLING,
        aliases={**NEMO_GYM, "output_jsonl_fpath": "output"},
    ),
    stage("verify", commands.verify, "judge what is unjudged", DATA, DATASET, ENVIRONMENT, *keys(Verify)),
    stage("metrics", commands.metrics, "measure the rollouts", *METRICS, open_tables=("metrics",), key="NAME.KEY"),
    stage("filter", commands.select, "what each step up to the last filter keeps and drops", *SELECTING, **STEPS),
    stage("mix", commands.select, "what each step up to the last mix keeps and drops", *SELECTING, **STEPS),
    stage("pair", commands.select, "what each step up to the last pair keeps and drops", *SELECTING, **STEPS),
    stage("build", commands.build, "write the training files", *SELECTING, ONLY, REPLACE, **STEPS),
    stage(
        "run",
        commands.run,
        "all of the recipe, in order",
        *COLLECTING,
        VERDICT_VERSION,
        REPLACE,
        DRY_RUN,
        open_tables=SAMPLING,
        aliases=NEMO_GYM,
    ),
    Command(
        "import",
        commands.import_,
        "rollouts made elsewhere: NeMo Gym's files, chat logs, OpenAI Batch output",
        IMPORTING,
        (Flag("files", list[str], "rollout files, globs or folders", required=True),),
        group="stages",
    ),
    stage("export", commands.export, "rollouts to a JSONL file in NeMo Gym's shape", *EXPORTING),
    stage(
        "explain",
        commands.explain,
        "the steps with their parameters, as one script",
        DATA,
        ONLY,
        **STEPS,
    ),
    Command(
        "test",
        commands.test,
        "golden cases of your own steps: the rows given, and the rows that must come out",
        positionals=(Flag("cases", list[str], "files KIND/STEP/CASE.txt, or folders that hold them (default: tests)"),),
        group="looking",
    ),
    Command(
        "trace", commands.trace, "from a row of a training file back to its task", TRACING, (TRACED,), group="looking"
    ),
    Command(
        "lint", commands.lint, "what a trainer would reject or silently damage", LINTING, (LINTED,), group="looking"
    ),
    Command("status", commands.status, "what is done, owed and failing", WATCHING, (RECIPE,), group="looking"),
    Command("sql", commands.query, "any query over the views", QUERYING, (QUERY,), group="looking"),
    Command(
        "check",
        commands.check,
        "look at recipe, files, environments and engines, before anything is spent",
        (*COLLECTING, Flag("deep", bool, "Read every part file of the workspace and verify its checksums")),
        (RECIPE,),
        SAMPLING,
        group="looking",
        aliases=NEMO_GYM,
    ),
    Command("list", commands.list_, "recipes, steps, engines and environments", group="looking"),
    Command(
        "init",
        commands.init,
        "copy a recipe with its files, to be edited",
        (Flag("into", str, "the folder to copy into", "."),),
        (Flag("recipe", str, "the recipe's name", "demo"),),
        group="looking",
    ),
)


def main(argv: list[str] | None = None) -> int:
    """Run a command line; returns its exit code."""
    # Arrow brings numpy, whose threads, of no use here, would spin for longer than many a command takes.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return dispatch(sys.argv[1:] if argv is None else argv, COMMANDS, "rolloutops", __version__, ABOUT)
