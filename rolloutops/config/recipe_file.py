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
from rolloutops.config.settings import Chunk, Collect, Dataset, Verify, settings_of
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
    "profile": Key(str, None, "shipped defaults that the recipe's own keys override: sft, dpo or rl"),
    "datasets": _group("datasets", "input files, and how their rollouts are verified"),
    "policies": _group("policies", "what differs from [collect], one table a policy"),
    "chunk": _table("chunk", "how input files become tasks"),
    "collect": _table("collect", "engine, model, sampling and limits"),
    "verify": _table("verify", "how verifiers run"),
    "metrics": _table("metrics", "the metrics steps to print, and their parameters"),
    **{kind: _group(kind, f"{kind} steps, in the order of the file") for kind in STEP_KINDS},
}
"""What a recipe holds at its top."""

METRICS: Keys = {"steps": Key(list[str], [], 'the steps to print, as "metrics/rewards"')}


def step_keys(kind: str) -> Keys:
    """The keys of a step's table that are not its step's parameters."""
    return {
        "use": Key(str, None, f'which step it is, as use = "{kind}/NAME"', required=True, words="the name of a step"),
        "from": Key(str, None, "the earlier step to start from (default: the one before)", words="the name of a step"),
    }


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
    check_table(TABLES, tables, f"{path}: ", unknown=lambda name, near: f"{path}: no table or key {name!r}{near}")
    tables, text = _profiled(tables, text, path)
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
        metrics=_metrics(tables.get("metrics", {}), path),
        metrics_settings={k: v for k, v in tables.get("metrics", {}).items() if k != "steps"},
        steps=_steps(tables, text, path),
    )


def _profiled(tables: dict[str, Any], text: str, path: Path) -> tuple[dict[str, Any], str]:
    """A recipe's tables over those of its profile, and its text with the heads of the profile's steps before it.

    A step that the recipe names as well stands where the recipe has it; with another `use` it is the recipe's alone.
    """
    if "profile" not in tables:
        return tables, text
    profiles = {file.stem: file for file in sorted(shipped("recipes").glob("profiles/*.toml"))}
    name = tables["profile"]
    if not isinstance(name, str) or name not in profiles:
        known = ", ".join(profiles)
        raise UsageError(f"{path}: no profile {name!r}{did_you_mean(str(name), profiles)}; there are: {known}")
    base = profiles[name].read_text(encoding="utf-8")
    own = STEP_HEADER.findall(_without_strings(text))
    heads = [f"[{kind}.{step}]" for kind, step in STEP_HEADER.findall(base) if (kind, step) not in own]
    return _over(tomllib.loads(base), tables), "\n".join([*heads, text])


def _over(base: Any, own: Any) -> Any:
    """Tables over tables, key by key. A table that uses another step takes nothing over."""
    if not isinstance(base, dict) or not isinstance(own, dict) or own.get("use", base.get("use")) != base.get("use"):
        return own
    return {**base, **{key: _over(base.get(key), value) for key, value in own.items()}}


def _metrics(table: Mapping[str, Any], path: Path) -> list[str]:
    where = f"{path} [metrics]"
    steps = {name: Key(dict[str, Any], finite=False) for name, own in table.items() if isinstance(own, dict)}
    holds = "it holds steps = ['metrics/rewards', ...], and tables, [metrics.NAME], of a step's parameters"
    own = check_table(
        {**steps, **METRICS},
        table,
        f"{where}: ",
        unknown=lambda name, near: f"{where}: no key {name!r}{near or ';'} {holds}",
    )
    found: list[str] = own.get("steps", [])
    return found


def _steps(tables: Mapping[str, Any], text: str, path: Path) -> list[StepUse]:
    """The steps in the order of the file, which TOML itself forgets where tables of two kinds alternate."""
    found = {}
    for kind in STEP_KINDS:
        for name, table in tables.get(kind, {}).items():
            where = f"{path} [{kind}.{checked_name(name, f'{path} [{kind}]')}]: "
            settings = check_table(step_keys(kind), table, where, any_name=True)
            found[kind, name] = StepUse(kind, name, settings.pop("use"), settings, settings.pop("from", None))
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
