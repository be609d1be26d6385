"""A recipe's TOML file: found, read and checked. Every mistake is one sentence that names file, table and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rolloutops.config.paths import as_path
from rolloutops.config.recipe import STEP_KINDS, Recipe, StepUse, checked_name
from rolloutops.config.resources import shipped
from rolloutops.config.settings import Chunk, Collect, Dataset, Verify, typed
from rolloutops.errors import InputError, UsageError, did_you_mean

TABLES = ("data", "preset", "datasets", "policies", "chunk", "collect", "verify", "metrics", *STEP_KINDS)
STRINGS = re.compile(r'("""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\')|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL)
STEP_HEADER = re.compile(rf"^\s*\[\s*({'|'.join(STEP_KINDS)})\s*\.\s*[\"']?([A-Za-z0-9._-]+?)[\"']?\s*\]", re.MULTILINE)


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
        if table not in TABLES and table != "profile":  # preset, under its name in earlier versions
            raise UsageError(f"{path}: no table or key {table!r}{did_you_mean(table, TABLES)}")
    tables, text = _over_preset(tables, text, path)
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
        steps=_steps(tables, text, path),
    )


def _over_preset(tables: dict[str, Any], text: str, path: Path) -> tuple[dict[str, Any], str]:
    """A recipe's tables over those of its preset, and its text with the heads of the preset's steps before it.

    A step that the recipe names as well stands where the recipe has it; with another `use` it is the recipe's alone.
    """
    keys = [key for key in ("preset", "profile") if key in tables]
    if not keys:
        return tables, text
    if len(keys) > 1:
        raise UsageError(f"{path}: preset and profile are one key; keep preset")
    presets = {file.stem: file for file in sorted(shipped("recipes").glob("presets/*.toml"))}
    name = tables[keys[0]]
    if not isinstance(name, str) or name not in presets:
        known = ", ".join(presets)
        raise UsageError(f"{path}: no preset {name!r}{did_you_mean(str(name), presets)}; there are: {known}")
    base = presets[name].read_text(encoding="utf-8")
    own = STEP_HEADER.findall(_without_strings(text))
    heads = [f"[{kind}.{step}]" for kind, step in STEP_HEADER.findall(base) if (kind, step) not in own]
    return _over(tomllib.loads(base), tables), "\n".join([*heads, text])


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


def _steps(tables: Mapping[str, Any], text: str, path: Path) -> list[StepUse]:
    """The steps in the order of the file, which TOML itself forgets where tables of two kinds alternate."""
    found = {}
    for kind in STEP_KINDS:
        for name, table in _tables(tables, kind, path).items():
            settings = dict(table)
            checked_name(name, f"{path} [{kind}]")
            use, start = settings.pop("use", None), settings.pop("from", None)
            if not isinstance(start, str | None):
                raise UsageError(f"{path} [{kind}.{name}]: from must be the name of a step, not {start!r}")
            if not isinstance(use, str):
                raise UsageError(f'{path} [{kind}.{name}]: use = "{kind}/…" is missing: which step is it?')
            found[kind, name] = StepUse(kind, name, use, settings, start)
    order = [item for item in dict.fromkeys(STEP_HEADER.findall(_without_strings(text))) if item in found]
    for kind, name in found:
        if (kind, name) not in order:
            raise UsageError(f"{path}: write {kind} {name!r} as [{kind}.{name}], a table whose place says its turn")
    steps = [found[item] for item in order]
    names, starts = {"rollouts"}, {"rollouts"}
    for step in steps:
        where = f"{path} [{step.kind}.{step.name}]"
        if step.start is not None and step.start not in starts:
            raise UsageError(f"{where}: from = {step.start!r}: no earlier step keeps rollouts under that name")
        if step.name in names:
            raise UsageError(f"{where}: the name {step.name!r} is taken; give each step one of its own")
        names.add(step.name)
        if step.kind != "build":
            starts.add(step.name)
    return steps


def _without_strings(text: str) -> str:
    """TOML text without its texts of several lines, in which a line may look like a table's head."""
    return STRINGS.sub(lambda found: "" if found[1] else found[0], text)
