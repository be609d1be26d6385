"""Where a workspace stands: what is done, owed, failing, how fast, and whether the tables agree with each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rolloutops.config.recipe import Recipe
from rolloutops.config.resources import shipped
from rolloutops.limits.prices import Spent, spent
from rolloutops.limits.spend_limit import price_table
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, connect

PROGRESS = """
WITH counted AS (
    SELECT dataset, policy, count(*) AS wanted, count(*) FILTER (WHERE state = 'done') AS done,
        count(*) FILTER (WHERE state = 'owed') AS owed, count(*) FILTER (WHERE state = 'in_flight') AS in_flight,
        count(*) FILTER (WHERE state = 'given_up') AS given_up
    FROM wanted_states GROUP BY dataset, policy
),
judged AS (
    SELECT dataset, policy, count(*) FILTER (WHERE reward IS NOT NULL) AS judged, avg(reward) AS mean_reward
    FROM rollouts GROUP BY dataset, policy
),
due AS (SELECT dataset, policy, count(*) AS unjudged FROM unjudged GROUP BY dataset, policy)
SELECT c.dataset, c.policy, c.wanted, c.done, c.owed, c.in_flight, c.given_up, coalesce(j.judged, 0) AS judged,
    coalesce(due.unjudged, 0) AS unjudged, j.mean_reward
FROM counted AS c
LEFT JOIN judged AS j ON j.dataset = c.dataset AND j.policy = c.policy
LEFT JOIN due ON due.dataset = c.dataset AND due.policy = c.policy
ORDER BY c.dataset, c.policy
"""

FAILURES = """
WITH given AS (SELECT dataset, last_error AS error, count(*) AS given_up FROM given_up GROUP BY dataset, last_error)
SELECT f.dataset, f.error, count(*) AS attempts, count(*) FILTER (WHERE f.healed) AS healed,
    coalesce(any_value(g.given_up), 0) AS given_up, min(f.error_message) AS example
FROM failures AS f
LEFT JOIN given AS g ON g.dataset = f.dataset AND g.error = f.error
GROUP BY f.dataset, f.error ORDER BY attempts DESC, f.dataset, f.error
"""

UNREWARDED = """
SELECT dataset, error AS without_reward, count(*) AS rollouts, min(error_message) AS example
FROM good_verdicts
SEMI JOIN good_attempts USING (dataset, attempt_id)
WHERE error IS NOT NULL
GROUP BY dataset, error ORDER BY rollouts DESC, dataset, error
"""

PACE = """
WITH newest AS (SELECT max(run_id) AS run_id FROM attempts)
SELECT count(*) FILTER (WHERE error IS NULL) AS done, sum(output_tokens) AS tokens,
    epoch(max(started_at + to_microseconds((seconds * 1000000)::BIGINT))) - epoch(min(started_at)) AS span
FROM attempts SEMI JOIN newest USING (run_id)
"""


@dataclass(frozen=True)
class Status:
    """What `status` tells, one record a row. unrewarded: rollouts whose verification failed, or which are masked.
    spending: of each data set and policy, on rollouts and on verdicts, by model and tier: the tokens, how many of them
    on attempts that failed, and, where the recipe names prices, the cost so far, on failures, and at that rate for what
    is owed; None where a price is not known. unsealed: attempts and verdicts of running commands that are safe in a
    journal and not yet in the tables. faults: rows of the invariant check, none where all is well."""

    progress: Sequence[Mapping[str, Any]]
    failures: Sequence[Mapping[str, Any]]
    unrewarded: Sequence[Mapping[str, Any]]
    spending: Sequence[Mapping[str, Any]]
    unsealed: int
    rollouts_per_second: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    faults: Sequence[Mapping[str, Any]]


def status(workspace: Workspace, recipe: Recipe) -> Status:
    """Read where the workspace stands with respect to a recipe. Reads only."""
    con = connect(workspace, recipe.plan())
    progress = sql.records(con, PROGRESS)
    done, tokens, span = sql.rows(con, PACE)[0]
    rate = done / span if done and span else None
    owed = sum(row["owed"] for row in progress)
    return Status(
        progress=progress,
        failures=sql.records(con, FAILURES),
        unrewarded=sql.records(con, UNREWARDED),
        spending=list(_spending(con, recipe, progress)),
        unsealed=_unsealed(workspace),
        rollouts_per_second=rate,
        tokens_per_second=tokens / span if tokens and span else None,
        seconds_left=owed / rate if rate and owed else None,
        faults=sql.records(con, sql.read(shipped("sql") / "checks" / "invariant.sql")),
    )


def _spending(con: sql.Connection, recipe: Recipe, progress: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What was spent, data set by data set. What is owed is expected to cost as much a rollout as what is done."""
    stands = {(row["dataset"], row["policy"]): row for row in progress}
    told: list[tuple[Spent, bool]] = []
    for table, keys in _by_prices(recipe, stands).items():
        prices = price_table(recipe.collect_of(*keys[0]), recipe.folder) if table else {}
        told += [(one, table != "") for one in spent(con, prices) if (one.dataset, one.policy) in keys and one.tokens]
    estimated = any(one.estimated_tokens for one, _ in told)
    for one, priced in sorted(
        told, key=lambda each: (each[0].dataset, each[0].policy, each[0].spent_on, each[0].model or "")
    ):
        row = asdict(one)
        if not estimated:
            del row["estimated_tokens"]
        cost = {name: row.pop(name) for name in ("cost", "cost_failed")}
        stand = stands[one.dataset, one.policy]
        known = one.cost is not None and stand["done"]
        cost["cost_owed"] = one.cost / stand["done"] * stand["owed"] if known else None if stand["owed"] else 0.0
        yield row | (cost if priced else {})


def _by_prices(recipe: Recipe, keys: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """The data sets and policies by their price table; under an empty name those that have none."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key in keys:
        found.setdefault(recipe.collect_of(*key).prices or "", []).append(key)
    return found


def _unsealed(workspace: Workspace) -> int:
    lines = 0
    for path in (workspace.root / "journals").glob("*.jsonl"):
        try:
            lines += path.read_bytes().count(b"\n")
        except FileNotFoundError:
            continue
    return lines
