"""Rollouts whose verdicts are of another version of their verifier.

One that costs CPU only verifies them again as soon as anything is verified. One that spends (`spends = True` of the
environment) waits for the command `verify`, and until then nothing is measured or built of what it verifies: a table
would hold rewards of two versions, or none. With `--verdict_version=OLD` the verdicts of that version count, all of
them, and no other.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from rolloutops.config.plan import Plan, VerifierVersion
from rolloutops.config.versions import SHIPPED
from rolloutops.errors import RolloutopsError, UsageError
from rolloutops.layout import count
from rolloutops.limits.prices import price_of
from rolloutops.limits.spend_limit import price_table
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, connect

SPENDING = tuple(f"{SHIPPED}{name}:make" for name in ("llm_judge", "remote"))
"""The shipped environments that spend, known without making them: that may need a key."""

OTHER_VERSIONS = """
-- Whether the datasets that the plan verifies have verdicts of another version of their verifier.
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
-- The versions that have verified, the newest first.
SELECT dataset, verifier, verifier_version, count(*) AS verdicts
FROM verdicts
WHERE verifier_version IS NOT NULL
GROUP BY dataset, verifier, verifier_version
ORDER BY max(verdict_id) DESC
"""


@dataclass(frozen=True)
class Outdated:
    """A dataset's outdated rollouts. before: the version of most of their newest verdicts.

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
            f"{self.dataset}: {self.verifier} has a new version ({self.before} -> {self.now}) for "
            f"{count(self.rollouts, 'rollout')}"
        )

    def costs(self) -> str:
        """Say what verifying them again costs, going by their last verdicts."""
        if not self.calls:
            return "the cost of its verdicts is not known"
        tokens = f"{self.input_tokens:,} input and {count(self.output_tokens, 'output token')}"
        cost = "their price is not known" if self.cost is None else f"about {self.cost:,.4f} by the price table"
        return f"last time, this took {count(self.calls, 'call')} with {tokens}, {cost}"


def outdated(con: sql.Connection, plan: Plan) -> list[Outdated]:
    """List the datasets with outdated rollouts. con: with the views of the recipe's plan."""
    if not sql.rows(con, OTHER_VERSIONS):
        return []  # nearly always, and cheaper to know than which rollouts are unverified
    by_dataset: dict[str, list[dict[str, object]]] = {}
    for row in sql.records(con, OUTDATED):
        if row["dataset"] in plan.datasets and row["dataset"] not in {*plan.pins, *plan.scored_by_people}:
            by_dataset.setdefault(row["dataset"], []).append(row)
    return [_of(plan, dataset, rows) for dataset, rows in by_dataset.items()]


def _of(plan: Plan, dataset: str, rows: Sequence[dict[str, object]]) -> Outdated:
    totals = {name: sum(int(str(row[name])) for row in rows) for name in ("rollouts", "calls")}
    tokens = {name: sum(int(str(row[name])) for row in rows) for name in ("input_tokens", "output_tokens")}
    costs = [_cost(plan, row) for row in rows]
    return Outdated(
        dataset=dataset,
        verifier=str(rows[0]["verifier"]),
        now=str(rows[0]["now"]),
        before=str(rows[0]["before"]),
        spends=spends(plan, dataset),
        cost=None if None in costs else sum(cost for cost in costs if cost is not None),
        **totals,
        **tokens,
    )


def spends(plan: Plan, dataset: str) -> bool:
    """Say whether a dataset's verifier spends. One that cannot be made here, say without its extra, does not."""
    verifier = plan.verifiers.get(dataset)
    if verifier is None:
        return False
    if verifier.plugin.target in SPENDING:
        return True
    try:
        return bool(getattr(verifier.plugin.make(verifier.args), "spends", False))
    except RolloutopsError:
        return False


def waiting_sentence(plan: Plan, waiting: Sequence[Outdated]) -> str:
    """Say what waits for the command `verify`, what it costs, and both ways on."""
    where = str(plan.path) if plan.path else f"--data={plan.data}"
    each = "; ".join(f"{one.changed()}: {one.costs()}" for one in waiting)
    names = [one.before if len(waiting) == 1 else f"{one.dataset}={one.before}" for one in waiting]
    versions = ",".join(names)
    return (
        f"{each}. Verifying again costs money, so it needs the command: rolloutops verify {shlex.quote(where)}; "
        f"or use {'its' if len(waiting) == 1 else 'their'} earlier verdicts only, with "
        f"--verdict_version={versions}"
    )


def refuse_waiting(con: sql.Connection, plan: Plan) -> list[str]:
    """Raise UsageError where verdicts wait for the command `verify`. Returns what else is to be said of verdicts."""
    late = outdated(con, plan)
    if waiting := [one for one in late if one.spends]:
        raise UsageError(waiting_sentence(plan, waiting))
    notes = [f"{one.changed()}: without a reward until verify has run" for one in late]
    if plan.pins:
        lacking = dict(sql.rows(con, "SELECT dataset, count(*) FROM unverified GROUP BY dataset"))
        for dataset, pin in plan.pins.items():
            if lacking.get(dataset):
                notes.append(
                    f"{dataset}: {count(lacking[dataset], 'rollout')} without a verdict of {pin.version}, so without a "
                    "reward"
                )
    return notes


def pinned(workspace: Workspace, plan: Plan) -> Plan:
    """Return the plan with the verifier whose verdicts count in each dataset that `verdict_version` is of.

    It is a version, or several with commas between; one of a single dataset is `DATASET=VERSION`.
    Raises UsageError where one matches no verdict, or the beginning of several.
    """
    if plan.verdict_version is None:
        return plan
    found = [row for row in sql.rows(connect(workspace), FOUND) if not plan.datasets or row[0] in plan.datasets]
    pins: dict[str, VerifierVersion] = {}
    named: dict[str, str] = {}
    for entry in plan.verdict_version.split(","):
        for dataset, verifier, version, _ in _matching(entry.strip(), found):
            if named.setdefault(dataset, version) != version:
                raise UsageError(f"--verdict_version names two versions for {dataset}: {named[dataset]} and {version}")
            now = plan.verifiers[dataset].present if dataset in plan.verifiers else None
            if now is None or verifier != now.name or version not in now.names:
                pins[dataset] = VerifierVersion(verifier, version)
    return plan.with_pins(pins)


def _matching(entry: str, rows: Sequence[tuple[str, str, str, int]]) -> list[tuple[str, str, str, int]]:
    """The rows of FOUND that `VERSION` or `DATASET=VERSION` means: by its whole name, else by its beginning."""
    dataset, equals, version = entry.rpartition("=")
    among = [row for row in rows if not equals or row[0] == dataset]
    matching = [row for row in among if row[2] == version] or [
        row for row in among if version and row[2].startswith(version)
    ]
    if len({row[2] for row in matching}) == 1:
        return matching
    listed = "; ".join(f"{name} ({of}: {verifier}, {count(n, 'verdict')})" for of, verifier, name, n in among or rows)
    what = "matches several versions" if matching else "matches no verdict"
    raise UsageError(
        f"--verdict_version={entry} {what}{f' of {dataset}' if equals else ''}; available, newest first: "
        f"{listed or 'none'}"
    )


def _cost(plan: Plan, row: dict[str, object]) -> float | None:
    dataset, policy, model, tier = (row[name] for name in ("dataset", "policy", "model", "tier"))
    prices = price_table(plan.settings_of(str(dataset), str(policy)), plan.folder)
    price = price_of(prices, str(model), str(tier) if tier else None)
    tokens = (int(str(row[name])) for name in ("input_tokens", "cached_tokens", "output_tokens"))
    return price.of(*tokens) if price else None
