"""The flags that several commands share."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from rolloutops.cli.run import Command, Flag
from rolloutops.config.resources import shipped
from rolloutops.config.settings import Collect


def keys(kind: type) -> tuple[Flag, ...]:
    """The flags that are a recipe table's keys; its open tables are set with --table.key=value."""
    hints = typing.get_type_hints(kind)
    fields = [f for f in dataclasses.fields(kind) if typing.get_origin(hints[f.name]) is not dict]
    return tuple(Flag(f.name, hints[f.name], f.metadata["about"], f.default) for f in fields)


TARGETS = sorted(path.stem for path in (shipped("sql") / "lint").glob("*.sql"))
"""What training files can be linted for."""

RECIPE = Flag("recipe", str, "a recipe file, or the name of a shipped one (default: the workspace's last)")
DATA = Flag("data", str, "the workspace (default: the recipe's)")
DATASET = Flag("dataset", str, "only these data sets, separated by commas; without a recipe, the data set's name")
JSON = Flag("json", bool, "print JSON")
ENVIRONMENT = Flag("environment", str, "how rollouts are judged, where no recipe says it")
SOURCE = (
    DATA,
    DATASET,
    Flag("input", list[str], "input files, globs or folders, where no recipe names them"),
    ENVIRONMENT,
    Flag("id", str, "the field that holds each row's id, where no recipe says it"),
)
COLLECTING = (
    *SOURCE,
    *keys(Collect),
    Flag("agent_name", str, "NeMo Gym's word: with --engine=gym the agent of each row, else the same as --environment"),
    Flag("skip_bad_lines", bool, "leave out, and count, input lines that are not tasks"),
    Flag("allow_policy_change", bool, "go on although the policy's parameters changed"),
    Flag("unsafe_code", bool, "without a sandbox, run model-written code all the same, with your own rights"),
)
VERDICT_VERSION = Flag("verdict_version", str, "use the verdicts of this earlier version of the verifier, all of them")
METRICS = (
    DATA,
    VERDICT_VERSION,
    JSON,
    Flag("csv", bool, "print CSV; of one step, named with --step"),
    Flag("step", list[str], "only these metrics steps"),
    Flag("group_by", str, "a line for each agent, task, finish_reason, model, engine, run, verifier or tools"),
    Flag("compare", list[str], "two policies: their differences, task by task, and whether they mean anything"),
    Flag("report", str, "write a page with figures and these tables to this .html file"),
)
IMPORTING = (
    DATA,
    Flag("dataset", str, "the data set's name (default: the recipe's only one, else the first file's name)"),
    Flag("policy", str, "the policy's name (default: the model that each row names)"),
    RECIPE,
    Flag("skip_bad_lines", bool, "lines that cannot be imported are counted and left out; the exit code is 0"),
)
EXPORTING = (
    DATA,
    VERDICT_VERSION,
    DATASET,
    Flag("output", str, "the file", "rollouts.jsonl"),
    Flag("companions", bool, "also write the materialized inputs and the failed attempts beside it"),
)
QUERYING = (
    DATA,
    RECIPE,
    JSON,
    Flag("csv", bool, "print CSV"),
    Flag("output", str, "write a .parquet, .csv, .jsonl or .json file"),
    Flag("print", bool, "print the script that makes the views in any DuckDB shell"),
)
TRACING = (
    Flag("row", int, "the line of the file, from 1", 1),
    Flag("data", str, "the workspace (default: the one that the file lies in, else the recipe's)"),
    JSON,
)
ONLY = Flag("only", str, "only this one")
REPLACE = Flag("replace", bool, "replace builds that another recipe wrote")
DRY_RUN = Flag("dry_run", bool, "run nothing: whether the steps fit together, and what each reads and adds")
QUERY = Flag("query", str, "a query, or a .sql file")
WATCHING = (DATA, JSON, Flag("watch", bool, "refresh every 2 s, in place on a terminal, until nothing is pending"))
LINTING = (Flag("target", str, f"what the files are for: {', '.join(TARGETS)}"), JSON)
LINTED = Flag("files", list[str], "training files, globs or folders", required=True)
TRACED = Flag("file", str, "a data file of a build: train.jsonl, or any other, any shard", required=True)
SAMPLING = ("responses_create_params", "engine_args")
NEMO_GYM = {"input_jsonl_fpath": "input", "concurrency": "num_samples_in_parallel"}


def stage(name: str, body: Any, summary: str, *flags: Flag, **more: Any) -> Command:
    """A command that works on a recipe."""
    return Command(name, body, summary, flags, (RECIPE,), group="stages", **more)
