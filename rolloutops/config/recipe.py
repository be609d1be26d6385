"""Recipes: one TOML file that names datasets, policies, steps and outputs.

Flags of a command are the keys of its table, so a command line and a recipe are the same thing said twice; where both
speak, the command line wins. A command without a recipe takes the one that the workspace last saw.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from rolloutops.config.paths import as_path
from rolloutops.config.secrets import public, secret_places
from rolloutops.config.settings import SECRETIVE, Chunk, Collect, Dataset, DuckDB, Verify, merged, resolved, settings_of
from rolloutops.errors import UsageError, did_you_mean
from rolloutops.formats.strict_json import from_json_safe, to_json_safe

STEP_KINDS = ("filter", "reward", "mix", "pair", "build")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SOURCE = ("input", "environment", "id", "last_turn", "prompt", "examples", "shots", "media_root", "max_media_bytes")
"""The flags that say where one dataset comes from, and what makes its prompts."""


@dataclass(frozen=True)
class StepUse:
    """One use of a step. settings: the step's parameters. start: the earlier step whose selection it starts from."""

    kind: str
    name: str
    use: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A recipe's tables as read and checked, whole: what a command makes of them is its plan (`plan.py`).

    served: the name of the model that an engine's own servers run, where the recipe names neither model nor policy.
    """

    data: Path
    datasets: Mapping[str, Dataset]
    folder: Path = Path()
    path: Path | None = None
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chunk: Chunk = field(default_factory=Chunk)
    collect: Mapping[str, Any] = field(default_factory=dict)
    verify: Verify = field(default_factory=Verify)
    duckdb: DuckDB = field(default_factory=DuckDB)
    metrics: Sequence[str] = ()
    metrics_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    steps: Sequence[StepUse] = ()
    served: str | None = None

    def collect_of(self, dataset: str, policy: str, flags: Mapping[str, Any]) -> Collect:
        """Merge [collect], the policy's table, the dataset's, and the command line's keys of [collect]."""
        own = self.datasets[dataset].collect
        settings = Collect(**merged(self.collect, self.policies.get(policy, {}), own, flags))
        if settings.service_tier is None:
            return settings
        return replace(
            settings,
            responses_create_params={**settings.responses_create_params, "service_tier": settings.service_tier},
        )

    def origins_of(self, dataset: str, policy: str, flags: Mapping[str, Any]) -> dict[str, str]:
        """Say of each key that `collect_of` merges where the value that counts stands: `recipe.toml [collect]`."""
        tables = (
            (self.collect, "[collect]"),
            (self.policies.get(policy, {}), f"[policies.{policy}]"),
            (self.datasets[dataset].collect, f"[datasets.{dataset}] collect"),
        )
        places = {key: f"{self.path} {table}" if self.path else "" for values, table in tables for key in values}
        return {**places, **dict.fromkeys(flags, "the command line")}

    def policy_names(self, flags: Mapping[str, Any]) -> list[str]:
        """List the policies that collect: the `[policies.*]`, else the one of `[collect]` with the flags over it."""
        if self.policies:
            return list(self.policies)
        base = merged(self.collect, flags)
        name = base.get("policy") or Path(base.get("model") or "").name or self.served or base.get("engine")
        return [name] if name else []

    def secret_places(self, flags: Mapping[str, Any]) -> list[str]:
        """List the settings that hold a key, and not the name of a variable that does."""
        tables = [self.collect, flags, *self.policies.values()]
        tables += [{"environment_args": one.environment_args, **one.collect} for one in self.datasets.values()]
        return list(dict.fromkeys(place for table in tables for place in secret_places(table)))

    def as_json(self, flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write the recipe as it is recorded with each run, enough to make it again; without secrets.

        flags: keys of [collect] from the command line. Leave to run code without a sandbox is given to one command, so
        it is not recorded.
        """
        datasets = {name: resolved(dataset) for name, dataset in self.datasets.items()}
        for table in datasets.values():
            if "collect" in table:
                table["collect"] = _recorded(table["collect"])
            if "environment_args" in table:
                table["environment_args"] = public(table["environment_args"])
        return {
            "data": str(self.data),
            "folder": str(self.folder.absolute()),
            "path": str(self.path.absolute()) if self.path else None,
            "datasets": datasets,
            "policies": {name: _recorded(table) for name, table in self.policies.items()},
            "chunk": resolved(self.chunk),
            "collect": _recorded(self.collect),
            "given": _recorded(flags or {}),
            "verify": resolved(replace(self.verify, against=None, unsafe_code=False)),
            **({"duckdb": resolved(self.duckdb)} if self.duckdb != DuckDB() else {}),
            "metrics": list(self.metrics),
            "metrics_settings": to_json_safe(self.metrics_settings),
            "steps": [{**vars(step), "settings": to_json_safe(step.settings)} for step in self.steps],
        }


class LastRecipe(NamedTuple):
    """A recipe as a command recorded it. flags: keys of [collect] from its command line, which win over the tables."""

    recipe: Recipe
    flags: Mapping[str, Any]


def _recorded(collect: Mapping[str, Any]) -> dict[str, Any]:
    """Without what may be a key; nor what each command sets for itself: `retry`, and `shared_locks`."""
    kept = {name: value for name, value in collect.items() if name not in ("retry", "shared_locks")}
    return {name: public(value, name) if name in SECRETIVE else value for name, value in kept.items()}


def from_json(stored: Mapping[str, Any]) -> LastRecipe:
    """Read the recipe that `as_json` recorded."""
    recipe = Recipe(
        data=Path(stored["data"]),
        folder=Path(stored["folder"]),
        path=Path(stored["path"]) if stored.get("path") else None,
        datasets={name: Dataset(**table) for name, table in stored["datasets"].items()},
        policies=stored["policies"],
        chunk=Chunk(**stored["chunk"]),
        collect=stored["collect"],
        verify=Verify(**stored["verify"]),
        duckdb=DuckDB(**stored.get("duckdb", {})),
        metrics=stored["metrics"],
        metrics_settings=from_json_safe(stored.get("metrics_settings", {})),
        steps=[StepUse(**{**step, "settings": from_json_safe(step["settings"])}) for step in stored["steps"]],
    )
    return LastRecipe(recipe, stored["given"])


def from_flags(flags: Mapping[str, Any]) -> Recipe:
    """The recipe of a command line without one: one dataset, from --data, --dataset and the flags of SOURCE."""
    inputs = flags.get("input") or []
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(inputs[0]).name.split(".")[0]).strip("_") if inputs else ""
    name = checked_name(flags.get("dataset") or stem or "tasks", "--dataset")
    given = {k: flags[k] for k in SOURCE if k in flags and k != "input"}
    return Recipe(data=as_path(flags.get("data") or f"data/{name}"), datasets={name: Dataset(input=inputs, **given)})


def with_agent(
    recipe: Recipe, flags: Mapping[str, Any], agent: str, earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a command's flags with what NeMo Gym's `+agent_name` means: where its servers answer, the agent of each
    row, else the environment, which takes an agent's place. earlier: as of `make_plan`."""
    settings = [merged(recipe.collect, policy, earlier or {}, flags) for policy in recipe.policies.values() or ({},)]
    if any(one.get("engine") == "gym" for one in settings):
        return {**flags, "engine_args": {**flags.get("engine_args", {}), "agent_name": agent}}
    if flags.get("environment", agent) != agent:
        raise UsageError(f"--agent_name={agent} and --environment={flags['environment']} mean the same: pass only one")
    return {**flags, "environment": agent}


def with_flags(recipe: Recipe, flags: Mapping[str, Any], datasets: Mapping[str, Dataset]) -> Recipe:
    """Return the recipe with those of a command's flags that are keys of its tables, [collect] apart.

    The flags of SOURCE belong to one dataset, which `datasets` must be alone. `filter.NAME.KEY` and the
    like set a step's parameters. A name that is none is an error.
    """
    if "data" in flags:
        recipe = replace(recipe, data=as_path(flags["data"]))
    if any(name in flags for name in SOURCE):
        recipe = replace(recipe, datasets={**recipe.datasets, **_sourced(datasets, flags)})
    recipe = replace(recipe, steps=_stepped(recipe.steps, flags))
    recipe = replace(recipe, metrics_settings=_measured(recipe.metrics_settings, flags.get("metrics", {})))
    if "unsafe_code" in flags:
        recipe = replace(recipe, verify=replace(recipe.verify, unsafe_code=flags["unsafe_code"]))
    if "skip_bad_lines" in flags:
        recipe = replace(recipe, chunk=replace(recipe.chunk, skip_bad_lines=flags["skip_bad_lines"]))
    return recipe


def _source_flags(flags: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of a command's flags that are keys of one dataset."""
    given = {name: flags[name] for name in names if name in flags}
    if "last_turn" in given:
        settings_of(Dataset, {"last_turn": given["last_turn"]}, "command line")
    return given


def _sourced(datasets: Mapping[str, Dataset], flags: Mapping[str, Any]) -> dict[str, Dataset]:
    """The one dataset with what the command line says of its source."""
    given = _source_flags(flags, SOURCE)
    if len(datasets) != 1:
        known = ", ".join(datasets) or "none"
        raise UsageError(
            f"--{next(iter(given))} applies to one dataset: choose it with --dataset; the recipe has: {known}"
        )
    sourced = {name: replace(dataset, **given) for name, dataset in datasets.items()}
    return {  # the arguments of one environment are not for another
        name: dataset if dataset.environment == datasets[name].environment else replace(dataset, environment_args={})
        for name, dataset in sourced.items()
    }


def _stepped(steps: Sequence[StepUse], flags: Mapping[str, Any]) -> list[StepUse]:
    """The steps with what the command line says of them: `--build.sft.min_reward=0.9`."""
    for kind in STEP_KINDS:
        known = [step.name for step in steps if step.kind == kind]
        for name, given in flags.get(kind, {}).items():
            if name not in known:
                listed = f"the recipe has: {', '.join(known) or 'none'}"
                raise UsageError(f"--{kind}.{name}: no {kind} step {name!r}{did_you_mean(name, known)}; {listed}")
            if not isinstance(given, Mapping):
                raise UsageError(f"--{kind}.{name} sets no key of the step; write --{kind}.{name}.KEY={given}")
    return [
        replace(step, settings=_merged_settings(step.settings, flags.get(step.kind, {}).get(step.name, {})))
        for step in steps
    ]


def _measured(own: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of metrics steps with what the command line says of them: `--metrics.pass_at_k.success=0.5`."""
    for name, given in flags.items():
        if not isinstance(given, Mapping):
            raise UsageError(f"--metrics.{name} sets no key of a step; write --metrics.{name}.KEY={given}")
    return {**own, **{name: _merged_settings(own.get(name, {}), given) for name, given in flags.items()}}


def _merged_settings(own: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A step's settings with what was typed over them; a table, as the shares of a mix, is merged key by key."""
    values = from_json_safe(values)
    tables = [name for name in values if isinstance(own.get(name), dict) and isinstance(values[name], dict)]
    return {**own, **values, **{name: {**own[name], **values[name]} for name in tables}}


def chosen(known: Mapping[str, Any], names: str, noun: str) -> dict[str, Any]:
    """Return those of a recipe's datasets or policies that a flag names, separated by commas."""
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"no {noun} {name!r}{did_you_mean(name, known, most=3)}; the recipe has: {', '.join(known) or 'none'}"
            )
    return {name: known[name] for name in wanted}


def checked_name(name: str, where: str) -> str:
    """A name that can also be a folder's. Raises UsageError for any other."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{where}: {name!r} cannot be a name; use letters, digits, '.', '_' and '-'")
    return name
