"""A recipe's TOML file: found, read and checked. Every mistake is one sentence that names file, table and key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rolloutops.config.paths import as_path
from rolloutops.config.recipe import STEP_KINDS, Recipe, StepUse, checked_name
from rolloutops.config.resources import shipped
from rolloutops.config.settings import Chunk, Collect, Dataset, DuckDB, Verify, settings_of
from rolloutops.config.step_tables import as_step_list
from rolloutops.config.validation import Key, Keys, check_table
from rolloutops.errors import InputError, UsageError, did_you_mean


def _table(name: str, about: str) -> Key:
    return Key(dict[str, Any], {}, about, words=f"a table, [{name}]", finite=False)


def _group(name: str, about: str) -> Key:
    return Key(
        *(dict[str, dict[str, Any]], {}, about),
        words=f"a table, [{name}]",
        items=f"[{name}.NAME] tables",
        finite=False,
    )


TABLES: Keys = {
    "data": Key(str, None, "the workspace: the folder with all tables", least=1, words="a folder's path"),
    "preset": Key(str, None, "shipped defaults that the recipe's own keys override: sft, dpo or rl"),
    "datasets": _group("datasets", "datasets: their input files and environments"),
    "policies": _group("policies", "policies: one table each, with the settings that differ from [collect]"),
    "chunk": _table("chunk", "how input files become tasks"),
    "collect": _table("collect", "engine, model, sampling and limits"),
    "verify": _table("verify", "how verifiers run"),
    "duckdb": _table("duckdb", "limits of queries: memory, threads, and the folder for data that they spill to disk"),
    "metrics": _table("metrics", "the metrics steps to print, and their parameters"),
    "steps": Key(
        *(list[dict[str, Any]], [], "the steps, in their order"),
        words='tables, each under [[steps]] with kind = "filter" and name',
        finite=False,
    ),
    **{kind: _group(kind, f"{kind} steps, as earlier versions wrote them") for kind in STEP_KINDS},
}
"""What a recipe holds at its top."""

METRICS: Keys = {"steps": Key(list[str], [], 'the steps to print, e.g. "metrics/rewards"')}


SCHEMA = "recipe.schema.json"
SCHEMA_LINE = f"#:schema {SCHEMA}\n"
"""How shipped recipes begin: for editors, and no part of what a recipe says about itself. `rolloutops schema` prints
the file."""

NAMED: Keys = {
    "kind": Key(
        *(str, None, f"the kind of the step, {', '.join(STEP_KINDS[:-1])} or {STEP_KINDS[-1]}"),
        one_of=STEP_KINDS,
        required=True,
        words=f"one of {', '.join(STEP_KINDS)}",
    ),
    "name": Key(str, None, "the name of this step", required=True),
}
"""The keys of a table of [[steps]] by which it is named."""


def step_keys(kind: str) -> Keys:
    """The keys of a step's table that are not its step's parameters."""
    return {
        **NAMED,
        "use": Key(str, None, f'the step to run, e.g. use = "{kind}/NAME"', required=True, words="the name of a step"),
        "from": Key(str, None, "the earlier step to start from (default: the one before)", words="the name of a step"),
    }


def find_recipe(name: str) -> Path:
    """A recipe's file: the path as given, with .toml, or a shipped one by its name."""
    known = sorted(path.stem for path in shipped("recipes").glob("*.toml"))
    for path in (as_path(name), as_path(f"{name}.toml"), shipped("recipes") / f"{name}.toml"):
        if path.is_file():
            return path
    given = as_path(name)
    if (given / "runs").is_dir():
        raise InputError(f"{name} is a workspace, not a recipe: name it with --data={name}")
    beside = [str(path.with_suffix("")) for path in given.parent.glob("*.toml")]
    hint = did_you_mean(name.removesuffix(".toml"), [*beside, *known])
    if given.is_dir():
        hint = " (it is a folder)"
    raise InputError(f"no recipe {name!r}{hint}; shipped recipes: {', '.join(known)}")


def load(name: str) -> Recipe:
    """Read and check a recipe file. Every mistake is one sentence that names file, table and key."""
    path = find_recipe(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
        tables = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply for a recipe") from error
    if "profile" in tables:  # preset, under its name in earlier versions
        if "preset" in tables:
            raise UsageError(f"{path}: preset and profile are one key; keep preset")
        tables["preset"] = tables.pop("profile")
    check_table(TABLES, tables, f"{path}: ", unknown=lambda name, hint: f"{path}: no table or key {name!r}{hint}")
    tables = as_step_list(tables, text, path, STEP_KINDS)
    tables["steps"] = _step_list(tables, path)
    tables = _over_preset(tables, path)
    collect = settings_of(Collect, tables.get("collect", {}), f"{path} [collect]")
    policies = {
        checked_name(policy, f"{path} [policies]"): settings_of(Collect, own, f"{path} [policies.{policy}]")
        for policy, own in tables.get("policies", {}).items()
    }
    datasets = {}
    for dataset, own in tables.get("datasets", {}).items():
        where = f"{path} [datasets.{checked_name(dataset, f'{path} [datasets]')}]"
        settings = settings_of(Dataset, own, where)
        settings["collect"] = settings_of(Collect, settings.get("collect", {}), f"{where} collect")
        datasets[dataset] = Dataset(**settings)
    return Recipe(
        data=as_path(tables.get("data", f"data/{path.stem}")),
        folder=path.parent,
        path=path,
        datasets=datasets,
        policies=policies,
        chunk=Chunk(**settings_of(Chunk, tables.get("chunk", {}), f"{path} [chunk]")),
        collect=collect,
        verify=Verify(**settings_of(Verify, tables.get("verify", {}), f"{path} [verify]")),
        duckdb=DuckDB(**settings_of(DuckDB, tables.get("duckdb", {}), f"{path} [duckdb]")),
        metrics=_metrics(tables.get("metrics", {}), path),
        metrics_settings={k: v for k, v in tables.get("metrics", {}).items() if k != "steps"},
        steps=_steps(tables["steps"], path),
    )


def _over_preset(tables: dict[str, Any], path: Path) -> dict[str, Any]:
    """A recipe's tables over those of its preset.

    The preset's steps come first. One that the recipe names as well stands where the recipe has it; with another `use`
    it is the recipe's alone.
    """
    if "preset" not in tables:
        return tables
    presets = {file.stem: file for file in sorted(shipped("recipes").glob("presets/*.toml"))}
    name = tables["preset"]
    if name not in presets:
        known = ", ".join(presets)
        raise UsageError(f"{path}: no preset {name!r}{did_you_mean(name, presets)}; there are: {known}")
    base = tomllib.loads(presets[name].read_text(encoding="utf-8"))
    below = {_key(step): step for step in base.pop("steps", [])}
    own = [_over(below.pop(_key(step), {}), step) for step in tables["steps"]]
    return {**_over(base, tables), "steps": [*below.values(), *own]}


def _key(step: Mapping[str, Any]) -> tuple[str, str]:
    return step["kind"], step["name"]


def _over(base: Any, own: Any) -> Any:
    """Tables over tables, key by key. A table that uses another step takes nothing over."""
    if not isinstance(base, dict) or not isinstance(own, dict) or own.get("use", base.get("use")) != base.get("use"):
        return own
    return {**base, **{key: _over(base.get(key), value) for key, value in own.items()}}


def _metrics(table: Mapping[str, Any], path: Path) -> list[str]:
    where = f"{path} [metrics]"
    steps = {name: Key(dict[str, Any], finite=False) for name, own in table.items() if isinstance(own, dict)}
    holds = "it may hold steps = ['metrics/rewards', ...] and [metrics.NAME] tables with a step's parameters"
    own = check_table(
        {**steps, **METRICS},
        table,
        f"{where}: ",
        unknown=lambda name, hint: f"{where}: no key {name!r}{hint or ';'} {holds}",
    )
    found: list[str] = own.get("steps", [])
    return found


def _step_list(tables: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return the tables of [[steps]], each with a kind and a name."""
    steps: list[dict[str, Any]] = tables.get("steps", [])
    for number, step in enumerate(steps, 1):
        where = f"{path} [[steps]] number {number}"
        checked = check_table(NAMED, step, f"{where}: ", any_name=True)
        checked_name(checked["name"], where)
    return steps


def _steps(tables: Sequence[Mapping[str, Any]], path: Path) -> list[StepUse]:
    """The steps of a recipe, in its order."""
    steps: list[StepUse] = []
    names, starts = {"rollouts"}, {"rollouts"}
    for table in tables:
        step = _step(table, path)
        where = f"{path} [{step.kind}.{step.name}]"
        if step.start is not None and step.start not in starts:
            raise UsageError(
                f"{where}: from = {step.start!r}: no earlier filter, reward, mix or pair step has that name"
            )
        if step.name in names:
            raise UsageError(f"{where}: the name {step.name!r} is already used; give each step another name")
        names.add(step.name)
        if step.kind != "build":
            starts.add(step.name)
        steps.append(step)
    return steps


def _step(table: Mapping[str, Any], path: Path) -> StepUse:
    kind, name = table["kind"], table["name"]
    own = check_table(step_keys(kind), table, f"{path} [{kind}.{name}]: ", any_name=True)
    settings = {key: value for key, value in own.items() if key not in step_keys(kind)}
    return StepUse(kind, name, own["use"], settings, own.get("from"))
