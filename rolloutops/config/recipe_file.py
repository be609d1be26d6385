"""A recipe's TOML file: found, read and checked. Every mistake is one sentence that names file, table and key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rolloutops.config.paths import as_path
from rolloutops.config.recipe import STEP_KINDS, Recipe, StepUse, checked_name
from rolloutops.config.resources import shipped
from rolloutops.config.settings import Chunk, Collect, Dataset, Verify, typed
from rolloutops.config.step_tables import listed
from rolloutops.errors import InputError, UsageError, did_you_mean

TABLES = ("data", "profile", "datasets", "policies", "chunk", "collect", "verify", "metrics", "steps", *STEP_KINDS)


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
        hint = ", but a folder"
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
    for table in tables:
        if table not in TABLES:
            raise UsageError(f"{path}: no table or key {table!r}{did_you_mean(table, TABLES)}")
    tables = listed(tables, text, path, STEP_KINDS)
    tables["steps"] = _step_list(tables, path)
    tables = _profiled(tables, path)
    collect = typed(Collect, _table(tables, "collect", path), f"{path} [collect]")
    policies = {
        checked_name(policy, f"{path} [policies]"): typed(Collect, own, f"{path} [policies.{policy}]")
        for policy, own in _tables(tables, "policies", path).items()
    }
    datasets = {}
    for dataset, own in _tables(tables, "datasets", path).items():
        where = f"{path} [datasets.{checked_name(dataset, f'{path} [datasets]')}]"
        checked = typed(Dataset, own, where)
        checked["collect"] = typed(Collect, checked.get("collect", {}), f"{where} collect")
        datasets[dataset] = Dataset(**checked)
    data = tables.get("data", f"data/{path.stem}")
    if not isinstance(data, str) or not data:
        raise UsageError(f"{path}: data must be a folder's path, not {data!r}")
    return Recipe(
        data=as_path(data),
        folder=path.parent,
        path=path,
        datasets=datasets,
        policies=policies,
        chunk=Chunk(**typed(Chunk, _table(tables, "chunk", path), f"{path} [chunk]")),
        collect=collect,
        verify=Verify(**typed(Verify, _table(tables, "verify", path), f"{path} [verify]")),
        metrics=_metrics(tables, path),
        metrics_settings={k: v for k, v in _table(tables, "metrics", path).items() if k != "steps"},
        steps=_steps(tables["steps"], path),
    )


def _profiled(tables: dict[str, Any], path: Path) -> dict[str, Any]:
    """A recipe's tables over those of its profile.

    The profile's steps come first. One that the recipe names as well stands where the recipe has it; with another `use`
    it is the recipe's alone.
    """
    if "profile" not in tables:
        return tables
    profiles = {file.stem: file for file in sorted(shipped("recipes").glob("profiles/*.toml"))}
    name = tables["profile"]
    if not isinstance(name, str) or name not in profiles:
        known = ", ".join(profiles)
        raise UsageError(f"{path}: no profile {name!r}{did_you_mean(str(name), profiles)}; there are: {known}")
    base = tomllib.loads(profiles[name].read_text(encoding="utf-8"))
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


def _table(tables: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {name} must be a table, [{name}], not {table!r}")
    return table


def _tables(tables: Mapping[str, Any], name: str, path: Path) -> dict[str, dict[str, Any]]:
    group = _table(tables, name, path)
    for key, table in group.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: [{name}] holds tables, [{name}.NAME]; {key} = {table!r} is none")
    return group


def _metrics(tables: Mapping[str, Any], path: Path) -> list[str]:
    table = _table(tables, "metrics", path)
    steps = table.get("steps", [])
    strange = [name for name, settings in table.items() if name != "steps" and not isinstance(settings, dict)]
    if strange or not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        holds = 'one key, steps = ["metrics/rewards", ...], and tables, [metrics.NAME], of what a step is asked'
        raise UsageError(f"{path} [metrics] holds {holds}")
    return steps


def _step_list(tables: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """The tables of [[steps]], each with a kind and a name."""
    steps = tables.get("steps", [])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise UsageError(
            f'{path}: steps must be tables, each under [[steps]] with kind = "filter" and name, not {steps!r}'
        )
    for number, step in enumerate(steps, 1):
        where = f"{path} [[steps]] number {number}"
        kind, name = step.get("kind"), step.get("name")
        if kind not in STEP_KINDS:
            hint = did_you_mean(str(kind), STEP_KINDS) if kind is not None else ""
            raise UsageError(f"{where}: kind must be one of {', '.join(STEP_KINDS)}, not {kind!r}{hint}")
        if not isinstance(name, str):
            raise UsageError(f'{where}: name = "…" is missing: what is this {kind} step called?')
        checked_name(name, where)
    return steps


def _steps(tables: Sequence[Mapping[str, Any]], path: Path) -> list[StepUse]:
    """The steps of a recipe, in its order."""
    steps: list[StepUse] = []
    names, starts = {"rollouts"}, {"rollouts"}
    for table in tables:
        step = _step(table, path)
        where = f"{path} [{step.kind}.{step.name}]"
        if step.start is not None and step.start not in starts:
            raise UsageError(f"{where}: from = {step.start!r}: no earlier step keeps rollouts under that name")
        if step.name in names:
            raise UsageError(f"{where}: the name {step.name!r} is taken; give each step one of its own")
        names.add(step.name)
        if step.kind != "build":
            starts.add(step.name)
        steps.append(step)
    return steps


def _step(table: Mapping[str, Any], path: Path) -> StepUse:
    settings = dict(table)
    kind, name = settings.pop("kind"), settings.pop("name")
    use, start = settings.pop("use", None), settings.pop("from", None)
    if not isinstance(start, str | None):
        raise UsageError(f"{path} [{kind}.{name}]: from must be the name of a step, not {start!r}")
    if not isinstance(use, str):
        raise UsageError(f'{path} [{kind}.{name}]: use = "{kind}/…" is missing: which step is it?')
    return StepUse(kind, name, use, settings, start)
