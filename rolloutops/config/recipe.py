"""Recipes: one TOML file that names data sets, policies, steps and outputs.

Flags of a command are the keys of its table, so a command line and a recipe are the same thing said twice; where both
speak, the command line wins. A command without a recipe takes the one that the workspace last saw.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rolloutops.config.paths import as_path
from rolloutops.config.plugins import OPERATIONAL, find
from rolloutops.config.resources import shipped
from rolloutops.config.secrets import public, secret_places, without_secrets
from rolloutops.config.settings import SECRETIVE, Chunk, Collect, Dataset, Verify, merged, resolved, settings_of
from rolloutops.errors import RolloutopsError, UsageError, did_you_mean, did_you_mean_one_of
from rolloutops.formats.strict_json import from_json_safe, to_json_safe

STEP_KINDS = ("filter", "reward", "mix", "pair", "build")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SOURCE = ("input", "environment", "id")
"""The flags that say where one data set comes from."""


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
    """A recipe as read and checked; `given` are the flags of the command line, which win over its tables. aside: the
    data sets and policies that the command line leaves out of this command, in the recipe's order with the others.
    verdict_version: the earlier version whose verdicts count, as typed; pins: data set -> its verifier."""

    data: Path
    datasets: Mapping[str, Dataset]
    folder: Path = Path()
    path: Path | None = None
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chunk: Chunk = field(default_factory=Chunk)
    collect: Mapping[str, Any] = field(default_factory=dict)
    verify: Verify = field(default_factory=Verify)
    metrics: Sequence[str] = ()
    metrics_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    steps: Sequence[StepUse] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    aside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    verdict_version: str | None = None
    pins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def places(self) -> tuple[Path, ...]:
        """Where inputs with a relative name are looked for: the working directory, the recipe's folder, what ships."""
        return Path(), self.folder, shipped("")

    def exports(self, build: StepUse) -> Path:
        """The folder of a build that names none."""
        return self.data / "exports" / build.name

    def output(self, build: StepUse) -> Path:
        """The folder of a build. One that its settings name wrongly is refused where they are checked."""
        own = build.settings.get("output")
        return as_path(own) if isinstance(own, str) and own else self.exports(build)

    def collect_of(self, dataset: str, policy: str) -> Collect:
        """[collect], then the policy's table, then the data set's, then the command line."""
        own = self.datasets[dataset].collect
        asked = Collect(**merged(self.collect, self.policies.get(policy, {}), own, self.given))
        if asked.service_tier is None:
            return asked
        return replace(
            asked, responses_create_params={**asked.responses_create_params, "service_tier": asked.service_tier}
        )

    def policy_names(self) -> list[str]:
        """The policies that collect: the `[policies.*]`, else the one of `[collect]`."""
        if self.policies:
            return list(self.policies)
        base = merged(self.collect, self.given)
        name = base.get("policy") or Path(base.get("model") or "").name or base.get("engine")
        return [name] if name else []

    def plan(self) -> list[dict[str, Any]]:
        """What is asked of each data set and policy: the rows of the view `plan`.

        A data set that nobody collects, as its rollouts were imported, has one without a policy, for its verifier.
        """
        rows = []
        for name, dataset in self.datasets.items():
            judge = self.pins.get(name) or self.judge(dataset)
            policies = self.policy_names()
            if not policies and dataset.environment is not None:
                rows.append({"dataset": name, "policy": None, "num_repeats": 0, **judge})
            for policy in policies:
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

    def judge(self, dataset: Dataset) -> dict[str, Any]:
        """The verifier's name and version, and what earlier commits called that version: columns of the plan."""
        if dataset.environment is None:
            return {"verifier": None, "verifier_version": None, "equal_versions": None}
        plugin, args = find("environment", dataset.environment, self.folder), dataset.environment_args
        versions = {"verifier_version": plugin.version(args), "equal_versions": plugin.equal_versions(args)}
        return {"verifier": dataset.environment, **versions}

    def fingerprint(self, dataset: str, policy: str) -> dict[str, Any]:
        """What makes a policy this policy: engine, model and everything that changes what it says."""
        asked = self.collect_of(dataset, policy)
        said = ("engine", "model", "responses_create_params", "system_prompt", "max_steps", "token_budget", "endpoint")
        print_ = {name: getattr(asked, name) for name in said}
        print_["responses_create_params"] = {
            k: v for k, v in asked.responses_create_params.items() if k != "service_tier"
        }
        print_["engine_args"] = without_secrets({k: v for k, v in asked.engine_args.items() if k not in OPERATIONAL})
        print_["environment"] = self.offered(self.datasets[dataset])
        return print_

    def secret_places(self) -> list[str]:
        """The settings of this recipe that hold a key, and not the name of a variable that does."""
        tables = [self.collect, self.given, *self.policies.values()]
        tables += [{"environment_args": one.environment_args, **one.collect} for one in self.datasets.values()]
        return list(dict.fromkeys(place for table in tables for place in secret_places(table)))

    def offered(self, dataset: Dataset) -> dict[str, Any]:
        """What a data set's environment adds to what a policy is asked: its tools, and a system prompt of its own.

        Nothing, where it cannot be made: whoever collects is told so.
        """
        if dataset.environment is None:
            return {}
        try:
            environment = find("environment", dataset.environment, self.folder).make(dict(dataset.environment_args))
        except RolloutopsError:
            return {}
        said = {name: getattr(environment, name, None) for name in ("tools", "system_prompt")}
        return {name: value for name, value in said.items() if value}

    def as_json(self) -> dict[str, Any]:
        """The resolved recipe, as recorded with each run, and enough to make it again; without secrets.

        Whole, also where the command line chose among its data sets or policies. Leave to run code without a sandbox
        is given to one command, so it is not recorded.
        """
        datasets = {name: resolved(dataset) for name, dataset in self._whole("datasets", self.datasets).items()}
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
            "policies": {n: _recorded(table) for n, table in self._whole("policies", self.policies).items()},
            "chunk": resolved(self.chunk),
            "collect": _recorded(self.collect),
            "given": _recorded(self.given),
            "verify": resolved(replace(self.verify, against=None, unsafe_code=False)),
            "metrics": list(self.metrics),
            "metrics_settings": to_json_safe(self.metrics_settings),
            "steps": [{**vars(step), "settings": to_json_safe(step.settings)} for step in self.steps],
        }

    def _whole(self, table: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.aside.get(table, {}), **chosen}


def _recorded(collect: Mapping[str, Any]) -> dict[str, Any]:
    """Without what may be a key; nor what each command sets for itself: `retry`, and `shared_locks`."""
    kept = {name: value for name, value in collect.items() if name not in ("retry", "shared_locks")}
    return {name: public(value, name) if name in SECRETIVE else value for name, value in kept.items()}


def from_json(stored: Mapping[str, Any]) -> Recipe:
    """The recipe that `as_json` recorded."""
    return Recipe(
        data=Path(stored["data"]),
        folder=Path(stored["folder"]),
        path=Path(stored["path"]) if stored.get("path") else None,
        datasets={name: Dataset(**table) for name, table in stored["datasets"].items()},
        policies=stored["policies"],
        chunk=Chunk(**stored["chunk"]),
        collect=stored["collect"],
        given=stored["given"],
        verify=Verify(**stored["verify"]),
        metrics=stored["metrics"],
        metrics_settings=from_json_safe(stored.get("metrics_settings", {})),
        steps=[StepUse(**{**step, "settings": from_json_safe(step["settings"])}) for step in stored["steps"]],
    )


def from_flags(flags: Mapping[str, Any]) -> Recipe:
    """The recipe of a command line without one: one data set, from --input, --dataset, --environment, --id, --data."""
    inputs = flags.get("input") or []
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(inputs[0]).name.split(".")[0]).strip("_") if inputs else ""
    name = checked_name(flags.get("dataset") or stem or "tasks", "--dataset")
    given = {k: flags[k] for k in ("environment", "id") if k in flags}
    return Recipe(data=as_path(flags.get("data") or f"data/{name}"), datasets={name: Dataset(input=inputs, **given)})


def with_agent(recipe: Recipe, flags: Mapping[str, Any], agent: str) -> dict[str, Any]:
    """A command's flags with what NeMo Gym's `+agent_name` means: where its servers answer, the agent of each row,
    else the environment, which takes an agent's place."""
    asked = [merged(recipe.collect, policy, recipe.given, flags) for policy in recipe.policies.values() or ({},)]
    if any(one.get("engine") == "gym" for one in asked):
        return {**flags, "engine_args": {**flags.get("engine_args", {}), "agent_name": agent}}
    if flags.get("environment", agent) != agent:
        raise UsageError(f"--agent_name={agent} and --environment={flags['environment']} mean the same: give one")
    return {**flags, "environment": agent}


def with_flags(recipe: Recipe, table: str, flags: Mapping[str, Any]) -> Recipe:
    """The recipe with a command's flags over it. table: chunk, collect or verify.

    `dataset` and `policy` select; for a new policy name, `policy` names it. `input`, `environment` and `id` belong to
    one data set. `filter.NAME.KEY` and the like set a step's parameters. A name that is none is an error.
    """
    kind: type[Chunk | Collect | Verify] = {"chunk": Chunk, "collect": Collect, "verify": Verify}[table]
    own = settings_of(kind, {k: v for k, v in flags.items() if k in kind.__dataclass_fields__}, "the command line")
    if "data" in flags:
        recipe = replace(recipe, data=as_path(flags["data"]))
    if "dataset" in flags:
        aside = {**recipe.aside, "datasets": recipe.datasets}
        chosen = _chosen(recipe.datasets, str(flags["dataset"]), "data set")
        recipe = replace(recipe, datasets=chosen, aside=aside)
    if any(name in flags for name in SOURCE):
        recipe = replace(recipe, datasets=_sourced(recipe.datasets, flags))
    recipe = replace(recipe, steps=_stepped(recipe.steps, flags))
    recipe = replace(recipe, metrics_settings=_measured(recipe.metrics_settings, flags.get("metrics", {})))
    if "verdict_version" in flags:
        recipe = replace(recipe, verdict_version=flags["verdict_version"])
    if "unsafe_code" in flags:
        recipe = replace(recipe, verify=replace(recipe.verify, unsafe_code=flags["unsafe_code"]))
    if table == "collect":
        if "skip_bad_lines" in flags:
            recipe = replace(recipe, chunk=replace(recipe.chunk, skip_bad_lines=flags["skip_bad_lines"]))
        if recipe.policies and "policy" in own:
            aside = {**recipe.aside, "policies": recipe.policies}
            chosen = _chosen(recipe.policies, str(own.pop("policy")), "policy")
            recipe = replace(recipe, policies=chosen, aside=aside)
        return replace(recipe, given=merged(recipe.given, own))
    settings = getattr(recipe, table)
    return replace(recipe, **{table: replace(settings, **own)})


def _sourced(datasets: Mapping[str, Dataset], flags: Mapping[str, Any]) -> dict[str, Dataset]:
    """The one data set with what the command line says of its source."""
    given = {name: flags[name] for name in SOURCE if name in flags}
    if len(datasets) != 1:
        known = ", ".join(datasets) or "none"
        raise UsageError(f"--{next(iter(given))} is one data set's: name it with --dataset; the recipe has: {known}")
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


def _merged_settings(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A step's settings with what was typed over them; a table, as the shares of a mix, is merged key by key."""
    given = from_json_safe(given)
    tables = [name for name in given if isinstance(own.get(name), dict) and isinstance(given[name], dict)]
    return {**own, **given, **{name: {**own[name], **given[name]} for name in tables}}


def _chosen(known: Mapping[str, Any], names: str, noun: str) -> dict[str, Any]:
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"no {noun} {name!r}{did_you_mean_one_of(name, known)}; the recipe has: {', '.join(known) or 'none'}"
            )
    return {name: known[name] for name in wanted}


def checked_name(name: str, where: str) -> str:
    """A name that can also be a folder's. Raises UsageError for any other."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{where}: {name!r} cannot be a name; use letters, digits, '.', '_' and '-'")
    return name
