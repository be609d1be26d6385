"""The keys of a recipe's tables, which are also the flags of the commands: one frozen dataclass a table."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rolloutops.errors import UsageError, near


def key(default: Any, about: str) -> Any:
    """A dataclass field with a line that says what it means."""
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata={"about": about})
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class Chunk:
    """How input files become tasks: `[chunk]`, and the flags of `chunk`."""

    rows_per_part: int = key(1000, "tasks in one partition: the unit that a collect process takes")
    skip_bad_lines: bool = key(False, "lines that are no JSON object are counted and left out, and the exit code is 0")


@dataclass(frozen=True)
class Collect:
    """How a policy answers: `[collect]`, the flags of `collect`, and what a data set or policy has otherwise."""

    engine: str = key("", "who answers: vllm, openai, scripted, or package.module:attr")
    model: str = key("", "the model's name or folder")
    policy: str | None = key(None, "the policy's name (default: the model's)")
    num_repeats: int = key(1, "rollouts of each task")
    limit: int | None = key(None, "only the first N tasks of each data set")
    num_samples_in_parallel: int | None = key(None, "rollouts in flight at once (default: what suits the engine)")
    responses_create_params: dict[str, Any] = key({}, "sampling parameters, merged over each task's own")
    system_prompt: str | None = key(None, "put before prompts that have no system message")
    max_steps: int = key(20, "model calls in one rollout, at most")
    token_budget: int | None = key(None, "generated tokens in one rollout, at most")
    max_attempts: int = key(3, "tries at a rollout before it is given up")
    retry_seconds: float = key(1.0, "the first wait before a further try; it doubles each time, up to a minute")
    request_timeout: float | None = key(None, "seconds that one rollout may take")
    verify: str = key("now", "now, or later: leave verification to the verify command")
    keep_response: bool = key(True, "keep each answer verbatim beside its canonical form")
    token_ids: bool = key(False, "capture token ids and log-probs")
    base_url: str | None = key(None, "the endpoint of the openai engine")
    endpoint: str | None = key(None, "responses or chat")
    api_key_env: str | None = key(None, "the environment variable that holds the key")
    engine_args: dict[str, Any] = key({}, "further arguments of the engine")
    grace_seconds: float = key(5.0, "after Ctrl-C, how long what is in flight may still finish")


@dataclass(frozen=True)
class Verify:
    """How verifiers run: `[verify]`, and the flags of `verify`."""

    processes: int | None = key(None, "processes for verifiers that compute (default: the cores)")
    timeout: float = key(30.0, "seconds that one verdict may take")
    memory_mb: int | None = key(4096, "memory of one verifier process")
    retry_errors: bool = key(False, "judge again what failed to be judged")


@dataclass(frozen=True)
class Dataset:
    """One data set: `[datasets.NAME]`."""

    input: list[str] = key([], "files, globs or folders: JSONL (.gz, .zst), Parquet, CSV, Arrow")
    environment: str | None = key(None, "how rollouts are judged: a name, package.module:attr, or file.py:attr")
    environment_args: dict[str, Any] = key({}, "arguments of the environment")
    id: str | None = key(None, "the field that holds each row's id (default: the hash of the row)")
    needs_prompt: bool = key(True, "false: rows without a prompt are tasks too; their environment makes the prompt")
    collect: dict[str, Any] = key({}, "what differs from [collect]")


def typed(kind: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check a table's keys and values against its dataclass; `where` names file and table in messages.

    An int is taken where a float is wanted, and one string where a list of strings is wanted.
    """
    hints = typing.get_type_hints(kind)
    out = {}
    for name, value in given.items():
        if name not in hints:
            raise UsageError(f"{where}: no key {name!r}{near(name, hints)}")
        out[name] = _value(value, hints[name], f"{where}: {name}")
    return out


def _value(value: Any, hint: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        origin = typing.get_origin(option) or option
        if option is types.NoneType and value is None:
            return None
        if origin is list and isinstance(value, str):
            return [value]
        if origin is list and isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        if origin is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if origin in (str, dict, int, bool) and type(value) is origin:
            return value
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a table"}
    wanted = " or ".join(
        names.get(typing.get_origin(o) or o, "a list of texts") for o in options if o is not types.NoneType
    )
    raise UsageError(f"{where} must be {wanted}, not {value!r}")


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers win; the two open tables are merged key by key, shallowly."""
    out: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            nested = name in ("responses_create_params", "engine_args") and name in out
            out[name] = {**out[name], **value} if nested else value
    return out


def resolved(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain JSON, without what is at its default."""
    return {
        f.name: getattr(settings, f.name)
        for f in dataclasses.fields(settings)
        if getattr(settings, f.name) != (f.default_factory() if callable(f.default_factory) else f.default)
    }
