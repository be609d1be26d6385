"""The flags that several commands share."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from rolloutops.cli.run import Command, Flag
from rolloutops.config.recipe import STEP_KINDS
from rolloutops.config.sampling import KEYS
from rolloutops.config.settings import Collect, Dataset, DuckDB


def keys(kind: type) -> tuple[Flag, ...]:
    """Make the flags that are a recipe table's keys; its open tables are set with --table.key=value."""
    hints = typing.get_type_hints(kind)
    fields = [f for f in dataclasses.fields(kind) if typing.get_origin(hints[f.name]) is not dict]
    return tuple(Flag(f.name, hints[f.name], f.metadata["about"], f.default) for f in fields)


RECIPE = Flag("recipe", str, "recipe file or shipped recipe name (default: the one last used with this workspace)")
DATA = Flag("data", str, "the workspace (default: the recipe's)")
DATASET = Flag("dataset", str, "only these datasets, separated by commas; without a recipe, the dataset's name")
JSON = Flag("json", bool, "print JSON")
ENVIRONMENT = Flag("environment", str, "environment that verifies rollouts, if no recipe is given")
MEDIA = tuple(flag for flag in keys(Dataset) if flag.name in ("media_root", "max_media_bytes"))
SOURCE = (
    DATA,
    DATASET,
    Flag("input", list[str], "input files, globs or folders, if no recipe names them"),
    ENVIRONMENT,
    Flag("id", str, "the field that holds each row's id, if no recipe names it"),
    Flag("last_turn", str, "answer: use an assistant turn at the end of a prompt as the expected answer"),
    Flag("prompt", str, "prompt file (YAML: user, system) that makes each row's prompt from its fields"),
    Flag("examples", list[str], "files with rows to show as examples before each task"),
    Flag("shots", int, "number of examples before each task"),
    *MEDIA,
)
COLLECTING = (
    *SOURCE,
    *keys(Collect),
    Flag(
        "agent_name", str, "NeMo Gym's option: with --engine=gym the agent of each row, else the same as --environment"
    ),
    Flag("skip_bad_lines", bool, "skip (and count) input lines that are not tasks"),
    Flag("allow_policy_change", bool, "continue although the policy's settings changed"),
    Flag("unsafe_code", bool, "run model-written code without a sandbox, with your permissions"),
)
COLLECTING_GROUPS = {
    "Most used": ("engine", "model", "num_repeats", "limit", "num_samples_in_parallel", "data"),
    "Input": (
        "dataset",
        "input",
        "id",
        "last_turn",
        "prompt",
        "examples",
        "shots",
        "environment",
        "agent_name",
        "media_root",
        "max_media_bytes",
        "skip_bad_lines",
    ),
    "Policy and sampling": ("policy", "system_prompt", "max_steps", "token_budget", "service_tier", "token_ids"),
    "Endpoint": ("base_url", "endpoint", "api_key_env", "api_key_header"),
    "Retries and time limits": (
        *("max_attempts", "retry_seconds", "request_timeout", "deadline", "retry"),
        *("max_given_up", "max_failure_rate", "grace_seconds", "stop_at"),
    ),
    "Processes and machines": (
        *("workers", "gpus_per_worker", "on", "ray_address", "shard"),
        *("memory_limit", "threads", "temp_directory"),
    ),
    "Rate and spending limits": ("requests_per_minute", "tokens_per_minute", "max_tokens_total", "max_cost", "prices"),
    "Verification": ("verify", "verdict_version", "unsafe_code"),
    "Output": ("output", "keep_response", "replace"),
    "Checks and safety": ("tune", "dry_run", "deep", "allow_policy_change", "shared_locks"),
}
"""The headings under which `collect`, `run` and `check` explain their flags."""
VERDICT_VERSION = Flag(
    "verdict_version",
    str,
    "use only the verdicts of this earlier verifier version; for several datasets, DATASET=VERSION, "
    "separated by commas",
)
SHARD = Flag(
    "shard",
    str,
    "only the tasks of shard i of n (i/n, from 0), by the hash of their ids; slurm or k8s: take i and n from the job",
)
STOP_AT = Flag(
    "stop_at",
    str,
    "stop before this time: seconds from now, or a time (17:30, 2026-11-30T17:30, seconds since 1970); exit with 3 if "
    "rollouts are pending",
)
ONLY = Flag("only", str, "build only [build.NAME]; with explain, show only this step")
REPLACE = Flag("replace", bool, "replace builds that another recipe wrote")
QUERIES = keys(DuckDB)
"""Of commands that run queries."""
SAMPLING: dict[str, Any] = {
    "open_tables": ("responses_create_params", "engine_args"),
    "known_keys": {"responses_create_params": KEYS},
}
"""Of commands that take sampling parameters and an engine's settings."""
OF_INPUTS = {"input_jsonl_fpath": "input", "prompt_config": "prompt"}
"""NeMo Gym's names of flags: of what reads inputs, and of what collects, too."""
NEMO_GYM = {**OF_INPUTS, "concurrency": "num_samples_in_parallel"}
SELECTING = (DATA, VERDICT_VERSION)
STEPS: dict[str, Any] = {"open_tables": STEP_KINDS, "key": "NAME.KEY"}
"""Of commands that take the settings of a recipe's steps."""


def stage(name: str, body: Any, summary: str, *flags: Flag, **more: Any) -> Command:
    """Declare a command that works on a recipe."""
    return Command(name, body, summary, (*flags, *QUERIES), (RECIPE,), group="Stages", **more)
