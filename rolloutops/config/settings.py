"""The keys of a recipe's tables, which are also the flags of the commands: one frozen dataclass a table.

What a key means and which values make sense stands beside it, and is checked before anything runs.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rolloutops.config.secrets import wrapped
from rolloutops.errors import UsageError, did_you_mean

LARGEST = 2**31 - 1
"""What whole numbers may be at most: they become 32-bit columns."""


def key(
    default: Any,
    about: str,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    one_of: str = "",
) -> Any:
    """A dataclass field with a line that says what it means.

    least: the lowest value. above: a bound that is itself too low. most: the highest value (of whole
    numbers LARGEST, where it is not said). one_of: the texts that it may be, as words.
    """
    metadata = {"about": about, "least": least, "above": above, "most": most, "one_of": one_of.split()}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Chunk:
    """How input files become tasks: `[chunk]`, and the flags of `chunk`."""

    rows_per_part: int = key(1000, "tasks in one partition: the unit that a collect process takes", least=1)
    skip_bad_lines: bool = key(False, "lines that are no JSON object are counted and left out, and the exit code is 0")


@dataclass(frozen=True)
class Collect:
    """How a policy answers: `[collect]`, the flags of `collect`, and what a data set or policy has otherwise."""

    engine: str = key("", "who answers: vllm, openai, batch, gym, scripted, or package.module:attr")
    model: str = key("", "the model's name or folder")
    policy: str | None = key(None, "the policy's name (default: the model's)")
    num_repeats: int = key(1, "rollouts of each task", least=1)
    limit: int | None = key(None, "only the first N tasks of each data set", least=1)
    num_samples_in_parallel: int | str | None = key(
        None, "rollouts in flight at once, or auto: as many as bring more (default: what suits the engine)", least=1
    )
    responses_create_params: dict[str, Any] = key({}, "sampling parameters, merged over each task's own")
    service_tier: str | None = key(
        None, "how the provider serves and bills: flex costs about half and may take its time; no part of the policy"
    )
    system_prompt: str | None = key(None, "put before prompts that have no system message")
    max_steps: int = key(20, "model calls in one rollout, at most", least=1)
    token_budget: int | None = key(None, "generated tokens in one rollout, at most", least=1)
    max_attempts: int = key(3, "tries at a rollout before it is given up", least=1)
    max_given_up: float = key(
        0.05, "exit with 4 if a larger share of a dataset's rollouts by a policy is given up", least=0, most=1
    )
    retry_seconds: float = key(
        1.0, "the first wait before a further try; it doubles each time, up to a minute", least=0
    )
    request_timeout: float | None = key(None, "seconds that one rollout may take", above=0)
    deadline: float | None = key(3600.0, "seconds for a rollout with all its tries; then its failure is final", above=0)
    retry: list[str] | None = key(None, "owe again what was given up for these failures, as timeout,server_error")
    max_failure_rate: float = key(1.0, "end the run when this share of its last 100 attempts failed", above=0, most=1)
    requests_per_minute: float | None = key(None, "requests a minute, over all processes of the workspace", above=0)
    tokens_per_minute: float | None = key(None, "tokens a minute, over all processes of the workspace", above=0)
    max_tokens_total: float | None = key(None, "spend no more tokens than this, all runs together", above=0)
    max_cost: float | None = key(None, "spend no more money than this, all runs together; needs prices", above=0)
    prices: str | None = key(None, "a TOML file with the price of each model's tokens")
    verify: str = key("now", "now, or later: leave verification to the verify command", one_of="now later")
    keep_response: bool = key(True, "keep each answer verbatim beside its canonical form")
    token_ids: bool = key(False, "capture token ids and log-probs")
    base_url: str | list[str] | None = key(None, "the endpoint of the openai engine; several are a fleet: a,b")
    endpoint: str | None = key(None, "responses or chat")
    api_key_env: str | None = key(None, "the environment variable that holds the key")
    api_key_header: str | None = key(None, "the header that carries the key, as api-key (default: Authorization)")
    engine_args: dict[str, Any] = key({}, "further arguments of the engine")
    shared_locks: bool = key(
        False, "go on although another host works in the workspace, where file locks do not reach from one to the other"
    )
    grace_seconds: float = key(
        5.0, "after Ctrl-C or an error that ends the run, how long what is in flight may still finish", least=0
    )


@dataclass(frozen=True)
class Verify:
    """How verifiers run: `[verify]`, and the flags of `verify`."""

    processes: int | None = key(None, "processes for verifiers that compute (default: the cores)", least=1)
    timeout: float = key(30.0, "seconds that one verdict may take", above=0)
    memory_mb: int | None = key(4096, "memory of one verifier process", least=1)
    retry_errors: bool = key(False, "judge again what failed to be judged")
    against: str | None = key(None, "an earlier version of the verifier: say how far the present one agrees with it")
    unsafe_code: bool = key(False, "without a sandbox, run model-written code all the same, with your own rights")


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

    An int is taken where a float is wanted, and one string where a list of strings is wanted. What may be a key is a
    Secret from here on.
    """
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    out = {}
    for name, value in given.items():
        if name not in hints:
            sampling = "; a sampling parameter is a key of responses_create_params"
            hint = did_you_mean(name, hints) or (sampling if "responses_create_params" in hints else "")
            raise UsageError(f"{where}: no key {name!r}{hint}")
        out[name] = _value(value, hints[name], f"{where}: {name}")
        _refuse_nonsense(out[name], fields[name].metadata, f"{where}: {name}")
        _refuse_what_json_lacks(out[name], f"{where}: {name}")
        if name in SECRETIVE:
            out[name] = wrapped(out[name], name)
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
            return value[0] if len(value) == 1 and str in options else value
        if origin is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if origin in (str, dict, int, bool) and type(value) is origin:
            return value
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a table"}
    wanted = " or ".join(
        names.get(typing.get_origin(o) or o, "a list of texts") for o in options if o is not types.NoneType
    )
    raise UsageError(f"{where} must be {wanted}, not {value!r}")


def _refuse_what_json_lacks(value: Any, where: str) -> None:
    """Settings are stored as JSON, open tables are sent so too: no dates, no infinity."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _refuse_what_json_lacks(inner, f"{where}.{name}")
    elif isinstance(value, list):
        for inner in value:
            _refuse_what_json_lacks(inner, where)
    elif not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"{where} must be what JSON can hold, not {value}")


def _refuse_nonsense(value: Any, limits: Mapping[str, Any], where: str) -> None:
    least, above, most, one_of = (limits[name] for name in ("least", "above", "most", "one_of"))
    if one_of and value is not None and value not in one_of:
        listed = " or ".join(map(repr, one_of))
        raise UsageError(f"{where} must be {listed}, not {value!r}{did_you_mean(value, one_of)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if least is not None and not value >= least:
        raise UsageError(f"{where} must be {least} or more, not {value}")
    if above is not None and not value > above:
        raise UsageError(f"{where} must be more than {above}, not {value}")
    most = LARGEST if most is None and isinstance(value, int) else most
    if most is not None and value > most:
        raise UsageError(f"{where} must be {most} at most, not {value}")


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
