"""Rollouts whose verdicts are of another version of their verifier.

One that costs CPU only judges them again as soon as anything is judged. One that spends (`spends = True` of the
environment) waits for the command `verify`, and until then nothing is measured or built of what it judges: a table
would hold rewards of two versions, or none. With `--verdict_version=OLD` the verdicts of that version count, all of
them, and no other.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rolloutops.config.paths import as_path
from rolloutops.config.plugins import find
from rolloutops.config.recipe import Recipe
from rolloutops.config.versions import SHIPPED
from rolloutops.errors import RolloutopsError, UsageError
from rolloutops.layout import count
from rolloutops.limits.prices import Prices, load, price_of
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, connect

SPENDING = tuple(f"{SHIPPED}{name}:make" for name in ("llm_judge", "remote"))
"""The shipped environments that spend, known without making them: that may need a key."""

OTHER_VERSIONS = """
-- Whether the data sets that the plan judges have verdicts of another version of their verifier.
SELECT DISTINCT v.dataset
FROM verdicts AS v
SEMI JOIN dataset_verifiers AS j ON j.dataset = v.dataset
ANTI JOIN version_names AS n ON n.dataset = v.dataset AND n.verifier = v.verifier AND n.name = v.verifier_version
WHERE v.verifier_version IS NOT NULL
"""

OUTDATED = """
-- The outdated rollouts by their newest verdict's version, with what those verdicts took where a model gave them.
WITH newest AS (
    SELECT o.dataset, o.policy, o.verifier, o.verifier_version AS now, o.attempt_id,
        max_by(v.verifier_version, v.verdict_id) AS before,
        max_by(v.metrics, v.verdict_id) AS metrics,
        max_by(json_extract_string(v.details, '$.judge_model'), v.verdict_id) AS model,
        max_by(json_extract_string(v.details, '$.judge_service_tier'), v.verdict_id) AS tier
    FROM outdated AS o
    JOIN verdicts AS v ON v.dataset = o.dataset AND v.attempt_id = o.attempt_id AND v.verifier_version IS NOT NULL
    GROUP BY ALL
)
SELECT dataset, policy, verifier, now, before, model, tier, count(*) AS rollouts,
    coalesce(sum(metrics['judge_calls']), 0)::BIGINT AS calls,
    coalesce(sum(metrics['judge_input_tokens']), 0)::BIGINT AS input_tokens,
    coalesce(sum(metrics['judge_cached_tokens']), 0)::BIGINT AS cached_tokens,
    coalesce(sum(metrics['judge_output_tokens']), 0)::BIGINT AS output_tokens
FROM newest
GROUP BY dataset, policy, verifier, now, before, model, tier
ORDER BY dataset, rollouts DESC, before
"""

FOUND = """
-- The versions that have judged, the newest first.
SELECT dataset, verifier, verifier_version, count(*) AS verdicts
FROM verdicts
WHERE verifier_version IS NOT NULL
GROUP BY dataset, verifier, verifier_version
ORDER BY max(verdict_id) DESC
"""


@dataclass(frozen=True)
class Outdated:
    """A data set's outdated rollouts. before: the version of most of their newest verdicts.

    calls and tokens: what those verdicts took, where a model gave them. cost: by the price table, None where it or a
    model's price is not known.
    """

    dataset: str
    verifier: str
    now: str
    before: str
    rollouts: int
    spends: bool
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None

    def changed(self) -> str:
        """Say what has changed, and of how many rollouts."""
        return (
            f"{self.dataset}: {self.verifier} is another version now ({self.before} -> {self.now}) for "
            f"{count(self.rollouts, 'rollout')}"
        )

    def costs(self) -> str:
        """Say what judging them again costs, going by their last verdicts."""
        if not self.calls:
            return "what its verdicts cost is not known here"
        tokens = f"{self.input_tokens:,} input and {count(self.output_tokens, 'output token')}"
        cost = "no price of them is known" if self.cost is None else f"about {self.cost:,.4f} by the price table"
        return f"the last time that took {count(self.calls, 'call')} with {tokens}, {cost}"


def outdated(con: sql.Connection, recipe: Recipe) -> list[Outdated]:
    """List the data sets with outdated rollouts. con: with the views of the recipe's plan."""
    if not sql.rows(con, OTHER_VERSIONS):
        return []  # nearly always, and cheaper to know than which rollouts are unjudged
    by_dataset: dict[str, list[dict[str, object]]] = {}
    for row in sql.records(con, OUTDATED):
        if row["dataset"] in recipe.datasets and row["dataset"] not in recipe.pins:
            by_dataset.setdefault(row["dataset"], []).append(row)
    return [_of(recipe, dataset, rows) for dataset, rows in by_dataset.items()]


def _of(recipe: Recipe, dataset: str, rows: Sequence[dict[str, object]]) -> Outdated:
    totals = {name: sum(int(str(row[name])) for row in rows) for name in ("rollouts", "calls")}
    tokens = {name: sum(int(str(row[name])) for row in rows) for name in ("input_tokens", "output_tokens")}
    costs = [_cost(recipe, row) for row in rows]
    return Outdated(
        dataset=dataset,
        verifier=str(rows[0]["verifier"]),
        now=str(rows[0]["now"]),
        before=str(rows[0]["before"]),
        spends=spends(recipe, dataset),
        cost=None if None in costs else sum(cost for cost in costs if cost is not None),
        **totals,
        **tokens,
    )


def spends(recipe: Recipe, dataset: str) -> bool:
    """Say whether a data set's verifier spends. One that cannot be made here, say without its extra, does not."""
    settings = recipe.datasets[dataset]
    if settings.environment is None:
        return False
    try:
        plugin = find("environment", settings.environment, recipe.folder)
        return plugin.target in SPENDING or bool(getattr(plugin.make(settings.environment_args), "spends", False))
    except RolloutopsError:
        return False


def waiting_sentence(recipe: Recipe, waiting: Sequence[Outdated]) -> str:
    """Say what waits for the command `verify`, what it costs, and both ways on."""
    where = str(recipe.path) if recipe.path else f"--data={recipe.data}"
    each = "; ".join(f"{one.changed()}: {one.costs()}" for one in waiting)
    names = [one.before if len(waiting) == 1 else f"{one.dataset}={one.before}" for one in waiting]
    versions = ",".join(names)
    return (
        f"{each}. A verifier that spends judges again only on command: rolloutops verify {shlex.quote(where)}; "
        f"or use {'its' if len(waiting) == 1 else 'their'} earlier verdicts, all of them, with "
        f"--verdict_version={versions}"
    )


def refuse_waiting(con: sql.Connection, recipe: Recipe) -> list[str]:
    """Raise UsageError where verdicts wait for the command `verify`. Returns what else is to be said of verdicts."""
    late = outdated(con, recipe)
    if waiting := [one for one in late if one.spends]:
        raise UsageError(waiting_sentence(recipe, waiting))
    notes = [f"{one.changed()}: without a reward here until verify has run" for one in late]
    if recipe.pins:
        lacking = dict(sql.rows(con, "SELECT dataset, count(*) FROM unverified GROUP BY dataset"))
        for dataset, pin in recipe.pins.items():
            if lacking.get(dataset):
                version = pin["verifier_version"]
                notes.append(
                    f"{dataset}: {count(lacking[dataset], 'rollout')} without a verdict of {version}, so without a "
                    "reward here"
                )
    return notes


def pinned(workspace: Workspace, recipe: Recipe) -> Recipe:
    """Return the recipe with the verifier whose verdicts count in each dataset that `verdict_version` is of.

    It is a version, or several with commas between; one of a single dataset is `DATASET=VERSION`.
    Raises UsageError where one is the version of no verdict, or the beginning of several.
    """
    if recipe.verdict_version is None:
        return recipe
    found = [row for row in sql.rows(connect(workspace), FOUND) if not recipe.datasets or row[0] in recipe.datasets]
    pins: dict[str, dict[str, object]] = {}
    named: dict[str, str] = {}
    for entry in recipe.verdict_version.split(","):
        for dataset, verifier, version, _ in _matching(entry.strip(), found):
            if named.setdefault(dataset, version) != version:
                raise UsageError(f"--verdict_version names two versions for {dataset}: {named[dataset]} and {version}")
            now = recipe.judge(recipe.datasets[dataset])
            if (verifier, version) not in [(now["verifier"], name) for name in _names(now)]:
                pins[dataset] = {"verifier": verifier, "verifier_version": version, "equal_versions": []}
    return replace(recipe, pins=pins)


def _matching(entry: str, found: Sequence[tuple[str, str, str, int]]) -> list[tuple[str, str, str, int]]:
    """The rows of FOUND that `VERSION` or `DATASET=VERSION` means: by its whole name, else by its beginning."""
    dataset, equals, version = entry.rpartition("=")
    among = [row for row in found if not equals or row[0] == dataset]
    matching = [row for row in among if row[2] == version] or [
        row for row in among if version and row[2].startswith(version)
    ]
    if len({row[2] for row in matching}) == 1:
        return matching
    listed = "; ".join(f"{name} ({of}: {verifier}, {count(n, 'verdict')})" for of, verifier, name, n in among or found)
    what = "begins the names of several versions" if matching else "is the version of no verdict"
    raise UsageError(
        f"--verdict_version={entry} {what}{f' of {dataset}' if equals else ''}; there are, the newest first: "
        f"{listed or 'none'}"
    )


def _names(judge: dict[str, object]) -> list[object]:
    equal = judge["equal_versions"]
    return [judge["verifier_version"], *(equal if isinstance(equal, list) else [])]


def _cost(recipe: Recipe, row: dict[str, object]) -> float | None:
    dataset, policy, model, tier = (row[name] for name in ("dataset", "policy", "model", "tier"))
    price = price_of(_prices(recipe, str(dataset), str(policy)), str(model), str(tier) if tier else None)
    tokens = (int(str(row[name])) for name in ("input_tokens", "cached_tokens", "output_tokens"))
    return price.of(*tokens) if price else None


def _prices(recipe: Recipe, dataset: str, policy: str) -> Prices:
    named = recipe.collect_of(dataset, policy).prices
    if named is None:
        return {}
    path = as_path(named)
    return load(path if path.exists() else recipe.folder / path)
