"""Recipes: one TOML file that names data sets, policies, steps and outputs.

Flags of a command are the keys of its table, so a command line and a recipe are the same thing said twice; where both
speak, the command line wins. A command without a recipe takes the one that the workspace last saw.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rolloutops.errors import InputError, UsageError, near
from rolloutops.plugins import find
from rolloutops.settings import Chunk, Collect, Dataset, Verify, merged, resolved, typed
from rolloutops.shipped import shipped

STEP_KINDS = ("filter", "reward", "mix", "build")
TABLES = ("data", "datasets", "policies", "chunk", "collect", "verify", "metrics", *STEP_KINDS)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
STEP_HEADER = re.compile(r"^\s*\[\s*(filter|reward|mix|build)\s*\.\s*[\"']?([A-Za-z0-9._-]+?)[\"']?\s*\]", re.MULTILINE)
OPERATIONAL = frozenset(
    (
        *("base_url", "api_key_env", "api_key_required", "headers", "connect_timeout", "request_timeout"),
        *("max_connections", "max_num_seqs", "tensor_parallel_size", "gpu_memory_utilization", "delay", "faults"),
    )
)
"""Engine arguments that say where and how fast a policy answers, not what: no part of its fingerprint."""


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
    """A recipe as read and checked; `given` are the flags of the command line, which win over its tables."""

    data: Path
    datasets: Mapping[str, Dataset]
    folder: Path = Path()
    path: Path | None = None
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chunk: Chunk = field(default_factory=Chunk)
    collect: Mapping[str, Any] = field(default_factory=dict)
    verify: Verify = field(default_factory=Verify)
    metrics: Sequence[str] = ()
    steps: Sequence[StepUse] = ()
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> tuple[Path, ...]:
        """Where inputs with a relative name are looked for: the working directory, the recipe's folder, what ships."""
        return Path(), self.folder, shipped("")

    def collect_of(self, dataset: str, policy: str) -> Collect:
        """[collect], then the policy's table, then the data set's, then the command line."""
        own = self.datasets[dataset].collect
        return Collect(**merged(self.collect, self.policies.get(policy, {}), own, self.given))

    def policy_names(self) -> list[str]:
        """The policies that collect: the `[policies.*]`, else the one of `[collect]`."""
        if self.policies:
            return list(self.policies)
        base = merged(self.collect, self.given)
        name = base.get("policy") or Path(base.get("model") or "").name or base.get("engine")
        return [name] if name else []

    def plan(self) -> list[dict[str, Any]]:
        """What is asked of each data set and policy: the rows of the view `plan`."""
        rows = []
        for name, dataset in self.datasets.items():
            judge = self.judge(dataset)
            for policy in self.policy_names():
                asked = self.collect_of(name, policy)
                rows.append(
                    {
                        "dataset": name,
                        "policy": policy,
                        "num_repeats": asked.num_repeats,
                        "row_limit": asked.limit,
                        "max_attempts": asked.max_attempts,
                        **judge,
                    }
                )
        return rows

    def judge(self, dataset: Dataset) -> dict[str, str | None]:
        """The verifier's name and version, for the plan and for verdicts."""
        if dataset.environment is None:
            return {"verifier": None, "verifier_version": None}
        plugin = find("environment", dataset.environment, self.folder)
        return {"verifier": dataset.environment, "verifier_version": plugin.version(dataset.environment_args)}

    def fingerprint(self, dataset: str, policy: str) -> dict[str, Any]:
        """What makes a policy this policy: engine, model and everything that changes what it says."""
        asked = self.collect_of(dataset, policy)
        said = ("engine", "model", "responses_create_params", "system_prompt", "max_steps", "token_budget", "endpoint")
        print_ = {name: getattr(asked, name) for name in said}
        print_["engine_args"] = {k: v for k, v in asked.engine_args.items() if k not in OPERATIONAL}
        return print_

    def as_json(self) -> dict[str, Any]:
        """The resolved recipe, as recorded with each run, and enough to make it again."""
        return {
            "data": str(self.data),
            "folder": str(self.folder),
            "datasets": {name: resolved(dataset) for name, dataset in self.datasets.items()},
            "policies": {name: dict(table) for name, table in self.policies.items()},
            "chunk": resolved(self.chunk),
            "collect": _without_secrets(merged(self.collect, self.given)),
            "verify": resolved(self.verify),
            "metrics": list(self.metrics),
            "steps": [{**vars(step), "settings": dict(step.settings)} for step in self.steps],
        }


def _without_secrets(collect: dict[str, Any]) -> dict[str, Any]:
    engine_args = {k: v for k, v in collect.get("engine_args", {}).items() if k != "headers"}
    return {**collect, **({"engine_args": engine_args} if engine_args else {})}


def from_json(stored: Mapping[str, Any]) -> Recipe:
    """The recipe that `as_json` recorded."""
    return Recipe(
        data=Path(stored["data"]),
        folder=Path(stored["folder"]),
        datasets={name: Dataset(**table) for name, table in stored["datasets"].items()},
        policies=stored["policies"],
        chunk=Chunk(**stored["chunk"]),
        collect=stored["collect"],
        verify=Verify(**stored["verify"]),
        metrics=stored["metrics"],
        steps=[StepUse(**step) for step in stored["steps"]],
    )


def find_recipe(name: str) -> Path:
    """A recipe's file: the path as given, with .toml, or a shipped one by its name."""
    known = sorted(path.stem for path in shipped("recipes").glob("*.toml"))
    for path in (Path(name), Path(f"{name}.toml"), shipped("recipes") / f"{name}.toml"):
        if path.is_file():
            return path
    raise InputError(f"no recipe {name!r}{near(Path(name).stem, known)}; shipped recipes: {', '.join(known)}")


def load(name: str) -> Recipe:
    """Read and check a recipe file. Every mistake is one sentence that names file, table and key."""
    path = find_recipe(name)
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    for table in tables:
        if table not in TABLES:
            raise UsageError(f"{path}: no table or key {table!r}{near(table, TABLES)}")
    collect = typed(Collect, _table(tables, "collect", path), f"{path} [collect]")
    policies = {
        _name(policy, f"{path} [policies]"): typed(Collect, own, f"{path} [policies.{policy}]")
        for policy, own in _tables(tables, "policies", path).items()
    }
    datasets = {}
    for dataset, own in _tables(tables, "datasets", path).items():
        where = f"{path} [datasets.{_name(dataset, f'{path} [datasets]')}]"
        checked = typed(Dataset, own, where)
        checked["collect"] = typed(Collect, checked.get("collect", {}), f"{where} collect")
        datasets[dataset] = Dataset(**checked)
    data = tables.get("data", f"data/{path.stem}")
    if not isinstance(data, str) or not data:
        raise UsageError(f"{path}: data must be a folder's path, not {data!r}")
    return Recipe(
        data=Path(data),
        folder=path.parent,
        path=path,
        datasets=datasets,
        policies=policies,
        chunk=Chunk(**typed(Chunk, _table(tables, "chunk", path), f"{path} [chunk]")),
        collect=collect,
        verify=Verify(**typed(Verify, _table(tables, "verify", path), f"{path} [verify]")),
        metrics=_metrics(tables, path),
        steps=_steps(tables, text, path),
    )


def from_flags(flags: Mapping[str, Any]) -> Recipe:
    """The recipe of a command line without one: one data set, from --input, --dataset, --environment, --id, --data."""
    inputs = flags.get("input") or []
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(inputs[0]).name.split(".")[0]).strip("_") if inputs else ""
    name = _name(flags.get("dataset") or stem or "tasks", "--dataset")
    given = {k: flags[k] for k in ("environment", "id") if k in flags}
    return Recipe(data=Path(flags.get("data") or f"data/{name}"), datasets={name: Dataset(input=inputs, **given)})


def with_flags(recipe: Recipe, table: str, flags: Mapping[str, Any]) -> Recipe:
    """The recipe with a command's flags over it. table: chunk, collect or verify.

    `dataset` and `policy` select; for a new policy name, `policy` names it. Unknown selections name the near one.
    """
    kind: type[Chunk | Collect | Verify] = {"chunk": Chunk, "collect": Collect, "verify": Verify}[table]
    own = typed(kind, {k: v for k, v in flags.items() if k in kind.__dataclass_fields__}, "the command line")
    if "data" in flags:
        recipe = replace(recipe, data=Path(flags["data"]))
    if ("dataset" in flags and recipe.path is not None) or flags.get("dataset") in recipe.datasets:
        recipe = replace(recipe, datasets=_chosen(recipe.datasets, str(flags["dataset"]), "data set"))
    recipe = replace(recipe, steps=[_stepped(step, flags) for step in recipe.steps])
    if table == "collect":
        if recipe.policies and "policy" in own:
            recipe = replace(recipe, policies=_chosen(recipe.policies, str(own.pop("policy")), "policy"))
        return replace(recipe, given=own)
    settings = getattr(recipe, table)
    return replace(recipe, **{table: replace(settings, **own)})


def _stepped(step: StepUse, flags: Mapping[str, Any]) -> StepUse:
    """A step with what the command line says of it: `--build.sft.min_reward=0.9`."""
    given = flags.get(step.kind, {}).get(step.name, {})
    return replace(step, settings={**step.settings, **given}) if given else step


def _chosen(known: Mapping[str, Any], names: str, noun: str) -> dict[str, Any]:
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise UsageError(f"no {noun} {name!r}{near(name, known)}; the recipe has: {', '.join(known) or 'none'}")
    return {name: known[name] for name in wanted}


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


def _name(name: str, where: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(f"{where}: {name!r} cannot be a name; use letters, digits, '.', '_' and '-'")
    return name


def _metrics(tables: Mapping[str, Any], path: Path) -> list[str]:
    table = _table(tables, "metrics", path)
    steps = table.get("steps", [])
    if set(table) - {"steps"} or not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise UsageError(f'{path} [metrics] holds one key, steps = ["metrics/rewards", ...]')
    return steps


def _steps(tables: Mapping[str, Any], text: str, path: Path) -> list[StepUse]:
    """The steps in the order of the file, which TOML itself forgets where tables of two kinds alternate."""
    found = {}
    for kind in STEP_KINDS:
        for name, table in _tables(tables, kind, path).items():
            settings = dict(table)
            use, start = settings.pop("use", None), settings.pop("from", None)
            if not isinstance(use, str):
                raise UsageError(f'{path} [{kind}.{name}]: use = "{kind}/…" is missing: which step is it?')
            found[kind, name] = StepUse(kind, name, use, settings, start)
    order = [(kind, name) for kind, name in STEP_HEADER.findall(text) if (kind, name) in found]
    steps = [found[item] for item in dict.fromkeys([*order, *found])]
    seen = {"rollouts"}
    for step in steps:
        if step.start is not None and step.start not in seen:
            raise UsageError(f"{path} [{step.kind}.{step.name}]: from = {step.start!r}: no earlier step has that name")
        if step.name in seen:
            raise UsageError(f"{path} [{step.kind}.{step.name}]: another step is already named {step.name!r}")
        seen.add(step.name)
    return steps
