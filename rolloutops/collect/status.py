"""Where a workspace stands: what is done, pending, failing, how fast, and whether the tables agree with each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from glob import escape
from typing import Any

from rolloutops.collect.live import running
from rolloutops.collect.machine import free_disk, gpus, process_memory
from rolloutops.config.plan import Plan
from rolloutops.config.resources import shipped
from rolloutops.limits.prices import Spent, spent
from rolloutops.limits.spend_limit import price_table
from rolloutops.store import sql
from rolloutops.store.refresh import TRIES, is_gone
from rolloutops.store.snapshot import Snapshot, connect_snapshot, take_snapshot
from rolloutops.store.workspace import Workspace

PROGRESS = """
WITH asked AS (
    SELECT dataset, policy, sum(num_repeats)::BIGINT AS wanted
    FROM wanted_tasks WHERE num_repeats > 0 GROUP BY dataset, policy
),
left_over AS (
    SELECT dataset, policy, count(*) AS unfinished, count(*) FILTER (WHERE status = 'pending') AS pending,
        count(*) FILTER (WHERE status = 'submitted') AS submitted,
        count(*) FILTER (WHERE status = 'given_up') AS given_up
    FROM unfinished GROUP BY dataset, policy
),
counted AS (
    SELECT a.dataset, a.policy, a.wanted, a.wanted - coalesce(u.unfinished, 0) AS done,
        coalesce(u.pending, 0) AS pending, coalesce(u.submitted, 0) AS submitted, coalesce(u.given_up, 0) AS given_up
    FROM asked AS a
    LEFT JOIN left_over AS u ON u.dataset = a.dataset AND u.policy = a.policy
),
verified AS (
    SELECT r.dataset, r.policy, count(r.reward) AS verified, avg(r.reward) AS mean_reward
    FROM rollout_facts AS r
    SEMI JOIN wanted_tasks AS w
        ON w.dataset = r.dataset AND w.task_id = r.task_id AND w.policy = r.policy
        AND r.rollout_index >= 0 AND r.rollout_index < w.num_repeats
    GROUP BY r.dataset, r.policy
),
due AS (SELECT dataset, policy, count(*) AS unverified FROM unverified GROUP BY dataset, policy)
SELECT c.dataset, c.policy, c.wanted, c.done, c.pending, c.submitted, c.given_up, coalesce(v.verified, 0) AS verified,
    coalesce(due.unverified, 0) AS unverified, v.mean_reward
FROM counted AS c
LEFT JOIN verified AS v ON v.dataset = c.dataset AND v.policy = c.policy
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


IMPORTED = "starts_with(engine, 'import:')"

IMPORTS = f"""
SELECT a.dataset, a.policy, a.engine, count(*) FILTER (WHERE a.error IS NULL) AS rollouts,
    count(*) FILTER (WHERE a.error IS NOT NULL) AS failures, count(v.reward) AS verified, avg(v.reward) AS mean_reward
FROM attempts AS a
LEFT JOIN good_verdicts AS v ON v.dataset = a.dataset AND v.attempt_id = a.attempt_id
WHERE {IMPORTED}
GROUP BY a.dataset, a.policy, a.engine ORDER BY a.dataset, a.policy, a.engine
"""

COPIED = """
SELECT dataset, policy, 'its part file is there under two names' AS account, count(*) AS attempts
FROM read_parquet({files}, union_by_name = true) GROUP BY dataset, policy ORDER BY dataset, policy
"""

JOURNALED = """
SELECT count(*) FILTER (WHERE error IS NULL) AS rollouts, count(*) FILTER (WHERE error IS NOT NULL) AS failures
FROM journal_attempts
"""


MANY = 1_000_000
"""Attempts for which the invariant check needs gigabytes."""

DOUBLED = """
WITH held AS (
    SELECT dataset, attempt_id, list(DISTINCT filename ORDER BY filename) AS files
    FROM read_parquet({files}, union_by_name = true, filename = true) GROUP BY dataset, attempt_id HAVING count(*) > 1
)
SELECT files, count(*) AS attempts FROM held GROUP BY files ORDER BY files
"""


@dataclass(frozen=True)
class Status:
    """What `status` tells of one moment, one record a row.

    accounts: what became of every attempt on disk, `on_disk` of them. lost_tasks: datasets whose task files were
    overwritten. imports: rollouts that were made elsewhere. unrewarded: rollouts whose verification failed, or which
    are masked. spending: of each dataset and policy, on rollouts and on verdicts, by model and tier: the tokens, how
    many of them on attempts that failed, and, where the recipe names prices, the cost so far, on failures, and at that
    rate for what is pending; None where a price is not known. journals: attempts, failures and verdicts that are in
    journals and not yet in the tables, all of them counted above; unsealed: their sum. running: the commands at work.
    space: bytes of the workspace by table, free on its disk, and expected of what is pending; memory of this process,
    and of GPUs. faults: rows of the invariant check, none where all is well; doubled: where there are some, the files
    that hold the same attempts."""

    progress: Sequence[Mapping[str, Any]]
    accounts: Sequence[Mapping[str, Any]]
    on_disk: int
    lost_tasks: Sequence[Mapping[str, Any]]
    imports: Sequence[Mapping[str, Any]]
    failures: Sequence[Mapping[str, Any]]
    unrewarded: Sequence[Mapping[str, Any]]
    spending: Sequence[Mapping[str, Any]]
    unsealed: int
    journals: Mapping[str, int]
    running: Sequence[Mapping[str, Any]]
    rollouts_per_second: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    space: Mapping[str, Any]
    faults: Sequence[Mapping[str, Any]]
    doubled: Sequence[Mapping[str, Any]]


def status(workspace: Workspace, plan: Plan) -> Status:
    """Read where the workspace stands with respect to a recipe: one look at its files and journals. Reads only."""
    for _ in range(TRIES):
        try:
            return _status(workspace, plan)
        except (sql.Error, FileNotFoundError) as error:  # files were merged, and are gone, since they were listed
            if not (isinstance(error, FileNotFoundError) or is_gone(error)):
                raise
    return _status(workspace, plan)


def _status(workspace: Workspace, plan: Plan) -> Status:
    at_work = running(workspace)
    snapshot = take_snapshot(workspace)
    con = connect_snapshot(workspace, snapshot, plan.rows)
    sql.set_variable(con, "datasets", list(plan.datasets), "VARCHAR[]")
    progress = sql.records(con, PROGRESS)
    rate, tokens = _pace(con, at_work)
    pending = sum(row["pending"] for row in progress)
    journals = _journaled(con, snapshot)
    attempts, copied = sql.rows(con, "SELECT count(*) FROM attempts")[0][0], _copied(con, snapshot)
    faults = _faults(con, attempts)
    return Status(
        progress=progress,
        accounts=[*sql.records(con, _check("accounts")), *copied],
        on_disk=attempts + sum(row["attempts"] for row in copied),
        lost_tasks=sql.records(con, _check("lost_tasks")),
        imports=sql.records(con, IMPORTS) if _any(con, f"attempts WHERE {IMPORTED}") else [],
        failures=sql.records(con, FAILURES) if _any(con, "attempts WHERE error IS NOT NULL") else [],
        unrewarded=sql.records(con, UNREWARDED) if _any(con, "verdicts WHERE error IS NOT NULL") else [],
        spending=list(_spending(con, plan, progress)),
        unsealed=sum(journals.values()),
        journals=journals,
        running=at_work,
        rollouts_per_second=rate,
        tokens_per_second=tokens,
        seconds_left=pending / rate if rate and pending else None,
        space=_space(workspace, snapshot, pending, attempts),
        faults=faults,
        doubled=_read(con, DOUBLED, snapshot.parts["attempts"].files) if faults else [],
    )


def _check(name: str) -> str:
    return sql.read(shipped("sql") / "checks" / f"{name}.sql")


def _faults(con: sql.Connection, attempts: int) -> list[dict[str, Any]]:
    """The rows of the invariant check. Of many attempts it holds all keys at once, so that sums are compared first."""
    if attempts > MANY and sql.rows(con, _check("sums"))[0][0]:
        return []
    return sql.records(con, _check("invariant"))


def _any(con: sql.Connection, rows: str) -> bool:
    """Whether a table has such rows; the columns of Parquet files mostly tell without a look at the rows."""
    return bool(sql.rows(con, f"SELECT 1 FROM {rows} LIMIT 1"))


def _pace(con: sql.Connection, at_work: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Rollouts and tokens per second: of the commands that collect now, else of the last collection."""
    collecting = [one for one in at_work if one["noun"] == "rollouts" and one["done"]]
    if collecting:
        return sum(one["per_second"] for one in collecting), sum(one["tokens_per_second"] for one in collecting) or None
    done, tokens, span = sql.rows(con, PACE)[0]
    return (done / span if done and span else None), (tokens / span if tokens and span else None)


def _journaled(con: sql.Connection, snapshot: Snapshot) -> dict[str, int]:
    """Rows of journals by kind."""
    found = {"rollouts": 0, "failures": 0, "verdicts": 0}
    if "attempts" in snapshot.journals:
        found |= sql.records(con, JOURNALED)[0]
    if "verdicts" in snapshot.journals:
        found["verdicts"] = snapshot.journals["verdicts"].num_rows
    return found


def _copied(con: sql.Connection, snapshot: Snapshot) -> list[dict[str, Any]]:
    """The attempts of part files that are there under a second name."""
    return _read(con, COPIED, snapshot.parts["attempts"].copies)


def _read(con: sql.Connection, query: str, files: Sequence[str]) -> list[dict[str, Any]]:
    """A query over files; nothing where there are none."""
    return sql.records(con, query.format(files=sql.literal([escape(file) for file in files]))) if files else []


def _space(workspace: Workspace, snapshot: Snapshot, pending: int, attempts: int) -> dict[str, Any]:
    """Bytes on disk, and what the pending rollouts are expected to take at the size of a rollout so far."""
    tables = {table: sum(parts.sizes.values()) for table, parts in snapshot.parts.items()}
    in_journals = snapshot.journals["attempts"].num_rows if "attempts" in snapshot.journals else 0
    written, rows = snapshot.journal_bytes, in_journals
    if sealed := attempts - in_journals:  # parts are compressed, and journals are not
        both, rows = (snapshot.parts["attempts"], snapshot.parts["verdicts"]), sealed
        written = sum(parts.sizes[file] for parts in both for file in parts.files)
    each = written / rows if rows else None
    return {
        "bytes": {**tables, "journals": snapshot.journal_bytes},
        "free_bytes": free_disk(workspace.root),
        "pending_bytes": round(each * pending) if each is not None else None,
        "memory_bytes": process_memory(),
        "gpus": gpus(),
    }


def _spending(con: sql.Connection, plan: Plan, progress: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What was spent, dataset by dataset. What is pending is expected to cost as much a rollout as what is done."""
    stands = {(row["dataset"], row["policy"]): row for row in progress}
    rows: list[tuple[Spent, bool]] = []
    for table, keys in _by_prices(plan, stands).items():
        prices = price_table(plan.settings_of(*keys[0]), plan.folder) if table else {}
        rows += [(one, table != "") for one in spent(con, prices) if (one.dataset, one.policy) in keys and one.tokens]
    estimated = any(one.estimated_tokens for one, _ in rows)
    for one, priced in sorted(
        rows, key=lambda each: (each[0].dataset, each[0].policy, each[0].spent_on, each[0].model or "")
    ):
        row = asdict(one)
        if not estimated:
            del row["estimated_tokens"]
        cost = {name: row.pop(name) for name in ("cost", "cost_failed")}
        stand = stands[one.dataset, one.policy]
        known = one.cost is not None and stand["done"]
        pending = stand["pending"]
        cost["cost_pending"] = one.cost / stand["done"] * pending if known else None if pending else 0.0
        yield row | (cost if priced else {})


def _by_prices(plan: Plan, keys: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """The datasets and policies by their price table; under an empty name those that have none."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key in keys:
        found.setdefault(plan.settings_of(*key).prices or "", []).append(key)
    return found
