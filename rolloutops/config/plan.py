"""The plan of a command: what recipe, flags and plug-ins come to, worked out once.

A command makes it; everything below takes it, or a part of it, and neither merges tables, looks a plug-in up, nor knows
a default. What must read a plug-in's source (versions) or load it (fingerprints) is worked out when it is first needed,
and held: `chunk` needs no environment, and `status` no engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rolloutops.config.engine_jobs import CollectPlan, EngineJob, engine_jobs
from rolloutops.config.paths import as_path
from rolloutops.config.plugins import Plugin, find, operational_of
from rolloutops.config.recipe import Recipe, StepUse, chosen, with_flags
from rolloutops.config.resources import shipped
from rolloutops.config.secrets import without_secrets
from rolloutops.config.settings import Chunk, Collect, Dataset, DuckDB, Verify, merged, settings_of
from rolloutops.config.shard import Shard
from rolloutops.errors import RolloutopsError, located

__all__ = ["CollectPlan", "EngineJob", "Plan", "VerifierPlan", "VerifierVersion", "make_plan"]

POLICY_KEYS = ("engine", "model", "responses_create_params", "system_prompt", "max_steps", "token_budget", "endpoint")
"""Keys of [collect] that are part of a policy's fingerprint as they are."""


class VerifierVersion(NamedTuple):
    """A verifier in one version. equal_versions: what earlier commits called that version."""

    name: str
    version: str
    equal_versions: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """All names of the version."""
        return [self.version, *self.equal_versions]


SCORES = VerifierVersion("human", "1")
"""The verifier of datasets whose rewards are the scores that people give."""


@dataclass(frozen=True)
class VerifierPlan:
    """How a dataset is verified: the environment that is made of `plugin` and `args`, in its present version."""

    present: VerifierVersion
    plugin: Plugin
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a command works on.

    datasets: those that the command line leaves in. selects_datasets: it names them. known_datasets: all that the
    recipe names. policies: (dataset, policy) -> how it is collected. defaults: dataset -> how a policy that the recipe
    does not name would be. record: the recipe as it is recorded with a run. key_places: the settings that hold a key.
    verdict_version: the earlier version whose verdicts count, as typed, until it is looked up; pins: dataset -> the
    verifier that it names there. shard: the part of each dataset that is worked on; None for all of it. origins:
    (dataset, policy) -> key of [collect] -> the file and table that set it; environment_origins: dataset -> those that
    name its environment.
    """

    data: Path
    path: Path | None
    folder: Path
    datasets: Mapping[str, Dataset]
    selects_datasets: bool
    known_datasets: Sequence[str]
    policies: CollectPlan
    defaults: Mapping[str, Collect]
    chunk: Chunk
    verify: Verify
    metrics: Sequence[str]
    metrics_settings: Mapping[str, Mapping[str, Any]]
    steps: Sequence[StepUse]
    record: Mapping[str, Any]
    key_places: Sequence[str] = ()
    shared_locks: bool = False
    duckdb: DuckDB = field(default_factory=DuckDB)
    verdict_version: str | None = None
    pins: Mapping[str, VerifierVersion] = field(default_factory=dict)
    shard: Shard | None = None
    origins: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    environment_origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def places(self) -> tuple[Path, ...]:
        """Where inputs with a relative name are looked for: the working directory, the recipe's folder, what ships."""
        return Path(), self.folder, shipped("")

    def exports(self, build: StepUse) -> Path:
        """Return the folder of a build that names none."""
        return self.data / "exports" / build.name

    def output(self, build: StepUse) -> Path:
        """Return the folder of a build. One that its settings name wrongly is refused where they are checked."""
        own = build.settings.get("output")
        return as_path(own) if isinstance(own, str) and own else self.exports(build)

    def settings_of(self, dataset: str, policy: str) -> Collect:
        """Return how a policy's rollouts of a dataset are collected; imported ones, how they would be."""
        return self.policies.get((dataset, policy), self.defaults[dataset])

    @cached_property
    def verifiers(self) -> Mapping[str, VerifierPlan]:
        """dataset -> how it is verified, of those that name an environment. Raises UsageError where there is none."""
        return {
            name: _verifier(
                dataset.environment, dataset.environment_args, self.folder, self.environment_origins.get(name, "")
            )
            for name, dataset in self.datasets.items()
            if dataset.environment is not None
        }

    @cached_property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The rows of the view `plan`: one for each dataset and policy.

        A dataset that nobody collects, as its rollouts were imported, has one without a policy, for its verifier.
        """
        rows = []
        for name in self.datasets:
            verifier = self._verdicts_of(name)
            columns = dict(zip(("verifier", "verifier_version", "equal_versions"), verifier, strict=True))
            if not self.policies and (name in self.verifiers or name in self.scored_by_people):
                rows.append({"dataset": name, "policy": None, "num_repeats": 0, **columns})
            for (dataset, policy), settings in self.policies.items():
                if dataset == name:
                    limits = {"row_limit": settings.limit, "max_attempts": settings.max_attempts}
                    own = {"dataset": name, "policy": policy, "num_repeats": settings.num_repeats, **limits}
                    if self.shard is not None:
                        own |= {"shard": self.shard.number, "shards": self.shard.total}
                    rows.append({**own, **columns})
        return rows

    @property
    def scored_by_people(self) -> frozenset[str]:
        """The datasets whose rewards are the scores of people, so that no environment verifies them."""
        return frozenset(name for name, dataset in self.datasets.items() if dataset.verifier == SCORES.name)

    def _verdicts_of(self, dataset: str) -> Sequence[Any]:
        if dataset in self.pins:
            return self.pins[dataset]
        if dataset in self.scored_by_people:
            return SCORES
        return self.verifiers[dataset].present if dataset in self.verifiers else (None, None, None)

    @cached_property
    def jobs(self) -> Sequence[EngineJob]:
        """The policies by the engine that answers them. Raises UsageError where settings make no sense."""
        return engine_jobs(self.policies, self.folder, self.origins)

    def check_plugins(self) -> None:
        """Raise UsageError where a verifier or an engine is none, or an engine is asked for what makes no sense."""
        _ = self.verifiers, self.jobs

    @cached_property
    def fingerprints(self) -> Mapping[str, Mapping[str, Any]]:
        """dataset -> policy -> what makes it this policy: all that changes what it says. Makes the environments."""
        prints: dict[str, dict[str, Any]] = {}
        offers = {name: _offered(self.verifiers.get(name)) for name in self.datasets}
        for (dataset, policy), settings in self.policies.items():
            prints.setdefault(dataset, {})[policy] = policy_fingerprint(
                settings, offers[dataset], operational_of(settings.engine, self.folder)
            )
        return prints

    def with_pins(self, pins: Mapping[str, VerifierVersion]) -> Plan:
        """Return the plan in which the verdicts of earlier versions count."""
        pinned = replace(self, pins=pins, verdict_version=None)
        vars(pinned)["verifiers"] = self.verifiers  # pins change nothing of them, so they are not looked up again
        return pinned


def make_plan(
    recipe: Recipe,
    table: str = "collect",
    flags: Mapping[str, Any] | None = None,
    earlier: Mapping[str, Any] | None = None,
) -> Plan:
    """Lay a command's flags over a recipe, and resolve both.

    table: chunk, collect or verify, whose keys are flags. `dataset` and `policy` select; where the recipe has no table
    of policies, `policy` names its one. earlier: keys of [collect] from the command line that recorded the recipe,
    below these flags. Raises UsageError for a key or a name that is none.
    """
    flags = flags or {}
    kind: type[Chunk | Collect | Verify] = {"chunk": Chunk, "collect": Collect, "verify": Verify}[table]
    own = settings_of(kind, {k: v for k, v in flags.items() if k in kind.__dataclass_fields__}, "the command line")
    names = chosen(recipe.datasets, str(flags["dataset"]), "dataset") if "dataset" in flags else recipe.datasets
    recipe = with_flags(recipe, flags, names)
    collect, policies = dict(earlier or {}), None
    if table == "collect":
        if recipe.policies and "policy" in own:
            policies = list(chosen(recipe.policies, str(own.pop("policy")), "policy"))
        collect = merged(collect, own)
    else:
        recipe = replace(recipe, **{table: replace(getattr(recipe, table), **own)})
    if policies is None:
        policies = recipe.policy_names(collect)
    keys = [(name, policy) for name in names for policy in policies]
    return Plan(
        data=recipe.data,
        path=recipe.path,
        folder=recipe.folder,
        datasets={name: recipe.datasets[name] for name in names},
        selects_datasets="dataset" in flags,
        known_datasets=list(recipe.datasets),
        policies={key: recipe.collect_of(*key, collect) for key in keys},
        defaults={name: recipe.collect_of(name, "", collect) for name in names},
        chunk=recipe.chunk,
        verify=recipe.verify,
        metrics=recipe.metrics,
        metrics_settings=recipe.metrics_settings,
        steps=recipe.steps,
        record=recipe.as_json(collect),
        key_places=recipe.secret_places(collect),
        shared_locks=bool({**recipe.collect, **collect}.get("shared_locks")),
        duckdb=recipe.duckdb,
        verdict_version=flags.get("verdict_version"),
        shard=flags.get("shard"),
        origins={key: recipe.origins_of(*key, collect) for key in keys},
        environment_origins={name: _environment_origin(recipe, name, flags) for name in names},
    )


def _environment_origin(recipe: Recipe, dataset: str, flags: Mapping[str, Any]) -> str:
    if "environment" in flags:
        return "the command line"
    return f"{recipe.path} [datasets.{dataset}]" if recipe.path else ""


def _verifier(name: str, args: Mapping[str, Any], folder: Path, where: str) -> VerifierPlan:
    with located(where):
        plugin = find("environment", name, folder)
        return VerifierPlan(VerifierVersion(name, plugin.version(args), plugin.equal_versions(args)), plugin, args)


def policy_fingerprint(settings: Collect, offered: Mapping[str, Any], operational: Collection[str]) -> dict[str, Any]:
    """Return what makes a policy this policy. offered: what the environment adds to what it is asked. operational: the
    engine's arguments that say where and how fast it answers."""
    params = {name: value for name, value in settings.responses_create_params.items() if name != "service_tier"}
    engine_args = {name: value for name, value in settings.engine_args.items() if name not in operational}
    return {
        **{name: getattr(settings, name) for name in POLICY_KEYS},
        "responses_create_params": params,
        "engine_args": without_secrets(engine_args),
        "environment": offered,
    }


def _offered(verifier: VerifierPlan | None) -> dict[str, Any]:
    """Return what an environment adds to what a policy is asked: its tools, and a system prompt of its own.

    Nothing, where it cannot be made: whoever collects is told so.
    """
    if verifier is None:
        return {}
    try:
        environment = verifier.plugin.make(dict(verifier.args))
    except RolloutopsError:
        return {}
    offers = {name: getattr(environment, name, None) for name in ("tools", "system_prompt")}
    return {name: value for name, value in offers.items() if value}
