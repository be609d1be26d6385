"""The keys of a recipe's tables, which are also the flags of the commands: one frozen dataclass a table.

What a key means and which values make sense is next to it, and is checked before anything runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rolloutops.config.secrets import wrapped
from rolloutops.config.validation import check_table, key, keys_of


@dataclass(frozen=True)
class Chunk:
    """How input files become tasks: `[chunk]`, and the flags of `chunk`."""

    rows_per_part: int = key(1000, "tasks per part, which is one file of the table tasks", least=1)
    skip_bad_lines: bool = key(False, "skip (and count) lines that are not JSON objects; exit with 0")
    processes: int | None = key(None, "processes that read rows (default: one per CPU core, 8 at most)", least=1)


@dataclass(frozen=True)
class Collect:
    """How a policy answers: `[collect]`, the flags of `collect`, and what a dataset or policy has otherwise."""

    engine: str = key("", "the engine: vllm, openai, batch, gym, scripted, or package.module:attr")
    model: str = key("", "the model's name or folder")
    policy: str | None = key(None, "the policy's name (default: the model's)")
    num_repeats: int = key(1, "rollouts of each task", least=1)
    limit: int | None = key(None, "only the first N tasks of each dataset", least=1)
    num_samples_in_parallel: int | str | None = key(
        None,
        "maximum concurrent rollouts, or auto to raise it while throughput grows (default: set by the engine)",
        least=1,
        one_of="auto",
    )
    responses_create_params: dict[str, Any] = key({}, "sampling parameters, merged over each task's own")
    service_tier: str | None = key(
        None, "provider's service tier, e.g. flex: about half price, slower; not part of the policy"
    )
    system_prompt: str | None = key(None, "system message for prompts that have none")
    max_steps: int = key(20, "maximum number of model calls in one rollout", least=1)
    token_budget: int | None = key(None, "maximum number of generated tokens in one rollout", least=1)
    max_attempts: int = key(3, "attempts per rollout before giving up", least=1)
    max_given_up: float = key(
        0.05, "exit with 4 if a larger share of a dataset's rollouts by a policy is given up", least=0, most=1
    )
    retry_seconds: float = key(
        1.0, "longest wait before the first retry, in seconds (randomized); doubles per retry, up to 60", least=0
    )
    request_timeout: float | None = key(
        None, "timeout of one attempt (all its model and tool calls), in seconds", above=0
    )
    deadline: float | None = key(
        3600.0, "time limit for a rollout with all its attempts, in seconds; after it, a failure is final", above=0
    )
    retry: list[str] | None = key(
        None, "retry rollouts given up with these errors, e.g. timeout,server_error", one_text=True
    )
    max_failure_rate: float = key(
        1.0, "stop the run when at least this fraction of the last 100 attempts failed", above=0, most=1
    )
    requests_per_minute: float | None = key(
        None, "maximum requests per minute, for all processes of the workspace together", above=0
    )
    tokens_per_minute: float | None = key(
        None, "maximum tokens per minute, for all processes of the workspace together", above=0
    )
    max_tokens_total: float | None = key(None, "token budget (input + output) of all runs together", above=0)
    max_cost: float | None = key(None, "cost budget of all runs together; needs prices", above=0)
    prices: str | None = key(None, "a TOML file with the price of each model's tokens")
    verify: str = key("now", "when to verify: now, or later with the verify command", one_of="now later")
    keep_response: bool = key(True, "also store the raw model responses")
    token_ids: bool = key(False, "capture token ids and log-probs")
    base_url: str | list[str] | None = key(
        None, "the endpoint's URL; several, separated by commas, form a fleet", one_text=True
    )
    endpoint: str | None = key(None, "the API to use: responses or chat")
    api_key_env: str | None = key(None, "the environment variable that holds the key")
    api_key_header: str | None = key(None, "the header that carries the key, e.g. api-key (default: Authorization)")
    engine_args: dict[str, Any] = key({}, "further arguments of the engine")
    shared_locks: bool = key(
        False, "continue although another host uses the workspace and file locks do not work between them"
    )
    grace_seconds: float = key(
        5.0, "seconds that running rollouts get to finish after Ctrl-C or an error that ends the run", least=0
    )


@dataclass(frozen=True)
class Verify:
    """How verifiers run: `[verify]`, and the flags of `verify`."""

    processes: int | None = key(None, "processes for CPU-bound verifiers (default: the number of cores)", least=1)
    timeout: float = key(30.0, "time limit of one verification, in seconds", above=0)
    memory_mb: int | None = key(4096, "memory limit of one verifier process, in MB", least=1)
    retry_errors: bool = key(False, "retry failed verifications")
    against: str | None = key(None, "an earlier verifier version: report how well the current one agrees with it")
    unsafe_code: bool = key(False, "run model-written code without a sandbox, with your permissions")


@dataclass(frozen=True)
class DuckDB:
    """What queries may take of the machine: `[duckdb]`, and flags of the commands that run them."""

    memory_limit: str | None = key(None, "memory limit of queries, e.g. 4GB or 50% (default: half of the memory)")
    threads: int | None = key(None, "number of threads of queries (default: the number of cores)", least=1)
    temp_directory: str | None = key(
        None, "folder for data that queries spill to disk (default: in the workspace)", least=1
    )


@dataclass(frozen=True)
class Dataset:
    """One dataset: `[datasets.NAME]`."""

    input: list[str] = key([], "files, globs or folders: JSONL, JSON, CSV, TSV, Parquet, Arrow", one_text=True)
    environment: str | None = key(None, "environment of the dataset: a name, package.module:attr, or file.py:attr")
    environment_args: dict[str, Any] = key({}, "arguments of the environment")
    verifier: str | None = key(
        None,
        "human: the score that a person gives a rollout is its reward; the environment then offers tools alone",
        one_of="human",
    )
    id: str | None = key(None, "the field that holds each row's id (default: the hash of the row)")
    prompt: str | None = key(None, "prompt file (YAML: user, system) that makes each row's prompt from its fields")
    examples: list[str] = key([], "files with rows to show as examples before each task", one_text=True)
    shots: int = key(0, "number of examples before each task", least=0)
    seed: int = key(0, "seed that selects the examples")
    media_root: str | None = key(
        None, "folder that holds the media that rows name (default: the folder of the input file)"
    )
    max_media_bytes: int = key(
        50_000_000, "maximum size of an image, video or audio file that a row names, in bytes", least=1
    )
    needs_prompt: bool = key(True, "false: rows without a prompt are tasks too; their environment makes the prompt")
    last_turn: str = key(
        "prompt",
        "an assistant turn at the end of a prompt is: prompt, or answer (the expected answer)",
        one_of="prompt answer",
    )
    collect: dict[str, Any] = key({}, "settings that differ from [collect] for this dataset")


def settings_of(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check a table against its dataclass; `where` names file and table in messages. Only the keys given are returned.

    What may be a key of an endpoint is a Secret from here on.
    """

    def unknown(name: str, hint: str) -> str:
        sampling = "; a sampling parameter is a key of responses_create_params" if kind is Collect else ""
        return f"{where}: no key {name!r}{hint or sampling}"

    made = check_table(keys_of(kind), values, f"{where}: ", unknown=unknown)
    return {name: wrapped(value, name) if name in SECRETIVE else value for name, value in made.items()}


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers win; the two open tables are merged key by key, shallowly.

    A layer that names another engine starts afresh with what belongs to an engine: a rehearsal with `--engine=scripted`
    takes neither the recipe's model, as which it would pose, nor the arguments of its engine.
    """
    out: dict[str, Any] = {}
    for layer in layers:
        if layer.get("engine", out.get("engine")) != out.get("engine"):
            out = {name: value for name, value in out.items() if name not in OF_AN_ENGINE}
        for name, value in layer.items():
            nested = name in ("responses_create_params", "engine_args") and name in out
            out[name] = {**out[name], **value} if nested else value
    return out


SECRETIVE = ("base_url", "api_key_env", "api_key_header", "engine_args", "environment_args")
"""Keys whose values may be, or hold, a key."""

OF_AN_ENGINE = ("model", "policy", "base_url", "endpoint", "api_key_env", "api_key_header", "engine_args")
"""Keys of [collect] that mean something to one engine only."""


def resolved(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain JSON, without what is at its default."""
    return {
        f.name: getattr(settings, f.name)
        for f in dataclasses.fields(settings)
        if getattr(settings, f.name) != (f.default_factory() if callable(f.default_factory) else f.default)
    }
